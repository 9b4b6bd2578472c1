"""Loss functions. Each is a layer called as `loss(output, batch)` whose `normaliser(batch)` gives the denominators it
divides by.
"""

from __future__ import annotations

NAMES: dict[str, str] = {
    "cross_entropy": "ppvision.losses.cross_entropy:CrossEntropy",
    "soft_cross_entropy": "ppvision.losses.soft_cross_entropy:SoftCrossEntropy",
}
