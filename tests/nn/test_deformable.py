"""Multi-scale deformable attention against the formula in float64, its start, export."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from ppvision.nn.deformable import MultiScaleDeformableAttention, level_sizes
from tests.models.golden import fill

SHAPES = ((4, 6), (3, 2))
TOKENS = 30


def bilinear(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """[H,W,e] at (x, y) in 0..1 of the outer edges; zeros outside."""
    height, width, channels = image.shape
    x, y = x * width - 0.5, y * height - 0.5
    left, top = math.floor(x), math.floor(y)
    out = np.zeros(channels)
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < height and 0 <= column < width:
                out += (1 - abs(x - column)) * (1 - abs(y - row)) * image[row, column]
    return out


def by_loops(
    state: dict,
    heads: int,
    points: int,
    query: np.ndarray,
    references: np.ndarray,
    value: np.ndarray,
    valid: np.ndarray,
) -> np.ndarray:
    batch, count, dim = query.shape
    levels, width = len(SHAPES), dim // heads
    value = (value @ state["value_proj.weight"] + state["value_proj.bias"]) * valid[..., None]
    offsets = (query @ state["sampling_offsets.weight"] + state["sampling_offsets.bias"]).reshape(
        batch, count, heads, levels, points, 2
    )
    score = (query @ state["attention_weights.weight"] + state["attention_weights.bias"]).reshape(
        batch, count, heads, levels * points
    )
    weight = np.exp(score) / np.exp(score).sum(-1, keepdims=True)
    out = np.zeros((batch, count, dim))
    for b in range(batch):
        for n in range(count):
            for m in range(heads):
                start = 0
                for level, (h, w) in enumerate(SHAPES):
                    part = value[b, start : start + h * w, m * width : (m + 1) * width].reshape(h, w, width)
                    start += h * w
                    r = references[b, n, level]
                    for p in range(points):
                        o = offsets[b, n, m, level, p]
                        if len(r) == 2:
                            x, y = r[0] + o[0] / w, r[1] + o[1] / h
                        else:
                            x, y = r[0] + o[0] / points * r[2] / 2, r[1] + o[1] / points * r[3] / 2
                        a = weight[b, n, m, level * points + p]
                        out[b, n, m * width : (m + 1) * width] += a * bilinear(part, x, y)
    return out @ state["output_proj.weight"] + state["output_proj.bias"]


def case(coordinates: int) -> tuple[MultiScaleDeformableAttention, dict[str, np.ndarray], np.ndarray]:
    """A layer in float64 with weights everywhere, its inputs, and what is valid."""
    layer = MultiScaleDeformableAttention(8, heads=2, levels=2, points=3)
    fill(layer)
    layer.sampling_offsets.weight.set_value(layer.sampling_offsets.weight * 5)  # some leave the map
    layer.to(dtype="float64")
    rng = np.random.default_rng(0)
    inputs = {
        "query": rng.standard_normal((2, 5, 8)),
        "references": rng.uniform(0.05, 0.95, (2, 5, 2, coordinates)),
        "value": rng.standard_normal((2, TOKENS, 8)),
    }
    valid = np.ones((2, TOKENS), bool)
    valid[1, [3, 4, 5, 20, 28]] = False
    return layer, inputs, valid


def run(layer: MultiScaleDeformableAttention, inputs: dict, valid: np.ndarray) -> paddle.Tensor:
    return layer(inputs["query"], inputs["references"], inputs["value"], SHAPES, paddle.to_tensor(valid))


@pytest.mark.parametrize("coordinates", [2, 4])
def test_values_equal_the_formula(coordinates):
    layer, inputs, valid = case(coordinates)
    state = {k: v.numpy() for k, v in layer.state_dict().items()}
    expected = by_loops(state, 2, 3, *inputs.values(), valid)
    measured = run(layer, {k: paddle.to_tensor(v) for k, v in inputs.items()}, valid).numpy()
    np.testing.assert_allclose(measured, expected, atol=1e-10)
    single = {k: paddle.to_tensor(v.astype("float32")) for k, v in inputs.items()}
    layer.to(dtype="float32")
    np.testing.assert_allclose(run(layer, single, valid).numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("coordinates", [2, 4])
def test_gradients_equal_differences_of_the_formula(coordinates):
    layer, inputs, valid = case(coordinates)
    tensors = {k: paddle.to_tensor(v, stop_gradient=False) for k, v in inputs.items()}
    state = {k: v.numpy().copy() for k, v in layer.state_dict().items()}
    rng = np.random.default_rng(1)
    mix = rng.standard_normal((2, 5, 8))
    (run(layer, tensors, valid) * paddle.to_tensor(mix)).sum().backward()
    gradients = {k: t.grad.numpy() for k, t in tensors.items()} | {
        k: p.grad.numpy() for k, p in layer.named_parameters()
    }

    def loss() -> float:
        return float((by_loops(state, 2, 3, *inputs.values(), valid) * mix).sum())

    step = 1e-6
    for name, array in [*inputs.items(), *state.items()]:
        for place in rng.choice(array.size, 4, replace=False):
            old = array.flat[place]
            array.flat[place] = old + step
            up = loss()
            array.flat[place] = old - step
            down = loss()
            array.flat[place] = old
            difference = (up - down) / (2 * step)
            assert gradients[name].flat[place] == pytest.approx(difference, rel=1e-5, abs=1e-7), (name, place)


def test_padding_is_not_seen():
    layer, inputs, valid = case(4)
    tensors = {k: paddle.to_tensor(v) for k, v in inputs.items()}
    before = run(layer, tensors, valid).numpy()
    inputs["value"][~valid] = 1e3
    tensors["value"] = paddle.to_tensor(inputs["value"])
    np.testing.assert_array_equal(run(layer, tensors, valid).numpy(), before)


def test_one_reference_serves_all_levels_and_samples():
    layer, inputs, valid = case(2)
    one = inputs["references"][:1, :, :1]
    tensors = {k: paddle.to_tensor(v) for k, v in inputs.items()}
    tensors["references"] = paddle.to_tensor(one)
    whole = dict(tensors, references=paddle.to_tensor(np.broadcast_to(one, (2, 5, 2, 2)).copy()))
    np.testing.assert_array_equal(run(layer, tensors, valid).numpy(), run(layer, whole, valid).numpy())


def test_it_starts_by_looking_around():
    layer = MultiScaleDeformableAttention(16, heads=8, levels=2, points=3)
    assert not layer.sampling_offsets.weight.numpy().any()
    assert not layer.attention_weights.weight.numpy().any() and not layer.attention_weights.bias.numpy().any()
    offsets = layer.sampling_offsets.bias.numpy().reshape(8, 2, 3, 2)
    np.testing.assert_array_equal(offsets[:, 0], offsets[:, 1])
    directions = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    for head, direction in enumerate(directions):
        for point in range(3):
            np.testing.assert_allclose(offsets[head, 0, point], np.multiply(direction, point + 1), atol=1e-6)
    assert not layer.value_proj.bias.numpy().any() and not layer.output_proj.bias.numpy().any()
    assert np.abs(layer.value_proj.weight.numpy()).max() <= (6 / 32) ** 0.5


def test_half_precision_is_computed_in_float32():
    layer, inputs, valid = case(4)
    layer.to(dtype="float32")
    tensors = {k: paddle.to_tensor(v.astype("float32")) for k, v in inputs.items()}
    expected = run(layer, tensors, valid).numpy()
    layer.to(dtype="float16")
    measured = run(layer, {k: t.astype("float16") for k, t in tensors.items()}, valid)
    assert measured.dtype == paddle.float16
    np.testing.assert_allclose(measured.astype("float32").numpy(), expected, atol=2e-2 * np.abs(expected).max())


def test_sizes_are_width_first():
    assert level_sizes([(3, 5), (2, 4)]).tolist() == [[5, 3], [4, 2]]


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="3 heads do not divide width 8"):
        MultiScaleDeformableAttention(8, heads=3)
