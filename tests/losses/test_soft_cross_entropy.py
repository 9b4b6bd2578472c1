"""Cross entropy against probabilities."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from ppvision.losses.soft_cross_entropy import SoftCrossEntropy, smoothed


def alone(logits, target):
    """The loss of a micro-batch that is the whole batch."""
    loss, batch = SoftCrossEntropy(), {"soft_label": target}
    return loss(logits, {**batch, "normaliser": loss.normaliser(batch)})


def test_one_hot_targets_give_the_ordinary_cross_entropy():
    logits, label = paddle.randn([6, 5]), paddle.to_tensor([0, 4, 2, 2, 1, 3])
    loss = alone(logits, smoothed(label, 5))
    assert loss.item() == pytest.approx(F.cross_entropy(logits, label).item(), abs=1e-6)


def test_smoothing_equals_that_of_paddle():
    logits, label = paddle.randn([6, 5]), paddle.to_tensor([0, 4, 2, 2, 1, 3])
    expected = F.cross_entropy(logits, F.label_smooth(F.one_hot(label, 5), epsilon=0.1), soft_label=True)
    loss = alone(logits, smoothed(label, 5, 0.1))
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    assert smoothed(label, 5, 0.1).sum(1).numpy() == pytest.approx(np.ones(6))


def test_tokens_are_averaged():
    logits, target = paddle.randn([2, 3, 4, 5]), F.softmax(paddle.randn([2, 3, 4, 5]), -1)
    each = -(target * F.log_softmax(logits, -1)).sum(-1)
    assert alone(logits, target).item() == pytest.approx(each.mean().item(), abs=1e-6)


def test_uneven_micro_batches_equal_the_big_batch():
    """The trainer averages the terms of micro-batches and gives the mean of the denominators."""
    loss, logits, target = SoftCrossEntropy(), paddle.randn([6, 5]), F.softmax(paddle.randn([6, 5]), -1)
    parts = [slice(0, 2), slice(2, 6)]
    known = {"images": paddle.to_tensor(3.0)}
    terms = [loss(logits[p], {"soft_label": target[p], "normaliser": known}).item() for p in parts]
    assert np.mean(terms) == pytest.approx(alone(logits, target).item(), abs=1e-6)


def test_gradient_is_softmax_minus_target():
    logits, target = paddle.randn([3, 4]), F.softmax(paddle.randn([3, 4]), -1)
    logits.stop_gradient = False
    alone(logits, target).backward()
    np.testing.assert_allclose(logits.grad.numpy(), ((F.softmax(logits, -1) - target) / 3).numpy(), atol=1e-6)
