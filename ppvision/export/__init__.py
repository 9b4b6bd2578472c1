"""From a recipe and its weights to what a server runs: static graph, ONNX, deploy.yaml, and the proof that they agree.

`ppvision.export(config, …)` works like the function, `import ppvision.export` like the package: the module is callable.
Importing it brings in neither Paddle nor anything that exists only for training.
"""

from __future__ import annotations

import sys
import types
from typing import Any

_PUBLIC = {
    "Deployed": "ppvision.export.deployed",
    "export": "ppvision.export.exporter",
    "export_layer": "ppvision.export.exporter",
}


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        import importlib

        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _CallableModule(types.ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """See `ppvision.export.exporter.export`."""
        from ppvision.export.exporter import export

        return export(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
