"""Group DETR: K groups of queries learn from every picture, one of them is deployed.

Papers:   Q. Chen et al., "Group DETR: Fast DETR Training with Group-Wise One-to-Many Assignment", arXiv:2207.13085;
          Q. Chen et al., "Group DETR v2", arXiv:2211.03594; H. Zhang et al., "DINO", arXiv:2203.03605 (denoising).
Checked:  groups decoded together equal each decoded alone and a block-diagonal mask, K = 1 equals method `detr` bit for
          bit (tests/methods/test_group_detr.py).
Deviates: PaddleDetection's version mixes boxes and logits in its denoising queries and decodes all groups at inference;
          ours has references as logits throughout and the deployed network has one group. All groups start alike
          (PaddleDetection gives the prior bias to the first one only).

One-to-one matching gives every object a single positive query per picture. K groups of the same size, matched each for
itself and blind to each other, give K, without making duplicates pay.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import paddle
from paddle import Tensor, nn

from ppvision.device import tensor_of
from ppvision.errors import ArgumentError, UserError, at_least, within
from ppvision.losses.detection import Predictions
from ppvision.methods import denoising as dn
from ppvision.methods.detr import DetrTraining
from ppvision.models.queries import Context, QuerySet

__all__ = ["GroupDetr"]


class GroupDetr(DetrTraining):
    """K groups of queries, and optionally contrastive denoising in each.

    Args:
        model: the detector; its own queries are the first group.
        groups: K; the queries of groups 2 to K belong to the Method.
        denoising: noised positives per group of queries (100 in DINO), spread over as many copies of the objects as
            that allows; 0 for none.
        label_noise: half of it is the probability that a noised object gets a random class.
        box_noise: how far corners of noised boxes move at most, in half sides.
        joint_attention: the groups see each other, as they must not: for comparison only.
        loss: as for method `detr`; default `SetLoss`.

    Raises:
        UserError: the model is no DETR host.
    """

    def __init__(
        self,
        model: nn.Layer,
        groups: int = 11,
        denoising: int = 0,
        label_noise: float = 0.5,
        box_noise: float = 1.0,
        joint_attention: bool = False,
        loss: nn.Layer | None = None,
    ):
        super().__init__(model, loss)
        at_least(1, groups=groups)
        at_least(0, denoising=denoising, box_noise=box_noise)
        within(0, 1, label_noise=label_noise)
        if joint_attention and denoising:
            raise ArgumentError("joint_attention", "lets noised objects tell all groups where to look; set denoising 0")
        self.num_groups = groups
        self.num_denoising = denoising
        self.joint = joint_attention
        self.label_noise, self.box_noise = label_noise, box_noise
        self.groups = nn.LayerList([model.new_queries() for _ in range(groups - 1)])
        tables = groups if denoising else 0
        self.denoising = nn.LayerList([dn.table(model.num_classes, model.dim) for _ in range(tables)])

    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Adds `targets` and, with denoising, `noised`: one draw per group."""
        batch = super().prepare(batch)
        if not self.num_denoising:
            return batch
        targets = batch["targets"]
        copies = dn.num_denoising_groups(self.num_denoising, targets.labels.shape[1])
        given = (targets, self.model.num_classes, copies, self.label_noise, self.box_noise)
        return {**batch, "noised": [dn.draw(self.rng, *given) for _ in range(self.num_groups)]}

    def normaliser(self, phase: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        known = super().normaliser(phase, batch)
        if self.num_denoising:
            known["num_noised"] = known["num_boxes"] * batch["noised"][0].copies
        return known

    def questions(self, context: Context) -> list[QuerySet]:
        """The queries of every group."""
        return [self.model.own_queries(context), *(queries(context) for queries in self.groups)]

    def losses(self, phase: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        return self.detect(self.model.encode(batch["image"], batch.get("valid")), batch)[0]

    def detect(self, context: Context, batch: dict[str, Any]) -> tuple[dict[str, Tensor], list[tuple[Tensor, Tensor]]]:
        """The loss terms of detection, and the answers to the queries of all groups, without the noised ones."""
        sets, count = self.questions(context), batch["image"].shape[0]
        asked = self.noised(sets, batch) if self.num_denoising else sets
        whole = asked[0] if self.num_groups == 1 else QuerySet.stack(asked, count)
        if self.joint:
            whole = replace(whole, groups=1)
        layers = self.model.decode(context, whole)
        if not self.num_denoising:
            return self.compute_loss(sets, layers, batch), layers
        size = batch["noised"][0].labels.shape[1]
        noised, layers = zip(*(split(prediction, self.num_groups, size) for prediction in layers), strict=True)
        known = batch["normaliser"]
        with paddle.amp.auto_cast(enable=False):
            predictions = Predictions.of(noised, self.num_groups)
            terms = dn.denoising_terms(
                self.loss, predictions, batch["targets"], batch["noised"][0].copies, known["num_noised"]
            )
        return {**self.compute_loss(sets, list(layers), batch), **terms}, list(layers)

    def noised(self, sets: list[QuerySet], batch: dict[str, Any]) -> list[QuerySet]:
        """Every group behind its noised objects.

        Raises:
            UserError: the queries of the host are no boxes.
        """
        first, count = sets[0], batch["image"].shape[0]
        if first.references.shape[-1] != 4 or first.positions is not None:
            raise UserError(f"method.denoising: the queries of {type(self.model).__name__} are no boxes; set it to 0")
        padded, copies = batch["targets"].labels.shape[1], batch["noised"][0].copies
        mask = tensor_of(dn.denoising_mask(padded, copies, first.references.shape[1]))
        out = []
        for queries, noised, table in zip(sets, batch["noised"], self.denoising, strict=True):
            if queries.content is None:
                shape = [*queries.references.shape[:2], self.model.dim]
                queries = replace(queries, content=paddle.zeros(shape))
            out.append(QuerySet.join([noised.queries(table.weight), queries], count, mask=mask))
        return out

    def training_graph(self) -> nn.Layer:
        """From picture to the answers to all queries, noised ones included, for `engine.memory`."""
        return _Asked(self)


class _Asked(nn.Layer):
    """What a training step decodes, without the targets it depends on: noised objects are as many as there can be."""

    def __init__(self, method: GroupDetr):
        super().__init__()
        self.model, self.method = method.model, [method]  # in a list, so that it is no part of this layer

    def forward(self, image: Tensor) -> list[tuple[Tensor, Tensor]]:
        return self.predictions(image)

    @paddle.jit.not_to_static  # sizes are fixed, so there is nothing to translate
    def predictions(self, image: Tensor) -> list[tuple[Tensor, Tensor]]:
        (method,) = self.method
        context = self.model.encode(image)
        sets = [replace(queries, proposals=None) for queries in method.questions(context)]
        if method.num_denoising:
            count = 2 * method.num_denoising
            noised = QuerySet(paddle.zeros([1, count, 4]), paddle.zeros([1, count, self.model.dim]))
            sets = [QuerySet.join([noised, queries], image.shape[0]) for queries in sets]
        return self.model.decode(context, sets[0] if len(sets) == 1 else QuerySet.stack(sets, image.shape[0]))


Prediction = tuple[Tensor, Tensor]


def split(prediction: Prediction, groups: int, first: int) -> tuple[Prediction, Prediction]:
    """Logits and boxes [B,groups*T,..] -> those of the first `first` queries of every group, and of the others."""
    parts: list[list[Tensor]] = [[], []]
    for x in prediction:
        batch, count, width = x.shape
        grouped = x.reshape([batch, groups, count // groups, width])
        for part, piece in zip(parts, (grouped[:, :, :first], grouped[:, :, first:]), strict=True):
            part.append(piece.reshape([batch, -1, width]))
    return tuple(parts[0]), tuple(parts[1])
