"""Evaluation: loader, networks, task, metrics. The same task turns outputs into results when the model is deployed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import paddle

from ppvision.data.batch import to_device
from ppvision.data.collate import select
from ppvision.data.fields import field_of
from ppvision.engine import distributed
from ppvision.errors import UserError
from ppvision.methods.base import Method
from ppvision.metrics.base import Metric
from ppvision.predict.nets import EagerNet, on_device
from ppvision.predict.tasks.base import Task


class Evaluator:
    """Evaluates deployables on a data set. Metrics are merged over ranks, so they do not depend on the number of
    processes.

    Args:
        task: turns outputs into results.
        metrics: the first value of the first one decides.
        loader: gives batches with `target`.
        mean: statistics of the networks' input, 0..255.
        std: likewise.

    Attributes:
        wants_losses: whether a metric reads the method's own loss; `method` must then be set.
        first: the first batch of the last pass, on the device, for pictures.
    """

    def __init__(self, task: Task, metrics: Sequence[Metric], loader: Any, mean: Sequence[float], std: Sequence[float]):
        self.task = task
        self.metrics = list(metrics)
        self.loader = loader
        self.mean = mean
        self.std = std
        task.fill = tuple(mean)
        for metric in self.metrics:
            metric.bind(loader.dataset)
        self._empty = [metric.state() for metric in self.metrics]
        self.wants_losses = any(metric.reads == "losses" for metric in self.metrics)
        self.method: Method | None = None
        self.first: dict[str, Any] | None = None

    def attach(self, method: Method) -> None:
        """Take the method whose loss is evaluated.

        Raises:
            UserError: it has no validation loss.
        """
        if self.wants_losses and type(method).validate is Method.validate:
            raise UserError(f"eval.metrics: {type(method).__name__} has no validation loss for the metric 'loss'")
        self.method = method

    def compute(self) -> dict[str, float]:
        """The values of the metrics, the deciding one first; before the first batch, which there will be."""
        return {key: value for metric in self.metrics for key, value in metric.compute().items()}

    def __call__(
        self, nets: Mapping[str, Any], progress: bool = False, stop: Callable[[], bool] | None = None
    ) -> dict[str, float]:
        """The metrics of the networks, which must be in eval mode.

        Samples of one batch whose pictures differ in size are evaluated apart, as the Predictor does it: a network that
        looks at the whole image would see the padding, and the metric would depend on the batch size.

        Args:
            nets: the deployables.
            progress: show a bar on a terminal.
            stop: asked between batches; when it says yes, an empty dict is returned.
        """
        for metric, empty in zip(self.metrics, self._empty, strict=True):
            metric.load(empty)
        self.first, batches = None, self.loader
        callables = {name: EagerNet(layer, self.mean, self.std) for name, layer in nets.items()}
        if progress and sys.stderr.isatty():
            from tqdm import tqdm

            batches = tqdm(self.loader, unit="batch", dynamic_ncols=True, leave=False)
        with paddle.no_grad():
            for batch in batches:
                if stop is not None and stop():
                    return {}
                for part in by_size(batch):
                    self.first = to_device(part) if self.first is None else self.first
                    results = {kind: self._results(kind, callables, part) for kind in {m.reads for m in self.metrics}}
                    for metric in self.metrics:
                        metric.update(results[metric.reads], part["target"])
        for metric in self.metrics:
            metric.load(metric.merge(distributed.gather(metric.state())))
        return self.compute()

    def _results(self, kind: str, nets: Mapping[str, EagerNet], batch: dict[str, Any]) -> list[Any]:
        """What metrics of a kind are given, one entry per sample."""
        if kind == "losses":
            losses = self.method.validate(to_device(batch))
            terms = {k: v.astype("float32").numpy().tolist() for k, v in losses.items()}
            return [dict(zip(terms, values, strict=True)) for values in zip(*terms.values(), strict=True)]
        outputs = self.task.run(nets, on_device(self.task.inputs(batch)))
        return self.task.results(outputs, batch)


def by_size(batch: dict[str, Any]) -> list[dict[str, Any]]:
    """A batch cut into batches of pictures of one size, without what collate padded; itself when all are of one size
    or there are no pictures."""
    canvases = {key: value.tolist() for key, value in batch.items() if key == "canvas" or key.startswith("canvas_")}
    groups: dict[tuple, list[int]] = {}
    for i, sizes in enumerate(zip(*canvases.values())):
        groups.setdefault(tuple(map(tuple, sizes)), []).append(i)
    if len(groups) <= 1:
        return [batch]
    maps = [key for key, value in batch.items() if key == "valid" or _on_canvas(key, value)]
    parts = []
    for sizes, rows in groups.items():
        part = select(batch, rows)
        for canvas, (height, width) in zip(canvases, sizes):
            for key in maps if canvas == "canvas" else [canvas.removeprefix("canvas_")]:
                part[key] = part[key][:, :height, :width]
        parts.append(part)
    return parts


def _on_canvas(key: str, value: Any) -> bool:
    """Whether a key of a batch was padded to the canvas of the images."""
    return isinstance(value, np.ndarray) and field_of(key, value[0]).collate == "canvas"
