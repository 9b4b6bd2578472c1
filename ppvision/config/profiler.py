"""The profiler's option string: `batch_range=[10,20];state=GPU;tracer_option=Default;profile_path=model.profile`.

The grammar is that of the Paddle suites (`--profiler_options`), except that an unknown key is an error.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Literal

from ppvision.config.tree import parse
from ppvision.config.types import fields
from ppvision.errors import UserError


@dataclass(frozen=True)
class Profiler:
    """What to record: training steps `batch_range[0]` up to, but not including, `batch_range[1]`."""

    batch_range: tuple[int, int] = (10, 20)
    state: Literal["CPU", "GPU", "All"] = "All"
    sorted_key: Literal["calls", "total", "max", "min", "ave"] = "total"
    tracer_option: Literal["Default", "OpDetail", "AllOpDetail"] = "Default"
    profile_path: str = "model.profile"
    exit_on_finished: bool = True  # end the process with status 0 after the last recorded step
    timer_only: bool = True


def parse_profiler(text: str, origin: str = "profiler options") -> Profiler:
    """Options from `k=v;k=v`.

    Raises:
        UserError: an unknown key, a wrong value, or a range that is empty.
    """
    text = text.strip().strip("'\"")
    values = {}
    for item in filter(None, (part.strip() for part in text.split(";"))):
        key, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"{origin}: expected key=value;key=value, got '{item}'")
        key, value = key.strip(), value.strip()
        types = typing.get_type_hints(Profiler)
        values[key] = value if types.get(key) is str else parse(value, lambda line: origin, shell=True)[0]
    options = Profiler(**fields(Profiler, values, "", lambda path: origin))
    start, stop = options.batch_range
    if not 0 <= start < stop:
        raise UserError(f"{origin}: 'batch_range' must be [first,last) with 0 <= first < last, got [{start},{stop}]")
    return options
