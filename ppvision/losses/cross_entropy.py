"""Cross entropy over classes for images and for pixels, averaged over what is labelled.

Checked against `paddle.nn.functional.cross_entropy` (tests/losses). Upstream PaddleSeg divides by mean(mask) + 1e-8
after averaging, which is the same mean over labelled pixels up to the 1e-8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ppvision.errors import UserError, at_least, require, within
from ppvision.losses.base import Loss
from ppvision.nn.constant import Constant


def fits_images(logits: Any, batch: dict[str, Any]) -> None:
    """Refuse an output that cannot belong to the labels.

    Raises:
        UserError: no tensor, or classes per image where labels are per pixel, or the other way round.
    """
    if "label" not in batch:
        raise UserError("method.loss: the data set gives no 'label' to train a classifier with")
    if not isinstance(logits, Tensor):
        raise UserError(f"method.loss: the network gives a {type(logits).__name__}, not logits; is it a classifier?")
    expected = [logits.shape[0], *logits.shape[2:]]
    if logits.ndim < 2 or list(batch["label"].shape) != expected:
        raise UserError(
            f"method.loss: the network gives logits {list(logits.shape)}, the labels are {list(batch['label'].shape)}; "
            "model.type and data.type are of different tasks"
        )


class CrossEntropy(Loss):
    """Mean of -log p(label) over labels that are not ignored.

    Args:
        ignore_index: label that counts neither in the sum nor in the mean.
        label_smoothing: share of the target spread evenly over all classes, 0 <= value < 1.
        class_weights: one factor per class on the terms (the mean is over labels, not over weights), or none.
    """

    def __init__(
        self, ignore_index: int = 255, label_smoothing: float = 0.0, class_weights: Sequence[float] | None = None
    ):
        super().__init__()
        within(0, 1, below=True, label_smoothing=label_smoothing)
        at_least(0, class_weights=class_weights)
        positive = class_weights is None or sum(class_weights) > 0
        require(positive, "class_weights", f"needs a factor per class, not all of them 0, got {class_weights}")
        within(-(2**31), 2**31 - 1, ignore_index=ignore_index)
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing
        self.class_weights = None if class_weights is None else [float(w) for w in class_weights]
        self.factors = Constant(np.asarray(class_weights or [], np.float32))

    def normaliser(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """{"labels": number of labels that count}."""
        return {"labels": (batch["label"].astype("int32") != self.ignore_index).astype("float32").sum()}

    def forward(self, logits: Tensor, batch: dict[str, Any]) -> Tensor:
        """Scalar loss in float32.

        Args:
            logits: [B,K] or [B,K,H,W].
            batch: `label` [B] or [B,H,W], integers; `normaliser["labels"]`, by which the sum is divided.
        """
        fits_images(logits, batch)
        label = batch["label"].astype("int64")
        counts = label != self.ignore_index
        logits = logits.astype("float32")
        target = paddle.where(counts, label, paddle.zeros_like(label))
        # the fused operator: a third of the time of log_softmax and a gather, and it keeps no second copy of the map
        picked = F.cross_entropy(logits, target.unsqueeze(1), axis=1, reduction="none").squeeze(1)
        if self.class_weights is not None:
            if len(self.class_weights) != logits.shape[1]:
                raise UserError(f"cross_entropy: {len(self.class_weights)} class_weights for {logits.shape[1]} classes")
            picked = picked * paddle.gather(self.factors(), target.flatten()).reshape(target.shape)
        if self.label_smoothing:
            even = F.log_softmax(logits, axis=1).mean(1)
            picked = (1 - self.label_smoothing) * picked - self.label_smoothing * even
        total = (picked * counts.astype("float32")).sum()
        known = batch["normaliser"]
        return total / known["labels"].clip(min=1e-6)
