"""How networks are trained: one file per training algorithm. A Method holds all that exists only while training."""

from __future__ import annotations

import importlib
from typing import Any

NAMES: dict[str, str] = {
    "cae_v2": "ppvision.methods.cae_v2:CaeV2Pretraining",
    "dense_detection": "ppvision.methods.dense_detection:DenseDetection",
    "detr": "ppvision.methods.detr:DetrTraining",
    "group_detr": "ppvision.methods.group_detr:GroupDetr",
    "kd_dense": "ppvision.methods.kd_dense:KdDense",
    "kd_detr": "ppvision.methods.kd_detr:KdDetr",
    "linear_probe": "ppvision.methods.probe:LinearProbe",
    "supervised": "ppvision.methods.supervised:Supervised",
    "classification": "ppvision.methods.classification:Classification",
    "token_labelling": "ppvision.methods.classification:TokenLabelling",
}

_PUBLIC = {"Method": "base", "Phase": "base"}


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
