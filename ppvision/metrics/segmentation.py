"""Metrics of semantic segmentation from one integer confusion matrix.

Which classes are averaged: those that occur, in a label or in a prediction (TP + FP + FN > 0). A class that is
predicted but never labelled counts as 0; one that occurs in neither is left out and shown as nan in the table.
PaddleSeg 2.8 (`paddleseg/utils/metrics.py`) averages over all classes and gives 0 to one that does not occur. The two
agree whenever every class occurs, as in the validation sets of Cityscapes and ADE20K, so published figures compare; on
small subsets upstream's rule punishes classes nobody could have found. Acc, Kappa and the per-class values are
upstream's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppvision.errors import UserError
from ppvision.metrics.base import Metric, check_lengths


class MeanIoU(Metric):
    """mIoU, Acc (share of right pixels), Kappa (Cohen) and Dice (mean over classes), each in 0..1.

    `update` takes results with `labels` [H,W] integers in 0..K-1 and targets with `label` [H,W], `ignore_index` where
    not evaluated.
    """

    tasks = ("segmentation",)

    def __init__(self, num_classes: int, ignore_index: int | None = 255, class_names: Sequence[str] = ()):
        super().__init__(num_classes, ignore_index, class_names)
        self.matrix = np.zeros((num_classes, num_classes), np.int64)  # [label, prediction]

    def update(self, results: Sequence[Any], targets: Sequence[Mapping[str, Any]]) -> None:
        """Count pixels.

        Raises:
            UserError: shapes differ, or a label or prediction is outside 0..K-1.
        """
        check_lengths(results, targets)
        for result, target in zip(results, targets):
            name = result.name or target.get("name", "") or "image"
            predicted, label = np.asarray(result.labels), np.asarray(target["label"])
            if predicted.shape != label.shape:
                raise UserError(f"{name}: prediction is {predicted.shape} but label is {label.shape} (H, W)")
            counted = label != self.ignore_index
            predicted, label = predicted[counted].astype(np.int64), label[counted].astype(np.int64)
            ignored = "" if self.ignore_index is None else f" or {self.ignore_index} (ignored)"
            for what, values, mark in (("label", label, ignored), ("prediction", predicted, "")):
                if values.size and (values.min() < 0 or values.max() >= self.num_classes):
                    raise UserError(
                        f"{name}: {what} holds class {values.min()}..{values.max()}, "
                        f"expected 0..{self.num_classes - 1}{mark}"
                    )
            counts = np.bincount(label * self.num_classes + predicted, minlength=self.num_classes**2)
            self.matrix += counts.reshape(self.matrix.shape)

    def state(self) -> dict[str, np.ndarray]:
        """{"matrix": int64 [K,K]}, rows are labels."""
        return {"matrix": self.matrix.copy()}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Replace the confusion matrix."""
        matrix = np.asarray(state["matrix"])
        if matrix.shape != self.matrix.shape:
            raise UserError(f"mIoU: state is {matrix.shape}, expected {self.matrix.shape}")
        self.matrix = matrix.astype(np.int64)

    def _per_class(self) -> dict[str, np.ndarray]:
        hit = np.diag(self.matrix).astype(np.float64)
        labelled, predicted = self.matrix.sum(1).astype(np.float64), self.matrix.sum(0).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):  # 0/0 is the nan that marks an absent class
            return {
                "IoU": hit / (labelled + predicted - hit),
                "Dice": 2 * hit / (labelled + predicted),
                "Precision": hit / predicted,
                "Recall": hit / labelled,
            }

    def compute(self) -> dict[str, float]:
        """mIoU, Acc, Kappa, Dice; all 0 when nothing was evaluated."""
        total = int(self.matrix.sum())
        if total == 0:
            return {"mIoU": 0.0, "Acc": 0.0, "Kappa": 0.0, "Dice": 0.0}
        scores = self._per_class()
        accuracy = float(np.trace(self.matrix)) / total
        labelled, predicted = self.matrix.sum(1) / total, self.matrix.sum(0) / total
        chance = float(np.dot(labelled, predicted))
        # Only one class, and all of it right: Kappa is 0/0; a perfect answer is called perfect.
        kappa = 1.0 if chance == 1.0 else (accuracy - chance) / (1.0 - chance)
        return {
            "mIoU": float(np.nanmean(scores["IoU"])),
            "Acc": accuracy,
            "Kappa": kappa,
            "Dice": float(np.nanmean(scores["Dice"])),
        }

    def table(self) -> list[dict[str, Any]]:
        """Rows with class, IoU, Dice, Precision, Recall, Pixels (labelled); nan where a value is not defined."""
        scores = self._per_class()
        return [
            {
                "class": name,
                **{key: float(values[k]) for key, values in scores.items()},
                "Pixels": int(self.matrix[k].sum()),
            }
            for k, name in enumerate(self.class_names)
        ]
