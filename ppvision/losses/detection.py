"""Losses of set prediction: one-to-one matching of predictions and objects, then focal, L1 and GIoU.

Papers:   N. Carion et al., "End-to-End Object Detection with Transformers", arXiv:2005.12872; T.-Y. Lin et al.,
          "Focal Loss for Dense Object Detection", arXiv:1708.02002; X. Zhu et al., "Deformable DETR",
          arXiv:2010.04159 (focal class cost); Q. Chen et al., "Group DETR", arXiv:2207.13085 (matching per group).
Checked:  costs, matches and losses against `DeformableDetrHungarianMatcher` and `DeformableDetrForObjectDetectionLoss`
          of `transformers` 4.57, to 1e-5 (tests/losses/test_against_transformers.py).
Deviates: a cost that is not finite is an error that names the picture; upstream replaces it by a large number, which
          hides that the network is broken. GIoU keeps sides of at least 1e-4, see `ppvision.nn.boxes`.

The costs of all layers, groups and encoder proposals are computed on targets padded to the largest number of objects
and brought to the host in one copy.

Names of axes: L decoder layers, B batch, N predictions, K classes, G objects (padded), M matches of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ppvision.device import tensor_of
from ppvision.errors import ArgumentError, RunError, UserError, at_least, within
from ppvision.losses.base import Loss
from ppvision.nn.boxes import cxcywh_to_xyxy, giou, pairwise_giou, xyxy_to_cxcywh

__all__ = ["Matcher", "Matches", "Predictions", "SetLoss", "Targets", "focal_cost", "sigmoid_focal"]


@dataclass
class Targets:
    """The objects of a batch, crowds left out, padded to the largest count (at least 1).

    Attributes:
        boxes: float32 [B,G,4], cxcywh in 0..1 relative to the picture without its padding; padding is the whole
            picture.
        classes: int64 [B,G]; padding is 0.
        counts: int64 [B], on the host.
        labels: `classes` on the host.
        names: of the pictures, for messages.
    """

    boxes: Tensor
    classes: Tensor
    counts: np.ndarray
    labels: np.ndarray
    names: Sequence[str] = field(default_factory=list)

    @classmethod
    def of(cls, batch: dict[str, Any]) -> Targets:
        """From a collated batch on the device: `boxes` [n,4] xyxy pixels, `classes` [n], `crowd` [n] (optional),
        `boxes_offsets` [B+1] and `inner` [B,2] (height, width).

        Raises:
            UserError: the batch has no boxes.
        """
        if "boxes_offsets" not in batch or "classes" not in batch:
            raise UserError("a detector is trained on boxes and classes, which this data set does not give")
        offsets, classes = batch["boxes_offsets"].astype("int64"), batch["classes"].astype("int64")
        rows = int(classes.shape[0])
        crowd = batch["crowd"].astype("int64") if "crowd" in batch else paddle.zeros([rows], dtype="int64")
        host = paddle.concat([offsets, classes, crowd]).numpy() if rows else offsets.numpy()
        starts = host[: offsets.shape[0]]
        labels, crowds = host[len(starts) : len(starts) + rows], host[len(starts) + rows :]
        kept = [
            start + np.flatnonzero(crowds[start:stop] == 0) for start, stop in zip(starts[:-1], starts[1:], strict=True)
        ]
        counts = np.array([len(k) for k in kept], np.int64)
        padded = np.zeros((len(kept), max(int(counts.max(initial=0)), 1)), np.int64)
        real = np.arange(padded.shape[1]) < counts[:, None]
        padded[real] = np.concatenate(kept)
        shape = [*padded.shape, 4]
        whole = tensor_of(np.array([0.5, 0.5, 1.0, 1.0], np.float32))
        if not counts.any():
            boxes = whole.expand(shape)
        else:
            size = batch["inner"].astype("float32").flip([1]).tile([1, 2]).unsqueeze(1)  # w, h, w, h
            chosen = paddle.gather(batch["boxes"].astype("float32"), tensor_of(padded.flatten())).reshape(shape)
            boxes = paddle.where(tensor_of(real).unsqueeze(-1), xyxy_to_cxcywh(chosen / size), whole)
        known = np.zeros(padded.shape, np.int64)
        known[real] = labels[padded[real]]
        return cls(boxes, tensor_of(known), counts, known, list(batch.get("name", ())))

    @property
    def total(self) -> int:
        """Number of objects."""
        return int(self.counts.sum())


@dataclass
class Predictions:
    """Predictions that are matched.

    Attributes:
        logits: [L,B,N,K].
        boxes: [L,B,N,4], cxcywh in 0..1.
        groups: N = groups x T; every object is matched once in each group.
        binary: every object is of class 0.
    """

    logits: Tensor
    boxes: Tensor
    groups: int = 1
    binary: bool = False

    @classmethod
    def of(cls, layers: Sequence[tuple[Tensor, Tensor]], groups: int = 1) -> Predictions:
        """From what `Detr.decode` returns; float32."""
        logits = paddle.stack([logits for logits, _ in layers]).astype("float32")
        return cls(logits, paddle.stack([boxes for _, boxes in layers]).astype("float32"), groups)

    @classmethod
    def of_groups(cls, groups: Sequence[tuple[Tensor, Tensor]], binary: bool = False) -> Predictions:
        """From the logits [B,T,K] and boxes [B,T,4] that an encoder proposes to each group; float32."""
        logits = paddle.concat([logits for logits, _ in groups], axis=1).astype("float32")
        boxes = paddle.concat([boxes for _, boxes in groups], axis=1).astype("float32")
        return cls(logits.unsqueeze(0), boxes.unsqueeze(0), len(groups), binary)


@dataclass
class Matches:
    """Pairs of a prediction and an object, int64 [L,M] each: `rows` count through [B,N], `columns` through [B,G],
    `classes` is the object's.
    """

    rows: np.ndarray
    columns: np.ndarray
    classes: np.ndarray


def sigmoid_focal(logits: Tensor, positive: bool, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss of each logit, as if its class was there (`positive`) or not; the shape of `logits`."""
    if positive:
        return alpha * _power(F.sigmoid(-logits), gamma) * F.softplus(-logits)
    return (1.0 - alpha) * _power(F.sigmoid(logits), gamma) * F.softplus(logits)


