"""Boxes as tensors: conversions, areas, intersection over union.

Source:   H. Rezatofighi et al., "Generalized Intersection over Union", arXiv:1902.09630.
Checked:  against `torchvision.ops` figures worked by hand (tests/nn/test_boxes.py).
Deviates: sides of a box are floored at 1e-4 before GIoU in `giou`, so that a degenerate prediction has a finite
          gradient.

All functions take float32 tensors; "cxcywh" is centre and size, "xyxy" the upper left and lower right corner.
"""

from __future__ import annotations

import paddle
from paddle import Tensor

__all__ = [
    "area",
    "cxcywh_to_xyxy",
    "giou",
    "inverse_sigmoid",
    "pairwise_giou",
    "pairwise_iou",
    "xyxy_to_cxcywh",
]


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """[...,4] centre and size -> corners."""
    centre, half = boxes[..., :2], boxes[..., 2:] * 0.5
    return paddle.concat([centre - half, centre + half], axis=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """[...,4] corners -> centre and size."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return paddle.concat([(low + high) * 0.5, high - low], axis=-1)


def area(boxes: Tensor) -> Tensor:
    """xyxy [...,4] -> [...]; negative sides count as 0."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clip(min=0.0)
    return sides[..., 0] * sides[..., 1]


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Logit of probabilities, which are kept `eps` away from 0 and 1 (so the result is within +-11.5)."""
    x = x.clip(0.0, 1.0)
    return paddle.log(x.clip(min=eps)) - paddle.log((1.0 - x).clip(min=eps))


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """xyxy [...,N,4] and [...,M,4] -> [...,N,M]; 0 where both are empty."""
    shared, union = _overlap(a.unsqueeze(-2), b.unsqueeze(-3))
    return shared / union.clip(min=1e-12)


def pairwise_giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalized IoU of xyxy [...,N,4] and [...,M,4] -> [...,N,M] in -1..1."""
    return _giou(a.unsqueeze(-2), b.unsqueeze(-3))


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalized IoU row by row: xyxy [...,4] twice -> [...] in -1..1."""
    return _giou(_opened(a), _opened(b))


def _opened(boxes: Tensor) -> Tensor:
    low = boxes[..., :2]
    return paddle.concat([low, paddle.maximum(boxes[..., 2:], low + 1e-4)], axis=-1)


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    low, high = paddle.maximum(a[..., :2], b[..., :2]), paddle.minimum(a[..., 2:], b[..., 2:])
    shared = area(paddle.concat([low, high], axis=-1))
    return shared, area(a) + area(b) - shared


def _giou(a: Tensor, b: Tensor) -> Tensor:
    shared, union = _overlap(a, b)
    hull = area(paddle.concat([paddle.minimum(a[..., :2], b[..., :2]), paddle.maximum(a[..., 2:], b[..., 2:])], -1))
    union, hull = union.clip(min=1e-12), hull.clip(min=1e-12)
    return shared / union - (hull - union) / hull
