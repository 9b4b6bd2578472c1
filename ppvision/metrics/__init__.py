"""Metrics: what the evaluator feeds with results and targets, and merges over ranks by joining their states.

`NAMES` maps the `type` of a recipe's `eval.metrics` to a class; importing this package imports neither Paddle nor a
metric.
"""

from __future__ import annotations

from typing import Any

NAMES: dict[str, str] = {
    "coco": "ppvision.metrics.coco:CocoAP",
    "knn": "ppvision.metrics.knn:Knn",
    "loss": "ppvision.metrics.loss:ValidationLoss",
    "mIoU": "ppvision.metrics.segmentation:MeanIoU",
    "top_k": "ppvision.metrics.classification:TopK",
}

_PUBLIC = {
    "CocoAP": "ppvision.metrics.coco",
    "Knn": "ppvision.metrics.knn",
    "Metric": "ppvision.metrics.base",
    "MeanIoU": "ppvision.metrics.segmentation",
    "TopK": "ppvision.metrics.classification",
    "ValidationLoss": "ppvision.metrics.loss",
}


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        import importlib

        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
