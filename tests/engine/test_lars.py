"""LARS against the formula, and its state through a restart."""

import numpy as np
import paddle
import pytest

from ppvision.engine.lars import LARS
from ppvision.engine.optimizer import load_optimizer_state, optimizer_state, trainable


def layer() -> paddle.nn.Layer:
    paddle.seed(0)
    return paddle.nn.Linear(4, 3)


def step(net, optimizer, seed):
    x = paddle.to_tensor(np.random.default_rng(seed).standard_normal([5, 4]).astype("f4"))
    net(x).square().sum().backward()
    gradients = {k: p.grad.numpy().copy() for k, p in net.named_parameters()}
    optimizer.step()
    optimizer.clear_grad()
    return gradients


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_follows_the_formula(decay):
    net = layer()
    optimizer = LARS(trainable(net), lr=0.5, momentum=0.9, trust=0.01, weight_decay=decay)
    velocity = {k: 0.0 for k, _ in net.named_parameters()}
    for seed in range(3):
        before = {k: p.numpy().copy() for k, p in net.named_parameters()}
        for key, g in step(net, optimizer, seed).items():
            w = before[key]
            if w.ndim > 1:
                g = g + decay * w
                g = g * 0.01 * np.linalg.norm(w) / np.linalg.norm(g)
            velocity[key] = 0.9 * velocity[key] + g
            np.testing.assert_allclose(dict(net.named_parameters())[key], w - 0.5 * velocity[key], rtol=1e-4, atol=1e-6)


def test_a_weight_of_zeros_learns_without_trust():
    net = layer()
    net.weight.set_value(paddle.zeros_like(net.weight))
    net.bias.set_value(paddle.ones_like(net.bias))
    gradients = step(net, LARS(trainable(net), lr=0.1), 0)
    np.testing.assert_allclose(net.weight, -0.1 * gradients["weight"], rtol=1e-5)


def test_state_continues_exactly():
    net = layer()
    optimizer = LARS(trainable(net), lr=0.1)
    step(net, optimizer, 0)
    weights, state = (
        {k: v.numpy().copy() for k, v in net.state_dict().items()},
        optimizer_state(trainable(net), optimizer),
    )
    step(net, optimizer, 1)
    other = layer()
    other.set_state_dict({k: paddle.to_tensor(v) for k, v in weights.items()})
    again = LARS(trainable(other), lr=0.1)
    load_optimizer_state(trainable(other), again, state)
    step(other, again, 1)
    np.testing.assert_array_equal(other.weight.numpy(), net.weight.numpy())
