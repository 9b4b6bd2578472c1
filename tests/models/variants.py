"""Networks by the rows of their `VARIANTS`, those that no name of the zoo stands for included."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from paddle import nn


def builder(cls: type[nn.Layer]) -> Callable[..., Any]:
    """`f(variant, **overrides)` builds a `cls`."""
    variants = sys.modules[cls.__module__].VARIANTS
    return lambda variant, **overrides: cls(**{**variants[variant], **overrides})
