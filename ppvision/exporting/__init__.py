"""From a recipe and its weights to what a server runs: static graph, ONNX, deploy.yaml, and the proof that they agree.

Importing this package brings in neither Paddle nor anything that exists only for training.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "Deployed": "ppvision.exporting.deployed",
    "Spec": "ppvision.exporting.exporter",
    "export": "ppvision.exporting.exporter",
    "export_layer": "ppvision.exporting.exporter",
}


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
