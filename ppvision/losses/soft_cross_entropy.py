"""Cross entropy against probabilities: mixed, smoothed or predicted by another network, instead of one class each."""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ppvision.losses.base import Loss

__all__ = ["SoftCrossEntropy", "smoothed"]


def smoothed(label: Tensor, num_classes: int, label_smoothing: float = 0.0) -> Tensor:
    """Integers [...] -> probabilities float32 [...,num_classes]: 1 - e + e / K for the label, e / K for the others."""
    share = label_smoothing / num_classes
    return F.one_hot(label.astype("int64"), num_classes) * (1.0 - label_smoothing) + share


class SoftCrossEntropy(Loss):
    """Mean over images of -sum of target * log softmax(logits), in float32.

    With one-hot targets this is the ordinary cross entropy.
    """

    def normaliser(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """{"images": number of images}."""
        return {"images": paddle.full([], batch["soft_label"].shape[0], "float32")}

    def forward(self, logits: Tensor, batch: dict[str, Any]) -> Tensor:
        """Scalar.

        Args:
            logits: [B,...,K]; axes between the first and the last (tokens) are averaged.
            batch: `soft_label` probabilities of the same shape; `normaliser["images"]`.
        """
        terms = -(batch["soft_label"] * F.log_softmax(logits.astype("float32"), axis=-1)).sum(-1)
        known = batch["normaliser"]
        return terms.flatten(1).mean(1).sum() / known["images"] if terms.ndim > 1 else terms.sum() / known["images"]
