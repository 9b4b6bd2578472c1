"""UperNet: a feature pyramid with pooled context on top, as the head of any backbone with `features`.

Paper:    T. Xiao, Y. Liu, B. Zhou, Y. Jiang, J. Sun, "Unified Perceptual Parsing for Scene Understanding",
          arXiv:1807.10221.
Checked:  the layers of mmsegmentation's UPerHead, by name and order; pooling against Paddle's adaptive pooling (tests).
Deviates: adaptive pooling is a product with bin matrices, equal up to rounding, so that it converts to ONNX with free
          sides (paddle2onnx converts Paddle's own wrongly). Sizes come from the finest map, the image decides the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppvision.errors import at_least, require, within
from ppvision.models.maformer import VARIANTS as MAFORMERS
from ppvision.models.maformer import Fusion, Gld, MAFormer
from ppvision.models.network import Network, promises
from ppvision.nn.conv import ConvBN, conv2d
from ppvision.nn.resize import resize

__all__ = ["VARIANTS", "UperNet", "UperNetHead", "UperNetMAFormer", "adaptive_avg_pool2d"]

VARIANTS = {
    "small": dict(backbone="small", drop_path=0.3),
    "base": dict(backbone="base", drop_path=0.3),
    "large": dict(backbone="large", drop_path=0.3),
    # ours, for tests
    "debug": dict(num_classes=19, backbone="debug", channels=16, bins=(1, 2), image_size=64, fused_stages=3),
}


def bin_matrix(length: int | Tensor, num_bins: int) -> Tensor:
    """[num_bins,length]: row i averages cells floor(i L / s) ... ceil((i + 1) L / s) - 1."""
    i = paddle.arange(num_bins, dtype="int64")
    start, stop = i * length // num_bins, ((i + 1) * length + num_bins - 1) // num_bins
    cell = paddle.arange(length, dtype="int64").unsqueeze(0)
    member = paddle.logical_and(cell >= start.unsqueeze(1), cell < stop.unsqueeze(1)).astype("float32")
    return member / (stop - start).astype("float32").unsqueeze(1)


def adaptive_avg_pool2d(x: Tensor, num_bins: int) -> Tensor:
    """Mean over `num_bins` x `num_bins` bins that cover the map, [B,C,H,W] -> [B,C,num_bins,num_bins]; H and W free."""
    c, h, w = x.shape[1:]
    rows = paddle.matmul(bin_matrix(h, num_bins), x.flatten(0, 1))
    cells = paddle.matmul(rows, bin_matrix(w, num_bins), transpose_y=True)
    return cells.reshape([-1, c, num_bins, num_bins])


class UperNetHead(nn.Layer):
    """Maps, fine to coarse -> logits [B,num_classes,h,w] at the size of the finest.

    Args:
        num_in: channels of each map.
        num_classes: of the logits.
        channels: of everything inside.
        bins: sides of the grids the coarsest map is pooled to.
        dropout: of whole channels before the classifier.
    """

    def __init__(
        self,
        num_in: Sequence[int],
        num_classes: int,
        channels: int = 512,
        bins: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
    ):
        super().__init__()
        at_least(1, num_classes=num_classes, channels=channels, bins=bins)
        require(bool(bins), "bins", "names no grid")
        within(0, 1, below=True, dropout=dropout)
        self.bins, self.dropout = tuple(bins), dropout
        self.pooled = nn.LayerList(ConvBN(num_in[-1], channels, 1) for _ in bins)
        self.context = ConvBN(num_in[-1] + len(self.bins) * channels, channels, 3)
        self.laterals = nn.LayerList(ConvBN(n, channels, 1) for n in num_in[:-1])
        self.smooth = nn.LayerList(ConvBN(channels, channels, 3) for _ in num_in[:-1])
        self.fuse = ConvBN(len(num_in) * channels, channels, 3)
        self.classifier = conv2d(channels, num_classes, 1, bias=True)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        top = maps[-1]
        pooled = [resize(layer(adaptive_avg_pool2d(top, n)), top.shape[2:]) for n, layer in zip(self.bins, self.pooled)]
        levels = [layer(x) for layer, x in zip(self.laterals, maps)]
        levels.append(self.context(paddle.concat([top, *pooled], axis=1)))
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + resize(levels[i], levels[i - 1].shape[2:])
        size = levels[0].shape[2:]
        # Smoothed in place of the sums: the path downwards uses the sums themselves, as the published head does.
        outs = [layer(x) for layer, x in zip(self.smooth, levels)] + levels[-1:]
        x = self.fuse(paddle.concat([outs[0], *(resize(out, size) for out in outs[1:])], axis=1))
        return self.classifier(F.dropout(x, self.dropout, axis=[0, 1], training=self.training))


class UperNet(Network):
    """Segmenter [B,3,H,W] -> logits [B,num_classes,H,W] of a backbone and `UperNetHead`.

    Args:
        backbone: offers `features(x)` and `feature_channels`, level -> channels.
        num_classes: K.
        channels: of the head.
        bins: of the head.
        levels: which of the backbone's levels the head reads, fine to coarse; default: all.
    """

    def __init__(
        self,
        backbone: nn.Layer,
        num_classes: int,
        channels: int = 512,
        bins: Sequence[int] = (1, 2, 3, 6),
        levels: Sequence[str] | None = None,
    ):
        super().__init__()
        unknown = [level for level in levels or () if level not in backbone.feature_channels]
        require(not unknown, "levels", f"names {unknown}; the backbone gives {', '.join(backbone.feature_channels)}")
        self.num_classes, self.backbone = num_classes, backbone
        self.levels = tuple(levels or backbone.feature_channels)
        self.feature_channels = dict(backbone.feature_channels)
        self.feature_strides = dict(backbone.feature_strides)
        self.recompute_blocks = tuple(f"backbone.{name}" for name in promises(backbone).recompute_blocks)
        self.decode_head = UperNetHead(
            [self.feature_channels[level] for level in self.levels], num_classes, channels, bins
        )

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """The backbone's maps by level."""
        return self.backbone.features(x)

    def decode(self, maps: Mapping[str, Tensor], size: Sequence[int | Tensor]) -> Tensor:
        """Maps of `features` -> logits [B,num_classes,*size]."""
        return resize(self.decode_head([maps[level] for level in self.levels]), size)

    def forward(self, image: Tensor) -> Tensor:
        return self.decode(self.features(image), image.shape[2:])


