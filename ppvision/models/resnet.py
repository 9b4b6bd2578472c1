"""ResNet: classifier, and the backbone of most detectors.

Paper:    K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", arXiv:1512.03385.
Checked:  against `paddle.vision.models.resnet18|34|50|101` with the same weights, bitwise; parameters and
          multiply-adds against torchvision's documentation; as a backbone against `transformers`
          (tests/models/test_against_transformers_deformable_detr.py).
Deviates: the stride of a bottleneck is in its 3x3 convolution, as in torchvision ("v1.5"); the paper had it in the
          first 1x1. The names are torchvision's: `conv1`, `bn1`, `layer1.0.conv1`, `layer1.0.downsample.0`, `fc`.
"""

from __future__ import annotations

from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppvision.errors import at_least, require
from ppvision.models.network import Network
from ppvision.nn.frozen_bn import FrozenBatchNorm2D

__all__ = ["VARIANTS", "ResNet"]

VARIANTS = {
    "18": dict(block="basic", depths=(2, 2, 2, 2)),
    "34": dict(block="basic", depths=(3, 4, 6, 3)),
    "50": dict(block="bottleneck", depths=(3, 4, 6, 3)),
    "101": dict(block="bottleneck", depths=(3, 4, 23, 3)),
    "debug": dict(num_classes=10, block="basic", depths=(1, 1, 1, 1), width=8),  # ours, for tests
}


def _conv(num_in: int, num_out: int, kernel: int, stride: int = 1) -> nn.Conv2D:
    """Kaiming-normal over the outputs, as torchvision starts."""
    start = nn.initializer.KaimingNormal(fan_in=num_out * kernel * kernel)
    attr = paddle.ParamAttr(initializer=start)
    return nn.Conv2D(num_in, num_out, kernel, stride, kernel // 2, weight_attr=attr, bias_attr=False)


class BasicBlock(nn.Layer):
    """Two 3x3 convolutions, [B,in,H,W] -> [B,channels,H/stride,W/stride]."""

    expansion = 1

    def __init__(self, num_in: int, channels: int, stride: int, norm: type[nn.Layer]):
        super().__init__()
        self.conv1, self.bn1 = _conv(num_in, channels, 3, stride), norm(channels)
        self.conv2, self.bn2 = _conv(channels, channels, 3), norm(channels)
        self.downsample = _shortcut(num_in, channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Layer):
    """1x1, 3x3 and 1x1 convolutions, [B,in,H,W] -> [B,4*channels,H/stride,W/stride]."""

    expansion = 4

    def __init__(self, num_in: int, channels: int, stride: int, norm: type[nn.Layer]):
        super().__init__()
        self.conv1, self.bn1 = _conv(num_in, channels, 1), norm(channels)
        self.conv2, self.bn2 = _conv(channels, channels, 3, stride), norm(channels)
        self.conv3, self.bn3 = _conv(channels, 4 * channels, 1), norm(4 * channels)
        self.downsample = _shortcut(num_in, 4 * channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def _shortcut(num_in: int, num_out: int, stride: int, norm: type[nn.Layer]) -> nn.Sequential | None:
    if stride == 1 and num_in == num_out:
        return None
    return nn.Sequential(_conv(num_in, num_out, 1, stride), norm(num_out))


class ResNet(Network):
    """Classifier [B,3,H,W] -> logits [B,num_classes], and backbone.

    Args:
        num_classes: of the classifier; 0 leaves `fc` out: a backbone, whose `forward` gives `features`.
        block: "basic" (18, 34) or "bottleneck" (50, 101).
        depths: blocks of the four stages.
        width: channels of the stem.
        frozen_bn: statistics, scale and shift of every batch norm stay as they are loaded: what detectors do, whose
            batches are too small for statistics.
        freeze_at: so many parts from the image on are never trained: 1 the stem, 2 stem and first stage (c2), up to 5.

    Attributes:
        feature_channels: level -> channels; "c2" is stride 4.
        feature_strides: level -> stride.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        block: Literal["basic", "bottleneck"] = "bottleneck",
        depths: tuple[int, int, int, int] = (3, 4, 6, 3),
        width: int = 64,
        frozen_bn: bool = False,
        freeze_at: int = 0,
    ):
        super().__init__()
        at_least(0, num_classes=num_classes)
        at_least(1, depths=depths, width=width)
        require(0 <= freeze_at <= 5, "freeze_at", f"is 0 (nothing) to 5 (everything but fc), got {freeze_at}")
        require(block in BLOCKS, "block", f"is {' or '.join(BLOCKS)}, got {block}")
        kind = BLOCKS[block]
        self.num_classes, self.depths = num_classes, tuple(depths)

        def norm_of(part: int) -> type[nn.Layer]:
            return FrozenBatchNorm2D if frozen_bn or part < freeze_at else nn.BatchNorm2D

        self.conv1, self.bn1 = _conv(3, width, 7, 2), norm_of(0)(width)
        channels = width
        for stage, depth in enumerate(depths):
            inner = width << stage
            blocks = []
            for i in range(depth):
                blocks.append(kind(channels, inner, 2 if stage and not i else 1, norm_of(stage + 1)))
                channels = inner * kind.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.feature_channels = {f"c{s + 2}": (width << s) * kind.expansion for s in range(4)}
        self.feature_strides = {f"c{s + 2}": 4 << s for s in range(4)}
        self.recompute_blocks = tuple(f"layer{s}" for s in range(max(freeze_at, 1), 5))
        if num_classes:
            self.fc = nn.Linear(channels, num_classes)
        stages = [(self.conv1, self.bn1), (self.layer1,), (self.layer2,), (self.layer3,), (self.layer4,)]
        for part in (part for stage in stages[:freeze_at] for part in stage):
            for parameter in part.parameters():
                parameter.trainable = False

    def features(self, image: Tensor) -> dict[str, Tensor]:
        """Maps of the four stages, fine to coarse, "c2" (1/4) to "c5" (1/32), each after its ReLU."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(image))), 3, 2, 1)
        c2 = self.layer1(x)
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return {"c2": c2, "c3": c3, "c4": c4, "c5": self.layer4(c4)}

    def forward(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        maps = self.features(image)
        if not self.num_classes:
            return maps
        return self.fc(F.adaptive_avg_pool2d(maps["c5"], 1).flatten(1))


BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}
