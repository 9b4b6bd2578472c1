"""Weight files: read safely (`reader`), fetched (`download`), loaded by name (`load`), foreign names (`names`).

Importing this package imports no Paddle.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "create_model": "ppvision.weights.pretrained",
    "Report": "ppvision.weights.load",
    "load_weights": "ppvision.weights.load",
    "state_of": "ppvision.weights.load",
    "to_ours": "ppvision.weights.names",
    "to_theirs": "ppvision.weights.names",
    "read": "ppvision.weights.reader",
    "resolve_path": "ppvision.weights.reader",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
