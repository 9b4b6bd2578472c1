"""The protocol every metric follows.

The states of several ranks, joined by `merge` and given to `load`, must be the state of one rank that saw everything.
Most metrics hold integer sums, which adding joins exactly and whatever the order of images and ranks; one that must
keep the results themselves (average precision ranks all of them together) overrides `merge` and orders them by image.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ppvision.errors import UserError


class Metric:
    """Base class. The first key of `compute()` is the value that decides which checkpoint is best.

    Args:
        num_classes: number of classes K.
        ignore_index: label that is not evaluated; None: every label is.
        class_names: names for the table; numbers stand in where there are none.
    """

    tasks: tuple[str, ...] = ()  # whose results it can evaluate; empty: any
    reads: Literal["results", "losses"] = "results"  # what `update` is given: a task's results or a Method's losses
    smaller_is_better: bool = False

    def __init__(self, num_classes: int, ignore_index: int | None = 255, class_names: Sequence[str] = ()):
        if class_names and len(class_names) != num_classes:
            raise UserError(f"metric: {len(class_names)} class names for {num_classes} classes")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.class_names = list(class_names) or [str(k) for k in range(num_classes)]

    def update(self, results: Sequence[Any], targets: Sequence[Mapping[str, Any]]) -> None:
        """Add the results of some images, given with their untouched annotations in the same order."""
        raise NotImplementedError

    def state(self) -> dict[str, np.ndarray]:
        """What this rank holds, as arrays that `merge` can join; their lengths may differ between ranks."""
        raise NotImplementedError

    def merge(self, states: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """One state from those of all ranks, in the order of ranks: their sum, key by key."""
        return {key: np.sum([state[key] for state in states], axis=0) for key in states[0]}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Replace what is held by `state`, usually the merged one of all ranks."""
        raise NotImplementedError

    def compute(self) -> dict[str, float]:
        """Name -> value."""
        raise NotImplementedError

    def table(self) -> list[dict[str, Any]]:
        """One row per class; empty where a metric has no such thing."""
        return []

    def bind(self, dataset: Any) -> None:
        """Told once which data set is used, for what only some metrics and some formats know (file category ids)."""

    def write(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write what metrics do not say (results, curves, pictures) into a folder that exists; returns the files."""
        return []


def check_lengths(results: Sequence[Any], targets: Sequence[Mapping[str, Any]]) -> None:
    """Raises UserError unless there is one target for each result."""
    if len(results) != len(targets):
        raise UserError(f"metric: {len(results)} results for {len(targets)} targets")
