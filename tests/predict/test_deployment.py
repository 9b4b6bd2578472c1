"""deploy.yaml: what is written is read; an older, newer, damaged or incomplete one is refused in one line."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import paddle
import pytest
import yaml

from ppvision.errors import UserError
from ppvision.exporting.exporter import Spec, export_nets
from ppvision.files import sha256
from ppvision.models.network import IMAGE, VALID, Input
from ppvision.predict import Predictor, Runtime, deployment
from ppvision.predict.deployment import Deployment, Part, complete, trust
from ppvision.predict.tasks.base import Output, create_task
from ppvision.predict.tasks.segmentation import SegmentationTask
from tests.exporting.samples import TinyNet, exported, exported_detector, pictures, randomise, workspace

MEAN, STD = (120.0, 110.0, 100.0), (58.0, 57.0, 56.0)

# As commit 04445c9 wrote it: no `format`, inputs without kind and argument, outputs without type.
VERSION_1 = {
    "Deploy": {
        "model": "model.json",
        "params": "model.pdiparams",
        "transforms": [{"type": "ResizeByShort", "short_size": 40}],
        "input_shape": [-1, 3, -1, -1],
        "output_op": "argmax",
        "output_dtype": "int32",
    },
    "PPVision": {
        "version": "0.1.0",
        "task": "segmentation",
        "model_name": "rtformer_debug",
        "labels": ["ground", "green", "red"],
        "palette": None,
        "inputs": [{"name": "x", "dtype": "float32", "shape": [-1, 3, -1, -1], "range": [0, 255]}],
        "outputs": [{"name": "labels", "kind": "labels"}],
        "transforms": [{"type": "Resize", "short": 40}],
        "postprocess": {"type": "segmentation"},
        "normalisation": {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375], "inside_graph": True},
        "shape_profile": None,
        "tolerance": {"relative_error": 0.0001, "agreement": 0.999},
        "sha256": {},
    },
}


class Pair(SegmentationTask):
    """A task of two networks: the second looks where the first saw nothing."""

    def run(self, nets, inputs):
        first, second = (super(Pair, self).run({"model": nets[name]}, inputs)["labels"] for name in ("near", "far"))
        return {"labels": first + 3 * second}


@pytest.fixture(scope="module")
def several():
    """An export of two parts."""
    folder = workspace() / "several"
    nets = {"near": randomise(TinyNet(), 0), "far": randomise(TinyNet(), 1)}
    task = create_task("tests.predict.test_deployment.Pair")
    spec = Spec("pair", "tests.predict.test_deployment.Pair", task, MEAN, STD, formats=("paddle",), example=(32, 48))
    return export_nets(nets, folder, spec)


@pytest.fixture
def copy(several, tmp_path):
    return shutil.copytree(several, tmp_path / "copy")


@pytest.fixture
def trusting(monkeypatch):
    monkeypatch.setattr(deployment, "TRUSTED", set())
    trust("tests.predict")


def refusal(folder) -> str:
    with pytest.raises(UserError) as caught:
        Predictor(folder)
    assert "\n" not in str(caught.value) and caught.value.status == 2
    return str(caught.value)


def changed(path, change) -> None:
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))


class TestOfThePresentDay:
    @pytest.mark.parametrize("export", [exported, exported_detector])
    def test_what_is_written_is_read(self, export, tmp_path):
        folder = export()[2]
        assert yaml.safe_load((folder / "deploy.yaml").read_text())["PPVision"]["format"] == deployment.FORMAT == 2
        read = Deployment.read(folder)
        part = dataclasses.replace(read.only, folder=tmp_path)
        dataclasses.replace(read, path=tmp_path / "deploy.yaml", parts={"model": part}).write()
        first, second = (yaml.safe_load((f / "deploy.yaml").read_text()) for f in (folder, tmp_path))
        assert first["PPVision"] == second["PPVision"]
        again = Deployment.read(tmp_path)
        assert again.only == part and again.labels == read.labels and again.task == read.task
        assert again.mean == (123.675, 116.28, 103.53)

    def test_inputs_keep_their_kinds_and_free_sides(self):
        inputs = Deployment.read(exported_detector()[2]).only.inputs
        assert inputs["image"].shape == ("B", 3, "H", "W") and not inputs["image"].optional
        assert inputs["valid"].shape == ("B", "H", "W") and inputs["valid"].kind == "mask"
        assert inputs["valid"].dtype == "bool" and inputs["valid"].optional

    def test_transforms_are_written_with_every_argument(self):
        padded = {"type": "PadTo", "size": [2, 3], "multiple": 1, "value": 0.0}
        assert complete({"type": "PadTo", "size": (2, 3)}) == padded
        assert complete({"type": "mine.Turn", "by": 3}) == {"type": "mine.Turn", "by": 3}
        assert complete({"type": "CenterCrop", "size": 5}) == {"type": "CenterCrop", "size": 5}


PROFILE = {"min": {"x": [1, 3, 8, 8]}, "opt": {"x": [1, 3, 8, 16]}, "max": {"x": [2, 3, 32, 16]}}


def detector(folder, **changes) -> Deployment:
    """An export written by hand; its graphs are files of a few bytes."""
    hashes = {}
    for suffix in (".json", ".pdiparams", ".onnx"):
        (folder / f"model{suffix}").write_text(f"bytes of {suffix}")
        hashes[f"model{suffix}"] = sha256(folder / f"model{suffix}")
    part = Part(
        folder=folder,
        stem="model",
        inputs={"image": IMAGE, "valid": VALID, "code": Input(("B", "M", 5), "float64", "vector")},
        outputs=(Output("boxes", "boxes"), Output("scores", "scores"), Output("labels", "labels", dtype="int32")),
        output_op="detections",
        options={"top_k": 7},
        shape_profile=PROFILE,
        tolerance={"relative_error": 0.01, "agreement": 0.9},
        sha256=hashes,
    )
    made = Deployment(
        path=folder / "deploy.yaml",
        task="detection",
        model_name="tiny",
        mean=MEAN,
        std=STD,
        labels=("cat", "dog"),
        palette=[[1, 2, 3], [40, 50, 60]],
        options={"top_k": 9, "threshold": 0.25, "draw_threshold": 0.75},
        parts={"model": dataclasses.replace(part, **changes)},
    )
    made.write()
    return made


class Session:
    """A graph's session that only has names."""

    inputs = {
        "x": (np.dtype("float32"), [None, 3, None, None]),
        "valid": (np.dtype("bool"), [None] * 3),
        "code": (np.dtype("float64"), [None, None, 5]),
    }
    outputs = ("boxes", "scores", "labels")


