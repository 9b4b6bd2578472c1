"""Evaluation: loader, networks, task, metrics. The same task turns outputs into results when the model is deployed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import paddle

from ppvision.data.device import normalise, to_device
from ppvision.engine import distributed
from ppvision.metrics.base import Metric
from ppvision.predict.task import Task


class Evaluator:
    """Judges deployables on a data set. Metrics are sums merged over ranks, so they do not depend on the number of
    processes.

    Args:
        task: turns outputs into results.
        metrics: the first figure of the first one comes first.
        loader: gives batches with `target`.
        mean: statistics of the networks' input, 0..255.
        std: likewise.
    """

    def __init__(self, task: Task, metrics: Sequence[Metric], loader: Any, mean: Sequence[float], std: Sequence[float]):
        self.task, self.metrics, self.loader, self.mean, self.std = task, list(metrics), loader, mean, std
        self._empty = [metric.state() for metric in self.metrics]

    def figures(self) -> dict[str, float]:
        """Figures of what the metrics hold, the deciding one first; also tells which figures there are."""
        return {key: value for metric in self.metrics for key, value in metric.compute().items()}

    def __call__(
        self, nets: Mapping[str, Any], progress: bool = False, stop: Callable[[], bool] | None = None
    ) -> dict[str, float]:
        """Figures of the networks, which must be in eval mode.

        Images of one batch that differ in size are judged apart, as the Predictor does it: a network that looks at the
        whole image would see the padding, and the figure would depend on the batch size.

        Args:
            nets: the deployables.
            progress: show a bar on a terminal.
            stop: asked between batches; when it says yes, an empty dict is returned.
        """
        for metric, empty in zip(self.metrics, self._empty, strict=True):
            metric.load(empty)
        batches = self.loader
        if progress and sys.stderr.isatty():
            from tqdm import tqdm

            batches = tqdm(self.loader, unit="batch", dynamic_ncols=True, leave=False)
        with paddle.no_grad():
            for batch in batches:
                if stop is not None and stop():
                    return {}
                for part in by_size(batch):
                    part = normalise(to_device(part), self.mean, self.std)
                    results = self.task.results(self.task.run(nets, part), part)
                    for metric in self.metrics:
                        metric.update(results, part["target"])
        for metric in self.metrics:
            metric.load(distributed.sum_arrays(metric.state()))
        return self.figures()


def by_size(batch: dict[str, Any]) -> list[dict[str, Any]]:
    """A batch cut into batches of images of one size, without what collate padded; itself when all are of one size.

    Only per-image keys are cut; a batch with ragged rows (boxes, points) stays whole, its task reads `valid`.
    """
    canvas = batch.get("canvas")
    if canvas is None or len({tuple(c) for c in canvas.tolist()}) == 1 or any(k.endswith("_offsets") for k in batch):
        return [batch]
    groups: dict[tuple[int, int], list[int]] = {}
    for i, size in enumerate(canvas.tolist()):
        groups.setdefault(tuple(size), []).append(i)
    maps = [k for k, v in batch.items() if isinstance(v, np.ndarray) and v.shape[1:3] == batch["valid"].shape[1:3]]
    parts = []
    for (height, width), rows in groups.items():
        part = {k: [v[i] for i in rows] if isinstance(v, list) else v[rows] for k, v in batch.items()}
        parts.append(part | {k: part[k][:, :height, :width] for k in maps})
    return parts
