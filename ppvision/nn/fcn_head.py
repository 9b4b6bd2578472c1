"""The fully convolutional head that dense predictors on transformers train beside the main one (mmsegmentation's
FCNHead with one convolution).
"""

from __future__ import annotations

import paddle.nn.functional as F
from paddle import Tensor, nn

from ppvision.nn.conv import ConvBN, conv2d

__all__ = ["FCNHead"]


class FCNHead(nn.Layer):
    """3x3 convolution, BN, ReLU, dropout, 1x1 convolution with bias: [B,num_in,H,W] -> [B,num_classes,H,W]."""

    def __init__(self, num_in: int, num_classes: int, channels: int = 256, dropout: float = 0.1):
        super().__init__()
        self.conv, self.dropout = ConvBN(num_in, channels, 3), dropout
        self.classifier = conv2d(channels, num_classes, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.dropout(self.conv(x), self.dropout, axis=[0, 1], training=self.training))
