"""Adaptive max pooling: bitwise what Paddle's operator gives, its gradient, and its export."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from ppvision.models.inputs import IMAGE
from ppvision.nn.pooling import AdaptiveMaxPool2D, adaptive_max_pool2d
from tests.graphs import write_graphs

SIZES = [(1, 1), (4, 8), (5, 7), (12, 12), (13, 11), (16, 32), (24, 36), (32, 31), (1, 40)]


@pytest.mark.parametrize("num_bins", [1, 3, 8, 12])
@pytest.mark.parametrize("size", SIZES)
def test_equals_paddles_operator_and_its_gradient(size, num_bins):
    rng = np.random.default_rng(0)
    values = (
        rng.permutation(6 * size[0] * size[1]).reshape(2, 3, *size).astype("float32")
    )  # no ties: one winner per bin
    ours, theirs = (paddle.to_tensor(values, stop_gradient=False) for _ in range(2))
    y, expected = adaptive_max_pool2d(ours, num_bins), F.adaptive_max_pool2d(theirs, num_bins)
    assert np.array_equal(y, expected)
    weight = paddle.to_tensor(rng.standard_normal(expected.shape).astype("float32"))
    (y * weight).sum().backward()
    (expected * weight).sum().backward()
    np.testing.assert_allclose(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)


def test_backward_survives_what_the_operator_does_not():
    """Paddle's backward writes out of bounds on NaN and aborts the process."""
    x = paddle.full([1, 2, 9, 9], float("nan"))
    x.stop_gradient = False
    adaptive_max_pool2d(x, 4).sum().backward()
    assert x.grad.shape == [1, 2, 9, 9]


def test_onnx_with_free_sizes(tmp_path):
    import onnxruntime

    stem = write_graphs(AdaptiveMaxPool2D(12), tmp_path, {"x": IMAGE})
    session = onnxruntime.InferenceSession(f"{stem}.onnx", providers=["CPUExecutionProvider"])
    for size in SIZES:
        x = np.random.default_rng(0).standard_normal([2, 3, *size]).astype("float32")
        assert np.array_equal(session.run(None, {"x": x})[0], F.adaptive_max_pool2d(paddle.to_tensor(x), 12)), size
