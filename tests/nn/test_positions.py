"""Sine embeddings against loops in float64."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from ppvision.nn.positions import sine_boxes, sine_map


def waves(value: float, channels: int, temperature: float) -> list[float]:
    out = []
    for c in range(channels):
        phase = value / temperature ** (2 * (c // 2) / channels)
        out.append(math.sin(phase) if c % 2 == 0 else math.cos(phase))
    return out


def by_loops(valid: np.ndarray, dim: int, temperatures: tuple[float, float], offset: float) -> np.ndarray:
    """Rows and columns counted over the valid cells, as DETR does it; NaN in the padding."""
    out = np.full((*valid.shape, dim), np.nan)
    for b in range(len(valid)):
        height, width = valid[b, :, 0].sum(), valid[b, 0].sum()
        for y in range(height):
            for x in range(width):
                row = (y + 1 + offset) / (height + 1e-6) * 2 * math.pi
                column = (x + 1 + offset) / (width + 1e-6) * 2 * math.pi
                out[b, y, x] = waves(row, dim // 2, temperatures[0]) + waves(column, dim // 2, temperatures[1])
    return out


@pytest.mark.parametrize(("temperature", "offset"), [(10000.0, -0.5), (20.0, 0.0), ((10.0, 30.0), 0.0)])
def test_a_map_with_padding(temperature, offset):
    valid = np.zeros((3, 5, 7), bool)
    valid[0] = True
    valid[1, :3, :7] = True
    valid[2, :4, :2] = True
    both = temperature if isinstance(temperature, tuple) else (temperature, temperature)
    expected = by_loops(valid, 12, both, offset)
    measured = sine_map(5, 7, 12, valid=paddle.to_tensor(valid), temperature=temperature, offset=offset).numpy()
    assert measured.shape == (3, 5, 7, 12)
    np.testing.assert_allclose(measured[valid], expected[valid], atol=1e-5)
    assert np.isfinite(measured).all()
    whole = sine_map(5, 7, 12, temperature=temperature, offset=offset).numpy()
    assert whole.shape == (1, 5, 7, 12)
    np.testing.assert_allclose(whole[0], expected[0], atol=1e-5)


def test_boxes_in_the_order_y_x_w_h():
    boxes = np.random.default_rng(0).random((2, 3, 4)).astype("float32")
    measured = sine_boxes(paddle.to_tensor(boxes), 8).numpy()
    natural = sine_boxes(paddle.to_tensor(boxes), 8, order=(0, 1, 2, 3)).numpy()
    points = sine_boxes(paddle.to_tensor(boxes[..., :2]), 8).numpy()
    assert measured.shape == (2, 3, 32) and points.shape == (2, 3, 16)
    for b in range(2):
        for n in range(3):
            parts = [waves(float(v) * 2 * math.pi, 8, 10000.0) for v in boxes[b, n]]
            np.testing.assert_allclose(measured[b, n], np.concatenate([parts[i] for i in (1, 0, 2, 3)]), atol=1e-5)
            np.testing.assert_allclose(natural[b, n], np.concatenate(parts), atol=1e-5)
            np.testing.assert_allclose(points[b, n], np.concatenate([parts[1], parts[0]]), atol=1e-5)


def test_an_odd_number_of_channels_is_refused():
    with pytest.raises(ValueError, match="even number of channels, not 3"):
        sine_map(2, 2, 6)
