"""Supervised training: auxiliary heads, foreign parts, and what is refused before the first step."""

import numpy as np
import paddle
import pytest
from paddle import nn

from ppvision.config import Component, build, load
from ppvision.config import check as check_recipe
from ppvision.errors import UserError
from ppvision.losses.cross_entropy import CrossEntropy
from ppvision.methods.supervised import Supervised
from ppvision.models import zoo


class Net(nn.Layer):
    """[B,3,H,W] -> [B,4,H,W], or that and two more."""

    num_classes = 4

    def __init__(self, outputs=1):
        super().__init__()
        self.conv, self.outputs = nn.Conv2D(3, 4, 1), outputs

    def forward(self, x):
        y = self.conv(x)
        return y if self.outputs == 1 else [y] * self.outputs


class Plain(nn.Layer):
    """A loss of somebody else: no normaliser."""

    def forward(self, output, batch):
        return nn.functional.cross_entropy(output, batch["label"].unsqueeze(1), axis=1)


def batch(classes=4):
    rng = np.random.default_rng(0)
    return {
        "image": paddle.to_tensor(rng.standard_normal((2, 3, 32, 48)).astype("float32")),
        "label": paddle.to_tensor(rng.integers(0, classes, (2, 32, 48))),
    }


def terms_of(method):
    """The terms of a micro-batch that is the whole batch."""
    return method.losses("main", {**batch(), "normaliser": method.normaliser("main", batch())})


def test_auxiliary_heads_are_weighted():
    net = zoo.create_model("rtformer_debug", num_classes=4)
    method = Supervised(net, aux=[{"level": "c3", "channels": 8, "weight": 0.25}, {"level": "c5", "channels": 8}])
    assert method.weights == [0.25, 0.4] and sorted(terms_of(method)) == ["aux0", "aux1", "main"]
    method.weights[0] = 0.5
    paddle.seed(0)
    method.eval()
    double = terms_of(method)["aux0"].item()
    method.weights[0] = 0.25
    assert double == pytest.approx(2 * terms_of(method)["aux0"].item(), rel=1e-6)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"level": "c9", "channels": 8}, "'aux.0.level'.* no feature 'c9'.*c3"),
        ({"level": ["c3"], "channels": 8}, "'method.aux.0.level' must be text"),
        ({"channels": 8}, "'method.aux.0.level' is missing"),
        ({"level": "c3"}, "'method.aux.0.channels' is missing, seg_head needs it"),
        ({"level": "c3", "channels": 0}, "channels must be at least 1"),
        ({"level": "c3", "channels": 8, "weight": float("inf")}, "'method.aux.0.weight' must be a number"),
        ({"level": "c3", "channels": 8, "weight": -0.1}, "'method.aux.0.weight' must be a number >= 0"),
        ({"level": "c3", "channels": 8, "weight": [0.4]}, "'method.aux.0.weight' must be a number"),
        ({"level": "c3", "channels": 8, "wieght": 1}, "unknown key 'method.aux.0.wieght'"),
        ({"level": "c3", "channels": 8, "type": "seg_haed"}, "no head 'seg_haed'; did you mean 'seg_head'"),
        ({"level": "c3", "channels": 8, "num_in": 3}, "unknown key 'method.aux.0.num_in'"),
        ("c3", "'method.aux.0' must be a mapping"),
    ],
)
def test_an_auxiliary_head_that_cannot_be(item, message):
    with pytest.raises(UserError, match=message):
        Supervised(zoo.create_model("rtformer_debug", num_classes=4), aux=[item])


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"level": 3, "channels": 8}, "config: 'method.aux.0.level' must be text, got 3"),
        ({"level": "c3", "channels": "8"}, "config: 'method.aux.0.channels' must be an integer"),
        ({"level": "c3", "channels": 8, "wieght": 1}, "config: unknown key 'method.aux.0.wieght'"),
        ({"level": "c3", "channels": 8, "type": "fcn"}, "config: no head 'fcn'"),
    ],
)
def test_validation_of_a_recipe_looks_into_auxiliary_heads(item, message):
    spec = {"model": {"type": "rtformer_debug"}, "method": {"type": "supervised", "aux": [item]}, "train": {"iters": 1}}
    with pytest.raises(UserError, match=message):
        check_recipe(load(spec))


def test_class_weights_must_be_as_many_as_classes():
    with pytest.raises(UserError, match="method.loss.class_weights' needs one number per class: .* 4 classes, 3 are"):
        build(
            "method", {"type": "supervised", "loss": {"type": "cross_entropy", "class_weights": [1, 2, 3]}}, model=Net()
        )
    Supervised(Net(), loss=CrossEntropy(class_weights=[1, 2, 3, 4]))


@pytest.mark.parametrize("weights", [[], [-1.0], [0.0], [float("nan")]])
def test_output_weights(weights):
    with pytest.raises(UserError, match="output_weights"):
        Supervised(Net(), output_weights=weights)


def test_more_outputs_than_weights():
    with pytest.raises(UserError, match="method.output_weights: the network returns 3 outputs, 2 weights are given"):
        terms_of(Supervised(Net(3), output_weights=[1.0, 0.4]))


def test_a_foreign_loss_needs_no_normaliser():
    method = Supervised(Net(), loss=Plain())
    ours = Supervised(method.model)
    assert method.normaliser("main", batch()) == {}
    theirs, own = (terms_of(m)["main"].item() for m in (method, ours))
    assert theirs == pytest.approx(own, rel=1e-5)


def test_a_foreign_loss_that_cannot_be_called_is_one_line():
    spec = {"type": "supervised", "loss": {"type": "paddle.nn.CrossEntropyLoss"}}
    method = build("method", Component(spec, "method"), model=Net())
    with pytest.raises(UserError, match="method.loss: paddle.*CrossEntropyLoss failed with .*a loss is called as"):
        terms_of(method)


def test_a_loss_is_one_number():
    class Unreduced(nn.Layer):
        def forward(self, output, batch):
            return output.mean([2, 3])

    with pytest.raises(UserError, match="method.loss: Unreduced gives no single number; a loss is called as"):
        terms_of(Supervised(Net(), loss=Unreduced()))


def test_a_foreign_network_that_fails_is_one_line():
    class Broken(nn.Layer):
        def forward(self, x):
            raise IndexError("no such thing")

    with pytest.raises(UserError, match="model: .*Broken failed with IndexError: no such thing; it is called with"):
        terms_of(Supervised(Broken()))
