"""ppvision: computer-vision systems for PaddlePaddle with one training loop and one export path.

The names below load what they need when first used: `import ppvision` imports neither Paddle nor numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppvision import export
    from ppvision.engine.evaluation import evaluate
    from ppvision.engine.run import train
    from ppvision.models.zoo import list_models
    from ppvision.predict.predictor import Predictor
    from ppvision.weights.load import load_weights
    from ppvision.weights.pretrained import create_model

__version__ = "0.1.0"
__all__ = ["Predictor", "create_model", "evaluate", "export", "list_models", "load_weights", "train"]

_HOME = {
    "create_model": "ppvision.weights",
    "list_models": "ppvision.models",
    "load_weights": "ppvision.weights",
    "Predictor": "ppvision.predict",
    "train": "ppvision.engine",
    "evaluate": "ppvision.engine",
}


def __getattr__(name: str) -> Any:
    if name == "export":  # a package that can be called
        return importlib.import_module("ppvision.export")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'ppvision' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
