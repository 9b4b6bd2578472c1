"""Stochastic depth (Huang et al., "Deep Networks with Stochastic Depth", arXiv:1603.09382), per sample."""

from __future__ import annotations

import paddle
from paddle import Tensor, nn

__all__ = ["DropPath"]


class DropPath(nn.Layer):
    """In training zeroes a whole sample of a residual branch with probability `rate` and scales the others by 1 / (1 -
    rate).

    Identity in evaluation and for rate 0. Draws from Paddle's generator, which the trainer seeds at every step.
    """

    def __init__(self, rate: float = 0.0):
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"DropPath: rate must be in [0, 1), not {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1.0 - self.rate
        mask = (paddle.rand([x.shape[0]] + [1] * (x.ndim - 1)) < keep).astype(x.dtype)
        return x * mask / keep

    def extra_repr(self) -> str:
        return f"rate={self.rate}"
