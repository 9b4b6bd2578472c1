"""RTFormer: real-time semantic segmentation with a dual-resolution transformer.

Paper:    J. Wang, C. Gou, Q. Wu, H. Feng, J. Han, E. Ding, J. Wang, "RTFormer: Efficient Design for Real-Time Semantic
          Segmentation with Transformer", NeurIPS 2022, arXiv:2210.07124.
Checked:  against PaddleSeg 2.8.0 (`paddleseg.models.RTFormer`), whose key names these are: logits and training
          gradients, by the oracle tests; without it by the golden numbers in the tests.
Deviates: the auxiliary head (`seghead_extra` upstream) lives in the training Method. Cross-resolution attention is a
          batched matmul, upstream a grouped convolution that needs a fixed batch: equal up to rounding. Adaptive max
          pooling is written so that it converts to ONNX (`ppvision.nn.pooling`): bitwise equal. The tenfold rate of
          `spp` and the heads is `optimizer.lr_mult` of the recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.nn import initializer as init

from ppvision.errors import at_least, require, within
from ppvision.models.network import Network
from ppvision.nn.conv import conv2d
from ppvision.nn.drop import DropPath
from ppvision.nn.heads import SegHead
from ppvision.nn.pooling import AdaptiveMaxPool2D
from ppvision.nn.resize import resize

__all__ = ["VARIANTS", "RTFormer"]

# configs/rtformer of PaddleSeg 2.8.0, Cityscapes; ADE20K: drop_path 0.1, slim: cross_size 8, use_injection [T, F]
VARIANTS = {
    "slim": dict(base_channels=32, head_channels=64, use_injection=(True, True)),
    "base": dict(base_channels=64, head_channels=128, use_injection=(True, False)),
    # ours, for tests
    "debug": dict(base_channels=8, head_channels=16, spp_channels=16, cross_size=4, drop_path=0.1),
}


def grouped_double_norm(score_BMHW: Tensor, num_groups: int) -> Tensor:
    """Attention weights of GPU-friendly attention: softmax over all pixels for each memory entry, then division by the
    sum over the entries of its group. They depend on the image size: that is the published model.

    Args:
        score_BMHW: similarity of every pixel to M memory entries, unbounded.
        num_groups: number of "heads" in the paper; must divide M.

    Returns:
        [B,M,H,W], at least 0; at a pixel the entries of one group sum to one (up to the 1e-6 in the denominator).
    """
    m, h, w = score_BMHW.shape[1:]
    weight_BGEL = F.softmax(score_BMHW.flatten(2), axis=-1).reshape([0, num_groups, m // num_groups, -1])
    weight_BGEL = weight_BGEL / (weight_BGEL.sum(2, keepdim=True) + 1e-6)
    return weight_BGEL.reshape([-1, m, h, w])


class BasicBlock(nn.Layer):
    """Residual block of two 3x3 convolutions, [B,in,H,W] -> [B,out,ceil(H/stride),ceil(W/stride)]; `relu`: ReLU after
    the sum.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, relu: bool, bn_momentum: float):
        super().__init__()
        self.conv1 = conv2d(in_channels, out_channels, 3, stride)
        self.bn1 = nn.BatchNorm2D(out_channels, momentum=bn_momentum)
        self.conv2 = conv2d(out_channels, out_channels, 3)
        self.bn2 = nn.BatchNorm2D(out_channels, momentum=bn_momentum)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                conv2d(in_channels, out_channels, 1, stride), nn.BatchNorm2D(out_channels, momentum=bn_momentum)
            )
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        y = y + (x if self.downsample is None else self.downsample(x))
        return F.relu(y) if self.relu else y


def stage(in_channels: int, out_channels: int, num_blocks: int, stride: int, bn_momentum: float) -> nn.Sequential:
    """`num_blocks` blocks; the last one, unless it is also the first, leaves its sum without ReLU, as published."""
    blocks = [BasicBlock(in_channels, out_channels, stride, relu=True, bn_momentum=bn_momentum)]
    for i in range(1, num_blocks):
        blocks.append(BasicBlock(out_channels, out_channels, 1, relu=i < num_blocks - 1, bn_momentum=bn_momentum))
    return nn.Sequential(*blocks)


