"""MAFormer: a vision transformer whose blocks fuse a local window stream and a global stream by attention.

A re-implementation from the description: code and weights were never released. The block (window attention, global
learning with down-sampling, fusion by attention) follows the paper; sizes, stem, stage 4 and initialisation are our
reading, so the paper's accuracies are the paper's and not of this code.

Paper:    Y. Wang, H. Sun, X. Wang, B. Zhang, C. Li, Y. Xin, B. Zhang, E. Ding, S. Han, "MAFormer: A Transformer Network
          with Multi-scale Attention Fusion for Visual Recognition", arXiv:2209.01620; Neurocomputing 595 (2024) 127828.
Checked:  window attention, down-sampling and fusion against loops over windows and tokens in the tests; parameter
          counts and multiply-adds against closed formulas. There is no upstream to compare with.
Deviates: see the first paragraph. `gld="fc"` holds weights for one size; at another it raises unless `gld_resize`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn
from paddle.nn import initializer as init

from ppvision.errors import UserError, at_least, require, within
from ppvision.models.network import Network
from ppvision.nn.constant import Constant
from ppvision.nn.drop import DropPath

__all__ = ["FUSIONS", "GLDS", "VARIANTS", "MAFormer"]

VARIANTS = {
    "small": dict(width=64, depths=(3, 4, 12, 2), drop_path=0.1),
    "base": dict(width=96, depths=(3, 4, 13, 2), drop_path=0.3),
    "large": dict(width=128, depths=(3, 4, 16, 2), drop_path=0.4),
    "tiny": dict(width=32, depths=(1, 1, 2, 1)),
    # ours, for tests and small pictures: down-sampling by convolution, so that every size works
    "debug": dict(
        num_classes=10, width=16, depths=(1, 1, 1, 1), head_dim=8, windows=(4, 4, 4, 4), gld="conv", drop_path=0.1
    ),
}

Gld = Literal["fc", "conv", "pool"]
Fusion = Literal["maf", "llf", "concat", "none", "global"]
GLDS, FUSIONS = ("fc", "conv", "pool"), ("maf", "llf", "concat", "none", "global")
EPSILON = 1e-6
MASKED = -1e4  # added to the score of a key that is padding; finite in half precision


def linear(num_in: int, num_out: int) -> nn.Linear:
    """With bias 0 and weight truncated normal 0.02."""
    return nn.Linear(num_in, num_out, ParamAttr(initializer=init.TruncatedNormal(std=0.02)))


def conv(num_in: int, num_out: int, kernel: int, stride: int, padding: int) -> nn.Conv2D:
    """With bias 0 and Kaiming normal weight of fan out."""
    std = math.sqrt(2.0 / (num_out * kernel * kernel))
    return nn.Conv2D(num_in, num_out, kernel, stride, padding, weight_attr=ParamAttr(initializer=init.Normal(std=std)))


def norm(channels: int) -> nn.LayerNorm:
    return nn.LayerNorm(channels, epsilon=EPSILON)


def heads(x_BLC: Tensor, head_dim: int) -> Tensor:
    """[B,L,heads * D] -> [B,heads,L,D]."""
    return x_BLC.reshape([0, -1, x_BLC.shape[-1] // head_dim, head_dim]).transpose([0, 2, 1, 3])


def merged(x_BHLD: Tensor) -> Tensor:
    """Inverse of `heads`."""
    return x_BHLD.transpose([0, 2, 1, 3]).flatten(2)


def fits(sides: Sequence[int | Tensor], multiple: int) -> bool:
    """Whether no padding is needed, which is known for plain numbers only: not for the free sides of a static graph."""
    return all(isinstance(side, int) and side >= 0 and side % multiple == 0 for side in sides)


def to_windows(x_BHWC: Tensor, window: int) -> Tensor:
    """[B,H,W,C], sides multiples of the window -> [B * windows,window * window,C], row by row."""
    w, c = x_BHWC.shape[2:]
    x = x_BHWC.reshape([-1, window, w // window, window, c]).transpose([0, 2, 1, 3, 4])
    return x.reshape([-1, window * window, c])


def from_windows(x: Tensor, window: int, height: int | Tensor, width: int | Tensor) -> Tensor:
    """Inverse of `to_windows`."""
    c = x.shape[-1]
    x = x.reshape([-1, width // window, window, window, c]).transpose([0, 2, 1, 3, 4])
    return x.reshape([-1, height, width, c])


def whole_cells(x_BHWC: Tensor, side: int) -> Tensor:
    """Zeros below and to the right, up to multiples of `side`.

    Padded by the most that can be needed, then cut: both work with free sides, and ONNX Runtime does not fold the
    padding into what follows (its depthwise convolution then reads beyond the map).
    """
    h, w = x_BHWC.shape[1:3]
    if fits((h, w), side):
        return x_BHWC
    x = F.pad(x_BHWC, [0, 0, 0, side - 1, 0, side - 1, 0, 0])
    return x[:, : (h + side - 1) // side * side, : (w + side - 1) // side * side]


class WindowAttention(nn.Layer):
    """Multi-head self-attention inside windows with a relative position bias; the local stream.

    A map whose sides are not multiples of the window is padded; padded keys are masked, so what is padded does not
    matter.
    """

    def __init__(self, channels: int, head_dim: int, window: int):
        super().__init__()
        self.head_dim, self.window = head_dim, window
        self.qkv, self.proj = linear(channels, 3 * channels), linear(channels, channels)
        self.rel_bias = self.create_parameter(
            [(2 * window - 1) ** 2, channels // head_dim], default_initializer=init.TruncatedNormal(std=0.02)
        )
        y, x = (g.ravel() for g in np.meshgrid(np.arange(window), np.arange(window), indexing="ij"))
        index = (y[:, None] - y + window - 1) * (2 * window - 1) + (x[:, None] - x + window - 1)
        self.index = Constant(index.ravel().astype(np.int32))

    def bias(self) -> Tensor:
        """[heads,M * M,M * M]."""
        size = self.window**2
        return paddle.gather(self.rel_bias, self.index()).reshape([size, size, -1]).transpose([2, 0, 1])

    def forward(self, x_BHWC: Tensor) -> Tensor:
        h, w, c = x_BHWC.shape[1:]
        m, size = self.window, self.window**2
        # Linear layers stand outside the windows: cheaper on padded maps, and a fused linear layer of Paddle Inference
        # under oneDNN takes the axes of windows for its own.
        qkv = whole_cells(self.qkv(x_BHWC), m)
        rows, columns = qkv.shape[1:3]
        qkv = to_windows(qkv, m).reshape([-1, size, 3, c // self.head_dim, self.head_dim]).transpose([2, 0, 3, 1, 4])
        q, k, v = qkv.unbind(0)  # not by index, whose gradient fills three tensors of the size of all
        score = paddle.matmul(q * self.head_dim**-0.5, k, transpose_y=True) + self.bias()
        if not fits((h, w), m):
            real = whole_cells(paddle.ones_like(x_BHWC[:, :, :, :1]), m)
            score = score + ((1.0 - to_windows(real, m)) * MASKED).transpose([0, 2, 1]).unsqueeze(1)
        y = merged(paddle.matmul(F.softmax(score, axis=-1), v))
        return self.proj(from_windows(y, m, rows, columns)[:, :h, :w])


class GlobalTokens(nn.Layer):
    """Global learning with down-sampling: the whole map [B,H,W,C] as few tokens [B,K,C], normalised.

    Args:
        channels: C.
        kind: "fc": every token is a learned mixture of all positions; "conv": a depthwise convolution of kernel =
            stride = `ratio`; "pool": the mean of `ratio` x `ratio` cells.
        grid: height and width the weights of "fc" are made for.
        ratio: reduction of a side.
        resize: "fc" at another size interpolates its weights, with an unchanged sum over the positions, instead of
            raising.
    """

    def __init__(self, channels: int, kind: Gld, grid: int, ratio: int, resize: bool):
        super().__init__()
        self.kind = kind
        self.grid = grid
        self.ratio = ratio
        self.resize = resize
        self.side = -(-grid // ratio)  # of the K tokens, at the size of "fc"
        if kind == "fc":
            shape, std = [self.side**2, grid * grid], 1.0 / grid
        else:
            shape, std = [channels, 1, ratio, ratio], 1.0 / ratio
        if kind != "pool":
            self.weight = self.create_parameter(shape, default_initializer=init.TruncatedNormal(std=std))
            self.bias = self.create_parameter([shape[0]], is_bias=True)
        self.norm = norm(channels)

    def mixing(self, height: int | Tensor, width: int | Tensor) -> Tensor:
        """Weights of "fc" [K,height * width].

        Raises:
            UserError: another size than the weights are made for, and `resize` is off.
        """
        if isinstance(height, int) and isinstance(width, int) and (height, width) == (self.grid, self.grid):
            return self.weight
        if not self.resize:
            known = isinstance(height, int) and isinstance(width, int) and min(height, width) >= 0
            size = f"{height}x{width}" if known else "free"
            raise UserError(
                f"maformer: gld 'fc' mixes {self.grid}x{self.grid} positions, the map is {size}; set image_size (an "
                "export: input_shape) to that of the weights, or gld_resize: true, or gld: conv"
            )
        weight = self.weight.reshape([-1, 1, self.grid, self.grid])
        weight = F.interpolate(weight, size=[height, width], mode="bilinear", align_corners=False)
        return weight.reshape([self.side**2, -1]) * (self.grid * self.grid / (height * width))

    def forward(self, x_BHWC: Tensor) -> Tensor:
        if self.kind == "fc":
            h, w = x_BHWC.shape[1:3]
            return self.norm(paddle.matmul(self.mixing(h, w), x_BHWC.flatten(1, 2)) + self.bias.unsqueeze(1))
        r = self.ratio
        x = whole_cells(x_BHWC, r).transpose([0, 3, 1, 2])
        if self.kind == "conv":
            x = F.conv2d(x, self.weight, self.bias, stride=r, groups=x.shape[1])
        else:
            x = F.avg_pool2d(x, r, r)
            if not fits(x_BHWC.shape[1:3], r):  # cells at the border count their real part only
                real = whole_cells(paddle.ones_like(x_BHWC[:1, :, :, :1]), r).transpose([0, 3, 1, 2])
                x = x / F.avg_pool2d(real, r, r)
        return self.norm(x.flatten(2).transpose([0, 2, 1]))

    def spread(self, tokens_BKC: Tensor, height: int | Tensor, width: int | Tensor) -> Tensor:
        """Every position gets the token of its cell: [B,K,C] -> [B,height,width,C]."""
        c, r = tokens_BKC.shape[-1], self.ratio
        if self.kind == "fc":
            x = tokens_BKC.reshape([-1, self.side, self.side, c])
            for axis, side in ((1, height), (2, width)):
                x = paddle.index_select(x, paddle.arange(side) * self.side // side, axis=axis)
            return x
        columns = (width + r - 1) // r
        x = tokens_BKC.reshape([0, -1, 1, columns, 1, c]).tile([1, 1, r, 1, r, 1])
        rows = (height + r - 1) // r
        return x.reshape([-1, rows * r, columns * r, c])[:, :height, :width]


class CrossAttention(nn.Layer):
    """Fusion by attention: local tokens [B,L,C] ask, global tokens [B,K,C] answer; [B,L,C]."""

    def __init__(self, channels: int, head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        self.q, self.kv, self.proj = (linear(channels, n * channels) for n in (1, 2, 1))

    def forward(self, local_BLC: Tensor, tokens_BKC: Tensor) -> Tensor:
        key, value = (heads(t, self.head_dim) for t in self.kv(tokens_BKC).split(2, axis=-1))
        query = heads(self.q(local_BLC), self.head_dim) * self.head_dim**-0.5
        weight = F.softmax(paddle.matmul(query, key, transpose_y=True), axis=-1)
        return self.proj(merged(paddle.matmul(weight, value)))


class Mlp(nn.Layer):
    """Two linear layers with GELU between."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = linear(channels, hidden), linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Layer):
    """MAF block, [B,H,W,C] -> [B,H,W,C]. Both streams read the same normalised input.

    `fusion` decides what is added to the input: "maf" F_l + attention(F_l, G); "llf" a mean of F_l and the spread G,
    learnt per channel; "concat" a linear layer of both; "none" F_l alone; "global" attention(input, G) alone.
    """

    def __init__(
        self,
        channels: int,
        head_dim: int,
        window: int,
        mlp_ratio: float,
        drop_path: float,
        fusion: Fusion,
        gld: tuple[Gld, int, int, bool],
    ):
        super().__init__()
        self.fusion = fusion
        self.norm1, self.norm2 = norm(channels), norm(channels)
        self.local = WindowAttention(channels, head_dim, window) if fusion != "global" else None
        self.gld = GlobalTokens(channels, *gld) if fusion != "none" else None
        if fusion in ("maf", "global"):
            self.fuse = CrossAttention(channels, head_dim)
        elif fusion == "llf":
            self.alpha = self.create_parameter([channels], default_initializer=init.Constant(0.0))
        elif fusion == "concat":
            self.fuse = linear(2 * channels, channels)
        self.mlp = Mlp(channels, round(channels * mlp_ratio))
        self.drop1, self.drop2 = DropPath(drop_path), DropPath(drop_path)

    def fused(self, x_BHWC: Tensor) -> Tensor:
        """Both streams of a normalised input."""
        h, w, c = x_BHWC.shape[1:]
        if self.fusion == "none":
            return self.local(x_BHWC)
        tokens_BKC = self.gld(x_BHWC)
        if self.fusion == "global":
            return self.fuse(x_BHWC.flatten(1, 2), tokens_BKC).reshape([-1, h, w, c])
        local_BHWC = self.local(x_BHWC)
        if self.fusion == "maf":
            return local_BHWC + self.fuse(local_BHWC.flatten(1, 2), tokens_BKC).reshape([-1, h, w, c])
        spread_BHWC = self.gld.spread(tokens_BKC, h, w)
        if self.fusion == "llf":
            share = F.sigmoid(self.alpha)
            return share * local_BHWC + (1 - share) * spread_BHWC
        return self.fuse(paddle.concat([local_BHWC, spread_BHWC], axis=-1))

    def forward(self, x_BHWC: Tensor) -> Tensor:
        x = x_BHWC + self.drop1(self.fused(self.norm1(x_BHWC)))
        return x + self.drop2(self.mlp(self.norm2(x)))


