"""k-nearest-neighbour accuracy of features: how well a pre-trained encoder separates classes it was never told.

Leave-one-out on the data set that is evaluated: every image is classified by its k most similar others (cosine
similarity s, votes weighted by exp(s / temperature)), the protocol of DINO (arXiv:2104.14294) without a training set.
It orders encoders on one data set; its values are not those of a k-NN with the training set as memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppvision.errors import UserError, at_least, require
from ppvision.metrics.base import Metric, check_lengths

ROWS = 1024  # queries compared at a time


class Knn(Metric):
    """Share of images that their neighbours classify right, as `knn`.

    `update` takes results with `arrays` (the task "features") and targets with `label`. The state is the features
    themselves.

    Args:
        num_classes: number of classes K.
        ignore_index: label that is not evaluated and is nobody's neighbour.
        class_names: names for the table.
        k: number of neighbours.
        temperature: of the votes.
        feature: which array; one of shape [N,D] is averaged over N.
    """

    tasks = ("features",)

    def __init__(
        self,
        num_classes: int,
        ignore_index: int | None = 255,
        class_names: Sequence[str] = (),
        k: int = 20,
        temperature: float = 0.07,
        feature: str = "cls",
    ):
        super().__init__(num_classes, ignore_index, class_names)
        at_least(1, k=k)
        require(0 < temperature < math.inf, "temperature", f"must be above 0, got {temperature}")
        self.k, self.temperature, self.feature = k, temperature, feature
        self.rows: list[np.ndarray] = []
        self.labels: list[int] = []

    def update(self, results: Sequence[Any], targets: Sequence[Mapping[str, Any]]) -> None:
        """Keep the features of some images.

        Raises:
            UserError: there is no such feature, or a label is outside 0..K-1.
        """
        check_lengths(results, targets)
        for result, target in zip(results, targets):
            if self.feature not in result.arrays:
                raise UserError(f"knn: no feature '{self.feature}' (there is: {', '.join(result.arrays)})")
            label = int(np.asarray(target["label"]))
            if label == self.ignore_index and label >= self.num_classes:
                continue
            if not 0 <= label < self.num_classes:
                raise UserError(f"knn: label {label}, expected 0..{self.num_classes - 1}")
            row = np.asarray(result.arrays[self.feature], np.float32)
            row = row.reshape(-1, row.shape[-1]).mean(0)
            self.rows.append(row / max(float(np.linalg.norm(row)), 1e-12))
            self.labels.append(label)

    def state(self) -> dict[str, np.ndarray]:
        """{"features": float32 [n,D], "labels": int64 [n]}."""
        features = np.stack(self.rows) if self.rows else np.zeros((0, 0), np.float32)
        return {"features": features, "labels": np.asarray(self.labels, np.int64)}

    def merge(self, states: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The rows of all processes, one process after the other."""
        held = [state for state in states if len(state["labels"])] or states[:1]
        return {key: np.concatenate([state[key] for state in held]) for key in held[0]}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Replace the features."""
        self.rows, self.labels = list(np.asarray(state["features"])), [int(v) for v in state["labels"]]

    def compute(self) -> dict[str, float]:
        """{"knn": accuracy}; 0 when nothing, or only one image, was evaluated."""
        hits = self._hits()
        return {"knn": float(hits.mean()) if len(hits) else 0.0}

    def table(self) -> list[dict[str, Any]]:
        """Rows with class, knn, Images."""
        hits, labels = self._hits(), np.asarray(self.labels)
        rows = []
        for c, name in enumerate(self.class_names):
            own = hits[labels == c] if len(hits) else hits
            rows.append({"class": name, "knn": float(own.mean()) if len(own) else float("nan"), "Images": len(own)})
        return rows

    def _hits(self) -> np.ndarray:
        count = len(self.rows)
        if count < 2:
            return np.zeros(0, bool)
        features, labels = np.stack(self.rows), np.asarray(self.labels)
        k, hits = min(self.k, count - 1), np.zeros(count, bool)
        for start in range(0, count, ROWS):
            part = np.arange(start, min(start + ROWS, count))
            similarity = features[part] @ features.T
            similarity[np.arange(len(part)), part] = -np.inf  # nobody is its own neighbour
            nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
            weight = np.exp((np.take_along_axis(similarity, nearest, 1) - 1.0) / self.temperature)
            votes = np.zeros((len(part), self.num_classes))
            np.add.at(votes, (np.arange(len(part))[:, None], labels[nearest]), weight)
            hits[part] = votes.argmax(1) == labels[part]
        return hits
