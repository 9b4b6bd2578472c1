"""deploy.yaml is enough: a program that knows nothing of ppvision gives the Predictor's answers."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from PIL import Image

import ppvision
from ppvision.predict import Predictor
from tests.exporting.samples import (
    pictures,
    randomise,
    workspace,
    write_detection_recipe,
    write_pictures,
    write_recipe,
)

SCRIPT = Path(__file__).with_name("contract.py")
SIZES = ((60, 100), (100, 60), (48, 50), (37, 90))


def answers(folder: Path, images: list[Path], tmp_path: Path) -> list[dict]:
    """What the program says, run by an interpreter that finds no folder of ours."""
    file = tmp_path / "answers.json"
    command = [sys.executable, "-I", str(SCRIPT), str(folder), str(file), *map(str, images)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    content = json.loads(file.read_text())
    assert not [name for name in content["modules"] if name.partition(".")[0] in ("ppvision", "paddle", "tests")]
    return content["answers"]


@functools.cache
def classifier() -> Path:
    """Export of a classifier whose transforms resize and crop."""
    folder = workspace() / "classifier"
    for split in ("train", "val"):
        for name, image in zip(("ant", "bee", "cow"), pictures(SIZES)):
            (folder / "data" / split / name).mkdir(parents=True)
            Image.fromarray(image).save(folder / "data" / split / name / "0.png")
    transforms = [{"type": "Resize", "short": 72, "interpolation": "cubic"}, {"type": "CenterCrop", "size": [64, 64]}]
    recipe = {
        "model": {"type": "resnet_debug", "num_classes": 3},
        "data": {
            "type": "imagefolder",
            "root": str(folder / "data"),
            "val": {"split": "val", "transforms": transforms},
        },
        "eval": {"metrics": ["top_k"]},
        "export": {"input_shape": [-1, 3, 64, 64]},
    }
    (folder / "r.yml").write_text(yaml.safe_dump(recipe))
    net = randomise(ppvision.create_model("resnet_debug", num_classes=3))
    paddle.save(net.state_dict(), str(folder / "w.pdparams"))
    return ppvision.export(folder / "r.yml", weights=folder / "w.pdparams", save_dir=folder / "export")


@functools.cache
def segmenter() -> Path:
    folder = workspace() / "padded_segmenter"
    folder.mkdir()
    transforms = [{"type": "Resize", "long": 80, "interpolation": "area"}, {"type": "PadTo", "multiple": 32}]
    recipe, weights = write_recipe(folder, transforms)
    return ppvision.export(recipe, weights=weights, save_dir=folder / "export")


@functools.cache
def detector() -> Path:
    folder = workspace() / "padded_detector"
    folder.mkdir()
    transforms = [{"type": "Resize", "size": [96, 80], "keep_ratio": True}, {"type": "PadTo", "size": [96, 80]}]
    recipe, weights = write_detection_recipe(
        folder, transforms, "deformable_detr_debug", export={"input_shape": [1, 3, 96, 80]}
    )
    return ppvision.export(recipe, weights=weights, save_dir=folder / "export")


@pytest.fixture
def images(tmp_path):
    return write_pictures(tmp_path / "in", SIZES)


def test_segmentation(tmp_path, images):
    theirs = answers(segmenter(), images, tmp_path)
    for answer, result in zip(theirs, Predictor(segmenter(), backend="onnx")(images), strict=True):
        assert np.array_equal(answer["labels"], result.labels)
        assert answer["names"] == [result.class_names[k] for k in np.unique(result.labels)] and len(answer["names"]) > 1


def test_detection(tmp_path, images):
    theirs = answers(detector(), images, tmp_path)
    for answer, result in zip(theirs, Predictor(detector(), backend="onnx")(images), strict=True):
        assert len(answer["boxes"]) == len(result.boxes) > 20
        np.testing.assert_allclose(answer["boxes"], result.boxes, atol=1e-2)
        np.testing.assert_allclose(answer["scores"], result.scores, atol=1e-6)
        assert answer["names"] == [result.class_names[k] for k in result.classes]
        assert set(answer["names"]) == {"cat", "dog", "hen"}


def test_a_threshold_is_kept(tmp_path, images):
    """Written into deploy.yaml by whoever deploys, it holds for both."""
    folder = tmp_path / "export"
    folder.mkdir()
    for file in detector().iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    content = yaml.safe_load((folder / "deploy.yaml").read_text())
    middle = float(np.median(Predictor(folder, backend="onnx")(images[:1])[0].scores))
    content["PPVision"]["postprocess"]["threshold"] = middle + 1e-4
    (folder / "deploy.yaml").write_text(yaml.safe_dump(content))
    (answer,), (result,) = answers(folder, images[:1], tmp_path), Predictor(folder, backend="onnx")(images[:1])
    assert 0 < len(answer["boxes"]) == len(result.boxes) < 300
    np.testing.assert_allclose(answer["boxes"], result.boxes, atol=1e-2)


def test_classification(tmp_path, images):
    theirs = answers(classifier(), images, tmp_path)
    results = Predictor(classifier(), backend="onnx")(images)
    for answer, result in zip(theirs, results, strict=True):
        np.testing.assert_allclose(answer["scores"], result.scores, atol=1e-6)
        assert answer["names"] == [result.to_json()["classes"][0]["name"]]
    assert np.ptp([answer["scores"][0] for answer in theirs]) > 1e-3


def test_what_deploy_yaml_says_in_words():
    """Axes, units, rules and the way back stand there for whoever writes such a program."""
    ours = yaml.safe_load((detector() / "deploy.yaml").read_text())["PPVision"]
    assert [row["axes"] for row in ours["inputs"]] == [["1", "3", "96", "80"], ["1", "96", "80"]]
    assert "normalisation is inside the graph" in ours["inputs"][0]["about"] and ours["inputs"][0]["range"] == [0, 255]
    assert "x1 y1 x2 y2, shares" in ours["outputs"][0]["about"] and ours["outputs"][2]["dtype"] == "int32"
    assert [rule.partition(":")[0] for rule in ours["rules"]] == ["Resize", "PadTo"]
    assert "times the width" in ours["way_back"] and ours["postprocess"]["draw_threshold"] == 0.5
