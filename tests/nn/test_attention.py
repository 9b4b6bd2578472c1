"""Multi-head attention: against Paddle's own, masks, groups."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppvision.nn.attention import MultiHeadAttention
from tests.models.golden import fill


def tokens(*shape: int, seed: int = 0) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(seed).standard_normal(shape).astype("float32"))


def attention(dim: int = 12, heads: int = 3) -> MultiHeadAttention:
    layer = MultiHeadAttention(dim, heads)
    fill(layer)
    layer.in_proj_weight.set_value(layer.in_proj_weight * 6)  # far from uniform weights
    return layer


def test_it_equals_paddles_own():
    ours, theirs = attention(), paddle.nn.MultiHeadAttention(12, 3)
    for i, name in enumerate(("q_proj", "k_proj", "v_proj")):
        getattr(theirs, name).weight.set_value(ours.in_proj_weight[:, 12 * i : 12 * i + 12])
        getattr(theirs, name).bias.set_value(ours.in_proj_bias[12 * i : 12 * i + 12])
    theirs.out_proj.set_state_dict(ours.out_proj.state_dict())
    q, k, v = tokens(2, 4, 12), tokens(2, 7, 12, seed=1), tokens(2, 7, 12, seed=2)
    np.testing.assert_allclose(ours(q, k, v).numpy(), theirs(q, k, v).numpy(), atol=1e-5)
    mask = paddle.to_tensor(np.random.default_rng(3).random((4, 7)) < 0.5)
    mask[:, 0] = True
    expected = theirs(q, k, v, attn_mask=mask.unsqueeze([0, 1]))
    np.testing.assert_allclose(ours(q, k, v, mask).numpy(), expected.numpy(), atol=1e-5)
    assert not np.allclose(ours(q, k, v).numpy(), expected.numpy(), atol=1e-2)


def test_names_are_those_of_paddledetection():
    shapes = {k: list(v.shape) for k, v in attention().state_dict().items()}
    expected = {"in_proj_weight": [12, 36], "in_proj_bias": [36], "out_proj.weight": [12, 12], "out_proj.bias": [12]}
    assert shapes == expected


@pytest.mark.parametrize("masked", ["no", "one for all", "one per sample"])
def test_groups_are_a_block_diagonal_mask(masked):
    layer, groups, size = attention(), 3, 4
    q, v = tokens(2, groups * size, 12), tokens(2, groups * size, 12, seed=1)
    block = np.kron(np.eye(groups), np.ones((size, size))).astype(bool)
    inner = np.random.default_rng(5).random((2, 1, size, size)) < 0.6
    inner |= np.eye(size, dtype=bool)
    given, whole = None, np.broadcast_to(block, (2, 1, *block.shape))
    if masked == "one for all":
        given = inner[0, 0]
        whole = whole & np.tile(inner[:1], (1, 1, groups, groups))
    elif masked == "one per sample":
        given = inner
        whole = whole & np.tile(inner, (1, 1, groups, groups))
    given = None if given is None else paddle.to_tensor(given)
    folded = layer(q, q, v, given, groups=groups)
    joint = layer(q, q, v, paddle.to_tensor(np.ascontiguousarray(whole)))
    np.testing.assert_allclose(folded.numpy(), joint.numpy(), atol=1e-5)
    assert not np.allclose(folded.numpy(), layer(q, q, v).numpy(), atol=1e-2)


def test_what_may_attend_to_nothing_has_no_nan():
    layer, x = attention(), tokens(1, 3, 12)
    x.stop_gradient = False
    y = layer(x, x, x, paddle.to_tensor([[True, True, True], [False] * 3, [True] * 3]))
    y.sum().backward()
    assert y.isfinite().all().item() and x.grad.isfinite().all().item()


def test_dropout_only_while_training():
    layer, x = MultiHeadAttention(12, 3, dropout=0.5), tokens(1, 6, 12)
    assert not np.array_equal(layer(x, x, x), layer(x, x, x))
    layer.eval()
    assert np.array_equal(layer(x, x, x), layer(x, x, x))


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="5 heads do not divide width 12"):
        MultiHeadAttention(12, 5)
