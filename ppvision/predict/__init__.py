"""From images to results: tasks, results, drawing, and the Predictor over Paddle, Paddle Inference and ONNX Runtime.

Importing this package imports no Paddle. `TASKS` maps a task name (`Entry.task` of the model zoo, `PPVision.task` of a
`deploy.yaml`) to its class.
"""

from __future__ import annotations

from typing import Any

TASKS: dict[str, str] = {
    "segmentation": "ppvision.predict.tasks.segmentation:SegmentationTask",
    "classification": "ppvision.predict.tasks.classification:ClassificationTask",
    "detection": "ppvision.predict.tasks.detection:Detection",
    "features": "ppvision.predict.tasks.classification:FeaturesTask",
}

_PUBLIC = {
    "Assembly": "ppvision.predict.assemble",
    "Boxes": "ppvision.predict.results",
    "Classes": "ppvision.predict.results",
    "Deployment": "ppvision.predict.deployment",
    "Ending": "ppvision.predict.tasks.base",
    "Features": "ppvision.predict.results",
    "Mask": "ppvision.predict.results",
    "Predictor": "ppvision.predict.predictor",
    "Result": "ppvision.predict.results",
    "Runtime": "ppvision.predict.runtime",
    "Task": "ppvision.predict.tasks.base",
    "assemble": "ppvision.predict.assemble",
    "create_task": "ppvision.predict.tasks.base",
    "run": "ppvision.predict.saving",
}


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        import importlib

        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