@pytest.fixture
def opened(monkeypatch):
    """The runtimes that sessions were opened with."""
    runtimes = []

    def open_session(backend, device, runtime, **files):
        runtimes.append(runtime)
        return Session()

    monkeypatch.setattr(deployment, "open_session", open_session)
    return runtimes


class TestByHand:
    def test_nothing_is_lost_between_writing_and_reading(self, tmp_path):
        made, read = detector(tmp_path), Deployment.read(tmp_path)
        assert dataclasses.asdict(read.only) == dataclasses.asdict(made.only) | {
            "outputs": [dataclasses.asdict(output) for output in made.only.outputs],
            "options": {"top_k": 7, "threshold": 0.25, "draw_threshold": 0.75},  # the graph's win over the task's
        }
        assert (read.mean, read.std, list(read.labels)) == (MEAN, STD, ["cat", "dog"])
        assert read.palette == [[1, 2, 3], [40, 50, 60]] and not read.is_part

    def test_a_free_side_is_written_as_minus_one_and_named(self, tmp_path):
        detector(tmp_path)
        content = yaml.safe_load((tmp_path / "deploy.yaml").read_text())
        rows = {row["name"]: (row["shape"], row["axes"]) for row in content["PPVision"]["inputs"]}
        assert rows["x"] == ([-1, 3, -1, -1], ["B", "3", "H", "W"])
        assert rows["code"] == ([-1, -1, 5], ["B", "M", "5"])
        assert content["Deploy"]["input_shape"] == [-1, 3, -1, -1]

    def test_the_task_has_the_options_of_the_export_and_those_that_are_given_win(self, tmp_path):
        detector(tmp_path)
        task = Deployment.read(tmp_path).make_task()
        assert (task.top_k, task.threshold, task.draw_threshold) == (7, 0.25, 0.75)
        assert task.class_names == ["cat", "dog"] and task.palette.tolist() == [[1, 2, 3], [40, 50, 60]]
        assert task.fill == MEAN  # what stands where nothing is picture
        other = Deployment.read(tmp_path).make_task(threshold=0.5, class_names=["a"])
        assert (other.top_k, other.threshold, other.class_names) == (7, 0.5, ["a"])

    @pytest.mark.parametrize(
        ("backend", "name", "reads"),
        [
            ("paddle", "model.json", True),
            ("paddle", "model.pdiparams", True),
            ("paddle", "model.onnx", False),
            ("tensorrt", "model.pdiparams", True),
            ("onnx", "model.onnx", True),
            ("onnx", "model.json", False),
            ("openvino", "model.onnx", True),
        ],
    )
    def test_a_backend_checks_the_files_that_it_reads(self, tmp_path, opened, backend, name, reads):
        part = detector(tmp_path).only
        (tmp_path / name).write_text("other bytes")
        if reads:
            with pytest.raises(UserError, match=f"{name}: sha256 differs from deploy.yaml"):
                part.open(backend, "cpu", Runtime())
        else:
            part.open(backend, "cpu", Runtime())
        assert len(opened) == (not reads)

    def test_a_file_that_the_export_does_not_know(self, tmp_path, opened):
        part = detector(tmp_path).only
        known = {name: digest for name, digest in part.sha256.items() if name != "model.onnx"}
        with pytest.raises(UserError, match="this export has no such file .it has: model.json, model.pdiparams"):
            dataclasses.replace(part, sha256=known).open("onnx", "cpu", Runtime())

    def test_the_profile_of_the_export_serves_unless_another_is_given(self, tmp_path, opened):
        part = detector(tmp_path).only
        own = {bound: {"x": [1, 3, 4, 4]} for bound in PROFILE}
        part.open("paddle", "cpu", Runtime())
        part.open("paddle", "cpu", Runtime(shape_profile=own))
        dataclasses.replace(part, shape_profile=None).open("paddle", "cpu", Runtime())
        assert [runtime.shape_profile for runtime in opened] == [PROFILE, own, None]

    def test_an_output_that_the_graph_does_not_have(self, tmp_path, opened):
        part = detector(tmp_path, outputs=(Output("boxes", "boxes"), Output("masks", "masks"))).only
        with pytest.raises(UserError, match="the graph has no output 'masks' .it has: boxes, scores, labels"):
            part.open("paddle", "cpu", Runtime())


