"""Boxes fixed to the cells of feature maps, and offsets from them: what a dense detector answers about.

Papers:   S. Ren et al., "Faster R-CNN", arXiv:1506.01497 (anchors, offsets); T.-Y. Lin et al., "Focal Loss for Dense
          Object Detection", arXiv:1708.02002 (three shapes in three sizes on each level).
Checked:  against loops at odd sizes (tests/nn/test_anchors.py), and inside RetinaNet against torchvision.
Deviates: sizes are exact powers of two; torchvision rounds sides to whole pixels. An anchor is around the upper left
          corner of its cell, as torchvision and PaddleDetection have it: there the convolutions of stride 2 look. All
          numbers are in 0..1 of the canvas, which changes neither offsets nor overlaps.

Names of axes: A anchors: levels fine to coarse, rows, columns, shapes, sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import paddle
from paddle import Tensor

__all__ = ["Dense", "anchor_sides", "decode_boxes", "encode_boxes", "grid_anchors"]

WIDEST = math.log(1000.0 / 16.0)  # of log(w / anchor's w): keeps the exponential of an untrained network finite


class Dense(NamedTuple):
    """What a dense detector says of a batch.

    Attributes:
        logits: [B,A,K].
        deltas: float32 [B,A,4], see `encode_boxes`.
        anchors: float32 [A,4], cxcywh in 0..1 of the canvas.
    """

    logits: Tensor
    deltas: Tensor
    anchors: Tensor


def anchor_sides(side: float, ratios: Sequence[float], octaves: int) -> list[tuple[float, float]]:
    """(width, height) of the anchors of a cell, shape by shape: areas of `side`**2 and up, `octaves` of them within a
    factor of 2 of the side; a ratio is height / width.
    """
    sides = [side * 2.0 ** (i / octaves) for i in range(octaves)]
    return [(s / math.sqrt(ratio), s * math.sqrt(ratio)) for ratio in ratios for s in sides]


def grid_anchors(
    shapes: Sequence[tuple],
    strides: Sequence[int],
    canvas: tuple,
    scale: float = 4.0,
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
    octaves: int = 3,
) -> Tensor:
    """Anchors of all levels, float32 [A,4].

    Args:
        shapes: (height, width) of each level's map; numbers, or tensors in a static graph.
        strides: of each level, in pixels.
        canvas: (height, width) of the image, padding included; numbers or tensors.
        scale: side of the smallest square anchor, in strides.
        ratios: height / width.
        octaves: sizes per level, up to twice the smallest.
    """
    unit = anchor_sides(1.0, ratios, octaves)
    height, width = (_number(side) for side in canvas)
    sides = paddle.concat([_numbers([w for w, _ in unit]) / width, _numbers([h for _, h in unit]) / height], axis=-1)
    levels = []
    for (rows, columns), stride in zip(shapes, strides):
        y = (paddle.arange(rows).astype("float32") * float(stride)).reshape([-1, 1, 1, 1]) / height
        x = (paddle.arange(columns).astype("float32") * float(stride)).reshape([1, -1, 1, 1]) / width
        here = (sides * float(scale * stride)).reshape([1, 1, -1, 2])
        zero = paddle.zeros_like(x + y + here[..., :1])
        levels.append(paddle.concat([x + zero, y + zero, here + zero], axis=-1).reshape([-1, 4]))
    return paddle.concat(levels)


def _number(side: int | Tensor) -> Tensor:
    return paddle.full([1], side, "float32")


def _numbers(values: Sequence[float]) -> Tensor:
    """[n,1]; `to_tensor` would leak at every call (Paddle 3.3.1), and a stored tensor would be part of the network."""
    return paddle.concat([paddle.full([1, 1], value, "float32") for value in values])


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """cxcywh [...,4] -> offsets [...,4]: of the centre in sides of the anchor, of the sides as logarithms. A box
    without width or height is taken for a very thin one.
    """
    centre = (boxes[..., :2] - anchors[..., :2]) / anchors[..., 2:]
    return paddle.concat([centre, paddle.log(boxes[..., 2:].clip(min=1e-6) / anchors[..., 2:])], axis=-1)


def decode_boxes(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Offsets [...,4] -> cxcywh [...,4], the inverse of `encode_boxes`; sides at most 62.5 times the anchor's."""
    centre = deltas[..., :2] * anchors[..., 2:] + anchors[..., :2]
    return paddle.concat([centre, paddle.exp(deltas[..., 2:].clip(max=WIDEST)) * anchors[..., 2:]], axis=-1)
