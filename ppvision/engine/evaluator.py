"""Evaluation: loader, networks, task, metrics. The same task turns outputs into results when the model is deployed."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

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

    def __call__(self, nets: Mapping[str, Any], progress: bool = False) -> dict[str, float]:
        """Figures of the networks, which must be in eval mode; `images` is the number of images judged."""
        for metric, empty in zip(self.metrics, self._empty, strict=True):
            metric.load(empty)
        count, batches = 0, self.loader
        if progress and sys.stderr.isatty():
            from tqdm import tqdm

            batches = tqdm(self.loader, unit="batch", dynamic_ncols=True, leave=False)
        with paddle.no_grad():
            for batch in batches:
                batch = normalise(to_device(batch), self.mean, self.std)
                results = self.task.results(self.task.run(nets, batch), batch)
                for metric in self.metrics:
                    metric.update(results, batch["target"])
                count += len(results)
        figures: dict[str, float] = {}
        for metric in self.metrics:
            metric.load(distributed.sum_arrays(metric.state()))
            figures.update(metric.compute())
        return figures