class TestWhatDoesNotFitTheGraph:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda ours: ours["inputs"][0].update(name="img"), "PPVision.inputs is not what an export writes"),
            (lambda ours: ours["inputs"][1].update(dtype="float32"), "says input 'valid' float32, the graph takes x"),
            (lambda ours: ours["postprocess"].update(draw_threshold="high"), "PPVision.postprocess cannot be read"),
        ],
    )
    def test_is_one_line(self, tmp_path, change, message):
        folder = tmp_path / "export"
        shutil.copytree(exported_detector()[2], folder)
        changed(folder / "deploy.yaml", lambda content: change(content["PPVision"]))
        assert message in refusal(folder)


class TestOfOtherDays:
    def test_version_1_is_refused_with_the_command_that_renews_it(self, tmp_path):
        (tmp_path / "deploy.yaml").write_text(yaml.safe_dump(VERSION_1, sort_keys=False))
        message = refusal(tmp_path)
        assert message.startswith(f"{tmp_path / 'deploy.yaml'}: written by an older ppvision; write it anew: ")
        assert message.endswith(f"ppvision export --config <recipe> --model_path <weights> --save_dir {tmp_path}")

    def test_a_newer_one_names_the_newer_ppvision(self, tmp_path):
        newer = {**VERSION_1, "PPVision": {**VERSION_1["PPVision"], "format": 3}}
        (tmp_path / "deploy.yaml").write_text(yaml.safe_dump(newer))
        message = refusal(tmp_path)
        assert "written by a newer ppvision; use that one, or write it anew: ppvision export --config" in message

    @pytest.mark.parametrize("number", ["two", None, 1.5, -2])
    def test_a_format_that_is_no_number_of_ours(self, tmp_path, number):
        odd = {**VERSION_1, "PPVision": {**VERSION_1["PPVision"], "format": number}}
        (tmp_path / "deploy.yaml").write_text(yaml.safe_dump(odd))
        assert "ppvision export --config <recipe>" in refusal(tmp_path)


