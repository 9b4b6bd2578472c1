"""A detector whose transforms pad: what is exported answers as what was evaluated, on pictures that are not square."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

import ppvision
from ppvision.predict import Predictor, Runtime
from tests.exporting.samples import pictures, write_detection_recipe

PADDED = ({"type": "Resize", "size": [96, 96], "keep_ratio": True}, {"type": "PadTo", "size": [96, 96]})
HOSTS = ("dab_detr_debug", "deformable_detr_debug", "dino_debug", "retinanet_debug", "group_detr_v2_debug")
SIZES = ((60, 100), (100, 60), (48, 50), (33, 90), (96, 40), (120, 90))
BACKENDS = {
    "paddle": ("paddle", Runtime(mkldnn=False)),
    "onednn": ("paddle", Runtime(mkldnn=True)),
    "onnx": ("onnx", Runtime()),
}


@pytest.mark.slow
@pytest.mark.parametrize("shape", [[-1, 3, -1, -1], [1, 3, 96, 96]], ids=["free", "fixed"])
@pytest.mark.parametrize("host", HOSTS)
def test_best_boxes_are_those_of_the_recipe(tmp_path, host, shape):
    recipe, weights = write_detection_recipe(tmp_path, PADDED, host, export={"input_shape": shape})
    out = ppvision.export(recipe, weights=weights, save_dir=tmp_path / "out", formats=["paddle", "onnx"])
    report = json.loads((out / "parity.json").read_text())
    compared = [row for row in report["rows"] if row["judged"]]
    assert {row["backend"] for row in compared if row["padded"]} == {"eager", "paddle", "paddle-onednn", "onnx"}
    assert all(row["agreement"] == 1.0 and row["inputs"]["valid"][1:] == row["shape"][2:] for row in compared)
    given = yaml.safe_load((out / "deploy.yaml").read_text())["PPVision"]["inputs"]
    assert [(row["name"], row["kind"]) for row in given] == [("x", "image"), ("valid", "mask")]
    images = pictures(SIZES, seed=3)
    eager = Predictor(recipe, weights=weights)(images)
    for name, (backend, runtime) in BACKENDS.items():
        for image, one, other in zip(images, eager, Predictor(out, backend=backend, runtime=runtime)(images)):
            best = one.scores >= one.scores[0] - 1e-5  # of a network with random weights several may be the best
            distance = np.abs(one.boxes[best] - other.boxes[0]).max(-1)
            assert distance.min() < 0.1, (name, image.shape, distance.min())
            assert one.scores[0] == pytest.approx(other.scores[0], abs=1e-4)
            assert (one.boxes[:, [2, 3]] <= image.shape[1::-1]).all()
