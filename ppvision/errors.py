"""The errors a person is meant to read: one line saying what, where and what to do, never a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the nearest of `names`, or an empty string when nothing is near."""
    near = difflib.get_close_matches(str(name), [str(n) for n in names], 1, 0.5)
    return f"; did you mean '{near[0]}'?" if near else ""
