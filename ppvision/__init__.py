"""ppvision: computer-vision systems for PaddlePaddle with one training loop and one export path.

The names below load what they need when first used: `import ppvision` imports neither Paddle nor numpy. It chooses the
kernels that Paddle will compute with on a processor (see `ppvision.threads`), for which it must come before the first
product.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ppvision.threads import choose_kernels
from ppvision.version import __version__

if TYPE_CHECKING:
    from ppvision.engine.evaluation import evaluate
    from ppvision.engine.run import train
    from ppvision.exporting.exporter import export
    from ppvision.models.zoo import list_models
    from ppvision.predict.predictor import Predictor
    from ppvision.weights.load import load_weights
    from ppvision.weights.pretrained import create_model

choose_kernels()

__all__ = ["__version__", "Predictor", "create_model", "evaluate", "export", "list_models", "load_weights", "train"]

_HOME = {
    "create_model": "ppvision.weights",
    "list_models": "ppvision.models",
    "load_weights": "ppvision.weights",
    "Predictor": "ppvision.predict",
    "train": "ppvision.engine",
    "evaluate": "ppvision.engine",
    "export": "ppvision.exporting",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'ppvision' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
