"""Stochastic depth: whole samples, the right mean, nothing in evaluation."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppvision.nn.drop import DropPath


def test_drops_whole_samples_and_scales_the_rest():
    paddle.seed(0)
    drop = DropPath(0.25)
    drop.train()
    y = drop(paddle.ones([4000, 2, 3])).numpy().reshape(4000, 6)
    assert (y == y[:, :1]).all()
    assert set(np.unique(y.round(5))) == {0.0, np.float32(1 / 0.75).round(5)}
    assert y.mean() == pytest.approx(1.0, abs=0.03)


def test_is_the_identity_in_evaluation_and_at_rate_zero():
    x = paddle.randn([3, 2])
    drop = DropPath(0.9)
    drop.eval()
    assert np.array_equal(drop(x), x)
    assert np.array_equal(DropPath(0.0)(x), x)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_impossible_rates_are_refused(rate):
    with pytest.raises(ValueError, match="rate"):
        DropPath(rate)
