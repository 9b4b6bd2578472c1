"""The method's own loss on the validation images: how pre-training is evaluated where there are no labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppvision.metrics.base import Metric


class ValidationLoss(Metric):
    """Mean over all images of the sum of what `Method.validate` gives, as `loss`; smaller is better.

    `update` takes a mapping term -> value per image. A recipe needs `eval.best.mode: min`.
    """

    reads = "losses"
    smaller_is_better = True

    def __init__(self, num_classes: int = 0, ignore_index: int | None = 255, class_names: Sequence[str] = ()):
        super().__init__(num_classes, ignore_index, class_names)
        self.total, self.images = 0.0, 0

    def update(self, results: Sequence[Mapping[str, float]], targets: Sequence[Mapping[str, Any]]) -> None:
        """Add the terms of some images."""
        for terms in results:
            self.total += sum(float(value) for value in terms.values())
            self.images += 1

    def state(self) -> dict[str, np.ndarray]:
        """{"total": float64, "images": int64}."""
        return {"total": np.array(self.total, np.float64), "images": np.array(self.images, np.int64)}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Replace the sums."""
        self.total, self.images = float(state["total"]), int(state["images"])

    def compute(self) -> dict[str, float]:
        """{"loss": mean}; not a number when nothing was evaluated."""
        return {"loss": self.total / self.images if self.images else float("nan")}
