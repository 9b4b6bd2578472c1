"""The protocol every metric follows.

A metric only ever holds sums: `state()` of several ranks, added key by key and given to `load`, must be the state of
one rank that saw everything. Integer sums make that exact and independent of the order of images and ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppvision.errors import UserError


class Metric:
    """Base class. The first key of `compute()` is the figure that decides which checkpoint is best.

    Args:
        num_classes: number of classes K.
        ignore_index: label that is not judged.
        class_names: names for the table; numbers stand in where there are none.
    """

    tasks: tuple[str, ...] = ()  # whose results it can judge; empty: any

    def __init__(self, num_classes: int, ignore_index: int = 255, class_names: Sequence[str] = ()):
        if class_names and len(class_names) != num_classes:
            raise UserError(f"metric: {len(class_names)} class names for {num_classes} classes")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.class_names = list(class_names) or [str(k) for k in range(num_classes)]

    def update(self, results: Sequence[Any], targets: Sequence[Mapping[str, Any]]) -> None:
        """Add the results of some images, given with their untouched annotations in the same order."""
        raise NotImplementedError

    def state(self) -> dict[str, np.ndarray]:
        """Arrays that may be added over ranks."""
        raise NotImplementedError

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Replace the sums by `state`, usually the sum of `state()` over all ranks."""
        raise NotImplementedError

    def compute(self) -> dict[str, float]:
        """Figure name -> value."""
        raise NotImplementedError

    def table(self) -> list[dict[str, Any]]:
        """One row per class; empty where a metric has no such thing."""
        return []


def check_lengths(results: Sequence[Any], targets: Sequence[Mapping[str, Any]]) -> None:
    """Raises UserError unless there is one target for each result."""
    if len(results) != len(targets):
        raise UserError(f"metric: {len(results)} results for {len(targets)} targets")
