"""Top-k accuracy of image classification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppvision.errors import UserError, at_least, require
from ppvision.metrics.base import Metric, check_lengths


class TopK(Metric):
    """Share of images whose label is among the k classes with the highest scores, as `top1`, `top5`.

    `update` takes results with `scores` [K] and targets with `label`, an integer; images labelled `ignore_index` are
    skipped. Equal scores are ranked by class number, so a constant network scores 1/K and not 1.

    Args:
        num_classes: number of classes K.
        ignore_index: label that is not evaluated; None: every label is.
        class_names: names for the table.
        ks: the values of k; the first one decides.
    """

    tasks = ("classification",)

    def __init__(
        self,
        num_classes: int,
        ignore_index: int | None = 255,
        class_names: Sequence[str] = (),
        ks: Sequence[int] = (1, 5),
    ):
        super().__init__(num_classes, ignore_index, class_names)
        at_least(1, ks=ks)
        require(bool(ks) and len(set(ks)) == len(ks), "ks", f"needs one number or more, none twice, got {list(ks)}")
        self.ks = tuple(ks)
        self.hits = np.zeros((len(self.ks), num_classes), np.int64)
        self.images = np.zeros(num_classes, np.int64)

    def update(self, results: Sequence[Any], targets: Sequence[Mapping[str, Any]]) -> None:
        """Count images.

        Raises:
            UserError: a label is outside 0..K-1 or the number of scores is not K.
        """
        check_lengths(results, targets)
        for result, target in zip(results, targets):
            scores, label = np.asarray(result.scores), int(np.asarray(target["label"]))
            # With more classes than 255 that number is a class, not a mark.
            if label == self.ignore_index and label >= self.num_classes:
                continue
            if scores.shape != (self.num_classes,) or not 0 <= label < self.num_classes:
                raise UserError(f"top_k: label {label} and {scores.shape} scores, expected 0..{self.num_classes - 1}")
            order = np.argsort(-scores, kind="stable")
            rank = int(np.flatnonzero(order == label)[0])
            self.images[label] += 1
            self.hits[:, label] += np.asarray([rank < k for k in self.ks])

    def state(self) -> dict[str, np.ndarray]:
        """{"hits": int64 [len(ks),K], "images": int64 [K]}."""
        return {"hits": self.hits.copy(), "images": self.images.copy()}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Replace the counts."""
        self.hits = np.asarray(state["hits"]).astype(np.int64)
        self.images = np.asarray(state["images"]).astype(np.int64)

    def compute(self) -> dict[str, float]:
        """`top<k>` for each k; 0 when nothing was evaluated."""
        total = max(int(self.images.sum()), 1)
        return {f"top{k}": int(hits.sum()) / total for k, hits in zip(self.ks, self.hits)}

    def table(self) -> list[dict[str, Any]]:
        """Rows with class, one column per k, Images."""
        rows = []
        for c, name in enumerate(self.class_names):
            count = int(self.images[c])
            row = {f"top{k}": int(hits[c]) / count if count else float("nan") for k, hits in zip(self.ks, self.hits)}
            rows.append({"class": name, **row, "Images": count})
        return rows
