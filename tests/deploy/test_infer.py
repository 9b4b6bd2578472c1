"""deploy/python/infer.py and infer_onnx.py as programs, and what their flags mean."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from ppvision.cli.infer import INFER, device_of, main, main_onnx, runtime_options, script
from ppvision.cli.parser import parse_args
from ppvision.errors import UserError
from tests.exporting.samples import exported, exported_detector, write_pictures

ROOT = Path(__file__).resolve().parents[2]


def program(name, *flags, cwd=ROOT):
    command = [sys.executable, str(ROOT / "deploy/python" / name), *map(str, flags)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def parsed(*flags):
    return parse_args("infer", INFER, ["--config=x", "--image_path=y", *flags])


@pytest.fixture
def images(tmp_path):
    write_pictures(tmp_path / "in", [(40, 56), (37, 61), (40, 56)])
    return tmp_path / "in"


@pytest.mark.slow
class TestPrograms:
    def test_the_harness_with_equal_signs(self, tmp_path, images):
        """The command of test_tipc, section 4.3, from another folder, with its double slash."""
        out = tmp_path / "results"
        done = program(
            "infer.py",
            "--device=cpu", "--enable_mkldnn=True", "--cpu_threads=1", f"--config={exported()[2]}//deploy.yaml",
            "--batch_size=2", f"--image_path={images}", "--benchmark=True", "--precision=fp32", f"--save_dir={out}",
            "--model_name=rtformer_debug",
            cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-800:]
        assert sorted(p.name for p in out.iterdir() if p.suffix == ".png") == ["p0.png", "p1.png", "p2.png"]
        assert all(p.stat().st_size for p in out.iterdir())
        lines = done.stdout.splitlines()
        prefix = re.compile(r"\[\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\] INFO: ")
        assert all(prefix.match(line) for line in lines)
        text = "\n".join(prefix.sub("", line) for line in lines)
        for expected in (
            "runtime_device: cpu", "enable_mkldnn: True", "enable_tensorrt: False", "cpu_math_library_num_threads: 1",
            "model_name: rtformer_debug", "precision: fp32", "batch_size: 2", "input_shape: dynamic", "data_num: 3",
        ):  # fmt: skip
            assert f"\n{expected}\n" in text
        assert re.search(r"^total time spent\(s\): [\d.]+$", text, re.M)
        assert re.search(
            r"^preprocess_time\(ms\): [\d.]+, inference_time\(ms\): [\d.]+, postprocess_time\(ms\): [\d.]+$", text, re.M
        )
        assert re.search(r"^cpu_rss\(MB\): [\d.]+, gpu_rss\(MB\): None", text, re.M)
        assert text.endswith("\nFinish")

    def test_with_blanks_and_without_mkldnn(self, tmp_path, images):
        (tmp_path / "list.txt").write_text("in/p0.png in/p1.png\nin/p1.png 3\n")
        done = program(
            "infer.py",
            "--config", exported()[2], "--image_path", tmp_path / "list.txt", "--save_dir", tmp_path / "out",
            "--device", "CPU", "--enable_mkldnn", "False", "--use_trt", "False", "--batch_size", "1",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-800:]
        records = json.loads((tmp_path / "out/predictions.json").read_text())
        assert [r["files"][0] for r in records] == ["p0.png", "p1.png"]

    def test_onnx(self, tmp_path, images):
        flags = ("--img_path", images / "p1.png", "--save_dir", tmp_path / "onnx")
        done = program("infer_onnx.py", f"--onnx_file={exported()[2] / 'model.onnx'}", *flags, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-800:]
        assert (
            main(["--config", str(exported()[2]), f"--image_path={images / 'p1.png'}", f"--save_dir={tmp_path}/p"]) == 0
        )
        a, b = (np.asarray(Image.open(tmp_path / folder / "p1.png")) for folder in ("onnx", "p"))
        assert a.shape == (37, 61) and (a == b).mean() > 0.999

    def test_a_mistake_is_one_line_and_status_2(self, tmp_path):
        done = program("infer.py", f"--config={exported()[2]}", f"--image_path={tmp_path / 'none'}")
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.splitlines()[-1] == f"error: {tmp_path / 'none'}: no such file or folder"
        assert "Traceback" not in done.stderr

    def test_help_needs_no_paddle(self):
        code = "import sys; from ppvision.cli.infer import main; main(['--help']); assert 'paddle' not in sys.modules"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and "--enable_mkldnn" in done.stdout, done.stderr


class TestDetector:
    @pytest.mark.parametrize("entry", ["infer", "infer_onnx"])
    def test_a_json_and_a_drawing_for_every_image(self, tmp_path, images, entry):
        out, folder = tmp_path / "out", exported_detector()[2]
        flags = {
            "infer": ["--device=cpu", f"--config={folder}", f"--image_path={images}", "--threshold=0.5"],
            "infer_onnx": [f"--onnx_file={folder / 'model.onnx'}", f"--img_path={images}"],
        }[entry]
        assert {"infer": main, "infer_onnx": main_onnx}[entry]([*flags, f"--save_dir={out}"]) == 0
        stems = sorted(path.stem for path in images.iterdir())
        expected = [f"{stem}{suffix}" for stem in stems for suffix in (".json", ".png")]
        assert sorted(path.name for path in out.iterdir()) == sorted([*expected, "predictions.json"])
        records = json.loads((out / "predictions.json").read_text())
        for record, stem in zip(records, stems):
            objects = json.loads((out / f"{stem}.json").read_text())["objects"]
            assert record["files"] == [f"{stem}.json", f"{stem}.png"] and record["objects"] == objects
            size = Image.open(images / f"{stem}.png").size
            assert Image.open(out / f"{stem}.png").size == size and len(objects) == 36
            assert all(0 <= o["box"][0] <= o["box"][2] <= size[0] for o in objects)
            assert {o["name"] for o in objects} <= {"cat", "dog", "hen"}

    def test_threshold_is_that_of_the_drawing(self, tmp_path, images):
        drawn = {}
        for threshold in ("0.5", "1.0"):
            flags = [f"--config={exported_detector()[2]}", f"--image_path={images / 'p0.png'}", "--device=cpu"]
            assert main([*flags, f"--threshold={threshold}", f"--save_dir={tmp_path / threshold}"]) == 0
            assert len(json.loads((tmp_path / threshold / "p0.json").read_text())["objects"]) == 36
            drawn[threshold] = np.asarray(Image.open(tmp_path / threshold / "p0.png"))
        original = np.asarray(Image.open(images / "p0.png"))
        assert (drawn["1.0"] == original).all() and (drawn["0.5"] != original).any()


class TestMistakes:
    @pytest.mark.parametrize(
        "flags, message",
        [
            (["--use_trt=True"], "paddlepaddle-gpu"),
            (["--run_mode=trt_fp16"], "paddlepaddle-gpu"),
            (["--device=cpu", "--precision=fp16"], "use bf16 or fp32"),
            (["--device=npu"], "use cpu or gpu"),
            (["--enable_mkldn=True"], "did you mean '--enable_mkldnn'"),
            (["--batch_size=two"], "must be an integer"),
            (["--batch_size=0"], "at least 1"),
            (["--video_file=a.mp4"], "extract the frames"),
            (["--save_results=false"], "always written"),
            (["--threshold=0.5"], "no option 'draw_threshold'"),
            (["-o", "train.iters=3"], "export again"),
            (["--trt_min_shape=3"], "go together"),
        ],
    )
    def test_refused_with_status_2(self, tmp_path, images, flags, message, capsys):
        given = [
            "--device=cpu",
            f"--config={exported()[2]}",
            f"--image_path={images}",
            f"--save_dir={tmp_path / 'out'}",
        ]
        assert script(main, [*given, *flags]) == 2
        error = capsys.readouterr().err.strip()
        assert message in error and error.startswith("error: ") and "\n" not in error
        assert not (tmp_path / "out").exists()

    @pytest.mark.skipif(paddle.device.is_compiled_with_cuda(), reason="has CUDA")
    @pytest.mark.parametrize("flags", [["--device=gpu"], ["--use_gpu=True"], ["-o", "Global.use_gpu=True"]])
    def test_gpu_without_cuda(self, images, flags, capsys):
        assert script(main, [f"--config={exported()[2]}", f"--image_path={images}", *flags]) == 2
        assert "built without CUDA" in capsys.readouterr().err

    def test_a_recipe_is_no_export(self, images, tmp_path, capsys):
        for config, message in [(exported()[0], "ppvision export --config"), (tmp_path / "none.yml", "no such file")]:
            assert script(main, [f"--config={config}", f"--image_path={images}"]) == 2
            error = capsys.readouterr().err.strip()
            assert message in error and str(config) in error and "\n" not in error

    @pytest.mark.parametrize("entry", ["infer", "infer_onnx"])
    def test_images_are_never_replaced(self, images, entry, capsys):
        before = {path.name: path.read_bytes() for path in images.iterdir()}
        flags = {
            "infer": [f"--config={exported()[2]}", f"--image_path={images}"],
            "infer_onnx": [f"--onnx_file={exported()[2] / 'model.onnx'}", f"--img_path={images}"],
        }[entry]
        assert script({"infer": main, "infer_onnx": main_onnx}[entry], [*flags, f"--save_dir={images}"]) == 2
        assert "would replace the image" in capsys.readouterr().err
        assert {path.name: path.read_bytes() for path in images.iterdir()} == before

    def test_ctrl_c_is_one_line_and_status_130(self, capsys):
        def entry(argv):
            raise KeyboardInterrupt

        assert script(entry, []) == 130
        assert capsys.readouterr().err == "interrupted\n"

    def test_missing_flags(self, capsys):
        assert script(main, ["--config=x"]) == 2
        assert "--image_path is missing" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "name, message",
        [("other.onnx", "describes model.onnx"), ("none.onnx", "no such file"), ("alone/model.onnx", "deploy.yaml")],
    )
    def test_onnx_files_that_belong_to_no_export(self, tmp_path, images, name, message):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        if "none" not in name:
            file.write_bytes((exported()[2] / "model.onnx").read_bytes())
        if "other" in name:
            (tmp_path / "deploy.yaml").write_bytes((exported()[2] / "deploy.yaml").read_bytes())
        with pytest.raises(UserError, match=message):
            main_onnx([f"--onnx_file={file}", f"--img_path={images}"])


class TestFlags:
    @pytest.mark.parametrize(
        "flags, expected",
        [
            ([], {"precision": "fp32", "use_trt": False, "verbose": False, "cpu_threads": None}),
            (["--enable_mkldnn", "False", "--cpu_threads", "10"], {"mkldnn": False, "cpu_threads": 10}),
            (["-o", "Global.enable_mkldnn=True", "-o", "Global.cpu_num_threads=4"], {"mkldnn": True, "cpu_threads": 4}),
            (["--enable_mkldnn_bfloat16"], {"precision": "bf16"}),
            (["--run_mode=trt_int8"], {"precision": "int8", "use_trt": True}),
            (["--run_mode=paddle"], {"precision": "fp32", "use_trt": False}),
            (["--use_trt=true", "--precision=fp16"], {"use_trt": True, "precision": "fp16"}),
            (["--min_subgraph_size=7", "--with_argmax=True", "--save_results=True"], {"min_subgraph_size": 7}),
            (["-o", "Global.use_tensorrt=True", "Global.use_fp16=True"], {"use_trt": True, "precision": "fp16"}),
            (["--print_detail=True"], {"verbose": True}),
            (["--use_trt", "--enable_auto_tune"], {"shape_file": "shapes.pbtxt"}),
            (["--use_trt", "--collect_trt_shape_info", "--tuned_trt_shape_file=s"], {"shape_file": "s"}),
            (
                ["--trt_min_shape=1", "--trt_opt_shape=2", "--trt_max_shape=3"],
                {"shape_profile": {"min": {"x": [1, 3, 1, 1]}, "opt": {"x": [1, 3, 2, 2]}, "max": {"x": [1, 3, 3, 3]}}},
            ),
        ],
    )  # fmt: skip
    def test_runtime(self, flags, expected):
        options = runtime_options(parsed(*flags))
        assert {key: options[key] for key in expected} == expected

    @pytest.mark.parametrize(
        "flags, device",
        [
            ([], None),
            (["--device=GPU"], "gpu"),
            (["--use_gpu=False"], "cpu"),
            (["--device=cpu", "--use_gpu=True"], "cpu"),
        ],
    )
    def test_device(self, flags, device):
        assert device_of(parsed(*flags)) == device

    @pytest.mark.parametrize(
        "flags",
        [
            ["--model_dir=e", "--image_file=i", "--output_dir=o"],
            ["--model_dir", "e", "--image_dir", "i", "--output_dir", "o"],
            ["-c", "e", "-o", "Global.infer_imgs=i", "--save-dir", "o"],
            ["-o", "Global.inference_model_dir=e", "--image_path=x", "--image_path=i", "--save_dir=o"],
        ],
    )
    def test_spellings_of_the_other_suites(self, flags):
        values = parse_args("infer", INFER, flags)
        assert (values.config, values.image_path, values.save_dir) == ("e", "i", "o")


class TestWarmUp:
    def test_five_calls_first_and_none_of_them_is_counted(self, tmp_path, images, monkeypatch, capsys):
        from ppvision.predict.predictor import Predictor

        calls = []
        real = Predictor._run
        monkeypatch.setattr(Predictor, "_run", lambda self, group: calls.append(len(group)) or real(self, group))
        flags = [f"--config={exported()[2]}", f"--image_path={images}", f"--save_dir={tmp_path / 'o'}", "--benchmark"]
        assert main([*flags, "--batch_size=2", "--save_images=False"]) == 0
        assert calls == [2] * 5 + [2, 1]
        assert sorted(p.name for p in (tmp_path / "o").iterdir()) == ["p0.png", "p1.png", "p2.png", "predictions.json"]
