"""Batches without a picture: rows of points and their offsets pass training, evaluation, benchmark, memory planner,
export and Predictor."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ppvision
from ppvision.config import load
from ppvision.engine import memory
from ppvision.errors import UserError
from ppvision.predict.deployment import Deployment, trust
from tests.systems.cloud.data import write
from tests.systems.cloud.network import CloudNet
from tests.systems.cloud.task import CloudMethod

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "tests/systems/cloud/cloud.yml"


def command(*words: object) -> str:
    """Output of a tool of the repository that ends well."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("cloud") / "data")


@pytest.fixture(scope="module")
def recipe(data) -> list[str]:
    return ["-c", RECIPE, "-o", f"data.root={data}"]


@pytest.fixture(scope="module")
def run(recipe, data) -> Path:
    folder = data.parent / "run"
    command("tools/train.py", *recipe, "--save_dir", folder)
    return folder


@pytest.fixture(scope="module")
def export(recipe, run) -> Path:
    folder = run.parent / "export"
    words = ["--model_path", run / "best_model", "--save_dir", folder, "--formats", "paddle", "onnx"]
    command("tools/export.py", *recipe, *words)
    return folder


@pytest.fixture
def trusted():
    trust("tests.systems.cloud")


def test_evaluation(recipe, data, run):
    """Whatever the batch: samples have 15 to 48 points."""
    cfg = load(ROOT / RECIPE, [f"data.root={data}"])
    metrics = [ppvision.evaluate(cfg, [f"eval.batch_size={n}"], str(run / "best_model")) for n in (1, 4, 9)]
    assert metrics[0] == metrics[1] == metrics[2] and metrics[0]["top1"] > 0.85


def test_benchmark(recipe, tmp_path):
    """Samples are counted by their offsets, not by their rows."""
    command("tools/benchmark.py", *recipe, "--steps", 1, "--warmup", 0, "--json", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["times"]) == {"load", "forward", "update", "inference"}
    rows, columns = found["shape"]
    assert columns == 3 and rows > 6 * 15
    inference = found["times"]["inference"]
    assert inference["images_per_s"] * inference["median_ms"] / 1e3 == pytest.approx(6)


def test_memory_planner(recipe, tmp_path):
    command("tools/benchmark.py", *recipe, "--memory", 64, 64, "--json", tmp_path / "found.json")
    gib = json.loads((tmp_path / "found.json").read_text())["gib"]
    assert gib["weights"] == gib["gradients"] == gib["optimizer"] / 2 == 435 * 4 / 2**30
    net = CloudNet()
    plan = memory.plan(CloudMethod(net), size=(64, 64), batch_size=6)
    # 16 rows of three numbers and the two offsets of one sample
    assert plan.images == 6 * (16 * 3 + 2) * 4 and plan.activations > 6 * 16 * (3 + 12 + 24) * 4


def test_parity(export):
    content = json.loads((export / "parity.json").read_text())
    rows = [row for row in content["rows"] if row["backend"] != "eager"]
    assert {row["backend"] for row in rows} == {"paddle", "paddle-onednn", "onnx"} and content["refused"] == {}
    assert all(row["max_error"] <= 1e-4 and row["agreement"] >= 0.999 for row in rows)
    # one sample, two of unlike length, and the first of the validation set
    onnx = [row["inputs"] for row in rows if row["backend"] == "onnx"]
    assert [found["offsets"] for found in onnx] == [[2], [3], [2]]
    assert [found["points"] for found in onnx] == [[16, 3], [32, 3], [26, 3]]


def test_the_contract(export, trusted):
    deployment = Deployment.read(export)
    points, offsets = deployment.only.inputs.values()
    assert (points.kind, points.shape) == ("points", ("P", 3)) and (offsets.kind, offsets.shape) == (
        "offsets",
        ("B+1",),
    )
    assert deployment.only.shape_profile["max"] == {"points": [48, 3], "offsets": [2]}


@pytest.mark.parametrize("backend", ["paddle", "onnx"])
def test_files_of_points(export, data, run, trusted, backend):
    """A folder of .bin files, three in a batch, against the network itself and against the names of the files."""
    cfg = load(ROOT / RECIPE, [f"data.root={data}"])
    expected = ppvision.Predictor(cfg, weights=run / "best_model")(data / "val")
    predictor = ppvision.Predictor(export, "cpu", backend, batch_size=3)
    found = predictor(data / "val")
    assert predictor.input_shape == () and len(found) == 9 and predictor.calls == 3
    for ours, theirs in zip(expected, found, strict=True):
        assert ours.name == theirs.name and theirs.scores.sum() == pytest.approx(1)
        odds = np.exp(ours.scores - ours.scores.max())
        np.testing.assert_allclose(theirs.scores, odds / odds.sum(), atol=1e-5)
    right = ["wdh"[result.ids[0]] == Path(result.name).name[0] for result in found]
    assert np.mean(right) > 0.85
    array = np.fromfile(found[4].name, np.float32).reshape(-1, 3)
    np.testing.assert_allclose(predictor(array)[0].scores, found[4].scores, atol=1e-6)


def test_a_fixed_batch_is_filled(recipe, export, data, run, trusted, tmp_path):
    """With samples that have no points."""
    words = ["-o", "export.shapes={offsets: [5]}", "--model_path", run / "best_model", "--save_dir", tmp_path]
    command("tools/export.py", *recipe, *words, "--formats", "paddle")
    fixed, free = ppvision.Predictor(tmp_path, batch_size=3), ppvision.Predictor(export)
    assert fixed.fixed_batch == 4
    for ours, theirs in zip(free(data / "val"), fixed(data / "val"), strict=True):
        np.testing.assert_allclose(theirs.scores, ours.scores, atol=1e-6)
    with pytest.raises(UserError, match="batch_size 5: the graph was exported for batches of 4"):
        ppvision.Predictor(tmp_path, batch_size=5)(data / "val")


def test_the_program(export, data, tmp_path):
    """Nothing is drawn where there is no picture."""
    words = ["--image_path", data / "val", "--save_dir", tmp_path, "--trust", "tests.systems.cloud"]
    command("deploy/python/infer.py", "--config", export, *words, "--batch_size", 2)
    records = json.loads((tmp_path / "predictions.json").read_text())
    assert len(records) == 9 and all(record["files"] == [f"{Path(record['image']).stem}.json"] for record in records)
    command("deploy/python/infer_onnx.py", "--onnx_file", export / "model.onnx", *words)
    again = json.loads((tmp_path / "predictions.json").read_text())
    assert [[c["id"] for c in r["classes"]] for r in again] == [[c["id"] for c in r["classes"]] for r in records]


def test_what_is_no_cloud(export, data, trusted, tmp_path):
    predictor = ppvision.Predictor(export)
    (tmp_path / "cut.bin").write_bytes(b"\0" * 20)
    with pytest.raises(UserError, match="cut.bin: not rows of three float32 numbers"):
        predictor(tmp_path / "cut.bin")
    (tmp_path / "cut.bin").unlink()
    with pytest.raises(UserError, match=r"no input in this folder \(suffixes: .bin\)"):
        predictor(tmp_path)
