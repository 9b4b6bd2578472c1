"""Distillation of a detector's predictions, point by point: what a student says of a query against what its teacher
says of the same query.

Paper:    Y. Wang et al., "KD-DETR: Knowledge Distillation for Detection Transformer with Consistent Distillation Points
          Sampling", arXiv:2211.08071, in our reading: the formula is the paper's, its coefficients, the temperature and
          both ways to sum are those of public implementations.
Checked:  against loops in NumPy and `kl_div` of torch worked by hand (tests/losses/test_distillation.py).
Deviates: nothing known. Which of the two reductions the paper's figures were made with is not known; "tp" is the
          default because it does not depend on the batch.

Names of axes: B batch, M points, K classes.
"""

from __future__ import annotations

from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ppvision.errors import at_least, require
from ppvision.losses.base import Loss
from ppvision.nn.boxes import cxcywh_to_xyxy, giou

__all__ = ["PointLoss", "foreground", "kl_of_classes"]

Prediction = tuple[Tensor, Tensor]


def foreground(logits: Tensor) -> Tensor:
    """How sure a teacher is that there is anything at a point: [B,M,K] -> [B,M] in 0..1, without gradient."""
    return F.sigmoid(logits.detach().astype("float32")).max(-1)


def kl_of_classes(teacher: Tensor, student: Tensor, temperature: float, form: str = "softmax_kl") -> Tensor:
    """Divergence of class distributions, times the squared temperature: logits [B,M,K] twice -> [B,M,K].

    Args:
        teacher: its logits; no gradient flows there.
        student: its logits.
        temperature: divides both.
        form: "softmax_kl" takes the classes for exclusive, as the paper does; "bce_kl" each for itself, as the
            detectors are trained.
    """
    t, s = teacher.detach() / temperature, student / temperature
    if form == "softmax_kl":
        log_t = F.log_softmax(t, axis=-1)
        divergence = log_t.exp() * (log_t - F.log_softmax(s, axis=-1))
    else:
        p = F.sigmoid(t)
        divergence = p * (F.log_sigmoid(t) - F.log_sigmoid(s)) + (1.0 - p) * (F.log_sigmoid(-t) - F.log_sigmoid(-s))
    return temperature**2 * divergence


class PointLoss(Loss):
    """Weighted divergence of classes, L1 distance and 1 - GIoU of boxes over the points of a set.

    Args:
        class_weight: of the divergence.
        l1_weight: of the L1 distance of normalised cxcywh.
        giou_weight: of 1 - GIoU.
        temperature: of the divergence.
        foreground_weight: points count by `foreground` of the teacher; without, all alike.
        reduction: "tp": sums over classes and coordinates, weights of a picture add up to 1, mean over pictures. "kd":
            means over classes and coordinates, the divergence summed over all points of the batch, boxes averaged by
            weight.
        form: see `kl_of_classes`.
    """

    def __init__(
        self,
        class_weight: float = 1.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        temperature: float = 10.0,
        foreground_weight: bool = True,
        reduction: Literal["tp", "kd"] = "tp",
        form: Literal["softmax_kl", "bce_kl"] = "softmax_kl",
    ):
        super().__init__()
        at_least(0, class_weight=class_weight, l1_weight=l1_weight, giou_weight=giou_weight)
        require(temperature > 0, "temperature", f"must be above 0, got {temperature}")
        self.class_weight = class_weight
        self.l1_weight = l1_weight
        self.giou_weight = giou_weight
        self.temperature, self.foreground_weight = temperature, foreground_weight
        self.reduction, self.form = reduction, form

    def forward(self, student: Prediction, teacher: Prediction, counted: Tensor | None = None) -> dict[str, Tensor]:
        """Weighted terms `cls`, `l1` and `giou`, in float32.

        Args:
            student: logits [B,M,K] and boxes [B,M,4], cxcywh in 0..1.
            teacher: likewise; gets no gradient.
            counted: float32 [B,M], 0 for points to be left out.
        """
        with paddle.amp.auto_cast(enable=False):
            logits, boxes = (x.astype("float32") for x in student)
            teacher_logits, teacher_boxes = (x.detach().astype("float32") for x in teacher)
            weight = foreground(teacher_logits) if self.foreground_weight else paddle.ones(logits.shape[:2])
            weight = weight if counted is None else weight * counted
            divergence = kl_of_classes(teacher_logits, logits, self.temperature, self.form)
            distance = (boxes - teacher_boxes).abs()
            apart = 1.0 - giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(teacher_boxes))
            if self.reduction == "kd":
                share = weight / (weight.sum() + 1e-6)
                classes = (weight * divergence.mean(-1)).sum()
                corners, overlap = (share * distance.mean(-1)).sum(), (share * apart).sum()
            else:
                share = weight / (weight.sum(1, keepdim=True) + 1e-6) / logits.shape[0]
                classes = (share * divergence.sum(-1)).sum()
                corners, overlap = (share * distance.sum(-1)).sum(), (share * apart).sum()
            return {
                "cls": self.class_weight * classes,
                "l1": self.l1_weight * corners,
                "giou": self.giou_weight * overlap,
            }
