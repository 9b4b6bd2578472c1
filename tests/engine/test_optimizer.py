"""Parameter groups and optimizer state by structured names."""

import numpy as np
import paddle
import pytest
from paddle import nn

from ppvision.engine import OPTIMIZERS
from ppvision.engine.optimizer import (
    SGD,
    Adam,
    AdamW,
    Momentum,
    load_optimizer_state,
    optimizer_state,
    parameter_groups,
    trainable,
)
from ppvision.errors import ArgumentError, UserError

FUNCTIONS = {"sgd": SGD, "momentum": Momentum, "adam": Adam, "adamw": AdamW}


def net(seed=0):
    paddle.seed(seed)
    return nn.Sequential(nn.Conv2D(3, 4, 3, padding=1), nn.BatchNorm2D(4), nn.Conv2D(4, 2, 1))


def step(layer, optimizer, seed):
    x = paddle.to_tensor(np.random.default_rng(seed).standard_normal((2, 3, 5, 5)).astype("float32"))
    layer(x).square().mean().backward()
    optimizer.step()
    optimizer.clear_grad()


def test_the_table_and_the_functions_agree():
    table = {k: v.split(":")[1] for k, v in OPTIMIZERS.items() if v.startswith("ppvision.engine.optimizer:")}
    assert table == {k: f.__name__ for k, f in FUNCTIONS.items()}


def test_statistics_are_not_trained():
    assert set(trainable(net())) == {"0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"}


def test_multipliers_and_decay_by_pattern():
    parameters = trainable(net())
    groups = parameter_groups(parameters, 0.1, {"2.*": 10.0}, ["1d"])
    by_id = {id(p): (g["learning_rate"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert {k: by_id[id(p)] for k, p in parameters.items()} == {
        "0.weight": (1.0, 0.1), "0.bias": (1.0, 0.0), "1.weight": (1.0, 0.0),
        "1.bias": (1.0, 0.0), "2.weight": (10.0, 0.1), "2.bias": (10.0, 0.0),
    }  # fmt: skip


def test_layer_decay_table():
    parameters = trainable(net())
    groups = parameter_groups(parameters, 0.0, layer_decay={"rate": 0.5, "layers": ["0.*", "1.*"]})
    factor = {id(p): g["learning_rate"] for g in groups for p in g["params"]}
    assert [factor[id(parameters[k])] for k in ("0.weight", "1.bias", "2.weight")] == [0.25, 0.5, 1.0]


@pytest.mark.parametrize(
    "options", [{"lr_mult": {"spp.*": 10}}, {"no_decay": ["nrom*"]}, {"layer_decay": {"rate": 0.5, "layers": ["9.*"]}}]
)
def test_a_pattern_that_matches_nothing_is_refused(options):
    with pytest.raises(UserError, match="matches no parameter"):
        parameter_groups(trainable(net()), 0.1, **options)


def test_the_multiplier_scales_the_step():
    plain, fast = net(), net()
    for layer, options in ((plain, {}), (fast, {"lr_mult": {"2.*": 10.0}})):
        before = {k: p.numpy().copy() for k, p in layer.named_parameters()}
        step(layer, SGD(trainable(layer), lr=0.01, **options), 0)
        layer.moved = {k: p.numpy() - before[k] for k, p in layer.named_parameters()}
    np.testing.assert_allclose(fast.moved["2.weight"], 10 * plain.moved["2.weight"], atol=1e-6)
    np.testing.assert_allclose(fast.moved["0.weight"], plain.moved["0.weight"], atol=1e-7)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_state_continues_bitwise_after_the_name_counters_moved(name):
    def make(layer):
        return FUNCTIONS[name](trainable(layer), lr=0.05, weight_decay=0.01)

    straight = net()
    optimizer = make(straight)
    for i in range(6):
        step(straight, optimizer, i)
    first = net()
    optimizer = make(first)
    for i in range(3):
        step(first, optimizer, i)
    state = {k: np.array(v) for k, v in optimizer_state(trainable(first), optimizer).items()}
    weights = {k: np.array(v.numpy()) for k, v in first.state_dict().items()}
    nn.Linear(3, 3)
    second = net(seed=9)
    second.set_state_dict(weights)
    optimizer = make(second)
    load_optimizer_state(trainable(second), optimizer, state)
    for i in range(3, 6):
        step(second, optimizer, i)
    for key, value in straight.state_dict().items():
        np.testing.assert_array_equal(second.state_dict()[key].numpy(), value.numpy(), err_msg=key)


def test_a_state_of_another_optimizer_is_refused():
    layer = net()
    adam = Adam(trainable(layer), lr=0.1)
    step(layer, adam, 0)
    state = optimizer_state(trainable(layer), adam)
    with pytest.raises(UserError, match="another recipe"):
        load_optimizer_state(trainable(layer), Momentum(trainable(layer), lr=0.1), state, "iter_5")
    fewer = {k: v for k, v in state.items() if not k.startswith("2.")}
    with pytest.raises(UserError, match="accumulators"):
        load_optimizer_state(trainable(layer), Adam(trainable(layer), lr=0.1), fewer, "iter_5")


@pytest.mark.parametrize(
    ("name", "options", "key"),
    [
        ("sgd", {"lr": -1.0}, "lr"),
        ("sgd", {"lr": float("nan")}, "lr"),
        ("momentum", {"momentum": 1.0}, "momentum"),
        ("adam", {"betas": (0.9, 1.0)}, "betas"),
        ("adamw", {"betas": (-0.1, 0.9)}, "betas"),
        ("adamw", {"epsilon": 0.0}, "epsilon"),
        ("adamw", {"weight_decay": -0.1}, "weight_decay"),
        ("adamw", {"lr_mult": {"0.*": -1.0}}, "lr_mult"),
        ("adamw", {"lr_mult": {"0.*": float("inf")}}, "lr_mult"),
        ("adamw", {"layer_decay": {"rate": 1.5, "layers": ["0.*"]}}, "layer_decay.rate"),
    ],
)
def test_an_argument_that_cannot_be_is_named(name, options, key):
    with pytest.raises(ArgumentError) as caught:
        FUNCTIONS[name](trainable(net()), **{"lr": 0.1, **options})
    assert caught.value.key == key
