"""What a loss may promise beyond being called: every optional part, with its default."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paddle import Tensor, nn

from ppvision.nn.promises import Promises, promises

__all__ = ["Loss", "loss_promises"]


class Loss(Promises):
    """Base of all losses of the suite, called as the Method that uses them says.

    Attributes:
        ignore_index: label that counts nowhere; None: all labels count.
        class_weights: one factor per class; None: all are alike.
    """

    ignore_index: int | None = None
    class_weights: Sequence[float] | None = None

    def normaliser(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The denominators of this micro-batch, which the Trainer averages over micro-batches and processes and gives
        back as `batch["normaliser"]`; none: the loss averages over its micro-batch.
        """
        return {}


def loss_promises(loss: nn.Layer) -> Loss:
    """The loss itself, or a loss of another package with the defaults."""
    return promises(loss, Loss)
