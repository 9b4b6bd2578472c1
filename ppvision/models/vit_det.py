"""ViTDet: a plain vision transformer for large pictures, and the simple feature pyramid made of its last map.

Paper:    Y. Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection", arXiv:2203.16527; relative
          positions: Y. Li et al., "MViTv2", arXiv:2112.01526.
Checked:  against `transformers` 4.57 VitDetBackbone with windows, sides that are no multiple of them, absolute and
          relative positions, to 1e-4 (tests/models/test_vit_det.py); parameters of the huge size: 630.9 M.
Deviates: nothing in the arithmetic. Key names are those of PaddleDetection's VisionTransformer2D; weights of MAE, of
          CAE v2 (its branch scales are multiplied into the matrices) and of `transformers` are converted on load.

Pixels past the last whole patch are not seen, as upstream: sides that are multiples of the patch lose nothing.

Names of axes: B batch (or windows), H and W patches, A heads, E width of a head, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppvision.errors import at_least, require, within
from ppvision.models.network import Network
from ppvision.nn.drop import DropPath
from ppvision.nn.vit import TRUNCATED, Mlp, PatchEmbed, parameter

__all__ = ["VARIANTS", "LayerNorm2D", "SimpleFeaturePyramid", "VitDet", "relative_rows"]

# arXiv:2203.16527 and PaddleDetection configs/group_detr; the debug size is ours
VARIANTS: dict[str, dict[str, Any]] = {
    "base": dict(dim=768, depth=12, num_heads=12, global_blocks=(2, 5, 8, 11), drop_path=0.1),
    "large": dict(dim=1024, depth=24, num_heads=16, global_blocks=(5, 11, 17, 23), drop_path=0.4),
    "huge": dict(dim=1280, depth=32, num_heads=16, global_blocks=(7, 15, 23, 31), drop_path=0.1),
    "debug": dict(
        dim=48, depth=2, num_heads=4, global_blocks=(1,), drop_path=0.0,
        image_size=64, pretrain_size=64, patch_size=8, window=4,
    ),
}  # fmt: skip


def relative_rows(table: Tensor, length: int | Tensor) -> Tensor:
    """Rows of a table of relative positions for every (query, key) of an axis: [R,E] -> [length,length,E].

    Row R // 2 of the table stands for distance 0. A table for another length is interpolated linearly; written as two
    gathers, since a one-dimensional `interpolate` to a free size does not export.
    """
    rows = table.shape[0]
    if not (isinstance(length, int) and rows == 2 * length - 1):
        count = 2 * length - 1
        centre = (paddle.arange(count).astype("float32") + 0.5) * rows / count - 0.5
        centre = centre.clip(0.0, rows - 1.0)
        low = centre.floor()
        share = (centre - low).unsqueeze(1).astype(table.dtype)
        low = low.astype("int64")
        high = (low + 1).clip(max=rows - 1)
        table = paddle.gather(table, low) * (1.0 - share) + paddle.gather(table, high) * share
    i = paddle.arange(length)
    index = i.unsqueeze(1) - i.unsqueeze(0) + (length - 1)
    return paddle.gather(table, index.flatten()).reshape([length, length, -1])


class RelativeAttention(nn.Layer):
    """Self-attention over a map [B,H,W,dim] with decomposed relative positions.

    Args:
        dim: width.
        num_heads: must divide `dim`.
        side: height and width that the tables of relative positions are made for; None: no such positions.
    """

    def __init__(self, dim: int, num_heads: int, side: int | None = None):
        super().__init__()
        self.num_heads, self.scale = num_heads, (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative = side is not None
        if side is not None:
            self.rel_pos_h = parameter(self, [2 * side - 1, dim // num_heads])
            self.rel_pos_w = parameter(self, [2 * side - 1, dim // num_heads])

    def _along(self, q: Tensor, table: Tensor) -> Tensor:
        """Queries [n,B,A,m,E], n their place on an axis -> scores [n,B,A,m,n]. A product of three axes each: with more
        of them on one side `matmul` has no gradient.
        """
        length, breadth = q.shape[0], q.shape[3]
        score = paddle.matmul(q.flatten(1, 3), relative_rows(table, length), transpose_y=True)
        return score.reshape([length, -1, self.num_heads, breadth, length])

    def forward(self, x_BHWD: Tensor) -> Tensor:
        height, width, dim = x_BHWD.shape[1:]
        heads, count = self.num_heads, height * width
        qkv = self.qkv(x_BHWD).reshape([-1, count, 3, heads, dim // heads]).transpose([2, 0, 3, 1, 4])
        q_BALE, k_BALE, v_BALE = qkv.unbind(0)
        score = paddle.matmul(q_BALE * self.scale, k_BALE, transpose_y=True)
        if self.relative:
            # q is not scaled here: the tables learn its scale
            q = q_BALE.reshape([-1, heads, height, width, dim // heads])
            rows = self._along(q.transpose([2, 0, 1, 3, 4]), self.rel_pos_h).transpose([1, 2, 0, 3, 4])
            columns = self._along(q.transpose([3, 0, 1, 2, 4]), self.rel_pos_w).transpose([1, 2, 3, 0, 4])
            score = score.reshape([-1, heads, height, width, height, width])
            score = score + rows.unsqueeze(-1) + columns.unsqueeze(-2)
            score = score.reshape([-1, heads, count, count])
        y_BALE = paddle.matmul(F.softmax(score, axis=-1), v_BALE)
        return self.proj(y_BALE.transpose([0, 2, 1, 3]).reshape([-1, height, width, dim]))


class Block(nn.Layer):
    """Pre-norm transformer block on a map [B,H,W,dim], its attention inside windows or global.

    Args:
        dim: width.
        num_heads: of the attention.
        mlp_ratio: hidden width of the MLP over `dim`.
        drop_path: rate of stochastic depth.
        window: side of the windows; 0: global.
        side: that the relative positions of a global block are made for; those of windows are the windows'.
        relative: whether there are relative positions.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        window: int = 0,
        side: int = 64,
        relative: bool = True,
    ):
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(dim, epsilon=1e-6)
        self.attn = RelativeAttention(dim, num_heads, (window or side) if relative else None)
        self.norm2 = nn.LayerNorm(dim, epsilon=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def attend(self, x_BHWD: Tensor) -> Tensor:
        """The attention's output on the normed map."""
        if not self.window:
            return self.attn(x_BHWD)
        side = self.window
        height, width, dim = x_BHWD.shape[1:]
        rows, columns = (height + side - 1) // side, (width + side - 1) // side
        # Zeros come after the norm and are keys like the others. More of them than needed, then cut, since their number
        # is free in a static graph; and no `F.pad`, whose value paddle2onnx 2.1 leaves uninitialised.
        x_BHWD = paddle.concat([x_BHWD, paddle.zeros_like(x_BHWD[:, :1]).tile([1, side - 1, 1, 1])], axis=1)
        x_BHWD = paddle.concat([x_BHWD, paddle.zeros_like(x_BHWD[:, :, :1]).tile([1, 1, side - 1, 1])], axis=2)
        x_BHWD = x_BHWD[:, : rows * side, : columns * side]
        windows = x_BHWD.reshape([-1, rows, side, columns, side, dim]).transpose([0, 1, 3, 2, 4, 5])
        y = self.attn(windows.reshape([-1, side, side, dim]))
        y = y.reshape([-1, rows, columns, side, side, dim]).transpose([0, 1, 3, 2, 4, 5])
        return y.reshape([-1, rows * side, columns * side, dim])[:, :height, :width]

    def forward(self, x_BHWD: Tensor) -> Tensor:
        x_BHWD = x_BHWD + self.drop_path(self.attend(self.norm1(x_BHWD)))
        return x_BHWD + self.drop_path(self.mlp(self.norm2(x_BHWD)))


class VitDet(Network):
    """[B,3,H,W] -> {"c4": [B,dim,H/16,W/16]}, the last block's output without a norm (another patch, another name).

    Args:
        dim: width.
        depth: number of blocks.
        num_heads: of the attention.
        global_blocks: indices of the blocks that see the whole map; the others see windows.
        drop_path: stochastic depth of the last block; grows linearly from 0.
        image_size: side of the pictures that the relative positions of global blocks are made for.
        pretrain_size: side of the pictures that the absolute positions are made for.
        patch_size: side of a patch.
        window: side of a window, in patches.
        mlp_ratio: hidden width of the MLPs over `dim`.
        abs_pos: learned absolute positions, resized bicubically to the picture. Group DETR v2 goes without.
        rel_pos: learned decomposed relative positions.
    """

    def __init__(
        self,
        *,
        dim: int,
        depth: int,
        num_heads: int,
        global_blocks: tuple[int, ...],
        drop_path: float = 0.1,
        image_size: int = 1024,
        pretrain_size: int = 224,
        patch_size: int = 16,
        window: int = 14,
        mlp_ratio: float = 4.0,
        abs_pos: bool = False,
        rel_pos: bool = True,
    ):
        super().__init__()
        at_least(1, dim=dim, depth=depth, num_heads=num_heads, image_size=image_size, pretrain_size=pretrain_size)
        at_least(1, patch_size=patch_size)
        at_least(2, window=window)
        within(0, 1, below=True, drop_path=drop_path)
        within(0, depth - 1, global_blocks=global_blocks)
        require(dim % num_heads == 0, "num_heads", f"must divide the width {dim}, got {num_heads}")
        require(patch_size & (patch_size - 1) == 0, "patch_size", f"must be a power of 2, got {patch_size}")
        require(image_size % patch_size == 0, "image_size", f"must be a multiple of {patch_size}, got {image_size}")
        fits = pretrain_size % patch_size == 0
        require(fits, "pretrain_size", f"must be a multiple of {patch_size}, got {pretrain_size}")
        self.dim = dim
        self.depth = depth
        self.patch_size = patch_size
        self.grid = pretrain_size // patch_size
        self.patch_embed = PatchEmbed(dim, patch_size)
        self.abs_pos = abs_pos
        if abs_pos:
            self.pos_embed = parameter(self, [1, 1 + self.grid**2, dim], None)
        rates = np.linspace(0.0, drop_path, depth) if depth > 1 else [drop_path]
        self.blocks = nn.LayerList(
            Block(
                dim,
                num_heads,
                mlp_ratio,
                float(rate),
                0 if i in global_blocks else window,
                image_size // patch_size,
                rel_pos,
            )
            for i, rate in enumerate(rates)
        )
        for module in self.sublayers():
            if isinstance(module, nn.Linear):
                TRUNCATED(module.weight)
                nn.initializer.Constant(0.0)(module.bias)
        level = f"c{int(math.log2(patch_size))}"
        self.feature_channels, self.feature_strides = {level: dim}, {level: patch_size}
        self.recompute_blocks = tuple(f"blocks.{i}" for i in range(depth))

    def positions(self, height: int | Tensor, width: int | Tensor) -> Tensor:
        """Absolute positions [1,height,width,dim]."""
        table = self.pos_embed[:, 1:].reshape([1, self.grid, self.grid, self.dim])
        if all(isinstance(side, int) and side == self.grid for side in (height, width)):
            return table
        table = F.interpolate(table.transpose([0, 3, 1, 2]), size=[height, width], mode="bicubic", align_corners=False)
        return table.transpose([0, 2, 3, 1])

    def features(self, image: Tensor) -> dict[str, Tensor]:
        """See the class."""
        x_BHWD = self.patch_embed(image).transpose([0, 2, 3, 1])
        if self.abs_pos:
            x_BHWD = x_BHWD + self.positions(*x_BHWD.shape[1:3])
        for block in self.blocks:
            x_BHWD = block(x_BHWD)
        return dict.fromkeys(self.feature_channels, x_BHWD.transpose([0, 3, 1, 2]))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return self.features(image)


class LayerNorm2D(nn.Layer):
    """Normalises [B,C,H,W] over C at every pixel."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.bias = parameter(self, [channels], 1.0), parameter(self, [channels])

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x = F.layer_norm(x_BCHW.transpose([0, 2, 3, 1]), self.weight.shape, self.weight, self.bias, 1e-6)
        return x.transpose([0, 3, 1, 2])


class SimpleFeaturePyramid(nn.Layer):
    """Maps of several strides from a single one.

    Args:
        in_channels: of the map.
        channels: of the pyramid.
        stride: of the map, a power of 2.
        levels: log2 of the strides, fine to coarse; from 4 times finer than the map to twice as coarse.
        top: subsample the coarsest once more for a further level.
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int, levels: Sequence[int] = (3, 4, 5), top: bool = True
    ):
        super().__init__()
        self.levels, self.top = tuple(levels), top
        own = int(math.log2(stride))
        for level in self.levels:
            if level == own - 2:
                half, width = in_channels // 2, in_channels // 4
                layers = [
                    nn.Conv2DTranspose(in_channels, half, 2, 2),
                    LayerNorm2D(half),
                    nn.GELU(),
                    nn.Conv2DTranspose(half, width, 2, 2),
                ]
            elif level == own - 1:
                width = in_channels // 2
                layers = [nn.Conv2DTranspose(in_channels, width, 2, 2)]
            elif level == own:
                width, layers = in_channels, []
            elif level == own + 1:
                width, layers = in_channels, [nn.MaxPool2D(2, 2)]
            else:
                raise ValueError(f"feature pyramid: no level {level} from a map of stride {stride}")
            layers += [
                nn.Conv2D(width, channels, 1, bias_attr=False),
                LayerNorm2D(channels),
                nn.Conv2D(channels, channels, 3, padding=1, bias_attr=False),
                LayerNorm2D(channels),
            ]
            self.add_sublayer(f"simfp_{level}", nn.Sequential(*layers))

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        """Maps [B,channels,h,w], fine to coarse. Pooling takes the floor of a side, subsampling the ceiling."""
        maps = [getattr(self, f"simfp_{level}")(x_BCHW) for level in self.levels]
        if self.top:
            maps.append(F.max_pool2d(maps[-1], 1, 2))
        return maps