class Reduce(nn.Layer):
    """Convolution and layer norm: [B,C,H,W] -> [B,H',W',C']. Stem and merge."""

    def __init__(self, num_in: int, num_out: int, kernel: int, stride: int, padding: int):
        super().__init__()
        self.conv, self.norm = conv(num_in, num_out, kernel, stride, padding), norm(num_out)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.norm(self.conv(x_BCHW).transpose([0, 2, 3, 1]))


class MAFormer(Network):
    """Classifier [B,3,H,W] -> logits [B,num_classes], and backbone.

    Channels double and sides halve from stage to stage. With `gld` other than "fc" (or with `gld_resize`) height and
    width are free, above a few pixels.

    Args:
        num_classes: of the classifier; 0 leaves norm and head out: a backbone, whose `forward` gives `features`.
        width: channels of the stem.
        depths: blocks of each stage.
        head_dim: channels of an attention head.
        windows: side of the local windows of each stage.
        image_size: for which side the down-sampling is made: reduces it to about `gld_side` x `gld_side` tokens.
        gld_side: see `image_size`.
        gld: how a map becomes global tokens: "fc", "conv" or "pool" (see `GlobalTokens`).
        gld_resize: "fc" interpolates its weights at other sizes instead of raising.
        fusion: of the two streams: "maf", "llf", "concat", "none", "global" (see `Block`).
        fused_stages: so many stages have both streams, the rest windows alone. At 224 the last stage is one window, so
            that a second stream would say the same; for large images in dense prediction use 4.
        mlp_ratio: width of the hidden layer over that of the block.
        drop_path: stochastic depth of the last block; grows linearly from 0 at the first.
        stem: kernel, stride and padding of the first convolution.
        out_norms: a layer norm on each of `features`, as dense heads want it.
        dense_vote: adds half of the largest token score of each class to the logits (LV-ViT's rule for networks
            trained with token labels); the token head is then part of the network.

    Attributes:
        feature_channels: level -> channels; the levels are named by their stride, "c2" is stride 4.
        feature_strides: level -> stride.

    Raises:
        UserError: sizes that do not fit each other.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        width: int = 64,
        depths: tuple[int, ...] = (3, 4, 12, 2),
        head_dim: int = 32,
        windows: tuple[int, ...] = (7, 7, 7, 7),
        image_size: int = 224,
        gld_side: int = 7,
        gld: Gld = "fc",
        gld_resize: bool = False,
        fusion: Fusion = "maf",
        fused_stages: int = 3,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        stem: tuple[int, int, int] = (7, 4, 2),
        out_norms: bool = False,
        dense_vote: bool = False,
    ):
        super().__init__()
        at_least(0, num_classes=num_classes, stem=stem)
        at_least(1, width=width, depths=depths, head_dim=head_dim, windows=windows, image_size=image_size)
        at_least(1, gld_side=gld_side)
        within(0, 8, fused_stages=fused_stages)
        within(0, 1, below=True, drop_path=drop_path)
        _check(num_classes, width, depths, head_dim, windows, stem, gld, fusion, dense_vote)
        hidden = [round(width * 2**s * mlp_ratio) for s in range(len(depths))]
        require(min(hidden) >= 1, "mlp_ratio", f"leaves the hidden layers {hidden} channels, got {mlp_ratio}")
        self.num_classes = num_classes
        self.dense_vote = dense_vote
        self.stem_stride = stem[1]
        channels = [width * 2**s for s in range(len(depths))]
        self.num_features = channels[-1]
        rates = iter(float(r) for r in paddle.linspace(0, drop_path, sum(depths)).numpy())
        side = (image_size + 2 * stem[2] - stem[0]) // stem[1] + 1
        require(side >= 1, "image_size", f"is less than the kernel of the stem, {stem[0]}; got {image_size}")
        self.stem = Reduce(3, width, *stem)
        self.stages, self.merges = nn.LayerList(), nn.LayerList()
        for s, (c, depth) in enumerate(zip(channels, depths)):
            if s:
                self.merges.append(Reduce(c // 2, c, 3, 2, 1))
                side = (side + 1) // 2
            kind = fusion if s < fused_stages else "none"
            tokens = (gld, side, max(-(-side // gld_side), 1), gld_resize)
            blocks = [Block(c, head_dim, windows[s], mlp_ratio, next(rates), kind, tokens) for _ in range(depth)]
            self.stages.append(nn.LayerList(blocks))
        first = int(math.log2(stem[1]))
        levels = [f"c{first + s}" for s in range(len(depths))]
        self.feature_channels = dict(zip(levels, channels))
        self.feature_strides = {level: stem[1] * 2**s for s, level in enumerate(levels)}
        self.recompute_blocks = tuple(f"stages.{s}.{b}" for s, n in enumerate(depths) for b in range(n))
        for s, c in enumerate(channels if out_norms else ()):
            setattr(self, f"norm_out{s}", norm(c))
        self.out_norms = out_norms
        if num_classes:
            self.norm, self.head = norm(channels[-1]), linear(channels[-1], num_classes)
        if dense_vote:
            self.token_head = linear(channels[-1], num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Stem: image [B,3,H,W] -> tokens [B,H/stride,W/stride,C]; what token mixing mixes."""
        return self.stem(x)

    def run_stages(self, x_BHWC: Tensor) -> list[Tensor]:
        """Output of every stage [B,h,w,c], from the tokens of `embed`."""
        maps = []
        for s, blocks in enumerate(self.stages):
            if s:
                x_BHWC = self.merges[s - 1](x_BHWC.transpose([0, 3, 1, 2]))
            for block in blocks:
                x_BHWC = block(x_BHWC)
            maps.append(x_BHWC)
        return maps

    def tokens(self, x_BHWC: Tensor) -> Tensor:
        """Normalised tokens [B,L,C] of the last stage, from the tokens of `embed`."""
        return self.norm(self.run_stages(x_BHWC)[-1].flatten(1, 2))

    def classify(self, tokens_BLC: Tensor) -> Tensor:
        """Logits [B,K] from the tokens of the last stage."""
        logits_BK = self.head(tokens_BLC.mean(1))
        if self.dense_vote:
            logits_BK = logits_BK + 0.5 * self.token_head(tokens_BLC).max(1)
        return logits_BK

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Maps [B,c,h,w] of all stages, fine to coarse: {"c2": stride 4, "c3": stride 8, ...}; normalised with
        `out_norms`, else as they leave the blocks.
        """
        maps = {}
        for s, (level, x_BHWC) in enumerate(zip(self.feature_channels, self.run_stages(self.embed(x)))):
            if self.out_norms:
                x_BHWC = getattr(self, f"norm_out{s}")(x_BHWC)
            maps[level] = x_BHWC.transpose([0, 3, 1, 2])
        return maps

    def forward(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        if not self.num_classes:
            return self.features(image)
        return self.classify(self.tokens(self.embed(image)))


def _check(
    num_classes: int,
    width: int,
    depths: Sequence[int],
    head_dim: int,
    windows: Sequence[int],
    stem: Sequence[int],
    gld: str,
    fusion: str,
    dense_vote: bool,
) -> None:
    require(gld in GLDS, "gld", f"is one of {', '.join(GLDS)}, not {gld}")
    require(fusion in FUSIONS, "fusion", f"is one of {', '.join(FUSIONS)}, not {fusion}")
    require(1 <= len(depths) <= 8, "depths", f"needs one number per stage, 8 at most, got {list(depths)}")
    fits = len(windows) == len(depths)
    require(fits, "windows", f"needs one number for each of the {len(depths)} stages, got {list(windows)}")
    require(width % head_dim == 0, "width", f"must be a multiple of head_dim {head_dim}, got {width}")
    require(len(stem) == 3 and stem[0] >= 1, "stem", f"is kernel, stride and padding, got {list(stem)}")
    require(stem[1] in (1, 2, 4, 8), "stem", f"has a stride of 1, 2, 4 or 8, got {stem[1]}")
    require(bool(num_classes) or not dense_vote, "dense_vote", "needs num_classes")
