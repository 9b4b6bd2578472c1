"""How well marks fit the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppvision.metrics.base import Metric, check_lengths


class MarkF1(Metric):
    """F1 of the marked pixels of all pictures, as `f1`; also `precision` and `recall`."""

    def __init__(self, num_classes: int = 2, ignore_index: int = 255, class_names: Sequence[str] = ()):
        super().__init__(num_classes, ignore_index, class_names)
        self.counts = np.zeros(3, np.int64)  # right, too many, missing

    def update(self, results: Sequence[Any], targets: Sequence[Mapping[str, Any]]) -> None:
        """Add some pictures."""
        check_lengths(results, targets)
        for result, target in zip(results, targets):
            marked, label = result.marks == 1, target["label"] == 1
            self.counts += [(marked & label).sum(), (marked & ~label).sum(), (~marked & label).sum()]

    def state(self) -> dict[str, np.ndarray]:
        """{"counts": int64 [3]}."""
        return {"counts": self.counts.copy()}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Replace the counts."""
        self.counts = np.asarray(state["counts"]).astype(np.int64)

    def compute(self) -> dict[str, float]:
        """Figures; 0 where nothing is marked."""
        right, surplus, missing = (int(count) for count in self.counts)
        return {
            "f1": 2 * right / max(2 * right + surplus + missing, 1),
            "precision": right / max(right + surplus, 1),
            "recall": right / max(right + missing, 1),
        }
