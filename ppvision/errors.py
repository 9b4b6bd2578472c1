"""The errors a person is meant to read: one line saying what, where and what to do, never a traceback.

A constructor checks its arguments with `require`, `at_least` and `within`; who builds it from a recipe (`config.build`)
turns the name of the argument into the key of the recipe, with file and line.
"""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Iterable, Iterator
from typing import Any


class UserError(Exception):
    """A mistake the user can mend. Its text is one line; the command line prints it and ends with `status`."""

    status = 2

    def __init__(self, message: str):
        super().__init__(" ".join(str(message).split()))


class RunError(UserError):
    """A run that cannot go on through no mistake in its call: a full disk, a loss that stays NaN, a parity check that
    fails.
    """

    status = 1


class ArgumentError(UserError, ValueError):
    """An argument that cannot be.

    Attributes:
        key: its name; dotted where it is part of another one ("loss.class_weights").
        reason: what is wrong with it, to be read after the name.
    """

    def __init__(self, key: str, reason: str):
        super().__init__(f"'{key}' {reason}")
        self.key, self.reason = key, reason


def require(condition: bool, key: str, reason: str) -> None:
    """Refuse the argument `key` unless the condition holds.

    Raises:
        ArgumentError: `'<key>' <reason>`.
    """
    if not condition:
        raise ArgumentError(key, reason)


def at_least(low: float, **values: float | Iterable[float] | None) -> None:
    """Refuse arguments, or elements of lists, that are below `low` or no finite number; None passes.

    Raises:
        ArgumentError: naming the argument.
    """
    _each(values, lambda v: v >= low, f"must be at least {low:g}")


def within(low: float, high: float, *, below: bool = False, **values: float | Iterable[float] | None) -> None:
    """Refuse arguments, or elements of lists, outside `low` .. `high` (with `below`: or equal to `high`); None passes.

    Raises:
        ArgumentError: naming the argument.
    """
    end = f"at least {low:g} and below {high:g}" if below else f"from {low:g} to {high:g}"
    _each(values, lambda v: low <= v < high if below else low <= v <= high, f"must be {end}")


def _each(values: dict[str, Any], holds: Any, reason: str) -> None:
    for key, value in values.items():
        for item in value if isinstance(value, (list, tuple)) else [value]:
            fine = item is None or (isinstance(item, (int, float)) and math.isfinite(item) and holds(item))
            require(fine, key, f"{reason}, got {value}")


@contextlib.contextmanager
def blame(part: Any, key: str, rule: str) -> Iterator[None]:
    """What a component of another package raises inside becomes one line that names the key it came by.

    Args:
        part: the component; exceptions of our own classes are bugs of ours and pass.
        key: "method.loss".
        rule: what is expected of such a component.

    Raises:
        UserError: the component failed.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        cls = type(part)
        if cls.__module__.partition(".")[0] == "ppvision":
            raise
        text = brief(error)
        raise UserError(f"{key}: {cls.__module__}.{cls.__qualname__} failed with {text}; {rule}") from error


def brief(error: BaseException, length: int = 300) -> str:
    """Type and text of an exception on one line; Paddle's dumps are reduced to what they say."""
    text = str(error)
    if "Error Message Summary:" in text:
        text = text.rpartition("Error Message Summary:")[2].replace("-" * 22, "").partition("[Hint:")[0]
    text = " ".join(text.split())
    text = text if len(text) <= length else text[: length - 3] + "..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the nearest of `names`, or an empty string when nothing is near."""
    near = difflib.get_close_matches(str(name), [str(n) for n in names], 1, 0.5)
    return f"; did you mean '{near[0]}'?" if near else ""
