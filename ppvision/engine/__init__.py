"""The one training loop and what it stands on: optimizers, schedules, averaging, checkpoints, processes, logs,
evaluation.
"""

from __future__ import annotations

import importlib
from typing import Any

OPTIMIZERS: dict[str, str] = {
    "sgd": "ppvision.engine.optimizer:SGD",
    "momentum": "ppvision.engine.optimizer:Momentum",
    "adam": "ppvision.engine.optimizer:Adam",
    "adamw": "ppvision.engine.optimizer:AdamW",
    "lars": "ppvision.engine.lars:LARS",
}
SCHEDULES: dict[str, str] = {
    "constant": "ppvision.engine.schedule:Constant",
    "poly": "ppvision.engine.schedule:Poly",
    "cosine": "ppvision.engine.schedule:Cosine",
    "step": "ppvision.engine.schedule:Step",
}

_PUBLIC = {"train": "run", "evaluate": "evaluation", "Trainer": "trainer"}


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
