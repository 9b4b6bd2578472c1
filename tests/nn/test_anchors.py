"""Anchors and offsets against loops."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from ppvision.nn.anchors import decode_boxes, encode_boxes, grid_anchors


def by_hand(shapes, strides, canvas, scale, ratios, octaves):
    rows = []
    for (height, width), stride in zip(shapes, strides):
        for y in range(height):
            for x in range(width):
                for ratio in ratios:
                    for octave in range(octaves):
                        area = (scale * stride * 2 ** (octave / octaves)) ** 2
                        w = math.sqrt(area / ratio)
                        box = (x * stride, y * stride, w, w * ratio)
                        rows.append([v / canvas[1 - i % 2] for i, v in enumerate(box)])
    return np.array(rows)


@pytest.mark.parametrize(
    ("shapes", "strides", "canvas"),
    [
        (((5, 8), (3, 4)), (8, 16), (37, 61)),
        (((1, 1),), (32,), (5, 3)),
        (((4, 17), (2, 9), (1, 5)), (8, 16, 32), (32, 130)),
    ],
)
@pytest.mark.parametrize(("scale", "ratios", "octaves"), [(4.0, (0.5, 1.0, 2.0), 3), (1.0, (1.0, 3.0), 2)])
def test_against_loops(shapes, strides, canvas, scale, ratios, octaves):
    ours = grid_anchors(shapes, strides, canvas, scale, ratios, octaves)
    assert ours.dtype == paddle.float32
    np.testing.assert_allclose(
        ours.numpy(), by_hand(shapes, strides, canvas, scale, ratios, octaves), rtol=1e-5, atol=1e-7
    )


def test_the_papers_sizes():
    """Areas of 32 to 512 squared with two steps between, three shapes each."""
    anchors = grid_anchors([(1, 1)] * 5, (8, 16, 32, 64, 128), (100, 100)).numpy() * 100
    areas = np.sqrt(anchors[:, 2] * anchors[:, 3]).reshape(5, 3, 3)
    for level, side in enumerate((32, 64, 128, 256, 512)):
        np.testing.assert_allclose(areas[level], [[side, side * 2 ** (1 / 3), side * 2 ** (2 / 3)]] * 3, rtol=1e-5)
    np.testing.assert_allclose((anchors[:, 3] / anchors[:, 2]).reshape(15, 3)[:3, 0], [0.5, 1, 2], rtol=1e-5)


def test_offsets_and_back():
    rng = np.random.default_rng(0)
    anchors, boxes = (paddle.to_tensor(rng.uniform(0.05, 0.6, (7, 4)).astype("float32")) for _ in range(2))
    deltas = encode_boxes(boxes, anchors).numpy()
    a, b = anchors.numpy(), boxes.numpy()
    for i in range(7):
        hand = [(b[i, k] - a[i, k]) / a[i, k + 2] for k in (0, 1)] + [math.log(b[i, k] / a[i, k]) for k in (2, 3)]
        np.testing.assert_allclose(deltas[i], hand, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(decode_boxes(paddle.to_tensor(deltas), anchors).numpy(), b, rtol=1e-5)


def test_wild_numbers_stay_finite():
    anchor = paddle.to_tensor([[0.5, 0.5, 0.1, 0.2]])
    box = decode_boxes(paddle.to_tensor([[0.0, 0.0, 1e4, -1e4]]), anchor)
    np.testing.assert_allclose(box.numpy(), [[0.5, 0.5, 6.25, 0.0]], rtol=1e-5, atol=1e-6)
    assert encode_boxes(paddle.zeros([1, 4]), anchor).isfinite().all().item()
