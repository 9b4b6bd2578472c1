"""Batch normalisation whose statistics, scale and shift never change."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

__all__ = ["FrozenBatchNorm2D"]

HALVES = (paddle.float16, paddle.bfloat16)


class FrozenBatchNorm2D(nn.Layer):
    """[B,C,H,W] -> [B,C,H,W], in training as in evaluation; the names of `nn.BatchNorm2D`, none of them trained.

    Not a subclass of it, so that conversion to synchronised batch norm leaves it alone.

    Args:
        num_features: C.
        epsilon: added to the variance.
    """

    def __init__(self, num_features: int, epsilon: float = 1e-5):
        super().__init__()
        self.epsilon = epsilon
        self.weight, self.bias = self._fixed(num_features, 1.0), self._fixed(num_features, 0.0)
        self._mean, self._variance = self._fixed(num_features, 0.0), self._fixed(num_features, 1.0)

    def _fixed(self, count: int, value: float) -> Tensor:
        attr = paddle.ParamAttr(trainable=False, initializer=nn.initializer.Constant(value))
        return self.create_parameter([count], attr=attr)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self._mean, self._variance, self.weight, self.bias, training=False, epsilon=self.epsilon)
