"""Messages for people."""

from __future__ import annotations

import pytest

from ppvision.errors import ArgumentError, UserError, at_least, blame, brief, require, within

NAN, INF = float("nan"), float("inf")


def test_a_message_is_one_line():
    assert str(UserError("a\n  b")) == "a b"


def test_require_names_the_argument():
    require(True, "width", "must be even")
    with pytest.raises(ArgumentError, match=r"^'width' must be even, got 3$") as caught:
        require(False, "width", "must be even, got 3")
    assert (caught.value.key, caught.value.reason, caught.value.status) == ("width", "must be even, got 3", 2)


@pytest.mark.parametrize("value", [0, -1, [1, 0], (2, NAN), NAN, INF, "1", [None, 0]])
def test_at_least_refuses(value):
    with pytest.raises(ArgumentError, match="'count' must be at least 1, got"):
        at_least(1, other=3, count=value)


@pytest.mark.parametrize("value", [1, 1.5, [], [1, 2], (7,), None])
def test_at_least_passes(value):
    at_least(1, count=value)


@pytest.mark.parametrize("value", [-0.1, 1.1, NAN, -INF, [0.5, 2]])
def test_within_refuses(value):
    with pytest.raises(ArgumentError, match="'p' must be from 0 to 1, got"):
        within(0, 1, p=value)


def test_the_end_may_be_excluded():
    within(0, 1, p=1.0)
    within(0, 1, below=True, p=0.999)
    with pytest.raises(ArgumentError, match="'p' must be at least 0 and below 1, got 1.0"):
        within(0, 1, below=True, p=1.0)


def test_blame_names_the_key_and_keeps_our_own_bugs():
    class Foreign:
        pass

    with pytest.raises(UserError, match=r"^method.loss: .*Foreign failed with KeyError: 'label'; called as loss\(x\)$"):
        with blame(Foreign(), "method.loss", "called as loss(x)"):
            raise KeyError("label")
    with pytest.raises(UserError, match="^plain$"), blame(Foreign(), "method.loss", "rule"):
        raise UserError("plain")
    Foreign.__module__ = "ppvision.losses.thing"
    with pytest.raises(KeyError), blame(Foreign(), "method.loss", "rule"):
        raise KeyError("label")


def test_brief_finds_what_paddle_says():
    trace = "\n----\nC++ Traceback\n0 paddle::x\n----\n"
    dump = f"{trace}Error Message Summary:\n----------------------\nInvalid: bad\n [Hint: y]"
    assert brief(ValueError(dump)) == "ValueError: Invalid: bad"
    assert brief(ValueError("a\nb")) == "ValueError: a b" and brief(KeyError()) == "KeyError"
    assert len(brief(ValueError("x" * 1000))) < 330
