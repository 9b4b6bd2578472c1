"""Convolutions: initialisation, SAME padding, key names."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from ppvision.nn.conv import ConvBN, conv2d


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (8, 7), (7, 8), (1, 2), (37, 61)])
def test_same_padding_puts_nothing_before_an_even_side(size):
    conv = conv2d(3, 4, 3, 2, padding="SAME")
    x = paddle.randn([2, 3, *size])
    top, left = size[0] % 2, size[1] % 2
    expected = F.conv2d(F.pad(x, [left, 1, top, 1]), conv.weight, stride=2)
    assert expected.shape[2:] == [-(-n // 2) for n in size]
    np.testing.assert_allclose(conv(x).numpy(), expected.numpy(), atol=1e-5)


def test_default_padding_keeps_the_size_and_differs_from_same_at_stride_2():
    assert conv2d(3, 4, 5)(paddle.randn([1, 3, 9, 8])).shape == [1, 4, 9, 8]
    explicit, same = conv2d(3, 4, 3, 2), conv2d(3, 4, 3, 2, padding="SAME")
    same.weight.set_value(explicit.weight)
    x = paddle.randn([1, 3, 8, 8])
    assert not np.allclose(explicit(x), same(x), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "std"), [("kaiming", (2 / (64 * 9)) ** 0.5), ("normal_0.001", 0.001), ("trunc_normal_0.02", 0.02)]
)
def test_initialisation(name, std):
    conv = conv2d(64, 64, 3, bias=True, weight_init=name)
    assert conv.weight.std().item() == pytest.approx(std, rel=0.05)
    assert not conv.bias.numpy().any()
    assert conv2d(2, 2, 1).bias is None


def test_conv_bn_has_paddlesegs_keys_and_optional_relu():
    unit = ConvBN(3, 4, 3, bias=True)
    assert list(unit.state_dict()) == [
        "_conv.weight",
        "_conv.bias",
        "_batch_norm.weight",
        "_batch_norm.bias",
        "_batch_norm._mean",
        "_batch_norm._variance",
    ]
    x = paddle.randn([2, 3, 8, 8])
    assert unit(x).min().item() == 0
    assert ConvBN(3, 4, 3, relu=False)(x).min().item() < 0
