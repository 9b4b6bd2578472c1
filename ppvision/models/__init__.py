"""Inference networks, what they promise (`network`) and their names (`zoo`). Importing this package does not import
Paddle.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "Entry": "ppvision.models.zoo",
    "deployables": "ppvision.models.zoo",
    "entry": "ppvision.models.zoo",
    "example_inputs": "ppvision.models.zoo",
    "list_models": "ppvision.models.zoo",
    "signature": "ppvision.models.zoo",
    "Input": "ppvision.models.inputs",
    "Network": "ppvision.models.network",
    "promises": "ppvision.models.network",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
