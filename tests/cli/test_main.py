"""Verbs end to end: statuses, messages, what is imported, and that each passes on what it read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ppvision
from ppvision import cli
from ppvision.cli import main
from ppvision.errors import RunError, UserError

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """\
model: {type: rtformer_debug, num_classes: 2}
data:
  type: seg_list
  root: data
  workers: 0
  train: {split: train, num_classes: 2}
  val: {split: val, num_classes: 2}
optimizer: {type: adamw, lr: 1.0e-3}
train: {iters: 2, batch_size: 2, device: cpu}
eval: {metrics: [mIoU]}
log: {interval: 1}
"""


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("x.yml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def data(inside: Path) -> None:
    """Four images with two classes each, in a list of a training and a validation split."""
    rng = np.random.default_rng(0)
    (inside / "data").mkdir()
    (inside / "data/labels.txt").write_text("dark\nlight\n")
    for split in ("train", "val"):
        lines = []
        for i in range(2):
            image, label = f"{split}{i}.png", f"{split}{i}_label.png"
            mask = (np.arange(96) < 48).astype(np.uint8) * np.ones((64, 1), np.uint8)
            Image.fromarray(mask).save(inside / "data" / label)
            noise = rng.integers(0, 100, (64, 96, 3)).astype(np.uint8)
            Image.fromarray(noise + 100 * mask[..., None]).save(inside / "data" / image)
            lines.append(f"{image} {label}")
        (inside / "data" / f"{split}.txt").write_text("\n".join(lines) + "\n")


def call(*argv: str, cwd: Path | None = None, code: str | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, *(["-c", code] if code else ["-m", "ppvision", *argv])]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=cwd, timeout=300)


class TestMain:
    def test_help(self, capsys):
        assert main(["--help"]) == 0
        out = capsys.readouterr().out
        assert all(verb in out for verb in cli.VERBS)
        assert main([]) == 0

    def test_version(self, capsys):
        assert main(["--version"]) == 0
        assert capsys.readouterr().out.strip() == ppvision.__version__

    def test_an_unknown_command(self, capsys):
        assert main(["trian"]) == 2
        assert capsys.readouterr().err.startswith("error: unknown command 'trian'; did you mean 'train'? (commands: ")

    @pytest.mark.parametrize(
        ("error", "status", "message"),
        [
            (UserError("wrong\nkey"), 2, "error: wrong key\n"),
            (RunError("disk full"), 1, "error: disk full\n"),
            (KeyboardInterrupt(), 130, "interrupted\n"),
        ],
    )
    def test_statuses(self, monkeypatch, capsys, error, status, message):
        def fail(argv: list[str]) -> int:
            raise error

        monkeypatch.setattr("ppvision.cli.models.main", fail)
        assert main(["models"]) == status
        assert capsys.readouterr().err == message

    def test_a_bug_keeps_its_traceback(self, monkeypatch):
        monkeypatch.setattr("ppvision.cli.models.main", lambda argv: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main(["models"])

    @pytest.mark.parametrize("verb", cli.VERBS)
    def test_every_verb_answers_help(self, capsys, verb):
        assert main([verb, "--help"]) == 0
        assert capsys.readouterr().out.startswith("usage: ppvision")

    def test_a_reader_that_went_away_is_no_fault(self):
        command = f"{sys.executable} -m ppvision train --help | head -1"
        done = subprocess.run(
            command, shell=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        assert done.stdout.startswith("usage") and done.stderr == ""


class TestImports:
    @pytest.mark.parametrize("argv", [["--help"], ["train", "--help"]])
    def test_help_reads_no_more_than_it_says(self, argv):
        """What makes help slow is imports: of ours only the command line and the schema of recipes, of others YAML."""
        code = f"import sys\nbefore = set(sys.modules)\nfrom ppvision.cli import main\nassert main({argv}) == 0\n"
        code += "print(*set(sys.modules) - before, file=sys.stderr)"
        done = call(code=code)
        assert done.returncode == 0 and done.stdout.startswith("usage: ppvision"), done.stderr
        modules = done.stderr.split()
        ours = {name.split(".")[1] for name in modules if name.startswith("ppvision.")}
        assert ours <= {"cli", "config", "errors", "device", "files", "threads", "version"}
        others = {name.partition(".")[0] for name in modules} - sys.stdlib_module_names - {"cython_runtime"}
        assert {name for name in others if not name.startswith("_")} <= {"ppvision", "yaml"}

    @pytest.mark.parametrize(
        "statement",
        [
            "import ppvision",
            "main(['--help'])",
            *(f"main(['{verb}', '--help'])" for verb in cli.VERBS),
            "main(['config', 'show', 'x.yml'])",
            "main(['config', 'diff', 'x.yml', 'x.yml', '-o', 'train.seed=1'])",
            "main(['models'])",
        ],
    )
    def test_nothing_heavy_is_imported(self, statement):
        code = f"from ppvision.cli import main\n{statement}\nimport sys\n"
        code += "sys.exit(str([m for m in ('paddle', 'numpy', 'cv2') if m in sys.modules] or ''))"
        done = call(code=code)
        assert done.stderr.strip() == "", done.stderr

    def test_the_public_names(self):
        assert set(ppvision.__all__) <= set(dir(ppvision))
        assert "rtformer_debug" in ppvision.list_models("*_debug")
        assert callable(ppvision.export) and callable(ppvision.train) and callable(ppvision.Predictor)
        with pytest.raises(AttributeError, match="module 'ppvision' has no attribute 'nothing'"):
            _ = ppvision.nothing

    @pytest.mark.parametrize(
        "script", sorted(p.name for p in (ROOT / "tools").glob("*.py") if "ppvision.cli" in p.read_text())
    )
    def test_scripts_run_from_anywhere(self, inside, script):
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        command = [sys.executable, str(ROOT / "tools" / script), "--help"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=inside, env=env, timeout=300)
        assert done.returncode == 0 and done.stdout.startswith("usage: ppvision"), done.stderr

    def test_there_is_a_script_for_every_upstream_name(self):
        names = {"train", "eval", "val", "evaluate", "predict", "infer", "export", "export_model", "benchmark"}
        assert names | {"config", "data", "models"} <= {p.stem for p in (ROOT / "tools").glob("*.py")}


class TestConfig:
    def test_show_can_be_read_back(self, capsys, inside):
        assert main(["config", "show", "-c", "x.yml", "-o", "train.seed=3"]) == 0
        (inside / "y.yml").write_text(capsys.readouterr().out)
        assert main(["config", "diff", "x.yml", "y.yml"]) == 0
        assert capsys.readouterr().out == "  train.seed: 0 -> 3\n"

    def test_diff_shows_leaves(self, capsys, inside):
        (inside / "y.yml").write_text("_base_: x.yml\nmodel: {type: uhrnet_debug, width: 3}\ntrain: {amp: O1}\n")
        assert main(["config", "diff", "x.yml", "y.yml"]) == 0
        assert capsys.readouterr().out.splitlines() == [
            "  model.type: rtformer_debug -> uhrnet_debug",
            "- model.num_classes: 2",
            "  train.amp: O0 -> O1",
            "+ model.width: 3",
        ]

    def test_origins(self, capsys):
        assert main(["config", "show", "x.yml", "--origins", "-o", "train.seed=3"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert "train.iters: 2  # x.yml:9" in lines and "train.seed: 3  # -o train.seed=3" in lines
        assert "train.keep: 3  # default" in lines

    def test_validate(self, capsys):
        assert main(["config", "validate", "x.yml"]) == 0
        assert capsys.readouterr().out == "x.yml: ok\n"
        assert main(["config", "validate", "x.yml", "-o", "model.num_clases=3"]) == 2
        message = "error: -o model.num_clases=3: unknown key 'model.num_clases'; did you mean 'num_classes'?\n"
        assert capsys.readouterr().err == message

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["shwo", "x.yml"], "config: unknown action 'shwo'; did you mean 'show'? (show, diff or validate)"),
            ([], "config: unknown action 'None' (show, diff or validate)"),
            (["diff", "x.yml"], "config diff takes 2 files, got 1"),
            (["show", "nowhere.yml"], "no file 'nowhere.yml'"),
        ],
    )
    def test_usage(self, capsys, argv, message):
        assert main(["config", *argv]) == 2
        assert capsys.readouterr().err == f"error: {message}\n"


class TestModels:
    def test_list(self, capsys):
        assert main(["models", "rtformer_*", "--task", "segmentation"]) == 0
        names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
        assert names == ["rtformer_base", "rtformer_debug", "rtformer_slim"]

    def test_parameters(self, capsys):
        assert main(["models", "rtformer_debug", "--params"]) == 0
        name, task, count, unit = capsys.readouterr().out.split()
        assert (name, task, unit) == ("rtformer_debug", "segmentation", "M") and 0 < float(count) < 0.5

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["rtfromer_base"], "no model matches 'rtfromer_base'; did you mean 'rtformer_base'?"),
            (["--task", "segmentatoin"], "no task 'segmentatoin'; did you mean 'segmentation'? (tasks: "),
        ],
    )
    def test_mistakes(self, capsys, argv, message):
        assert main(["models", *argv]) == 2
        assert capsys.readouterr().err.startswith(f"error: {message}")


class TestData:
    def test_check_a_folder(self, capsys, data):
        assert main(["data", "check", "--format", "seg_list", "--root", "data", "--json", "report.json"]) == 0
        assert "4 samples read" in capsys.readouterr().out
        assert json.loads(Path("report.json").read_text())["ok"] is True

    def test_check_a_recipe_with_a_fault(self, capsys, data):
        Path("data/train0.png").write_bytes(b"no image")
        assert main(["data", "check", "-c", "x.yml"]) == 1
        assert "train0.png" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["check"], "data check takes -c CONFIG, or --format F --root DIR"),
            (["check", "--format", "coco"], "data check: --root is missing"),
            (["check", "-c", "x.yml", "--root", "d"], "data check -c: change the recipe instead, -o data.root=DIR"),
            (["chekc"], "data: unknown action 'chekc'; did you mean 'check'? (fetch, make or check)"),
            (["check", "--format", "seg_list", "--root", "nowhere"], "data root 'nowhere' is not a folder"),
            (["fetch", "baer"], "no sample data 'baer'; did you mean 'bear'?"),
        ],
    )
    def test_usage(self, capsys, argv, message):
        assert main(["data", *argv]) == 2
        assert capsys.readouterr().err.startswith(f"error: {message}")

    def test_fetch_without_a_name_lists(self, capsys):
        assert main(["data", "fetch"]) == 0
        assert "bear" in capsys.readouterr().out


class TestRecipeVerbs:
    """What a verb passes on; the functions themselves are tested where they live."""

    def test_train(self, monkeypatch):
        import ppvision.engine

        seen = []
        monkeypatch.setattr(ppvision.engine, "train", seen.append, raising=False)
        assert main(["train", "-c", "x.yml", "--iters=7", "--save_dir", "out"]) == 0
        assert (seen[0].train.iters, seen[0].train.save_dir) == (7, "out")

    def test_eval_takes_the_best_model_of_the_run(self, monkeypatch, capsys):
        import ppvision.engine

        seen = []

        def evaluate(cfg: object, weights: str | None, output: str | None) -> dict:
            seen.append(weights)
            return {"mIoU": 0.5}

        monkeypatch.setattr(ppvision.engine, "evaluate", evaluate, raising=False)
        assert main(["eval", "-c", "x.yml"]) == 2 and not seen
        assert "no weights: output/x/best_model does not exist; train first or give" in capsys.readouterr().err
        Path("output/x/best_model").mkdir(parents=True)
        Path("output/x/best_model/model.pdparams").touch()
        assert main(["eval", "-c", "x.yml", "--output_eval", "figures"]) == 0
        assert main(["eval", "-c", "x.yml", "--model_path", "output/x/best_model/model"]) == 0
        assert seen == ["output/x/best_model", "output/x/best_model/model.pdparams"]
        assert json.loads(Path("figures/metrics.json").read_text())["figures"] == {"mIoU": 0.5}

    @pytest.mark.parametrize(
        ("argv", "folder"),
        [
            ([], "output/x/export"),
            (["--save_dir", "d"], "d"),
            (["--output_dir", "d"], "d/x"),
            (["-o", "Global.save_inference_dir=d"], "d"),
        ],
    )
    def test_export(self, monkeypatch, argv, folder):
        import ppvision.exporting

        seen = {}
        monkeypatch.setattr(
            ppvision.exporting, "export", lambda cfg, **given: seen.update(given, cfg=cfg), raising=False
        )
        assert main(["export", "-c", "x.yml", "--formats", "paddle", *argv]) == 0
        assert seen["save_dir"] == folder and seen["formats"] == ["paddle"] and seen["weights"] is None

    @pytest.mark.parametrize(
        ("argv", "image", "folder"),
        [
            (["--image_path", "a.png"], "a.png", "output/x/predictions"),
            (["--infer_img", "a.png", "--infer_dir", "."], "a.png", "output/x/predictions"),
            (["--infer_dir", ".", "--output_dir", "d"], ".", "d"),
            (["--infer_list", "a.png", "-o", "Infer.save_dir=d"], "a.png", "d"),
            (["-o", "Infer.infer_imgs=a.png"], "a.png", "output/x/predictions"),
        ],
    )
    def test_predict(self, monkeypatch, argv, image, folder):
        import ppvision.predict

        seen = []

        def run(*given: object, **options: object) -> list:
            seen.append((given, options))
            return [1]

        Path("a.png").touch()
        monkeypatch.setattr(ppvision.predict, "run", run, raising=False)
        extra = ["--flip", "--custom_color", "0", "0", "0", "255", "0", "0", "--visualize", "false", "--batch_size=3"]
        extra += ["--save_threshold", "0.2", "--draw_threshold=0.4"]
        assert main(["predict", "-c", "x.yml", *argv, *extra]) == 0
        (((cfg, *given), options),) = seen
        assert given == [image, folder]
        assert options["palette"] == [[0, 0, 0], [255, 0, 0]] and options["overlay"] is False
        assert cfg.eval.flip is True and cfg.eval.scales == [1.0] and options["batch_size"] == 3
        assert (options["threshold"], options["draw_threshold"]) == (0.2, 0.4) and "save_threshold" not in options


class TestBenchmark:
    def test_every_part_is_timed_and_nothing_is_left(self, data, capsys):
        assert main(["benchmark", "-c", "x.yml", "--steps=2", "--warmup=1", "--json", "b.json"]) == 0
        times = json.loads(Path("b.json").read_text())["times"]
        assert set(times) == {"load", "forward", "update", "inference"}
        assert all(row["median_ms"] >= row["min_ms"] > 0 for row in times.values())
        assert "rtformer_debug, batch 2 x 3 x 64 x 96, cpu, 2 repetitions" in capsys.readouterr().out
        assert not Path("output").exists()

    def test_memory_is_planned_without_data(self, capsys):
        argv = ["benchmark", "-c", "x.yml", "--memory", "64", "96", "-o", "data.root=nowhere", "--json", "m.json"]
        assert main(argv) == 0
        gib = json.loads(Path("m.json").read_text())["gib"]
        assert gib["total"] == pytest.approx(sum(v for k, v in gib.items() if k != "total")) and gib["activations"] > 0
        assert f"{'total':12}{gib['total']:12.3f}" in capsys.readouterr().out
        assert main([*argv, "--batch_size", "8"]) == 0
        more = json.loads(Path("m.json").read_text())["gib"]
        assert more["activations"] == pytest.approx(4 * gib["activations"]) and more["weights"] == gib["weights"]

    def test_usage(self, capsys):
        assert main(["benchmark", "-c", "x.yml", "--steps", "0"]) == 2
        assert "--steps must be at least 1" in capsys.readouterr().err
        assert main(["benchmark", "-c", "x.yml", "--memory", "64"]) == 2
        assert "--memory takes height and width" in capsys.readouterr().err


class TestWholeRun:
    def test_train_eval_predict(self, data, capsys):
        assert main(["train", "-c", "x.yml", "--iters", "2", "--do_eval"]) == 0
        assert Path("output/x/best_model/model.pdparams").is_file()
        assert main(["eval", "-c", "output/x/config.yml"]) == 0
        assert "mIoU" in capsys.readouterr().out
        assert main(["predict", "-c", "x.yml", "--image_path", "data/val0.png"]) == 0
        assert Path("output/x/predictions/val0.png").is_file()
        assert main(["train", "-c", "x.yml"]) == 2
        assert "continue it with --resume or replace it with --overwrite" in capsys.readouterr().err
        assert main(["train", "-c", "x.yml", "--resume", "--iters", "3"]) == 0
        assert Path("output/x/iter_3").is_dir()