class MLP(nn.Layer):
    """The feed-forward part of a block: BN (epsilon 1e-6), 3x3 convolution, GELU, 3x3 convolution; no expansion."""

    def __init__(self, channels: int, drop: float, bn_momentum: float):
        super().__init__()
        self.norm = nn.BatchNorm2D(channels, momentum=bn_momentum, epsilon=1e-6)
        self.conv1 = conv2d(channels, channels, 3, bias=True)
        self.conv2 = conv2d(channels, channels, 3, bias=True)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.conv2(self.drop(F.gelu(self.conv1(self.norm(x))))))


class GPUFriendlyAttention(nn.Layer):
    """Attention to learnt keys and values shared by all images: linear in the number of pixels, one matmul for all
    "heads".

    [B,in,H,W] -> [B,out,H,W], or half of H and W (rounded up) when the number of channels changes, as in `layer4`.
    """

    def __init__(self, in_channels: int, out_channels: int, num_heads: int, bn_momentum: float):
        super().__init__()
        if out_channels % num_heads:
            raise ValueError(f"num_heads ({num_heads}) must divide the {out_channels} memory entries")
        self.num_heads, self.stride = num_heads, 1 if in_channels == out_channels else 2
        self.norm = nn.BatchNorm2D(in_channels, momentum=bn_momentum)
        small = init.Normal(std=0.001)
        self.k = self.create_parameter([out_channels, in_channels, 1, 1], default_initializer=small)
        self.v = self.create_parameter([out_channels, out_channels, 1, 1], default_initializer=small)

    def forward(self, x: Tensor) -> Tensor:
        score = F.conv2d(self.norm(x), self.k, stride=self.stride)
        return F.conv2d(grouped_double_norm(score, self.num_heads), self.v)


class CrossResolutionAttention(nn.Layer):
    """Every pixel of the high-resolution branch attends to the pooled cells of the low-resolution branch; one head.

    The scale is 1 / `cross_size`, the root of the number of keys, and not of the width: that is the published model.
    """

    def __init__(self, channels: int, cross_size: int, bn_momentum: float):
        super().__init__()
        self.cross_size = cross_size
        self.norm = nn.BatchNorm2D(channels, momentum=bn_momentum)

    def forward(self, x_BCHW: Tensor, kv_BDss: Tensor) -> Tensor:
        """`kv_BDss` [B,2C,s,s]: keys in its first half, values in its second. Returns [B,C,H,W]."""
        c, h, w = x_BCHW.shape[1:]
        # Tokens before matmul: oneDNN in Paddle Inference misreads a convolution's output that reaches it in 4-D.
        key_BCS, value_BCS = kv_BDss.flatten(2).split(2, axis=1)
        query_BLC = self.norm(x_BCHW).flatten(2).transpose([0, 2, 1])
        weight_BLS = F.softmax(paddle.matmul(query_BLC, key_BCS) / self.cross_size, axis=-1)
        y_BLC = paddle.matmul(weight_BLS, value_BCS, transpose_y=True)
        return y_BLC.transpose([0, 2, 1]).reshape([-1, c, h, w])


