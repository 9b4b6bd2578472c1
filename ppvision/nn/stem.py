"""A few plain convolutions as the backbone of miniature detectors."""

from __future__ import annotations

from collections.abc import Sequence

import paddle.nn.functional as F
from paddle import Tensor, nn

from ppvision.errors import require
from ppvision.nn.group_norm import GroupNorm

__all__ = ["ConvStem"]


class ConvStem(nn.Layer):
    """[B,3,H,W] -> a map of stride 8, "c3", and on the way there one of stride 4, "c2": convolutions 3x3, each with
    group norm and ReLU; the first three have stride 2. No batch norm, so that small batches and accumulation do no
    harm.

    Args:
        widths: channels of each convolution, at least three; multiples of 4.
    """

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        require(len(widths) >= 3, "stem", f"has {len(widths)} convolutions; stride 8 takes three")
        require(all(w % 4 == 0 and w > 0 for w in widths), "stem", f"has widths that are no multiples of 4: {widths}")
        inputs = [3, *widths[:-1]]
        self.convs = nn.LayerList(
            nn.Conv2D(a, b, 3, stride=2 if i < 3 else 1, padding=1, bias_attr=False)
            for i, (a, b) in enumerate(zip(inputs, widths, strict=True))
        )
        self.norms = nn.LayerList(GroupNorm(4, width) for width in widths)
        self.feature_channels, self.feature_strides = {"c2": widths[1], "c3": widths[-1]}, {"c2": 4, "c3": 8}

    def features(self, image: Tensor) -> dict[str, Tensor]:
        """{"c2": [B,C,H/4,W/4], "c3": [B,C,H/8,W/8]}, sides rounded up."""
        x, maps = image, []
        for conv, norm in zip(self.convs, self.norms):
            x = F.relu(norm(conv(x)))
            maps.append(x)
        return {"c2": maps[1], "c3": x}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return self.features(image)
