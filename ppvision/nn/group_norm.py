"""Group normalisation that converts to ONNX.

paddle2onnx 2.1 leaves the epsilon of its group norm uninitialised: the file holds whatever was in memory (1e-20,
-2e26, ...), and the numbers are a little wrong, very wrong or NaN, from one conversion to the next.
"""

from __future__ import annotations

import paddle
from paddle import Tensor, nn

__all__ = ["GroupNorm"]


class GroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` of [B,C,H,W], in a static graph written out in elementary operations."""

    def forward(self, x: Tensor) -> Tensor:
        if paddle.in_dynamic_mode():
            return super().forward(x)
        channels, height, width = x.shape[1:]
        rows = x.reshape([0, self._num_groups, -1])
        rows = rows - rows.mean(-1, keepdim=True)
        rows = rows * paddle.rsqrt(rows.square().mean(-1, keepdim=True) + self._epsilon)
        x = rows.reshape([-1, channels, height, width])
        return x * self.weight.reshape([1, -1, 1, 1]) + self.bias.reshape([1, -1, 1, 1])
