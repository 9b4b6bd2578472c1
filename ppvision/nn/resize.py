"""Resampling of feature maps, always to an explicit size (paddle2onnx 2.1 cannot convert `scale_factor` with Paddle
3.3).
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle.nn.functional as F
from paddle import Tensor

__all__ = ["resize"]


def resize(x: Tensor, size: Sequence[int | Tensor], mode: str = "bilinear", align_corners: bool = False) -> Tensor:
    """[B,C,h,w] -> [B,C,H,W] with `size` = (H, W); take it from the target, `target.shape[2:]`, so that odd inputs and
    export work.
    """
    return F.interpolate(x, size=size, mode=mode, align_corners=align_corners)
