"""Matching and losses of detection against `transformers` on torch, to 1e-5."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppvision.losses.detection import Matcher, Predictions, SetLoss, Targets

pytestmark = pytest.mark.oracle

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests/oracles/transformers_detection_loss.py"


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """What `transformers` computed."""
    python = Path(os.environ.get("PPVISION_ORACLE_PYTHON", ROOT / ".venv-oracles/bin/python"))
    if not python.exists():
        pytest.fail(f"{python} is missing; run `make oracles`", pytrace=False)
    folder = tmp_path_factory.mktemp("detection_loss")
    run = subprocess.run([str(python), str(SCRIPT), str(folder)], cwd=folder, capture_output=True, text=True)
    if run.returncode:
        tail = "\n".join(run.stderr.strip().splitlines()[-5:])
        pytest.fail(f"transformers failed in {python}; does `make oracles` help?\n{tail}", pytrace=False)
    return dict(np.load(folder / "loss.npz"))


def targets_of(theirs) -> Targets:
    boxes, classes = theirs["target_boxes"].astype("float32"), theirs["target_classes"]
    return Targets(paddle.to_tensor(boxes), paddle.to_tensor(classes), theirs["counts"], classes)


def layers_of(theirs) -> list:
    return [(paddle.to_tensor(x), paddle.to_tensor(y)) for x, y in zip(theirs["logits"], theirs["boxes"])]


def test_costs_and_matches(theirs):
    targets, predictions, matcher = targets_of(theirs), Predictions.of(layers_of(theirs)), Matcher()
    ours, (matches,) = matcher.costs(predictions, targets).numpy(), matcher([predictions], targets)
    counts, queries, padded = theirs["counts"], ours.shape[2], ours.shape[3]
    assert 0 in counts
    for layer in range(len(ours)):
        pairs = []
        for image, count in enumerate(counts):
            expected = theirs[f"cost_{layer}_{image}"]
            assert expected.shape == (queries, count)
            np.testing.assert_allclose(ours[layer, image, :, :count], expected, atol=1e-5)
            rows, columns = theirs[f"rows_{layer}_{image}"], theirs[f"columns_{layer}_{image}"]
            pairs += list(zip(rows + image * queries, columns + image * padded, strict=True))
        assert sorted(zip(matches.rows[layer], matches.columns[layer])) == sorted(pairs)


def test_losses_of_every_layer(theirs):
    layers, targets = layers_of(theirs), targets_of(theirs)
    terms = SetLoss()(layers, targets, float(theirs["counts"].sum()))
    cls, l1, giou = theirs["loss_2"]
    weighted = {"main/cls": cls, "main/l1": 5 * l1, "main/giou": 2 * giou}
    aux = theirs["loss_0"] + theirs["loss_1"]
    weighted |= {"aux/cls": aux[0], "aux/l1": 5 * aux[1], "aux/giou": 2 * aux[2]}
    assert {k: float(v) for k, v in terms.items()} == pytest.approx(weighted, rel=1e-5, abs=1e-5)
    assert float(sum(terms.values())) == pytest.approx(float(theirs["total"]), rel=1e-5)
