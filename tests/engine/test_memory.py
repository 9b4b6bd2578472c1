"""The computed plan against the tensors of real steps."""

import paddle
import pytest
from toys import Segmenter, ToyDistillation, batch_of, trainer_of

import ppvision
from ppvision.engine import memory
from ppvision.errors import UserError
from ppvision.methods.base import Method


class Plain(Method):
    def __init__(self, model):
        super().__init__()
        self.model = model


def saved_by_backward(net, image):
    """Elements of distinct tensors, parameters excepted, that Paddle keeps for backward (where it calls the hook)."""
    seen = {}

    def keep(tensor):
        seen[tensor.data_ptr()] = tensor.size
        return tensor

    with paddle.autograd.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = net(image)
    parameters = {p.data_ptr() for p in net.parameters()}
    total = sum(size for pointer, size in seen.items() if pointer not in parameters)
    del output
    return total


@pytest.mark.parametrize("name, size", [("cae_v2_debug", (24, 24)), ("maformer_debug", (64, 96))])
def test_activations_are_bounded_from_above_and_not_by_much(name, size):
    net = ppvision.create_model(name)
    net.train()
    real = saved_by_backward(net, paddle.randn([2, 3, *size]))
    planned = 2 * memory.activations(net, (1, 3, *size))
    assert net.training and real <= planned <= 1.25 * real
    blocks = [memory.sublayer(net, name) for name in net.recompute_blocks]
    less = 2 * memory.activations(net, (1, 3, *size), blocks)
    assert 0.2 * planned < less < 0.75 * planned
    assert planned == 2 * memory.activations(net, (1, 3, *size))  # nothing is left behind by tracing


def test_the_rest_is_exact():
    """Adam: two accumulators, and two numbers per parameter that the plan leaves out."""
    method = ToyDistillation(Segmenter(), Segmenter())
    trainer = trainer_of(method, "adam", ema=0.9)
    trainer.update([batch_of(0)])
    (group,) = trainer.groups.values()
    plan = memory.plan(method, size=(6, 7), batch_size=4, optimizer="adam", ema=True)
    moments = {k: v for k, v in group.optimizer._accumulators.items() if k.startswith("moment")}
    assert plan.optimizer == sum(t.size * 4 for tensors in moments.values() for t in tensors.values())
    assert plan.gradients == memory.bytes_of(group.parameters)
    assert plan.weights == memory.bytes_of(method.state_dict())
    assert plan.average == 2 * memory.bytes_of(method.model.state_dict())
    assert plan.total == sum(value for name, value in vars(plan).items()) and plan.rows()[-1][0] == "total"


def test_dividing_and_half_precision():
    method = Plain(Segmenter())
    whole = memory.plan(method, size=(6, 7), batch_size=4)
    parts = memory.plan(method, size=(6, 7), batch_size=4, shard=2)
    assert whole.optimizer / 2 <= parts.optimizer < whole.optimizer and parts.weights == whole.weights
    half = memory.plan(method, size=(6, 7), batch_size=4, amp="O2")
    assert half.gradients * 2 == whole.gradients and half.optimizer * 2 == whole.optimizer * 3  # master weights
    assert half.activations * 2 == whole.activations


def test_unknown_optimizer():
    with pytest.raises(UserError, match="optimizer 'adamx' is unknown"):
        memory.plan(Plain(Segmenter()), size=(6, 7), batch_size=1, optimizer="adamx")
