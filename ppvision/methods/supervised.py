"""Supervised training: one network, one loss, and auxiliary heads that read the network's features while training.

Auxiliary heads are those of RTFormer (arXiv:2210.07124) and of most segmentation networks: trained beside the
decoder, never exported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paddle import Tensor, nn

from ppvision.config import Component, build
from ppvision.errors import UserError
from ppvision.losses.cross_entropy import CrossEntropy
from ppvision.methods.base import Method
from ppvision.nn.resize import resize


class Supervised(Method):
    """Loss of the network's output, plus weighted losses of auxiliary heads.

    Args:
        model: the deployable. With `aux` it must offer `features`, `decode`, `feature_channels` and `num_classes`.
        loss: called as `loss(logits, batch)`; the same loss serves the auxiliary heads.
        aux: one mapping per auxiliary head: `level` (a name among the model's features), `weight` (default 0.4),
            `type` (a head,
            default `seg_head`) and the head's own arguments.
        output_weights: weights of the outputs of a foreign network that returns a list while training.

    Raises:
        UserError: an auxiliary head asks for a level the network does not have, or the outputs outnumber their weights.
    """

    components = {"loss": "loss"}

    def __init__(
        self,
        model: nn.Layer,
        loss: nn.Layer | None = None,
        aux: Sequence[Mapping[str, Any]] = (),
        output_weights: Sequence[float] = (1.0,),
    ):
        super().__init__()
        self.model = model
        self.loss = loss if loss is not None else CrossEntropy()
        self.output_weights = tuple(output_weights)
        self.levels, self.weights, heads = [], [], []
        for i, item in enumerate(aux):
            spec = {"type": "seg_head", **item}
            level, weight = spec.pop("level", None), spec.pop("weight", 0.4)
            channels = getattr(model, "feature_channels", {})
            if level not in channels:
                raise UserError(
                    f"method.aux.{i}.level: {type(model).__name__} has no feature '{level}' "
                    f"(it has: {', '.join(channels) or 'none'})"
                )
            heads.append(
                build("head", Component(spec, f"method.aux.{i}"), num_in=channels[level], num_classes=model.num_classes)
            )
            self.levels.append(level)
            self.weights.append(float(weight))
        self.aux = nn.LayerList(heads)

    def normaliser(self, phase: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        return self.loss.normaliser(batch)

    def losses(self, phase: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        if not self.levels:
            outputs = self.model(batch["image"])
            outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
            if len(outputs) > len(self.output_weights):
                raise UserError(
                    f"method.output_weights: the network returns {len(outputs)} outputs, "
                    f"{len(self.output_weights)} weights are given"
                )
            names = ["main", *(f"aux{i}" for i in range(len(outputs) - 1))]
            return {n: w * self.loss(o, batch) for n, w, o in zip(names, self.output_weights, outputs, strict=False)}
        size = batch["image"].shape[2:]
        maps = self.model.features(
            batch["image"]
        )  # once: a second forward would cost time and move batch-norm statistics twice
        terms = {"main": self.loss(self.model.decode(maps, size), batch)}
        for i, (level, weight, head) in enumerate(zip(self.levels, self.weights, self.aux, strict=True)):
            terms[f"aux{i}"] = weight * self.loss(resize(head(maps[level]), size), batch)
        return terms
