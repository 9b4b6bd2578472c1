"""Losses of dense detection: anchors are told what they stand for by overlap, then focal and box loss.

Paper:    T.-Y. Lin et al., "Focal Loss for Dense Object Detection", arXiv:1708.02002.
Checked:  assignment and both terms against torchvision's RetinaNet (tests/models/test_against_torchvision.py) and
          against loops (tests/losses/test_dense_detection.py).
Deviates: every object also keeps the anchor that fits it best, however badly (of equal ones the first), and an anchor
          that is best for two objects goes to the one it overlaps more; torchvision and PaddleDetection keep such
          anchors too, but may give them to another object. The loss of boxes is L1 (`beta: 0`), as both have it; the
          paper has smooth L1. Sums are divided by the positives of the whole batch, torchvision's by those of each
          picture.

Names of axes: B batch, A anchors, K classes, G objects (padded), P positives.
"""

from __future__ import annotations

import numpy as np
import paddle
from paddle import Tensor

from ppvision.device import tensor_of
from ppvision.errors import UserError, at_least, require, within
from ppvision.losses.base import Loss
from ppvision.losses.detection import Targets, objects, sigmoid_focal
from ppvision.nn.anchors import Dense, encode_boxes
from ppvision.nn.boxes import cxcywh_to_xyxy, pairwise_iou

__all__ = ["DenseLoss"]

BACKGROUND, BETWEEN = -1, -2


class DenseLoss(Loss):
    """Focal loss of every anchor that is clearly an object or clearly none, and distance of offsets at the former.

    Args:
        class_weight: of the focal loss.
        box_weight: of the distance.
        positive: an anchor that overlaps an object at least as much stands for it.
        negative: an anchor that overlaps every object less is background; what is between does not count.
        alpha: weight of a present class in the focal loss.
        gamma: exponent of the focal loss.
        beta: below this difference of offsets the distance is quadratic (smooth L1); 0 is L1.
    """

    def __init__(
        self,
        class_weight: float = 1.0,
        box_weight: float = 1.0,
        positive: float = 0.5,
        negative: float = 0.4,
        alpha: float = 0.25,
        gamma: float = 2.0,
        beta: float = 0.0,
    ):
        super().__init__()
        at_least(0, class_weight=class_weight, box_weight=box_weight, gamma=gamma, beta=beta)
        within(0, 1, positive=positive, negative=negative, alpha=alpha)
        require(negative <= positive, "negative", f"must be at most positive {positive}, got {negative}")
        self.class_weight, self.box_weight = class_weight, box_weight
        self.positive, self.negative = positive, negative
        self.alpha = alpha
        self.gamma = gamma
        self.beta = beta

    def assign(self, anchors: Tensor, boxes: Tensor, counts: np.ndarray) -> Tensor:
        """What every anchor stands for: int64 [B,A], an object's place in its picture, -1 for background, -2 for
        neither.

        Args:
            anchors: cxcywh [A,4].
            boxes: cxcywh [B,G,4] of the same canvas.
            counts: [B], how many of them are objects and no padding.
        """
        with paddle.no_grad():
            real = tensor_of(np.arange(boxes.shape[1]) < np.asarray(counts)[:, None]).unsqueeze(-1)  # [B,G,1]
            overlap = pairwise_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(anchors).unsqueeze(0))
            overlap = paddle.where(real, overlap, paddle.full_like(overlap, -1.0))
            best = overlap.max(-1, keepdim=True)
            first = paddle.arange(anchors.shape[0]) == overlap.argmax(-1, keepdim=True)  # one of several equal ones
            kept = paddle.logical_and(first, best > 0.0)
            rank = overlap + 2.0 * kept.astype("float32")  # an anchor that some object keeps goes to such an object
            level, index = rank.max(1), rank.argmax(1)
            other = paddle.where(
                level < self.negative, paddle.full_like(index, BACKGROUND), paddle.full_like(index, BETWEEN)
            )
            return paddle.where(level >= self.positive, index, other)

    def forward(
        self, predictions: Dense, boxes: Tensor, targets: Targets, assigned: Tensor, num_positives: Tensor | float
    ) -> dict[str, Tensor]:
        """Weighted terms `main/cls` and `main/box`.

        Args:
            predictions: logits, offsets and anchors.
            boxes: of the targets, cxcywh [B,G,4] of the canvas the anchors are of.
            targets: their classes.
            assigned: of `assign`.
            num_positives: what sums are divided by, at least 1 is taken.

        Raises:
            UserError: an object's class is beyond the network's, or there are other anchors than were assigned.
        """
        with paddle.amp.auto_cast(enable=False):
            logits, deltas = predictions.logits.astype("float32"), predictions.deltas.astype("float32")
            batch, count, num_classes = logits.shape
            if count != assigned.shape[1]:
                raise UserError(
                    f"the network answers at {count} anchors and names {assigned.shape[1]}: a map of its backbone has "
                    "another size than the image divided by its stride, rounded up"
                )
            if targets.total and targets.labels.max() >= num_classes:
                raise UserError(f"class {targets.labels.max()} in the data, but the network has {num_classes} classes")
            counted = (assigned != BETWEEN).astype("float32").unsqueeze(-1)
            classes = (sigmoid_focal(logits, False, self.alpha, self.gamma) * counted).sum()
            distance = 0.0 * deltas.sum()  # every part of the network keeps a gradient
            row = paddle.nonzero(assigned.flatten() >= 0).flatten()
            if row.shape[0]:
                column = paddle.gather(assigned.flatten(), row) + row // count * boxes.shape[1]
                label = paddle.gather(targets.classes.flatten(), column)
                logit = paddle.gather(logits.flatten(), row * num_classes + label)
                present = sigmoid_focal(logit, True, self.alpha, self.gamma)
                classes = classes + (present - sigmoid_focal(logit, False, self.alpha, self.gamma)).sum()
                target_deltas = encode_boxes(
                    paddle.gather(boxes.reshape([-1, 4]), column), paddle.gather(predictions.anchors, row % count)
                )
                distance = distance + self.distance(paddle.gather(deltas.reshape([-1, 4]), row) - target_deltas)
            divisor = objects(num_positives)
            return {
                "main/cls": self.class_weight / divisor * classes,
                "main/box": self.box_weight / divisor * distance,
            }

    def distance(self, difference: Tensor) -> Tensor:
        """Sum of (smooth) absolute values."""
        size = difference.abs()
        if not self.beta:
            return size.sum()
        return paddle.where(size < self.beta, 0.5 * size.square() / self.beta, size - 0.5 * self.beta).sum()