class RTFormerBlock(nn.Layer):
    """Attention in both branches and the exchange between them (the paper's RTFormer block).

    (high [B,Ch,h,w], low [B,Cl,h_l,w_l]) -> (high [B,Ch,h,w], low [B,Co,.,.]); the low branch is halved when Cl differs
    from Co.
    """

    def __init__(
        self,
        channels: int,
        low_in: int,
        low_out: int,
        *,
        num_heads: int,
        cross_size: int,
        use_injection: bool,
        drop: float,
        drop_path: float,
        bn_momentum: float,
    ):
        super().__init__()

        def norm(num: int) -> nn.BatchNorm2D:
            return nn.BatchNorm2D(num, momentum=bn_momentum)

        self.attn_shortcut_l = None
        if low_in != low_out:
            self.attn_shortcut_l = nn.Sequential(norm(low_in), conv2d(low_in, low_out, 1, 2))
        self.attn_l = GPUFriendlyAttention(low_in, low_out, num_heads, bn_momentum)
        self.mlp_l = MLP(low_out, drop, bn_momentum)
        self.drop_path = DropPath(drop_path)
        self.compression = nn.Sequential(norm(low_out), nn.ReLU(), conv2d(low_out, channels, 1))
        self.attn_h = CrossResolutionAttention(channels, cross_size, bn_momentum)
        self.mlp_h = MLP(channels, drop, bn_momentum)
        self.cross_kv = nn.Sequential(
            norm(low_out),
            AdaptiveMaxPool2D(cross_size),
            conv2d(low_out, 2 * channels, 1, weight_init="trunc_normal_0.02"),
        )
        self.down = None
        if use_injection:
            self.down = nn.Sequential(
                norm(channels),
                nn.ReLU(),
                conv2d(channels, low_out // 2, 3, 2),
                norm(low_out // 2),
                nn.ReLU(),
                conv2d(low_out // 2, low_out, 3, 2),
            )

    def forward(self, high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
        shortcut = low if self.attn_shortcut_l is None else self.attn_shortcut_l(low)
        low = shortcut + self.drop_path(self.attn_l(low))
        low = low + self.drop_path(self.mlp_l(low))
        high = high + resize(self.compression(low), high.shape[2:])
        high = high + self.drop_path(self.attn_h(high, self.cross_kv(low)))
        high = high + self.drop_path(self.mlp_h(high))
        if self.down is not None:
            low = low + self.down(high)
        return high, low


class DAPPM(nn.Layer):
    """Deep aggregation pyramid pooling (DDRNet, arXiv:2101.06085): context at five scales, each refined by the one
    before.

    [B,in,H,W] -> [B,out,H,W]. The padding of the pools counts in their averages.
    """

    def __init__(self, in_channels: int, channels: int, out_channels: int, bn_momentum: float):
        super().__init__()

        def unit(num_in: int, num_out: int, kernel: int = 1) -> list[nn.Layer]:
            return [nn.BatchNorm2D(num_in, momentum=bn_momentum), nn.ReLU(), conv2d(num_in, num_out, kernel)]

        def pool(kernel: int, stride: int) -> nn.Layer:
            return nn.AvgPool2D(kernel, stride, kernel // 2, exclusive=False)

        self.scale0 = nn.Sequential(*unit(in_channels, channels))
        self.scale1 = nn.Sequential(pool(5, 2), *unit(in_channels, channels))
        self.scale2 = nn.Sequential(pool(9, 4), *unit(in_channels, channels))
        self.scale3 = nn.Sequential(pool(17, 8), *unit(in_channels, channels))
        self.scale4 = nn.Sequential(nn.AdaptiveAvgPool2D(1), *unit(in_channels, channels))
        self.process1 = nn.Sequential(*unit(channels, channels, 3))
        self.process2 = nn.Sequential(*unit(channels, channels, 3))
        self.process3 = nn.Sequential(*unit(channels, channels, 3))
        self.process4 = nn.Sequential(*unit(channels, channels, 3))
        self.compression = nn.Sequential(*unit(5 * channels, out_channels))
        self.shortcut = nn.Sequential(*unit(in_channels, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        y0 = self.scale0(x)
        y1 = self.process1(resize(self.scale1(x), size) + y0)
        y2 = self.process2(resize(self.scale2(x), size) + y1)
        y3 = self.process3(resize(self.scale3(x), size) + y2)
        y4 = self.process4(resize(self.scale4(x), size) + y3)
        return self.compression(paddle.concat([y0, y1, y2, y3, y4], axis=1)) + self.shortcut(x)


class RTFormer(Network):
    """[B,3,H,W] -> logits [B,num_classes,H,W]; any H and W, multiples of 32 cost nothing extra.

    Args:
        num_classes: number of classes.
        base_channels: width c of the stem; the branches have 2c (1/8) and 8c (1/32) channels.
        head_channels: half the width of the head's 3x3 convolution.
        spp_channels: width of the context module.
        cross_size: keys of the cross-resolution attention form a grid of this height and width; it also sets the scale
            1 / cross_size.
        use_injection: for `layer4` and `layer5`: add the high branch to the low one at the end.
        drop: dropout in the MLPs.
        drop_path: stochastic depth rate, the same in every block.
        num_heads: groups of the grouped double normalisation.
        layer_nums: residual blocks in layer1, layer2, layer3.
        bn_momentum: share of the *old* batch-norm statistic kept at an update. The published 0.1 keeps almost only the
            last batch.
        in_channels: channels of the image.
    """

    recompute_blocks = ("layer1", "layer2", "layer3", "layer3_", "layer4", "layer5")

    def __init__(
        self,
        num_classes: int = 19,
        base_channels: int = 64,
        head_channels: int = 128,
        spp_channels: int = 128,
        cross_size: int = 12,
        use_injection: tuple[bool, bool] = (True, True),
        drop: float = 0.0,
        drop_path: float = 0.2,
        num_heads: int = 8,
        layer_nums: tuple[int, int, int] = (2, 2, 2),
        bn_momentum: float = 0.1,
        in_channels: int = 3,
    ):
        super().__init__()
        at_least(1, num_classes=num_classes, base_channels=base_channels, head_channels=head_channels)
        at_least(1, spp_channels=spp_channels, cross_size=cross_size, num_heads=num_heads, layer_nums=layer_nums)
        within(0, 1, below=True, drop=drop, drop_path=drop_path)
        within(0, 1, bn_momentum=bn_momentum)
        require(in_channels == 3, "in_channels", f"must be 3: images are RGB, got {in_channels}")
        width = 8 * base_channels
        require(width % num_heads == 0, "num_heads", f"must divide the {width} memory entries, got {num_heads}")
        c, mom = base_channels, bn_momentum
        block = dict(num_heads=num_heads, cross_size=cross_size, drop=drop, drop_path=drop_path, bn_momentum=mom)
        inject4, inject5 = use_injection
        blocks1, blocks2, blocks3 = layer_nums
        self.num_classes = num_classes
        self.conv1 = nn.Sequential(
            conv2d(in_channels, c, 3, 2, bias=True),
            nn.BatchNorm2D(c, momentum=mom),
            nn.ReLU(),
            conv2d(c, c, 3, 2, bias=True),
            nn.BatchNorm2D(c, momentum=mom),
            nn.ReLU(),
        )
        self.layer1 = stage(c, c, blocks1, 1, mom)
        self.layer2 = stage(c, 2 * c, blocks2, 2, mom)
        self.layer3 = stage(2 * c, 4 * c, blocks3, 2, mom)
        self.layer3_ = stage(2 * c, 2 * c, 1, 1, mom)
        self.compression3 = nn.Sequential(nn.BatchNorm2D(4 * c, momentum=mom), nn.ReLU(), conv2d(4 * c, 2 * c, 1))
        self.layer4 = RTFormerBlock(2 * c, 4 * c, 8 * c, use_injection=inject4, **block)
        self.layer5 = RTFormerBlock(2 * c, 8 * c, 8 * c, use_injection=inject5, **block)
        self.spp = DAPPM(8 * c, spp_channels, 2 * c, mom)
        self.seghead = SegHead(4 * c, 2 * head_channels, num_classes, mom)
        self.feature_channels = {"c2": c, "c3": 2 * c, "c3_context": 2 * c, "c4": 4 * c, "c5": 8 * c}
        self.feature_strides = {"c2": 4, "c3": 8, "c3_context": 8, "c4": 16, "c5": 32}

    def features(self, image: Tensor) -> dict[str, Tensor]:
        """Maps before the context module, fine to coarse.

        c2 (1/4) and c4 (1/16) end in a sum without ReLU; c3 (1/8) is the high branch before the transformer blocks,
        what the auxiliary head reads; c3_context (1/8) and c5 (1/32) are the two branches after them, what `decode`
        reads.
        """
        c2 = self.layer1(self.conv1(image))
        x2 = self.layer2(F.relu(c2))
        c4 = self.layer3(F.relu(x2))
        c3 = self.layer3_(F.relu(x2 + resize(self.compression3(c4), x2.shape[2:])))
        high, low = self.layer4(F.relu(c3), F.relu(c4))
        high, low = self.layer5(F.relu(high), F.relu(low))
        return {"c2": c2, "c3": c3, "c3_context": high, "c4": c4, "c5": low}

    def decode(self, maps: Mapping[str, Tensor], size: Sequence[int | Tensor]) -> Tensor:
        """Logits [B,num_classes,*size] from the maps of `features`."""
        high = maps["c3_context"]
        context = resize(self.spp(maps["c5"]), high.shape[2:])
        return resize(self.seghead(paddle.concat([high, context], axis=1)), size)

    def forward(self, image: Tensor) -> Tensor:
        return self.decode(self.features(image), image.shape[2:])
