"""Sine embeddings of places: of the cells of a map, and of boxes.

Papers:   N. Carion et al., "End-to-End Object Detection with Transformers", arXiv:2005.12872 (maps); S. Liu et al.,
          "DAB-DETR", arXiv:2201.12329 (boxes, temperatures).
Checked:  against loops in float64 (tests/nn/test_positions.py), and inside the detectors against `transformers`.
Deviates: nothing. Channels 2i and 2i + 1 are sine and cosine of one frequency, `temperature ** (-2i / channels)`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import paddle
from paddle import Tensor

from ppvision.nn.constant import Constant

__all__ = ["sine_boxes", "sine_map"]


@functools.lru_cache(maxsize=32)
def _frequencies(channels: int, temperature: float) -> Constant:
    exponents = -np.arange(0, channels, 2, dtype=np.float64) / channels
    return Constant((temperature**exponents).astype(np.float32))


def _waves(x: Tensor, channels: int, temperature: float) -> Tensor:
    """[...] -> [...,channels]."""
    if channels % 2:
        raise ValueError(f"a sine embedding has an even number of channels, not {channels}")
    phase = x.unsqueeze(-1) * _frequencies(channels, temperature)()
    return paddle.stack([paddle.sin(phase), paddle.cos(phase)], axis=-1).flatten(-2)


def sine_map(
    height: int | Tensor,
    width: int | Tensor,
    dim: int,
    valid: Tensor | None = None,
    temperature: float | tuple[float, float] = 10000.0,
    offset: float = 0.0,
    scale: float = 6.283185307179586,  # 2 pi; dy2static wants numbers here
    eps: float = 1e-6,
) -> Tensor:
    """Embedding of every cell of a map, [B,height,width,dim], or [1,height,width,dim] where nothing is padding.

    Rows and columns are counted from 1 over the valid cells, `offset` is added, and the result is divided by the
    valid extent and multiplied by `scale`.

    Args:
        height: of the map; a tensor in a static graph.
        width: likewise.
        dim: half of the channels tell the row, then half the column.
        valid: bool [B,height,width], True where the map is picture; None: everywhere.
        temperature: of rows and columns, or of each.
        offset: 0 (DETR, DAB-DETR, DINO) or -0.5, the middle of a cell (Deformable DETR).
        scale: of the normalised coordinate.
        eps: keeps the division defined.
    """
    rows, columns = temperature if isinstance(temperature, Sequence) else (temperature, temperature)
    if valid is None:
        y = (paddle.arange(height).astype("float32") + (1.0 + offset)) / (height + eps) * scale
        x = (paddle.arange(width).astype("float32") + (1.0 + offset)) / (width + eps) * scale
        y = _waves(y, dim // 2, rows).reshape([1, -1, 1, dim // 2])
        x = _waves(x, dim // 2, columns).reshape([1, 1, -1, dim // 2])
        zero = paddle.zeros_like(y + x)
        return paddle.concat([y + zero, x + zero], axis=-1)
    count = valid.astype("float32")
    y, x = count.cumsum(1), count.cumsum(2)
    y = (y + offset) / (y[:, -1:, :] + eps) * scale
    x = (x + offset) / (x[:, :, -1:] + eps) * scale
    return paddle.concat([_waves(y, dim // 2, rows), _waves(x, dim // 2, columns)], axis=-1)


def sine_boxes(
    boxes: Tensor,
    dim: int = 128,
    temperature: float = 10000.0,
    scale: float = 6.283185307179586,  # 2 pi; dy2static wants numbers here
    order: Sequence[int] = (1, 0, 2, 3),
) -> Tensor:
    """Embedding of boxes (cxcywh) or points in 0..1, [...,C] -> [...,C * dim].

    Args:
        boxes: [...,4] or [...,2].
        dim: channels of each coordinate.
        temperature: see above.
        scale: of the coordinates.
        order: in which the coordinates are concatenated: y, x, w, h for DAB-DETR and DINO, (0, 1, 2, 3) for the
            proposals of Deformable DETR.
    """
    waves = _waves(boxes * scale, dim, temperature)
    return paddle.concat([waves[..., i, :] for i in list(order)[: boxes.shape[-1]]], axis=-1)
