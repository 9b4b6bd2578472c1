"""Greedy suppression of duplicates, in plain operators: the same in eager mode, Paddle Inference and ONNX.

Source:   the usual greedy rule: by falling score, a box goes if it overlaps a better one that stays too much.
Checked:  against the greedy loop in NumPy (tests/nn/test_suppression.py).
Deviates: the loop is a fixed number of rounds over all boxes at once. Round t is right for every box whose chain of
          "goes because of", "stays because that one goes" ... is at most t long, and no chain is longer than the
          number of boxes. Chains among real detections have a handful of links; of a longer one, what comes after
          `rounds` links may be judged wrongly.
"""

from __future__ import annotations

import paddle
from paddle import Tensor

from ppvision.nn.boxes import pairwise_iou

__all__ = ["excess_overlap", "kept_boxes"]


def excess_overlap(corners: Tensor, labels: Tensor | None, iou: float) -> Tensor:
    """How far each box overlaps every better one beyond what is allowed.

    Args:
        corners: xyxy [B,N,4], by falling score.
        labels: int [B,N]: boxes of two classes never disturb each other; None: all do.
        iou: what is allowed.

    Returns:
        [B,N,N], entry (i, j): IoU of boxes i and j minus `iou` where j is before i and of its class, else -1.
    """
    order = paddle.arange(corners.shape[1])
    rivals = (order.unsqueeze(0) < order.unsqueeze(1)).unsqueeze(0)
    if labels is not None:
        rivals = paddle.logical_and(rivals, labels.unsqueeze(1) == labels.unsqueeze(2))
    over = pairwise_iou(corners, corners) - iou
    return paddle.where(rivals, over, paddle.full_like(over, -1.0))


def kept_boxes(excess: Tensor, rounds: int = 20) -> Tensor:
    """From `excess_overlap` [B,N,N]: float32 [B,N], 1 for a box that stays, else 0."""
    disturbs = (excess > 0).astype("float32")
    kept = paddle.ones_like(disturbs[:, :, :1])
    for _ in range(rounds):
        kept = (paddle.matmul(disturbs, kept) < 0.5).astype("float32")
    return kept.squeeze(-1)
