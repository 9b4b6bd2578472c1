"""Supervised training: one network, one loss, and auxiliary heads that read the network's features while training.

Auxiliary heads are those of RTFormer (arXiv:2210.07124) and of most segmentation networks: trained beside the
decoder, never exported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypedDict

from paddle import Tensor, nn

from ppvision.config import Component, Deferred, build
from ppvision.errors import ArgumentError, UserError, at_least, blame, require
from ppvision.losses.base import loss_promises
from ppvision.losses.cross_entropy import CrossEntropy
from ppvision.methods.base import Method
from ppvision.models.network import promises
from ppvision.nn.resize import resize


class Level(TypedDict):
    """What an auxiliary head must say."""

    level: str


class Auxiliary(Level, total=False):
    """What the Method itself reads of an auxiliary head."""

    weight: Annotated[float, 0]


CALL = "a loss is called as loss(output, batch) and gives one number"
HEAD = Deferred("head", given=("num_in", "num_classes"), default="seg_head", own=Auxiliary)


class Supervised(Method):
    """Loss of the network's output, plus weighted losses of auxiliary heads.

    Args:
        model: the deployable. With `aux` it must offer `features`, `decode`, `feature_channels` and `num_classes`.
        loss: called as `loss(logits, batch)`; the same loss serves the auxiliary heads.
        aux: one mapping per auxiliary head: `level` (a name among the model's features), `weight` (default 0.4),
            `type` (a head, default `seg_head`) and the head's own arguments.
        output_weights: weights of the outputs of a foreign network that returns a list while training.

    Raises:
        UserError: an auxiliary head asks for a level the network does not have, or the loss has another number of
            class weights than the network has classes.
    """

    components = {"loss": "loss", "aux": HEAD}

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
        classes, factors = promises(model).num_classes, loss_promises(self.loss).class_weights
        if classes and factors is not None:
            reason = f"needs one number per class: the network has {classes} classes, {len(factors)} are given"
            require(len(factors) == classes, "loss.class_weights", reason)
        at_least(0, output_weights=output_weights)
        require(sum(output_weights) > 0, "output_weights", f"needs a number above 0, got {list(output_weights)}")
        self.output_weights = tuple(output_weights)
        self.levels = []
        self.weights = []
        heads = []
        channels = promises(model).feature_channels
        for i, item in enumerate(aux):
            part = item if isinstance(item, Component) else HEAD.read(item, f"method.aux.{i}")
            level = part["level"]
            if level not in channels:
                reason = f"cannot be read: {type(model).__name__} has no feature '{level}'"
                raise ArgumentError(f"aux.{i}.level", f"{reason} (it has: {', '.join(channels) or 'none'})")
            heads.append(build("head", part, num_in=channels[level], num_classes=model.num_classes))
            self.levels.append(level)
            self.weights.append(float(part.get("weight", 0.4)))
        self.aux = nn.LayerList(heads)

    def normaliser(self, phase: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        with blame(self.loss, "method.loss", CALL):
            return loss_promises(self.loss).normaliser(batch)

    def compute_loss(self, output: Tensor, batch: dict[str, Any]) -> Tensor:
        """The loss of an output."""
        with blame(self.loss, "method.loss", CALL):
            value = self.loss(output, batch)
        if not isinstance(value, Tensor) or value.size != 1:
            raise UserError(f"method.loss: {type(self.loss).__name__} gives no single number; {CALL}")
        return value.reshape([])

    def losses(self, phase: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        if not self.levels:
            with blame(self.model, "model", "it is called with float32 images [B,3,H,W]"):
                outputs = self.model(batch["image"])
            outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
            if len(outputs) > len(self.output_weights):
                raise UserError(
                    f"method.output_weights: the network returns {len(outputs)} outputs, "
                    f"{len(self.output_weights)} weights are given"
                )
            names = ["main", *(f"aux{i}" for i in range(len(outputs) - 1))]
            return {
                n: w * self.compute_loss(o, batch) for n, w, o in zip(names, self.output_weights, outputs, strict=False)
            }
        size = batch["image"].shape[2:]
        maps = self.model.features(
            batch["image"]
        )  # once: a second forward would cost time and move batch-norm statistics twice
        terms = {"main": self.compute_loss(self.model.decode(maps, size), batch)}
        for i, (level, weight, head) in enumerate(zip(self.levels, self.weights, self.aux, strict=True)):
            terms[f"aux{i}"] = weight * self.compute_loss(resize(head(maps[level]), size), batch)
        return terms
