"""What one optimizer trains: its parameters, the norm of its gradients, what cannot be a group."""

import numpy as np
import paddle
import pytest
from toys import ToyDistillation, ToyGan, ToySupervised

from ppvision.engine.group import Group, make_groups
from ppvision.engine.optimizer import SGD
from ppvision.engine.schedule import Poly
from ppvision.errors import UserError
from ppvision.methods.base import Phase


def make(name, parameters):
    return SGD(parameters, lr=0.1), Poly(0.1, 10, power=1.0)


def group_of(layer):
    parameters = dict(layer.named_parameters())
    return Group(parameters, *make("model", parameters))


def test_the_norm_is_of_all_gradients_together():
    layer = paddle.nn.Linear(2, 1)
    group = group_of(layer)
    assert group.gradients() == [] and group.without_gradient() == ["weight", "bias"]
    layer(paddle.to_tensor([[3.0, 4.0]])).sum().backward()
    assert group.norm().item() == pytest.approx(np.sqrt(9 + 16 + 1))
    group.scale_gradients(0.5)
    assert layer.weight.grad.flatten().tolist() == [1.5, 2.0] and layer.bias.grad.item() == 0.5


def test_a_step_runs_at_the_rate_of_its_number():
    layer = paddle.nn.Linear(2, 1)
    group = group_of(layer)
    before = layer.weight.numpy().copy()
    layer(paddle.to_tensor([[3.0, 4.0]])).sum().backward()
    group.step(6)
    np.testing.assert_allclose(before - layer.weight.numpy(), 0.1 * 0.4 * np.array([[3.0], [4.0]]), rtol=1e-4)
    group.clear()
    assert group.gradients() == []


def test_flags_of_one_process_are_its_own():
    assert group_of(paddle.nn.Linear(2, 1)).reduce(True, False) == [True, False]


def test_groups_are_those_of_the_method_without_what_is_frozen():
    gan = make_groups(ToyGan(), make, shard=False)
    assert {name: {k.split(".")[0] for k in group.parameters} for name, group in gan.items()} == {
        "d": {"discriminator"},
        "g": {"generator"},
    }
    assert not [k for k in gan["g"].parameters if "_mean" in k or "_variance" in k]
    taught = make_groups(ToyDistillation(paddle.nn.Conv2D(3, 4, 1), paddle.nn.Conv2D(3, 4, 1)), make, shard=False)
    assert sorted(taught["model"].parameters) == ["adapter.bias", "adapter.weight", "model.bias", "model.weight"]


def test_what_cannot_be_a_group():
    frozen = ToySupervised(paddle.nn.Conv2D(3, 4, 1))
    for parameter in frozen.parameters():
        parameter.stop_gradient = True
    with pytest.raises(UserError, match="optimizer 'model' has nothing to train"):
        make_groups(frozen, make, shard=False)

    class Misnamed(ToyGan):
        phases = (Phase("d", "discriminator"),)

    with pytest.raises(UserError, match="Misnamed: phase 'd' names optimizer 'discriminator', which trains nothing"):
        make_groups(Misnamed(), make, shard=False)