class TestSeveralParts:
    def test_are_served_together(self, several, trusting):
        predictor = Predictor(several)
        assert list(predictor.nets) == ["near", "far"] and predictor.model_name == "pair"
        (image,) = pictures([(32, 48)])
        labels = predictor(image)[0].labels
        x, parts = paddle.to_tensor(image.transpose(2, 0, 1)[None].astype(np.float32)), []
        for name in ("near", "far"):
            path = several / name / "deploy.yaml"
            assert yaml.safe_load(path.read_text())["PPVision"]["part"] == name
            net = Deployment.read(path).open("paddle", "cpu", predictor.runtime)[name]
            parts.append(SegmentationTask().run({name: net}, {"image": x})["labels"].numpy()[0])
        assert (labels == parts[0] + 3 * parts[1]).all() and (parts[0] != parts[1]).any()

    def test_a_part_that_is_missing(self, copy, trusting):
        shutil.rmtree(copy / "far")
        assert f"part 'far' is missing ({copy / 'far/deploy.yaml'}); export again" in refusal(copy)

    def test_a_graph_of_a_part_that_is_missing_or_altered(self, copy, trusting):
        (copy / "far/model.json").rename(copy / "far/other.json")
        assert f"{copy / 'far/model.json'}: missing; export again" in refusal(copy)
        (copy / "far/model.json").write_bytes((copy / "far/other.json").read_bytes() + b" ")
        assert f"{copy / 'far/model.json'}: sha256 differs" in refusal(copy)

    @pytest.mark.parametrize("parts", [{}, [], ["near"], "near", {"near": 5}, {"near": None}])
    def test_damaged(self, copy, trusting, parts):
        changed(copy / "deploy.yaml", lambda content: content["PPVision"].update(parts=parts))
        assert "deploy.yaml: PPVision.parts is not what an export writes" in refusal(copy)

    def test_a_part_under_another_name(self, copy, trusting):
        swapped = {"near": "far/deploy.yaml", "far": "near/deploy.yaml"}
        changed(copy / "deploy.yaml", lambda content: content["PPVision"].update(parts=swapped))
        assert "deploy.yaml: PPVision.parts.far is not what an export writes" in refusal(copy)

    def test_a_damaged_part_names_its_own_file(self, copy, trusting):
        changed(copy / "far/deploy.yaml", lambda content: content["PPVision"].pop("outputs"))
        assert f"{copy / 'far/deploy.yaml'}: PPVision.outputs is missing" in refusal(copy)


class TestTrust:
    """A deploy.yaml is data that is passed on; naming a task of another module would run that module."""

    def test_a_task_of_another_module_is_refused_until_it_is_trusted(self, several, monkeypatch):
        monkeypatch.setattr(deployment, "TRUSTED", set())
        message = refusal(several)
        assert "task 'tests.predict.test_deployment.Pair' is code of another module" in message
        assert message.endswith("if you trust it, say --trust tests.predict.test_deployment")
        trust("tests.predict.test_deploy", "predict")  # names that only begin alike
        assert refusal(several) == message
        trust("tests.predict.test_deployment")
        assert isinstance(Predictor(several).task, Pair)

    def test_nothing_is_imported_before(self, several, copy, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(str(tmp_path))
        (tmp_path / "evil.py").write_text("open('owned', 'w')")
        monkeypatch.chdir(tmp_path)
        changed(copy / "deploy.yaml", lambda content: content["PPVision"].update(task="evil.Task"))
        assert "--trust evil" in refusal(copy) and not (tmp_path / "owned").exists()

    def test_tasks_of_the_suite_need_no_trust(self, monkeypatch):
        monkeypatch.setattr(deployment, "TRUSTED", set())
        for _, _, folder in (exported(), exported_detector()):
            assert Deployment.read(folder).task in ("segmentation", "detection")

    def test_an_unknown_task_has_a_suggestion(self, copy):
        changed(copy / "deploy.yaml", lambda content: content["PPVision"].update(task="segmantation"))
        assert "no task 'segmantation'; did you mean 'segmentation'?" in refusal(copy)
