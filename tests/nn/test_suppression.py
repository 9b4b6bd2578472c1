"""Suppression in plain operators against the greedy loop."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppvision.nn.suppression import excess_overlap, kept_boxes


def greedy(corners, labels, iou):
    """What stays of boxes by falling score."""
    kept = np.zeros(len(corners), bool)
    for i, box in enumerate(corners):
        rivals = [j for j in range(i) if kept[j] and (labels is None or labels[j] == labels[i])]
        kept[i] = all(overlap(box, corners[j]) <= iou for j in rivals)
    return kept


def overlap(a, b):
    w, h = (max(min(a[k + 2], b[k + 2]) - max(a[k], b[k]), 0.0) for k in (0, 1))
    shared = w * h
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def kept_of(corners, labels, iou, rounds=20):
    boxes = paddle.to_tensor(corners.astype("float32"))
    excess = excess_overlap(boxes, None if labels is None else paddle.to_tensor(labels), iou)
    return kept_boxes(excess, rounds).numpy() > 0.5


def crowd(rng, pictures, count, spread):
    """Boxes about a few places, so that most overlap others."""
    centres = rng.uniform(0.2, 0.8, (pictures, 5, 2))
    middle = np.take_along_axis(centres, rng.integers(0, 5, (pictures, count, 1)), 1)
    middle = middle + rng.normal(0, spread, (pictures, count, 2))
    half = rng.uniform(0.03, 0.12, (pictures, count, 2))
    return np.concatenate([middle - half, middle + half], -1)


@pytest.mark.parametrize("iou", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("classes", [None, 1, 3])
@pytest.mark.parametrize("spread", [0.01, 0.05])
def test_as_the_greedy_loop(iou, classes, spread):
    rng = np.random.default_rng(7)
    corners = crowd(rng, 4, 120, spread)
    labels = None if classes is None else rng.integers(0, classes, (4, 120))
    ours = kept_of(corners, labels, iou)
    for i in range(4):
        np.testing.assert_array_equal(ours[i], greedy(corners[i], None if labels is None else labels[i], iou))
    assert 0.02 < ours.mean() < 1.0


def chain(length):
    """Each box overlaps the one before by 0.6 and the one before that by 0.33: every second one stays."""
    start = 0.25 * np.arange(length)
    return np.stack([start, np.zeros(length), start + 1.0, np.ones(length)], -1)[None]


def test_rounds_are_the_length_of_a_chain():
    """What the docstring says: exact up to that many links, wrong in a longer chain."""
    corners = chain(30)
    right = np.arange(30) % 2 == 0
    np.testing.assert_array_equal(greedy(corners[0], None, 0.5), right)
    for rounds in (5, 20):
        ours = kept_of(corners, None, 0.5, rounds)[0]
        np.testing.assert_array_equal(ours[: rounds + 1], right[: rounds + 1])
        assert (ours != right).any()
    np.testing.assert_array_equal(kept_of(corners, None, 0.5, 29)[0], right)


def test_the_better_one_stays_and_classes_do_not_mix():
    corners = np.array([[[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 0.9], [2, 2, 3, 3]]], float)
    assert kept_of(corners, None, 0.5)[0].tolist() == [True, False, False, True]
    assert kept_of(corners, np.array([[0, 1, 1, 0]]), 0.5)[0].tolist() == [True, True, False, True]


def test_boxes_without_area_disturb_nobody():
    corners = np.array([[[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5], [0, 0, 1, 1]]], float)
    assert kept_of(corners, None, 0.5)[0].all()
