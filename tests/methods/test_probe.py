"""Linear probing: only the last layers learn, nothing else moves."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppvision.engine.optimizer import Momentum
from ppvision.engine.schedule import Constant
from ppvision.engine.trainer import Trainer
from ppvision.errors import UserError
from ppvision.methods.probe import LinearProbe
from ppvision.models import zoo
from ppvision.weights import state_of


def batch() -> dict:
    rng = np.random.default_rng(0)
    label = np.arange(32) % 4
    pixels = (rng.integers(0, 60, [32, 24, 24, 3]) + 45 * label[:, None, None, None]).astype("uint8")
    return {"image": paddle.to_tensor(pixels), "label": paddle.to_tensor(label)}


def test_only_the_probe_moves_and_it_learns():
    paddle.seed(0)
    method = LinearProbe(zoo.create_model("cae_v2_debug", num_classes=4, pool="cls", drop_path=0.5))
    method.mean, method.std = zoo.entry("cae_v2_debug").mean_std
    trainer = Trainer(method, lambda name, ps: (Momentum(ps, lr=0.1), Constant(0.1, 99)), warn=pytest.fail)
    assert set(trainer.groups["model"].parameters) == {"model.head.weight", "model.head.bias"}
    before = state_of(method.model)
    losses = [trainer.update([batch()])["loss"] for _ in range(40)]
    after = state_of(method.model)
    moved = {k for k in before if not np.array_equal(before[k], after[k])}
    assert moved == {"head.weight", "head.bias", "fc_norm._mean", "fc_norm._variance"}
    assert losses[-1] < 0.5 * losses[0]
    with trainer.evaluating() as nets:
        x = method.prepare(batch())["image"]
        assert (nets["model"](x).argmax(1) == batch()["label"]).astype("float32").mean().item() > 0.8


def test_the_body_is_deterministic_while_the_probe_trains():
    method = LinearProbe(zoo.create_model("cae_v2_debug", num_classes=4, pool="cls", drop_path=0.9))
    method.train()
    x = method.prepare(batch())["image"]
    first, second = (method.model.features(x)["cls"] for _ in range(2))
    np.testing.assert_array_equal(first.numpy(), second.numpy())
    assert first.stop_gradient and method.model.fc_norm.training


def test_layers_are_named_by_the_recipe():
    net = zoo.create_model("cae_v2_debug", num_classes=4)
    method = LinearProbe(net, trained=("head",))
    assert net.fc_norm.weight.stop_gradient and not net.head.weight.stop_gradient
    assert method.trained == ("head",)
    with pytest.raises(UserError, match="CaeV2 has no layer 'haed'; did you mean 'head'"):
        LinearProbe(net, trained=("haed",))
