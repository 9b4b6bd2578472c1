"""Who offers what: our own classes, and layers of other packages with the defaults."""

from __future__ import annotations

import copy

import paddle
import pytest
from paddle import nn

from ppvision.nn.promises import Promises, optional, promises


class Host(Promises):
    """Promises for these tests.

    Attributes:
        size: a number.
        head: a layer.
    """

    size: int = 3
    head: nn.Layer | None = None

    def twice(self) -> int:
        return 2 * self.size

    def me(self) -> nn.Layer:
        return self

    @optional
    def spare(self, x: int) -> int:
        """Not everyone's."""


class Giving(Host):
    def spare(self, x):
        return x + 1


class Holding(Host):
    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(2, 3)


class Plain(Host):
    def forward(self, x):
        return x


class Full(Host):
    def __init__(self):
        super().__init__()
        self.size = 5
        self.head = nn.Linear(2, 4)
        self.twice = nn.Linear(4, 3)  # a part with the name of a method


class Foreign(nn.Layer):
    size = 7

    def twice(self):
        return -1


def test_defaults_hold_for_those_who_say_nothing():
    net = Plain()
    assert promises(net, Host) is net
    assert (net.size, net.head, net.twice(), net.me()) == (3, None, 6, net)
    assert not any(net.offers(name) for name in ("size", "head", "twice", "me"))


def test_what_only_some_offer():
    with pytest.raises(AttributeError, match=r"Plain offers no spare\(\)"):
        Plain().spare(1)
    with pytest.raises(AttributeError, match=r"Foreign offers no spare\(\)"):
        promises(Foreign(), Host).spare(1)
    assert not Plain().offers("spare") and not promises(Foreign(), Host).offers("spare")
    assert Giving().offers("spare") and Giving().spare(1) == 2
    assert Holding().offers("spare") and Holding().spare(paddle.ones([1, 2])).shape == [1, 3]


def test_what_is_set_or_overridden_is_offered():
    net = Full()
    assert net.offers("size", "head", "twice") and not net.offers("size", "me")


def test_a_part_keeps_a_promised_name():
    net = Full()
    assert isinstance(net.head, nn.Linear) and net.twice(net.head(paddle.ones([1, 2]))).shape == [1, 3]
    assert set(net.state_dict()) == {"head.weight", "head.bias", "twice.weight", "twice.bias"}
    other = copy.deepcopy(net)
    assert other.head is other._sub_layers["head"] and other.head is not net.head
    net.head = new = nn.Linear(2, 9)
    assert net.head is new and net.state_dict()["head.weight"].shape == [2, 9]
    net.head = None
    assert net.head is None and "head.weight" not in net.state_dict()


def test_a_layer_of_another_package_answers_for_itself_else_by_default():
    layer = Foreign()
    view = promises(layer, Host)
    assert (view.size, view.twice(), view.head) == (7, -1, None)
    assert view.me() is layer
    assert view.offers("size", "twice") and not view.offers("me") and not view.offers("head")
    with pytest.raises(AttributeError):
        view.thrice()