class UperNetMAFormer(UperNet):
    """UperNet on MAFormer.

    Args:
        num_classes: K.
        backbone: size of the MAFormer.
        channels: of the head.
        bins: grids of the pooled context.
        image_size: side the backbone's down-sampling is made for; with `gld: fc` that of its weights.
        gld: how a map becomes global tokens. "conv" makes every size possible; "fc" carries over ImageNet weights.
        fusion: of the backbone's streams.
        fused_stages: 4 gives the last stage, whose windows no longer cover the map, a global stream as well.
        drop_path: stochastic depth of the backbone.
    """

    def __init__(
        self,
        num_classes: int = 150,
        *,
        backbone: Literal["small", "base", "large", "tiny", "debug"] = "small",
        channels: int = 512,
        bins: tuple[int, ...] = (1, 2, 3, 6),
        image_size: int = 512,
        gld: Gld = "conv",
        fusion: Fusion = "maf",
        fused_stages: int = 4,
        drop_path: float = 0.0,
    ):
        options: dict[str, Any] = dict(image_size=image_size, gld=gld, gld_resize=True, fusion=fusion)
        options |= dict(fused_stages=fused_stages, drop_path=drop_path, num_classes=0, out_norms=True)
        super().__init__(MAFormer(**{**MAFORMERS[backbone], **options}), num_classes, channels, bins)
