"""Batch norm that does not learn."""

from __future__ import annotations

import numpy as np
import paddle

from ppvision.nn.frozen_bn import FrozenBatchNorm2D
from tests.models.golden import fill


def pair() -> tuple[FrozenBatchNorm2D, paddle.nn.BatchNorm2D]:
    frozen, plain = FrozenBatchNorm2D(6), paddle.nn.BatchNorm2D(6)
    fill(plain)
    assert frozen.set_state_dict(plain.state_dict()) == ([], [])
    plain.eval()
    return frozen, plain


def test_it_is_batch_norm_in_evaluation_whatever_the_mode():
    frozen, plain = pair()
    assert list(frozen.state_dict()) == list(plain.state_dict())
    x = paddle.randn([4, 6, 5, 3]) * 2 + 1
    frozen.train()
    before = {k: v.numpy().copy() for k, v in frozen.state_dict().items()}
    np.testing.assert_array_equal(frozen(x).numpy(), plain(x).numpy())
    assert all(np.array_equal(v, before[k]) for k, v in frozen.state_dict().items())


def test_the_input_gets_the_gradient_of_a_fixed_scale_and_the_parameters_none():
    frozen, _ = pair()
    x = paddle.randn([2, 6, 4, 4])
    x.stop_gradient = False
    weight = paddle.randn([2, 6, 4, 4])
    (frozen(x) * weight).sum().backward()
    scale = frozen.weight.numpy() / np.sqrt(frozen._variance.numpy() + 1e-5)
    np.testing.assert_allclose(x.grad.numpy(), weight.numpy() * scale[:, None, None], rtol=1e-4)
    assert not [k for k, p in frozen.named_parameters() if p.trainable or not p.stop_gradient or p.grad is not None]


def test_conversion_to_synchronised_batch_norm_leaves_it_alone():
    net = paddle.nn.Sequential(FrozenBatchNorm2D(2), paddle.nn.BatchNorm2D(2))
    net = paddle.nn.SyncBatchNorm.convert_sync_batchnorm(net)
    assert type(net[0]) is FrozenBatchNorm2D and type(net[1]) is paddle.nn.SyncBatchNorm
