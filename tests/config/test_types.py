"""Values against annotations."""

from __future__ import annotations

import collections.abc as abc
from typing import Annotated, Any, Literal, TypedDict

import pytest

from ppvision.config.types import convert, describe, fields
from ppvision.errors import UserError


class Window(TypedDict):
    crop: tuple[int, int]


def where(path: str) -> str:
    return "x.yml:7"


@pytest.mark.parametrize(
    ("value", "hint", "result"),
    [
        (3, int, 3),
        (3, float, 3.0),
        (None, int | None, None),
        ([1, 2], tuple[int, int], (1, 2)),
        ([1, 2], tuple[float, ...], (1.0, 2.0)),
        ([1, 2], abc.Sequence[float], [1.0, 2.0]),
        ([[1], []], list[list[int]], [[1], []]),
        ({"a": 1}, dict[str, float], {"a": 1.0}),
        ({"a": 1}, abc.Mapping[str, Any], {"a": 1}),
        ("O1", Literal["O0", "O1"], "O1"),
        (5, Annotated[int, 1], 5),
        ({"crop": [1, 2]}, Window | None, {"crop": (1, 2)}),
        ([1], int | list[int], [1]),
        ("x", object, "x"),
        ([1, "x"], list, [1, "x"]),
        ([1, 2], tuple, (1, 2)),
    ],
)
def test_accepts(value, hint, result):
    found = convert(value, hint, "a.b", where)
    assert found == result and type(found) is type(result)


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        ("3", int, "must be an integer, got the text '3'"),
        (True, int, "must be an integer, got true"),
        (3.0, int, "must be an integer, got 3.0"),
        ("4e-4", float, "must be a number, got the text '4e-4'; write 4.0e-4"),
        (float("nan"), float, "must be a number, got nan"),
        (1, bool, "must be true or false, got 1"),
        (None, str, "must be text, got null"),
        ([1], tuple[int, int], "must be a list of 2 (an integer each), got [1]"),
        ("12", list[int], "must be a list (an integer each), got the text '12'"),
        ("O3", Literal["O0", "O1"], "must be one of O0, O1, got the text 'O3'"),
        (True, Literal[1], "must be one of 1, got true"),
        (0, Annotated[int, 1], "must be an integer >= 1, got 0"),
        ("a", int | list[int], "must be an integer or a list (an integer each), got the text 'a'"),
        ([], dict[str, int], "must be a mapping, got []"),
    ],
)
def test_refuses(value, hint, message):
    with pytest.raises(UserError) as caught:
        convert(value, hint, "a.b", where)
    assert str(caught.value) == f"x.yml:7: 'a.b' {message}"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"corp": [1, 2], "crop": [1, 2]}, "unknown key 'a.b.corp'; did you mean 'crop'?"),
        ({"crop": [1, "x"]}, "'a.b.crop.1' must be an integer, got the text 'x'"),
        ({}, "'a.b.crop' is missing"),
    ],
)
def test_a_message_names_the_innermost_key(value, message):
    with pytest.raises(UserError) as caught:
        convert(value, Window | None, "a.b", where)
    assert str(caught.value) == f"x.yml:7: {message}"


def test_long_values_are_cut():
    with pytest.raises(UserError) as caught:
        convert("x" * 500, int, "a", where)
    assert len(str(caught.value)) < 120


def test_fields_refuse_unknown_keys():
    with pytest.raises(UserError, match=r"unknown key 'data.crpo'; did you mean 'crop'\?"):
        fields(Window, {"crpo": 1}, "data", where)


def test_describe():
    assert describe(list[int] | None) == "a list (an integer each) or null"
    assert describe(tuple[float, float]) == "a list of 2 (a number each)"