def focal_cost(logits: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """What a match costs by its class logit: the loss with the class there minus the loss without it (eps 1e-8)."""
    p = F.sigmoid(logits)
    present = alpha * _power(1.0 - p, gamma) * -paddle.log(p + 1e-8)
    return present - (1.0 - alpha) * _power(p, gamma) * -paddle.log(1.0 - p + 1e-8)


def _power(x: Tensor, exponent: float) -> Tensor:
    return x.square() if exponent == 2.0 else x**exponent


class Matcher:
    """The assignment of predictions to objects with the smallest sum of class_weight x `focal_cost` + l1_weight x L1 -
    giou_weight x GIoU.

    Args:
        class_weight: of the class cost.
        l1_weight: of the distance of normalised cxcywh.
        giou_weight: of the generalised IoU.
        alpha: of the focal loss.
        gamma: of the focal loss.
        per_object: predictions that every object gets, all different; 1 is one-to-one matching.
    """

    def __init__(
        self,
        class_weight: float = 2.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
        per_object: int = 1,
    ):
        self.class_weight = class_weight
        self.l1_weight = l1_weight
        self.giou_weight = giou_weight
        self.alpha = alpha
        self.gamma = gamma
        self.per_object = per_object

    def costs(self, predictions: Predictions, targets: Targets) -> Tensor:
        """[L,B,N,G]; columns of padding mean nothing."""
        with paddle.no_grad(), paddle.amp.auto_cast(enable=False):
            logits, boxes = predictions.logits.detach().astype("float32"), predictions.boxes.detach().astype("float32")
            target_boxes = targets.boxes.unsqueeze(0)
            if predictions.binary:
                picked = logits[..., :1]
            else:
                shape = [*logits.shape[:3], targets.classes.shape[1]]
                picked = paddle.take_along_axis(logits, targets.classes.unsqueeze([0, 2]).expand(shape), axis=3)
            distance = (boxes.unsqueeze(3) - target_boxes.unsqueeze(2)).abs().sum(-1)
            overlap = pairwise_giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(target_boxes))
            cost = self.class_weight * focal_cost(picked, self.alpha, self.gamma)
            return cost + self.l1_weight * distance - self.giou_weight * overlap

    def __call__(self, sets: Sequence[Predictions], targets: Targets) -> list[Matches]:
        """Matches of every set, layer, picture and group.

        Raises:
            RunError: a cost is not finite; names the picture.
        """
        costs = [self.costs(predictions, targets) for predictions in sets]
        host = paddle.concat([c.flatten() for c in costs]).numpy()
        matches, start = [], 0
        for predictions, cost in zip(sets, costs, strict=True):
            values = host[start : start + cost.size].reshape(cost.shape)
            start += cost.size
            self._refuse_nan(values, targets)
            matches.append(self._match(values, predictions, targets))
        return matches

    def _match(self, cost_LBNG: np.ndarray, predictions: Predictions, targets: Targets) -> Matches:
        from scipy.optimize import linear_sum_assignment

        num_layers, batch, count, padded = cost_LBNG.shape
        size = count // predictions.groups
        rows: list[list[np.ndarray]] = [[] for _ in range(num_layers)]
        columns: list[list[np.ndarray]] = [[] for _ in range(num_layers)]
        for layer in range(num_layers):
            for image, objects in enumerate(targets.counts):
                if not objects:
                    continue
                for group in range(predictions.groups):
                    first = group * size
                    cost = cost_LBNG[layer, image, first : first + size, :objects]
                    if self.per_object > 1:
                        cost = np.repeat(cost, self.per_object, axis=1)
                    row, column = linear_sum_assignment(cost)
                    rows[layer].append(row + image * count + first)
                    columns[layer].append(column // self.per_object + image * padded)
        # every layer has the same number: min(size, objects) for each picture and group
        row_LM, column_LM = (
            np.array([np.concatenate(x) if x else np.zeros(0) for x in part]).astype(np.int64)
            for part in (rows, columns)
        )
        classes = np.zeros_like(column_LM) if predictions.binary else targets.labels.reshape(-1)[column_LM]
        return Matches(row_LM, column_LM, classes)

    @staticmethod
    def _refuse_nan(cost_LBNG: np.ndarray, targets: Targets) -> None:
        if np.isfinite(cost_LBNG).all():
            return
        bad = np.flatnonzero(~np.isfinite(cost_LBNG).all(axis=(0, 2, 3)))
        names = [targets.names[i] if i < len(targets.names) else f"picture {i} of the batch" for i in bad]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise RunError(
            f"{', '.join(map(str, names[:3]))}{more}: the predictions are not finite, so nothing can be matched; "
            "look at the picture and its boxes, or lower the learning rate"
        )


class SetLoss(Loss):
    """Focal loss of all predictions and L1 and GIoU of the matched ones, for every decoder layer and the proposals of
    a two-stage encoder. Sums are divided by the number of objects, and averaged over groups of queries.

    Args:
        class_weight: of the focal loss.
        l1_weight: of the L1 distance of normalised cxcywh.
        giou_weight: of 1 - GIoU.
        cost_class: weight of the class in the matching.
        cost_l1: weight of the distance in the matching.
        cost_giou: weight of the overlap in the matching.
        alpha: weight of a present class in the focal loss.
        gamma: exponent of the focal loss.
        per_object: predictions matched to each object; more than 1 needs suppression of duplicates at inference, so it
            is for comparison only.
    """

    def __init__(
        self,
        class_weight: float = 1.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        cost_class: float = 2.0,
        cost_l1: float = 5.0,
        cost_giou: float = 2.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
        per_object: int = 1,
    ):
        super().__init__()
        at_least(0, class_weight=class_weight, l1_weight=l1_weight, giou_weight=giou_weight, gamma=gamma)
        at_least(0, cost_class=cost_class, cost_l1=cost_l1, cost_giou=cost_giou)
        within(0, 1, alpha=alpha)
        at_least(1, per_object=per_object)
        if not (cost_class or cost_l1 or cost_giou):
            raise ArgumentError("cost_class", "and cost_l1 and cost_giou are all 0, so that any match is as good")
        self.weights = {"cls": class_weight, "l1": l1_weight, "giou": giou_weight}
        self.alpha = alpha
        self.gamma = gamma
        self.per_object = per_object
        self.matcher = Matcher(cost_class, cost_l1, cost_giou, alpha, gamma, per_object)

    def forward(
        self,
        layers: Sequence[tuple[Tensor, Tensor]],
        targets: Targets,
        num_boxes: Tensor | float,
        *,
        groups: int = 1,
        proposals: Predictions | None = None,
    ) -> dict[str, Tensor]:
        """Weighted terms: `main/*` of the last layer, `aux/*` of all others together, `enc/*` of the proposals, where *
        is cls, l1 and giou.

        Args:
            layers: logits [B,N,K] and boxes [B,N,4] of every decoder layer.
            targets: the objects.
            num_boxes: what sums are divided by, at least 1 is taken.
            groups: N = groups x T.
            proposals: of the encoder, one layer, if there are any.

        Raises:
            RunError: a prediction is not finite.
            UserError: an object's class is beyond the network's.
        """
        with paddle.amp.auto_cast(enable=False):
            sets = {"layers": Predictions.of(layers, groups)}
            if proposals is not None:
                sets["enc"] = proposals
            num_classes = sets["layers"].logits.shape[-1]
            if targets.total and targets.labels.max() >= num_classes:
                raise UserError(f"class {targets.labels.max()} in the data, but the network has {num_classes} classes")
            terms: dict[str, Tensor] = {}
            for (name, predictions), matches in zip(
                sets.items(), self.matcher(list(sets.values()), targets), strict=True
            ):
                divisor = objects(num_boxes) * (predictions.groups * self.per_object)
                for term, value_L in self.sums(predictions, targets, matches).items():
                    value_L = self.weights[term] / divisor * value_L
                    if name == "enc":
                        terms[f"enc/{term}"] = value_L[0]
                        continue
                    terms[f"main/{term}"] = value_L[-1]
                    if len(layers) > 1:
                        terms[f"aux/{term}"] = value_L[:-1].sum()
            return terms

    def sums(
        self, predictions: Predictions, targets: Targets, matches: Matches, counted: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Unweighted sums [L] of `cls`, `l1` and `giou`; `counted` [B,N,1] is 0 for predictions that do not count, and
        may not be matched.
        """
        num_layers, batch, count, num_classes = predictions.logits.shape
        background = sigmoid_focal(predictions.logits, False, self.alpha, self.gamma)
        background = (background if counted is None else background * counted).sum([1, 2, 3])
        if not matches.rows.size:
            nothing = 0.0 * predictions.boxes.sum([1, 2, 3])  # every part of the network keeps a gradient
            return {"cls": background, "l1": nothing, "giou": nothing}
        shape = matches.rows.shape
        row = tensor_of((matches.rows + np.arange(num_layers)[:, None] * (batch * count)).flatten())
        column, label = (tensor_of(x.flatten()) for x in (matches.columns, matches.classes))
        logit = paddle.gather(predictions.logits.flatten(), row * num_classes + label)
        box = paddle.gather(predictions.boxes.reshape([-1, 4]), row)
        target = paddle.gather(targets.boxes.reshape([-1, 4]), column)
        return {
            "cls": background + self.changed(logit).reshape(shape).sum(1),
            "l1": (box - target).abs().reshape([*shape, 4]).sum([1, 2]),
            "giou": (1.0 - giou(cxcywh_to_xyxy(box), cxcywh_to_xyxy(target))).reshape(shape).sum(1),
        }

    def changed(self, logit: Tensor) -> Tensor:
        """What a present class adds to the loss that takes every class for absent."""
        present = sigmoid_focal(logit, True, self.alpha, self.gamma)
        return present - sigmoid_focal(logit, False, self.alpha, self.gamma)


def objects(count: Tensor | float) -> Tensor | float:
    """A divisor: the number of objects, at least 1."""
    return count.clip(min=1.0) if isinstance(count, Tensor) else max(float(count), 1.0)
