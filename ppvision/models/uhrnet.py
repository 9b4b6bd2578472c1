"""U-HRNet: a U-shaped high-resolution network for dense prediction, here with the FCN head as a semantic segmenter.

Paper:    J. Wang, X. Long, G. Chen, Z. Wu, Z. Chen, E. Ding, "U-HRNet: Delving into Improving Semantic Representation
          of High Resolution Network for Dense Prediction", arXiv:2210.07140.
Checked:  against PaddleSeg 2.8.0 (`FCN` over `UHRNet_W18_Small|W18|W48`), whose key names these are: logits and
          training gradients, by the oracle tests; without it by the golden numbers in the tests.
Deviates: upstream's `last_layer`, which no forward uses, is left out, and ignored when a published file is loaded.
          Channel pairs are averaged by two strided slices, upstream by 3-D pooling: equal up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppvision.errors import at_least, require
from ppvision.models.network import Network
from ppvision.nn.conv import ConvBN, conv2d
from ppvision.nn.resize import resize

__all__ = ["VARIANTS", "UHRNet"]

VARIANTS = {  # PaddleSeg 2.8.0, paddleseg/models/backbones/uhrnet.py; modules of stages 2 to 9
    "w18_small": dict(width=18, blocks=2, stem_blocks=2, modules=(1, 2, 2, 2, 1, 1, 1, 1)),
    "w18": dict(width=18, blocks=4, stem_blocks=4, modules=(1, 5, 2, 2, 1, 1, 1, 1)),
    "w48": dict(width=48, blocks=4, stem_blocks=4, modules=(1, 5, 2, 2, 1, 1, 1, 1)),
    "debug": dict(width=2, blocks=1, stem_blocks=1, modules=(1,) * 8, init="kaiming"),  # ours, for tests
}


def pair_mean(x: Tensor) -> Tensor:
    """[B,2C,H,W] -> [B,C,H,W]: mean of channels (0, 1), (2, 3), …"""
    return (x[:, 0::2] + x[:, 1::2]) / 2


def merge(x: Tensor, skip: Tensor) -> Tensor:
    """Half the channels from each of two maps of the same shape, by averaging pairs."""
    return paddle.concat([pair_mean(x), pair_mean(skip)], axis=1)


class Bottleneck(nn.Layer):
    """[B,in,H,W] -> [B,4*channels,H,W]; a shortcut convolution when the two differ."""

    def __init__(self, in_channels: int, channels: int, weight_init: str):
        super().__init__()
        self.conv1 = ConvBN(in_channels, channels, 1, weight_init=weight_init)
        self.conv2 = ConvBN(channels, channels, 3, weight_init=weight_init)
        self.conv3 = ConvBN(channels, 4 * channels, 1, relu=False, weight_init=weight_init)
        self.conv_down = None
        if in_channels != 4 * channels:
            self.conv_down = ConvBN(in_channels, 4 * channels, 1, relu=False, weight_init=weight_init)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.conv_down is None else self.conv_down(x)
        return F.relu(self.conv3(self.conv2(self.conv1(x))) + shortcut)


class BasicBlock(nn.Layer):
    """Two 3x3 convolutions and the identity; the shape does not change."""

    def __init__(self, channels: int, weight_init: str):
        super().__init__()
        self.conv1 = ConvBN(channels, channels, 3, weight_init=weight_init)
        self.conv2 = ConvBN(channels, channels, 3, relu=False, weight_init=weight_init)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(self.conv1(x)) + x)


class Branches(nn.Layer):
    """A chain of blocks per resolution."""

    def __init__(self, channels: Sequence[int], num_blocks: int, name: str, weight_init: str):
        super().__init__()
        self.chains: list[
            list[str]
        ] = []  # names of sublayers; the layers themselves are registered under PaddleSeg's names
        for b, num in enumerate(channels, start=1):
            self.chains.append([f"bb_{name}_branch_layer_{b}_{j}" for j in range(1, num_blocks + 1)])
            for key in self.chains[-1]:
                self.add_sublayer(key, BasicBlock(num, weight_init))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        out = []
        for chain, x in zip(self.chains, maps):  # dy2static knows no strict=
            for key in chain:
                x = getattr(self, key)(x)
            out.append(x)
        return out


class Fuse(nn.Layer):
    """Exchange between two adjacent resolutions [fine, coarse]; a single map only passes its ReLU."""

    def __init__(self, channels: Sequence[int], name: str, weight_init: str, align_corners: bool):
        super().__init__()
        self.up = self.down = ""
        self.align_corners = align_corners
        if len(channels) == 2:
            fine, coarse = channels
            self.up, self.down = f"residual_{name}_layer_1_2", f"residual_{name}_layer_2_1_1"
            self.add_sublayer(self.up, ConvBN(coarse, fine, 1, relu=False, weight_init=weight_init))
            self.add_sublayer(self.down, ConvBN(fine, coarse, 3, 2, relu=False, weight_init=weight_init))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        if not self.up:
            return [F.relu(maps[0])]
        fine, coarse = maps
        up = resize(getattr(self, self.up)(coarse), fine.shape[2:], align_corners=self.align_corners)
        return [F.relu(fine + up), F.relu(coarse + getattr(self, self.down)(fine))]


class Module(nn.Layer):
    """Branches, then their exchange."""

    def __init__(self, channels: Sequence[int], num_blocks: int, name: str, weight_init: str, align_corners: bool):
        super().__init__()
        self.branches_func = Branches(channels, num_blocks, name, weight_init)
        self.fuse_func = Fuse(channels, name, weight_init, align_corners)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return self.fuse_func(self.branches_func(maps))


class Backbone(nn.Layer):
    """[B,3,H,W] -> {"c2" … "c6"}: the outputs that leave the U, `width * 2**i` channels at stride `4 * 2**i`.

    On the way down every stage computes two adjacent resolutions and hands on the coarser; on the way up it hands on
    the finer, merged with the finer output of the stage opposite.
    """

    def __init__(
        self,
        width: int,
        blocks: int,
        stem_blocks: int,
        modules: Sequence[int],
        weight_init: str,
        align_corners: bool,
    ):
        super().__init__()
        self.align_corners = align_corners

        def unit(num_in: int, num_out: int, kernel: int, stride: int = 1) -> ConvBN:
            return ConvBN(num_in, num_out, kernel, stride, weight_init=weight_init)

        def group(**layers: nn.Layer) -> nn.Sequential:
            return nn.Sequential(*layers.items())

        def stage(number: int) -> nn.Sequential:
            # stage 2 is the finest on the way down, stage 8 on the way up
            level = number - 2 if number < 6 else 8 - number
            channels = [width] if number == 9 else [width << level, width << (level + 1)]
            names = [f"st{number}_{m}" for m in range(1, modules[number - 2] + 1)]
            return group(**{f"stage_{n}": Module(channels, blocks, n, weight_init, align_corners) for n in names})

        self.conv_layer1_1 = unit(3, 64, 3, 2)
        self.conv_layer1_2 = unit(64, 64, 3, 2)
        self.la1 = group(
            **{f"bb_layer2_{i + 1}": Bottleneck(256 if i else 64, 64, weight_init) for i in range(stem_blocks)}
        )
        self.tr1 = group(transition_tr1_layer_1=unit(256, width, 3), transition_tr1_layer_2=unit(256, 2 * width, 3, 2))
        self.st2 = stage(2)
        self.tr2 = group(transition_tr2_layer_2=unit(2 * width, 4 * width, 3, 2))
        self.st3 = stage(3)
        self.tr3 = group(transition_tr3_layer_2=unit(4 * width, 8 * width, 3, 2))
        self.st4 = stage(4)
        self.tr4 = group(transition_tr4_layer_2=unit(8 * width, 16 * width, 3, 2))
        self.st5 = stage(5)
        self.tr5 = group(transition_tr5_layer_1=unit(8 * width, 4 * width, 1))
        self.st6 = stage(6)
        self.tr6 = group(transition_tr6_layer_1=unit(4 * width, 2 * width, 1))
        self.st7 = stage(7)
        self.tr7 = group(transition_tr7_layer_1=unit(2 * width, width, 1))
        self.st8 = stage(8)
        self.st9 = stage(9)

    def _up(self, transition: nn.Sequential, x: Tensor, skip: Tensor) -> list[Tensor]:
        """The next pair on the way up: the narrowed, enlarged map merged with the skip, and the map itself."""
        return [merge(resize(transition(x), skip.shape[2:], align_corners=self.align_corners), skip), x]

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = self.la1(self.conv_layer1_2(self.conv_layer1_1(image)))
        skip2, x = self.st2([self.tr1.transition_tr1_layer_1(x), self.tr1.transition_tr1_layer_2(x)])
        skip3, x = self.st3([x, self.tr2(x)])
        skip4, x = self.st4([x, self.tr3(x)])
        x, c6 = self.st5([x, self.tr4(x)])
        x, c5 = self.st6(self._up(self.tr5, x, skip4))
        x, c4 = self.st7(self._up(self.tr6, x, skip3))
        x, c3 = self.st8(self._up(self.tr7, x, skip2))
        c2 = self.st9([x])[0]
        return {"c2": c2, "c3": c3, "c4": c4, "c5": c5, "c6": c6}


class FCNHead(nn.Layer):
    """1x1 convolution with bias, BN, ReLU, 1x1 convolution: [B,C,H,W] -> [B,num_classes,H,W]."""

    def __init__(self, in_channels: int, num_classes: int, weight_init: str):
        super().__init__()
        self.conv_1 = ConvBN(in_channels, in_channels, 1, bias=True, weight_init=weight_init)
        self.cls = conv2d(in_channels, num_classes, 1, bias=True, weight_init=weight_init)

    def forward(self, x: Tensor) -> Tensor:
        return self.cls(self.conv_1(x))


class UHRNet(Network):
    """[B,3,H,W] -> logits [B,num_classes,H,W]; any H and W, multiples of 64 cost nothing extra.

    Args:
        num_classes: number of classes.
        width: channels C of the finest map; even, since channels are averaged in pairs.
        blocks: residual blocks per branch of a module.
        stem_blocks: bottlenecks of stage 1.
        modules: modules of stages 2 to 9.
        init: start of every convolution: "normal" (as published, standard deviation 0.001) or "kaiming", for training
            from scratch.
        align_corners: of every bilinear resampling; published weights for sizes such as 1024x512 use False.
    """

    recompute_blocks = ("backbone.la1", *(f"backbone.st{i}" for i in range(2, 10)))

    def __init__(
        self,
        num_classes: int = 19,
        width: int = 18,
        blocks: int = 4,
        stem_blocks: int = 4,
        modules: tuple[int, int, int, int, int, int, int, int] = (1, 5, 2, 2, 1, 1, 1, 1),
        init: Literal["normal", "kaiming"] = "normal",
        align_corners: bool = False,
    ):
        super().__init__()
        at_least(1, num_classes=num_classes, width=width, blocks=blocks, stem_blocks=stem_blocks, modules=modules)
        require(width % 2 == 0, "width", f"must be even, got {width}")
        require(len(modules) == 8, "modules", f"are given for the 8 stages 2 to 9, got {len(modules)}")
        require(init in ("normal", "kaiming"), "init", f"is 'normal' or 'kaiming', not '{init}'")
        weight_init = {"normal": "normal_0.001", "kaiming": "kaiming"}[init]
        self.num_classes, self.align_corners = num_classes, align_corners
        self.backbone = Backbone(width, blocks, stem_blocks, modules, weight_init, align_corners)
        self.feature_channels = {f"c{i}": width << (i - 2) for i in range(2, 7)}
        self.feature_strides = {f"c{i}": 1 << i for i in range(2, 7)}
        self.head = FCNHead(sum(self.feature_channels.values()) // 2, num_classes, weight_init)

    def features(self, image: Tensor) -> dict[str, Tensor]:
        """The five maps that leave the U, c2 (1/4) to c6 (1/64), each after its ReLU."""
        return self.backbone(image)

    def aggregate(self, maps: Mapping[str, Tensor]) -> Tensor:
        """[B,15.5*width,H/4,W/4]: the maps with channel pairs averaged, enlarged to the finest and stacked, fine to
        coarse.
        """
        size = maps["c2"].shape[2:]
        stack = [pair_mean(maps["c2"])]
        for level in ("c3", "c4", "c5", "c6"):
            stack.append(resize(pair_mean(maps[level]), size, align_corners=self.align_corners))
        return paddle.concat(stack, axis=1)

    def decode(self, maps: Mapping[str, Tensor], size: Sequence[int | Tensor]) -> Tensor:
        """Logits [B,num_classes,*size] from the maps of `features`."""
        return resize(self.head(self.aggregate(maps)), size, align_corners=self.align_corners)

    def forward(self, image: Tensor) -> Tensor:
        return self.decode(self.features(image), image.shape[2:])
