"""Linear probing: a frozen network evaluated by a linear classifier on its features.

Only the named layers are trained; the rest stays in evaluation mode, without gradient. For `cae_v2_*` with
`num_classes: K, pool: cls` these are the batch norm without scale and the linear layer on the class token: the
protocol of CAE (arXiv:2202.03026) and MAE. Any classifier works whose last layers can be named.
"""

from __future__ import annotations

from typing import Any

from paddle import Tensor, nn

from ppvision.errors import ArgumentError, did_you_mean, require
from ppvision.losses.base import loss_promises
from ppvision.losses.cross_entropy import CrossEntropy
from ppvision.methods.base import Method


class LinearProbe(Method):
    """Cross entropy through the last layers only.

    Args:
        model: a classifier, [B,3,H,W] -> [B,K].
        loss: called as `loss(logits, batch)`.
        trained: names of the layers that learn; the other layers are frozen.

    Raises:
        UserError: the network has no layer of such a name.
    """

    components = {"loss": "loss"}

    def __init__(self, model: nn.Layer, loss: nn.Layer | None = None, trained: tuple[str, ...] = ("fc_norm", "head")):
        super().__init__()
        self.model, self.loss = model, loss if loss is not None else CrossEntropy()
        require(bool(trained), "trained", "names no layer, so nothing would learn")
        known = [name for name, _ in model.named_children()]
        for name in trained:
            if name not in known:
                near = did_you_mean(name, known)
                raise ArgumentError("trained", f"names '{name}': {type(model).__name__} has no layer '{name}'{near}")
        self.trained = tuple(trained)
        for name, parameter in model.named_parameters():
            if name.split(".")[0] not in self.trained:
                parameter.stop_gradient = True

    def train(self) -> None:
        """Training mode for the trained layers alone: stochastic depth and batch statistics of the rest rest."""
        super().train()
        for name, layer in self.model.named_children():
            if name not in self.trained:
                layer.eval()

    def normaliser(self, phase: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        return loss_promises(self.loss).normaliser(batch)

    def losses(self, phase: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {"main": self.loss(self.model(batch["image"]), batch)}
