"""Training of a detector of the DETR family: every decoder layer and the encoder's proposals against the objects.

Papers:   N. Carion et al., "End-to-End Object Detection with Transformers", arXiv:2005.12872; X. Zhu et al.,
          "Deformable DETR", arXiv:2010.04159 (focal loss, proposals).
Checked:  losses against `transformers` (tests/losses/test_against_transformers.py); accumulation over micro-batches
          with unequal numbers of objects equals one big batch (tests/methods/test_detr.py).
Deviates: nothing. Crowd boxes are left out, as upstream's data sets do.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor, nn

from ppvision.losses.detection import Predictions, SetLoss, Targets
from ppvision.methods.base import Method
from ppvision.models.detr import Detr, check_detector
from ppvision.models.queries import Proposals, QuerySet

__all__ = ["DetrTraining"]


class DetrTraining(Method):
    """One-to-one matching for any network with `encode`, `own_queries` and `decode`.

    Args:
        model: the detector.
        loss: called as `loss(layers, targets, num_boxes, groups=…, proposals=…)`; default `SetLoss`, the weights of
            DAB-DETR and DINO.

    Raises:
        UserError: the model is no DETR host.
    """

    components = {"loss": "loss"}

    def __init__(self, model: nn.Layer, loss: nn.Layer | None = None):
        super().__init__()
        check_detector(model)
        self.model: Detr = model
        self.loss = loss if loss is not None else SetLoss()

    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Adds `targets`."""
        return {**super().prepare(batch), "targets": Targets.of(batch)}

    def normaliser(self, phase: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {"num_boxes": paddle.full([], float(batch["targets"].total))}

    def losses(self, phase: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        context = self.model.encode(batch["image"], batch.get("valid"))
        queries = self.model.own_queries(context)
        return self.compute_loss([queries], self.model.decode(context, queries), batch)

    def compute_loss(self, sets: list[QuerySet], layers: list[tuple[Tensor, Tensor]], batch: dict[str, Any]) -> dict:
        """The loss of the predictions for `sets`, which stand one after the other."""
        known = batch["normaliser"]
        proposals = [s.proposals for s in sets if s.proposals is not None]
        return self.loss(
            layers,
            batch["targets"],
            known["num_boxes"],
            groups=len(sets),
            proposals=side_by_side(proposals) if proposals else None,
        )


def side_by_side(proposals: list[Proposals]) -> Predictions:
    """Proposals of all groups, to be matched in each."""
    return Predictions.of_groups([(p.logits, p.boxes) for p in proposals], proposals[0].binary)
