"""What losses promise, ours and those of other packages."""

from __future__ import annotations

import importlib

import paddle
import pytest
from paddle import nn

from ppvision.losses import NAMES
from ppvision.losses.base import Loss, loss_promises
from ppvision.losses.cross_entropy import CrossEntropy


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_inherits(name):
    module, _, cls = NAMES[name].partition(":")
    assert issubclass(getattr(importlib.import_module(module), cls), Loss)


def test_a_loss_of_another_package_has_the_defaults():
    loss = loss_promises(nn.CrossEntropyLoss(ignore_index=7))
    assert loss.normaliser({"label": paddle.ones([2])}) == {}
    assert loss.ignore_index == 7  # what it has itself
    assert loss.class_weights is None
    assert loss_promises(nn.MSELoss()).ignore_index is None


def test_ours_answers_for_itself():
    loss = CrossEntropy(ignore_index=9, class_weights=[1.0, 2.0])
    assert loss_promises(loss) is loss
    assert loss.normaliser({"label": paddle.to_tensor([0, 9, 1])})["labels"].item() == 2
    assert (loss.ignore_index, loss.class_weights) == (9, [1.0, 2.0])
