"""Training of a detector that answers at anchors.

Paper:    T.-Y. Lin et al., "Focal Loss for Dense Object Detection", arXiv:1708.02002.
Checked:  accumulation over micro-batches with unequal numbers of objects equals one big batch
          (tests/methods/test_dense_detection.py).
Deviates: nothing beyond `ppvision.losses.dense_detection`. Crowd boxes are left out.

Anchors cover the whole canvas, padding included, and targets are relative to the picture without it: they are brought
to the canvas here.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor, nn

from ppvision.errors import UserError
from ppvision.losses.dense_detection import DenseLoss
from ppvision.losses.detection import Targets
from ppvision.methods.base import Method
from ppvision.models.network import promises
from ppvision.nn.anchors import Dense

__all__ = ["DenseDetection", "check_dense", "share_of"]


class DenseDetection(Method):
    """Focal and box loss at the anchors of any network with `anchors(height, width)` and `dense(image) -> Dense`.

    Args:
        model: the detector.
        loss: default `DenseLoss`, whose interface another one must have.

    Raises:
        UserError: the model answers at no anchors.
    """

    components = {"loss": "loss"}

    def __init__(self, model: nn.Layer, loss: nn.Layer | None = None):
        super().__init__()
        check_dense(model)
        self.model = model
        self.loss = loss if loss is not None else DenseLoss()

    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Adds `targets`, `canvas_boxes` [B,G,4] (cxcywh of the canvas) and `assigned` [B,A]."""
        batch, targets = super().prepare(batch), Targets.of(batch)
        boxes = targets.boxes * share_of(batch).unsqueeze(1)
        anchors = self.model.anchors(*batch["image"].shape[2:])
        assigned = self.loss.assign(anchors, boxes, targets.counts)
        return {**batch, "targets": targets, "canvas_boxes": boxes, "assigned": assigned}

    def normaliser(self, phase: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {"num_positives": (batch["assigned"] >= 0).astype("float32").sum()}

    def losses(self, phase: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        return self.compute_loss(self.model.dense(batch["image"]), batch)

    def compute_loss(self, predictions: Dense, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The loss of the predictions of the network."""
        known = batch["normaliser"]
        parts = (batch["canvas_boxes"], batch["targets"], batch["assigned"])
        return self.loss(predictions, *parts, known["num_positives"])


def share_of(batch: dict[str, Any]) -> Tensor:
    """How much of the canvas is picture: float32 [B,4], (width, height) twice, as cxcywh needs it."""
    height, width = batch["image"].shape[2:]
    inner = batch["inner"].astype("float32")
    return paddle.stack([inner[:, 1] / width, inner[:, 0] / height], axis=-1).tile([1, 2])


def check_dense(model: nn.Layer, key: str = "model") -> None:
    """Raises UserError unless `model` offers what Methods for dense detectors ask for."""
    missing = [name for name in ("anchors", "dense") if not promises(model).offers(name)]
    if missing:
        raise UserError(f"{key}: {type(model).__name__} answers at no anchors: it has no {', '.join(missing)}")
