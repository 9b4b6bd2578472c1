"""Overlaps and pairs of boxes on the host."""

import numpy as np
import paddle
import pytest

from ppvision.nn import boxes as tensors
from ppvision.predict.overlap import covered, greedy_pairs, pairwise_iou


def test_iou_by_hand_and_as_on_the_device():
    a = np.array([[0.0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 5, 5]])
    assert pairwise_iou(a, a) == pytest.approx(np.array([[1, 1 / 7, 0], [1 / 7, 1, 0], [0, 0, 0]]))
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 1, (2, 30, 2))
    x, y = np.concatenate([corners, corners + rng.uniform(0, 0.5, (2, 30, 2))], axis=2).astype(np.float32)
    device = tensors.pairwise_iou(paddle.to_tensor(x), paddle.to_tensor(y)).numpy()
    assert pairwise_iou(x, y) == pytest.approx(device, abs=1e-6)
    assert pairwise_iou(x[:0], y).shape == (0, 30)


def test_covered():
    boxes, regions = np.array([[0.0, 0, 4, 4], [0, 0, 0, 0]]), np.array([[2.0, 0, 10, 10], [0, 0, 100, 100]])
    assert covered(boxes, regions).tolist() == [[0.5, 1.0], [0.0, 0.0]]


def test_greedy_pairs():
    scores = np.array([[0.9, 0.8, 0.0], [0.95, 0.1, 0.6], [0.2, 0.2, 0.6]])
    rows, columns = greedy_pairs(scores, 0.5)
    assert list(zip(rows, columns)) == [(1, 0), (0, 1), (2, 2)]
    tied = greedy_pairs(np.full((2, 3), 0.7), 0.5)
    assert list(zip(*tied)) == [(0, 0), (1, 1)]
    assert (
        all(len(part) == 0 for part in greedy_pairs(scores, 0.99))
        and greedy_pairs(scores[:0], 0.5)[0].dtype == np.int64
    )
