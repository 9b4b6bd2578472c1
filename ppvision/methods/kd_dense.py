"""KD-DETR across families: a convolutional detector learns from a DETR at its own anchors.

Paper:    Y. Wang et al., "KD-DETR: Knowledge Distillation for Detection Transformer with Consistent Distillation Points
          Sampling", arXiv:2211.08071, its heterogeneous part, read through the abstract and notes. How anchors are
          chosen, what content a query has and the weights of the terms are our reading.
Checked:  what the student is compared at is, anchor by anchor, what the teacher was asked; padded pictures and whole
          ones give the same points; the detection terms do not depend on the teacher (tests/methods/test_kd_dense.py).
Deviates: notes about the paper make an anchor a query by a learned embedding of its box; a box is what a query of
          DAB-DETR and DINO is, so it is handed over as it is, and there is nothing to learn on the teacher's side. The
          paper's student is a Faster R-CNN; here it is any network that answers at anchors.

A distillation point is a picture and a question. A dense detector answers the question "what is at this anchor" by
construction, and a DETR answers it when the anchor's box is its query. Points are anchors: half of them those where the
student sees most, without duplicates, half of them drawn at random for every update, the same for all processes.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import paddle
from paddle import Tensor, nn

from ppvision.device import tensor_of
from ppvision.errors import UserError, at_least, require, within
from ppvision.losses.distillation import PointLoss
from ppvision.methods.dense_detection import DenseDetection, share_of
from ppvision.models.detr import Detr, Queries, check_detector
from ppvision.models.network import promises
from ppvision.models.queries import QuerySet
from ppvision.nn.anchors import Dense, decode_boxes
from ppvision.nn.boxes import cxcywh_to_xyxy, inverse_sigmoid
from ppvision.nn.suppression import excess_overlap, kept_boxes

__all__ = ["KdDense"]

Weights = tuple[float, float, float]
CANDIDATES = 4  # of the student's best anchors so many times as are wanted are looked at for duplicates


class KdDense(DenseDetection):
    """Detection as in method `dense_detection`, and imitation of a frozen DETR at anchors.

    Args:
        model: the student, a network with `anchors` and `dense`.
        teacher: a detector of the DETR family with the same classes; `weights` in its mapping name its file.
        points: anchors of an update and picture at most.
        random: share of them that is drawn at random; the others are where the student's scores are highest.
        nms_iou: boxes of the student that overlap more are asked about once.
        weights: of class divergence, L1 and GIoU.
        temperature: of the class divergence.
        foreground_weight: points count by the teacher's highest class probability.
        reduction: "tp" or "kd", see `PointLoss`.
        cls_form: "softmax_kl" (the paper's) or "bce_kl", see `kl_of_classes`.
        loss: of detection, default `DenseLoss`.

    Raises:
        UserError: the student answers at no anchors, the teacher is no DETR host or cannot be asked about a box, or
            they do not fit each other.
    """

    components = {"loss": "loss", "teacher": "model"}
    frozen = ("teacher",)

    def __init__(
        self,
        model: nn.Layer,
        teacher: nn.Layer,
        points: int = 300,
        random: float = 0.5,
        nms_iou: float = 0.7,
        weights: Weights = (1.0, 5.0, 2.0),
        temperature: float = 10.0,
        foreground_weight: bool = True,
        reduction: Literal["tp", "kd"] = "tp",
        cls_form: Literal["softmax_kl", "bce_kl"] = "softmax_kl",
        loss: nn.Layer | None = None,
    ):
        super().__init__(model, loss)
        check_detector(teacher, "method.teacher")
        at_least(1, points=points)
        within(0, 1, random=random, nms_iou=nms_iou)
        require(len(weights) == 3, "weights", f"are three numbers: class, L1 and GIoU, got {list(weights)}")
        if teacher.num_classes != model.num_classes:
            raise UserError(
                f"method.teacher: answers {teacher.num_classes} classes, the student {model.num_classes}; "
                "set model.num_classes, and load the teacher with the same"
            )
        askable = promises(teacher.queries, Queries).offers
        if teacher.query_content and not (askable("of_boxes") or askable("usual_content")):
            raise UserError(
                f"method.teacher: this {type(teacher).__name__} cannot be asked about a box alone, and so not about an "
                "anchor; use DINO, DAB-DETR without patterns, or Deformable DETR with two_stage: true"
            )
        self.teacher: Detr = teacher
        self.points = points
        self.num_random = round(points * random)
        self.nms_iou = nms_iou
        self.point_loss = PointLoss(*weights, temperature, foreground_weight, reduction, cls_form)
        self._draw: np.ndarray | None = None

    def begin(self, step: int, seed: int, rank: int) -> None:
        """Forgets the random points of the last update."""
        super().begin(step, seed, rank)
        self._draw = None

    def draw(self) -> np.ndarray:
        """[num_random] of this update, uniform in 0..1: one draw for all its micro-batches and processes."""
        if self._draw is None:
            self._draw = self.shared_rng.random(self.num_random)
        return self._draw

    def losses(self, phase: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        predictions = self.model.dense(batch["image"])
        predictions = predictions._replace(logits=predictions.logits.astype("float32"))
        terms = self.compute_loss(predictions, batch)
        with paddle.amp.auto_cast(enable=False):
            share = share_of(batch).unsqueeze(1)
            index = self.chosen(predictions)
            anchors = rows_of(predictions.anchors, index) / share
            inside = ((anchors[..., :2] >= 0.0) & (anchors[..., :2] < 1.0)).all(-1)  # no question about the padding
            boxes = decode_boxes(picked(predictions.deltas, index), rows_of(predictions.anchors, index)) / share
            references = inverse_sigmoid(anchors)
        with paddle.no_grad():
            context = self.teacher.encode(batch["image"], batch.get("valid"))
            teacher = self.teacher.decode(context, self.asked(references))[-1]
        student = (picked(predictions.logits, index), boxes)
        distilled = self.point_loss(student, teacher, inside.astype("float32"))
        return {**terms, **{f"anchors/{key}": value for key, value in distilled.items()}}

    def chosen(self, predictions: Dense) -> Tensor:
        """The anchors of each picture that are points, int64 [B,M]."""
        batch, count = predictions.logits.shape[:2]
        parts = []
        num_chosen = min(self.points - self.num_random, count)
        if num_chosen:
            with paddle.no_grad(), paddle.amp.auto_cast(enable=False):
                scores = predictions.logits.detach().astype("float32").max(-1)
                best, index = paddle.topk(scores, min(CANDIDATES * num_chosen, count), axis=1)
                boxes = decode_boxes(picked(predictions.deltas.detach(), index), rows_of(predictions.anchors, index))
                kept = kept_boxes(excess_overlap(cxcywh_to_xyxy(boxes), None, self.nms_iou))
                # duplicates come last: they fill up where too few are left
                order = paddle.topk(kept * 2.0 - paddle.arange(kept.shape[1]) / kept.shape[1], num_chosen, axis=1)[1]
                parts.append(paddle.take_along_axis(index, order, axis=1, broadcast=False))
        if self.num_random:
            drawn = np.minimum((self.draw() * count).astype(np.int64), count - 1)
            parts.append(tensor_of(np.tile(drawn, (batch, 1))))
        return paddle.concat(parts, axis=1)

    def asked(self, references: Tensor) -> QuerySet:
        """Boxes [B,M,4], given as logits, as queries of the teacher. Where a query has content beside its box, all get
        the same: the mean of what the teacher's own have.
        """
        queries = promises(self.teacher.queries, Queries)
        made = queries.of_boxes(references)
        if made is not None:
            return made
        if not self.teacher.query_content:
            return QuerySet(references)
        content = queries.usual_content().reshape([1, 1, -1])
        return QuerySet(references, content.expand([1, references.shape[1], content.shape[-1]]))


def picked(x: Tensor, index: Tensor) -> Tensor:
    """Rows `index` [B,M] of each picture's [B,A,D] -> [B,M,D]."""
    return paddle.take_along_axis(x, index.unsqueeze(-1).tile([1, 1, x.shape[-1]]), axis=1, broadcast=False)


def rows_of(anchors: Tensor, index: Tensor) -> Tensor:
    """Anchors [A,4] at `index` [B,M] -> [B,M,4]."""
    return paddle.gather(anchors, index.flatten()).reshape([*index.shape, 4])
