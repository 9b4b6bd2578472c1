"""The loss scale of fp16 training: small gradients would vanish without it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class LossScaler:
    """Halved on overflow, down to 1, and doubled after `growth_interval` clean steps. Scale 1 means off.

    Attributes:
        scale: what a loss is multiplied by.
        enabled: whether it may grow (fp16).
        growth_interval: clean steps until it does.
        clean: steps since the last overflow or growth.
    """

    scale: float = 1.0
    enabled: bool = False
    growth_interval: int = 2000
    clean: int = 0

    def after(self, overflow: bool) -> None:
        """Adapt the scale after a step."""
        if overflow:
            self.scale = max(self.scale / 2, 1.0)
            self.clean = 0
        elif self.enabled:
            self.clean += 1
            if self.clean >= self.growth_interval:
                self.scale *= 2
                self.clean = 0
