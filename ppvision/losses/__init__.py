"""Loss functions. Each is a layer called as `loss(output, batch)` whose `normaliser(batch)` gives the denominators it
divides by.
"""

from __future__ import annotations

from typing import Any

NAMES: dict[str, str] = {
    "cross_entropy": "ppvision.losses.cross_entropy:CrossEntropy",
    "dense_loss": "ppvision.losses.dense_detection:DenseLoss",
    "set_loss": "ppvision.losses.detection:SetLoss",
    "soft_cross_entropy": "ppvision.losses.soft_cross_entropy:SoftCrossEntropy",
}


def normaliser_of(loss: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """What the loss divides by; nothing for a loss of another package, which then averages over its micro-batch."""
    return loss.normaliser(batch) if hasattr(loss, "normaliser") else {}
