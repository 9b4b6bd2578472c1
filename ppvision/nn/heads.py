"""Heads for dense prediction that networks and Methods share; `ppvision.nn.HEADS` names those a recipe may ask for."""

from __future__ import annotations

import paddle.nn.functional as F
from paddle import Tensor, nn

from ppvision.nn.conv import conv2d

__all__ = ["SegHead"]


class SegHead(nn.Layer):
    """BN, ReLU, 3x3 convolution, BN, ReLU, 1x1 convolution with bias: RTFormer's head (arXiv:2210.07124) and auxiliary
    head.

    [B,num_in,H,W] -> [B,num_classes,H,W]; the size does not change. Keys: bn1, conv1, bn2, conv2.
    """

    def __init__(self, num_in: int, channels: int, num_classes: int, bn_momentum: float = 0.1):
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        self.bn1 = nn.BatchNorm2D(num_in, momentum=bn_momentum)
        self.conv1 = conv2d(num_in, channels, 3)
        self.bn2 = nn.BatchNorm2D(channels, momentum=bn_momentum)
        self.conv2 = conv2d(channels, num_classes, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(F.relu(self.bn1(x)))
        return self.conv2(F.relu(self.bn2(x)))
