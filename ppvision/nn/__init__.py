"""Layers shared by two networks or more, each exportable with free batch, height and width. Importing this package
costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

HEADS: dict[str, str] = {
    "seg_head": "ppvision.nn.heads:SegHead",
    "fcn_head": "ppvision.nn.fcn_head:FCNHead",
}  # heads a Method may attach to a level of `features()`

_PUBLIC = {
    "AdaptiveMaxPool2D": "ppvision.nn.pooling",
    "adaptive_max_pool2d": "ppvision.nn.pooling",
    "ConvBN": "ppvision.nn.conv",
    "conv2d": "ppvision.nn.conv",
    "DropPath": "ppvision.nn.drop",
    "FrozenBatchNorm2D": "ppvision.nn.frozen_bn",
    "GroupNorm": "ppvision.nn.group_norm",
    "MultiHeadAttention": "ppvision.nn.attention",
    "MultiScaleDeformableAttention": "ppvision.nn.deformable",
    "SegHead": "ppvision.nn.heads",
}
__all__ = ["HEADS", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
