"""Loss functions: what each promises stands in `ppvision.losses.base`."""

from __future__ import annotations

NAMES: dict[str, str] = {
    "cross_entropy": "ppvision.losses.cross_entropy:CrossEntropy",
    "dense_loss": "ppvision.losses.dense_detection:DenseLoss",
    "set_loss": "ppvision.losses.detection:SetLoss",
    "soft_cross_entropy": "ppvision.losses.soft_cross_entropy:SoftCrossEntropy",
}
