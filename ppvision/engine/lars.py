"""LARS (You et al., "Large Batch Training of Convolutional Networks", arXiv:1708.03888) in the form used for linear
probes (MoCo v3, MAE, CAE): matrices get decay and the trust ratio, vectors neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import paddle

from ppvision.engine.optimizer import LayerDecay, Parameters, check_rates, parameter_groups
from ppvision.errors import at_least, require

__all__ = ["LARS", "Lars"]


class Lars(paddle.optimizer.Momentum):
    """Momentum whose gradient of each matrix is first scaled by trust |w| / |g|. Arguments: those of `Momentum`."""

    def __init__(self, *args: Any, trust: float = 0.001, decay: float = 0.0, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.trust, self.decay = trust, decay

    @paddle.no_grad()
    def step(self) -> None:
        """One update."""
        for group in self._param_groups:
            for parameter in group["params"]:
                if parameter.grad is None or parameter.ndim <= 1:
                    continue
                gradient = parameter.grad + self.decay * parameter
                weight_norm, norm = parameter.norm(), gradient.norm()
                ratio = paddle.where(
                    (weight_norm > 0) & (norm > 0), self.trust * weight_norm / norm, paddle.ones_like(norm)
                )
                parameter.grad.set_value(gradient * ratio)
        super().step()


def LARS(
    parameters: Parameters,
    *,
    lr: float,
    momentum: float = 0.9,
    trust: float = 0.001,
    weight_decay: float = 0.0,
    lr_mult: Mapping[str, float] | None = None,
    no_decay: Sequence[str] = (),
    layer_decay: LayerDecay | None = None,
) -> paddle.optimizer.Optimizer:
    """Momentum with a rate per matrix proportional to the ratio of the norms of weight and gradient."""
    check_rates(lr=lr, momentum=momentum)
    at_least(0, weight_decay=weight_decay)
    require(0 < trust < math.inf, "trust", f"must be above 0, got {trust}")
    groups = parameter_groups(parameters, 0.0, lr_mult, no_decay, layer_decay)
    return Lars(learning_rate=lr, momentum=momentum, parameters=groups, trust=trust, decay=weight_decay)
