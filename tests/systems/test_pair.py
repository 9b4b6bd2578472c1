"""A system that ppvision knows nothing of goes through everything: two deployables, two pictures of unequal size, a
size, ragged points, an ending of its own. It is reached by dotted paths alone and touches no file of `ppvision/`."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from PIL import Image

import ppvision
from ppvision.config.component import TABLES
from ppvision.data import fields
from ppvision.errors import UserError
from ppvision.predict.deployment import Deployment, trust
from ppvision.predict.runtime import Runtime
from ppvision.weights import read
from tests.systems.pair.data import COLOURS, write
from tests.systems.pair.network import PairNet

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "tests/systems/pair/pair.yml"
PARTS = ("encode", "decode")
TXT = "tests/systems/pair/tipc/train_infer_python.txt"


def command(*words: object, **environment: str) -> subprocess.CompletedProcess:
    """Run a tool of the repository as a user does."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


def stderr_of(done: subprocess.CompletedProcess) -> str:
    """The one line of an error that a user causes."""
    assert done.returncode == 2, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("pair") / "data", train=24, val=6)


@pytest.fixture(scope="module")
def recipe(data) -> list[str]:
    return ["-c", RECIPE, "-o", f"data.root={data}"]


@pytest.fixture(scope="module")
def run(recipe, data) -> Path:
    """The run folder of 50 updates without a break."""
    folder = data.parent / "straight"
    done = command("tools/train.py", *recipe, "--save_dir", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def export(recipe, run) -> Path:
    """The export of the run's best weights."""
    folder = run.parent / "export"
    words = [*recipe, "--model_path", run / "best_model", "--save_dir", folder, "--formats", "paddle", "onnx"]
    done = command("tools/export.py", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def trusted():
    trust("tests.systems.pair")


def pictures(data: Path) -> list[Path]:
    return sorted((data / "images").glob("val*.png"))


def eager(data: Path, run: Path, **options) -> ppvision.Predictor:
    overrides = [f"data.root={data}"]
    return ppvision.Predictor(str(ROOT / RECIPE), weights=run / "best_model", overrides=overrides, **options)


def test_the_suite_knows_nothing_of_it():
    """No table has a name of it, no line of the suite speaks of it, and its recipe names everything by dotted path."""
    for module, attribute in TABLES.values():
        table = getattr(importlib.import_module(module), attribute)
        assert not [name for name, value in table.items() if "tests." in f"{name} {value}" or "pair" in name.lower()]
    assert "crop_ref" not in fields.FIELDS
    for path in (ROOT / "ppvision").rglob("*.py"):
        assert not re.search(r"PairNet|crop_ref\b|MarkF1|tests\.systems", path.read_text(encoding="utf-8")), path
    content = yaml.safe_load((ROOT / RECIPE).read_text(encoding="utf-8"))
    named = [content["model"]["type"], content["method"]["type"], content["data"]["type"], content["eval"]["task"]]
    named += [metric["type"] for metric in content["eval"]["metrics"]]
    assert all(name.startswith("tests.systems.pair.") for name in named)


def test_a_killed_run_continues_bit_for_bit(recipe, data, run):
    """Killed after update 33, continued from the checkpoint of update 20: equal to the run without a break."""
    folder = data.parent / "killed"
    words = ["tools/train.py", *recipe, "--save_dir", folder]
    assert command(*words, PAIR_KILLED_AT="33").returncode == -9
    assert sorted(path.name for path in folder.glob("iter_*")) == ["iter_20"]
    done = command(*words, "--resume")
    assert done.returncode == 0 and "continuing at iter 20" in done.stdout, done.stdout + done.stderr
    for file in ("model.pdparams", "method.pdparams", "optimizer.pdopt"):
        straight, resumed = (paddle.load(str(place / "iter_50" / file), return_numpy=True) for place in (run, folder))
        assert straight.keys() == resumed.keys() and len(straight) > 4
        for key, value in straight.items():
            np.testing.assert_array_equal(np.asarray(resumed[key]), np.asarray(value), key)
    losses = [
        [json.loads(line).get("loss") for line in (place / "log.jsonl").read_text().splitlines()]
        for place in (run, folder)
    ]
    assert losses[0] == losses[1] and len([loss for loss in losses[0] if loss is not None]) >= 5


def test_it_learns_and_the_batch_does_not_matter(recipe, data, run, tmp_path):
    """Crops and pictures of several sizes in one batch: the figure is that of one by one."""
    metrics = []
    for batch in (1, 6):
        words = [*recipe, "--model_path", run / "best_model", "--batch_size", batch, "--output_eval", tmp_path]
        done = command("tools/eval.py", *words)
        assert done.returncode == 0, done.stderr
        metrics.append(json.loads((tmp_path / "metrics.json").read_text())["figures"])
    assert metrics[0] == metrics[1]
    fresh = tmp_path / "fresh.pdparams"
    paddle.save(PairNet(8).state_dict(), str(fresh))
    untrained = ppvision.evaluate(str(ROOT / RECIPE), [f"data.root={data}"], weights=str(fresh))
    assert metrics[0]["f1"] > 0.75 and untrained["f1"] < metrics[0]["f1"] - 0.3


def test_parity_of_both_parts(export):
    """Three backends, each part at pictures of unlike size, also at what deployment gives it."""
    seen = {"encode": ("x", "crop_ref"), "decode": ("features", "reference", "size")}
    for part in PARTS:
        content = json.loads((export / part / "parity.json").read_text())
        assert content["refused"] == {} and content["tolerance"] == 1e-4
        rows = [row for row in content["rows"] if row["backend"] != "eager"]
        assert {row["backend"] for row in rows} == {"paddle", "paddle-onednn", "onnx"}
        for backend in ("paddle", "paddle-onednn", "onnx"):
            own = [row for row in rows if row["backend"] == backend]
            assert all(row["max_error"] <= 1e-4 and row["fault"] is None for row in own)
            sides = {tuple(row["shape"][2:]) for row in own}
            assert len(sides) == 3 and {row["shape"][0] for row in own} == {1, 2}
            assert all(set(row["inputs"]) == set(seen[part]) for row in own)
        if part == "encode":
            assert all(row["inputs"]["x"][2:] != row["inputs"]["crop_ref"][2:] for row in rows)
            assert all(row["agreement"] is None for row in rows)
        else:
            assert all(row["agreement"] >= 0.999 for row in rows)
            # the first validation picture, 40x56: what the encoder makes of it
            assert [1, 8, 20, 28] in [row["inputs"]["features"] for row in rows]


def test_each_graph_holds_its_part_and_nothing_else(export, run):
    weights = read(run / "best_model")
    for part in PARTS:
        own = {key: value for key, value in weights.items() if key.startswith(f"{part}.")}
        graph = paddle.jit.load(str(export / part / "model")).state_dict().values()
        ours, theirs = (sorted(np.asarray(value).tobytes() for value in values) for values in (own.values(), graph))
        assert ours == theirs and len(ours) == {"encode": 8, "decode": 4}[part]


def test_the_contract_of_the_whole(export, trusted):
    deployment = Deployment.read(export)
    assert list(deployment.parts) == list(PARTS) and deployment.task == "tests.systems.pair.task.PairTask"
    encode, decode = deployment.parts.values()
    assert encode.output_op == "none" and [o.name for o in encode.outputs] == ["features", "reference"]
    assert decode.output_op == "marks" and [o.name for o in decode.outputs] == ["marks", "share"]
    assert {name: spec.kind for name, spec in encode.inputs.items()} == {"image": "image", "crop_ref": "image"}
    assert decode.inputs["size"].kind == "size" and decode.inputs["size"].dtype == "int32"
    # shapes that the task made of the validation pictures, through the encoder
    assert decode.shape_profile["min"]["features"] == [1, 8, 18, 24]
    assert decode.shape_profile["max"] == {"features": [1, 8, 20, 28], "reference": [1, 8], "size": [2]}
    with pytest.raises(UserError, match="takes 2 inputs .*: give a dict"):
        encode.open("paddle", "cpu", Runtime()).session(np.zeros([1, 3, 8, 8], np.float32))


@pytest.mark.parametrize("backend", ["paddle", "onnx"])
def test_the_export_answers_as_the_network(export, data, run, trusted, backend):
    images = pictures(data)
    expected = eager(data, run)(images)
    found = ppvision.Predictor(export, "cpu", backend, batch_size=3)(images)
    for ours, theirs, image in zip(expected, found, images, strict=True):
        assert theirs.marks.shape == np.asarray(Image.open(image)).shape[:2] and 0.02 < theirs.marks.mean() < 0.5
        assert (ours.marks == theirs.marks).mean() >= 0.999
        assert theirs.share == pytest.approx(ours.share, abs=2e-3)


def test_the_contract_is_enough(export, data, trusted):
    """ONNX Runtime, numpy and deploy.yaml alone: pad, run one part after the other, cut."""
    import onnxruntime

    image = pictures(data)[1]
    root = yaml.safe_load((export / "deploy.yaml").read_text(encoding="utf-8"))["PPVision"]
    assert root["transforms"] == [{"type": "PadTo", "size": None, "multiple": 4, "value": 0.0}]
    picture = np.asarray(Image.open(image)).astype(np.float32)
    height, width = picture.shape[:2]
    padded = np.full((-(-height // 4) * 4, -(-width // 4) * 4, 3), root["normalisation"]["mean"], np.float32)
    padded[:height, :width] = picture
    reference = np.asarray(Image.open(data / "references" / image.name)).astype(np.float32)
    given = {"x": padded.transpose(2, 0, 1)[None], "crop_ref": reference.transpose(2, 0, 1)[None]}
    given["size"] = np.asarray(padded.shape[:2])
    for file in root["parts"].values():
        contract = yaml.safe_load((export / file).read_text(encoding="utf-8"))["PPVision"]
        session = onnxruntime.InferenceSession((export / file).with_name("model.onnx"))
        names = [row["name"] for row in contract["outputs"]]
        inputs = {row["name"]: given[row["name"]].astype(row["dtype"]) for row in contract["inputs"]}
        sources = [row.get("from") for row in contract["inputs"]]
        given |= dict(zip(names, session.run(names, inputs), strict=True))
    assert sources == ["encode", "encode", None]
    (expected,) = ppvision.Predictor(export, "cpu", "onnx")([image])
    np.testing.assert_array_equal(given["marks"][0, :height, :width], expected.marks)


def test_what_it_takes_besides(export, data, trusted, tmp_path):
    """The answer in another size, and another reference: the marks move to the board of its colour."""
    image = pictures(data)[0]
    predictor = ppvision.Predictor(export)
    (own,), (half,) = predictor([image]), predictor([image], scale=0.5)
    assert half.marks.shape == (20, 28) and own.marks.shape == (40, 56)
    pixels = np.asarray(Image.open(image)).astype(float)
    for number in range(3):
        reference = tmp_path / f"{number}.png"
        Image.fromarray(np.broadcast_to(COLOURS[number].astype(np.uint8), (17, 31, 3)).copy()).save(reference)
        (result,) = predictor([image], reference=reference)
        found = pixels[result.marks == 1].mean(0)
        assert np.abs(COLOURS - found).sum(1).argmin() == number
    with pytest.raises(UserError, match="no 'scal'; did you mean 'scale'"):
        predictor([image], scal=0.5)
    with pytest.raises(UserError, match="no reference beside the picture; give --extra reference=FILE"):
        predictor(np.zeros((32, 48, 3), np.uint8))


def test_a_fixed_batch_is_filled(recipe, export, data, run, trusted, tmp_path):
    """The size, which belongs to no sample, stays as it is."""
    shapes = "export.shapes={image: [4, 3, -1, -1], features: [4, 8, -1, -1]}"
    words = [*recipe, "-o", shapes, "--model_path", run / "best_model", "--save_dir", tmp_path]
    done = command("tools/export.py", *words, "--formats", "paddle")
    assert done.returncode == 0, done.stderr
    fixed, free = ppvision.Predictor(tmp_path, batch_size=3), ppvision.Predictor(export)
    assert fixed.fixed_batch == 4 and free.fixed_batch is None
    for ours, theirs in zip(free(pictures(data)), fixed(pictures(data)), strict=True):
        np.testing.assert_array_equal(theirs.marks, ours.marks)


def test_the_programs(export, data, recipe, run, tmp_path):
    """deploy/python/infer.py and `ppvision predict` write the same marks and draw them."""
    words = ["deploy/python/infer.py", "--image_path", data / "val.list", "--save_dir", tmp_path / "graph"]
    done = command(*words, "--config", export, "--trust", "tests.systems.pair", "--extra", "scale=0.5")
    assert done.returncode == 0, done.stderr
    done = command(
        *("tools/predict.py", *recipe, "--model_path", run / "best_model", "--image_path", data / "val.list"),
        *("--save_dir", tmp_path / "eager", "--extra", "scale=0.5"),
    )
    assert done.returncode == 0, done.stderr
    records = json.loads((tmp_path / "graph/predictions.json").read_text())
    assert len(records) == 6 and records[0]["height"] == 20 and records[0]["width"] == 28
    for record in records:
        assert [Path(name).suffix for name in record["files"]] == [".json", ".png", ".jpg"]
        ours, theirs = (np.asarray(Image.open(tmp_path / side / record["files"][1])) for side in ("eager", "graph"))
        assert (ours == theirs).mean() >= 0.998 and theirs.any()
        drawn = np.asarray(Image.open(tmp_path / "graph" / record["files"][2]))
        assert drawn.shape == np.asarray(Image.open(record["image"])).shape


def test_one_line_for_what_is_wrong(export, data, tmp_path):
    words = ["deploy/python/infer.py", "--image_path", data / "val.list", "--save_dir", tmp_path / "out", "--config"]
    assert "if you trust it, say --trust tests.systems.pair.task" in stderr_of(command(*words, export))
    known = ["--trust", "tests.systems.pair"]
    line = stderr_of(command(*words, export / "encode", *known))
    assert "one part of a deployment" in line and line.endswith(f"give {export}")
    broken = tmp_path / "broken"
    (broken / "encode").mkdir(parents=True)
    (broken / "deploy.yaml").write_bytes((export / "deploy.yaml").read_bytes())
    (broken / "encode/deploy.yaml").write_bytes((export / "encode/deploy.yaml").read_bytes())
    assert "part 'decode' is missing" in stderr_of(command(*words, broken, *known))


@pytest.mark.slow
def test_the_tipc_chain(tmp_path):
    """Its folder lies beside the system; the harness, its scripts and the tools are those of the repository."""
    for name in ("configs", "deploy", "ppvision", "tests", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "test_tipc/configs").mkdir(parents=True)
    for path in (ROOT / "test_tipc").iterdir():
        if path.name not in ("configs", "data", "output", "results"):
            (tmp_path / "test_tipc" / path.name).symlink_to(path)
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("TIPC_", "CUDA_"))}
    statuses = []
    for accept in ("1", "0"):  # stores the figures of this machine, then holds a second chain to them
        done = subprocess.run(
            [sys.executable, "test_tipc/tipc.py", "run", TXT],
            cwd=tmp_path,
            env={**clean, "TIPC_GPUS": "0", "TIPC_ACCEPT": accept, "TIPC_PYTHON": sys.executable},
            capture_output=True,
            text=True,
            timeout=900,
        )
        log = tmp_path / "test_tipc/output/pair/lite_train_lite_infer.txt"
        assert done.returncode == 0, log.read_text()[-3000:]
        summary = json.loads((tmp_path / "test_tipc/output/pair/lite_train_lite_infer/summary.json").read_text())
        statuses.append([(step["kind"], step["status"]) for step in summary["steps"]])
    kinds = ("train", "eval", "export", "infer", "infer", "compare")
    assert statuses == [[(kind, "passed") for kind in kinds]] * 2
    stored = (tmp_path / "test_tipc/results/python_pair_results_fp32.txt").read_text()
    assert float(re.search(r"f1: (\S+)", stored)[1]) > 0.4
    assert summary["steps"][1]["metrics"]["f1"] > 0.4
