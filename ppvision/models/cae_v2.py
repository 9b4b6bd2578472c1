"""CAE v2's encoder: a plain ViT that encodes the visible patches, and the classifier and pyramid made of it.

Paper:    X. Zhang et al., "CAE v2: Context Autoencoder with CLIP Latent Alignment", arXiv:2211.09799.
Checked:  parameter counts of the four sizes; the visible-only path against `transformers` 4.57 BEiT layers to 1e-5
          (tests/models/test_against_transformers.py); checkpoints convert both ways without loss. Key names are those
          of the authors' release (Atten4Vis/CAE, project/CAEv2) below `encoder.`.
Deviates: positions are resized bilinearly where the image is not of the native size (the release knows one size).

tiny and small have 12 heads, as the release registers them; `num_heads: 3` and `6` give DeiT's layout. The regressor,
mask token, prediction head and teacher belong to `ppvision.methods.cae_v2`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import paddle
from paddle import Tensor, nn

from ppvision.errors import UserError, at_least, require, within
from ppvision.models.network import Network
from ppvision.nn.resize import resize
from ppvision.nn.vit import (
    TRUNCATED,
    Block,
    PatchEmbed,
    init_beit,
    init_xavier,
    parameter,
    sincos_table,
    take_tokens,
)

__all__ = ["PYRAMID_BLOCKS", "VARIANTS", "CaeV2", "CaeV2Pyramid"]

# arXiv:2211.09799 and the release's scripts; debug sizes are ours
VARIANTS = {
    "tiny": dict(image_size=224, patch_size=16, dim=192, depth=12, num_heads=12, layer_scale=0.1),
    "small": dict(image_size=224, patch_size=16, dim=384, depth=12, num_heads=12, layer_scale=0.1),
    "base": dict(image_size=224, patch_size=16, dim=768, depth=12, num_heads=12, layer_scale=0.1),
    "large": dict(image_size=224, patch_size=16, dim=1024, depth=24, num_heads=16, layer_scale=1e-5),
    "debug": dict(image_size=24, patch_size=4, dim=32, depth=3, num_heads=4, layer_scale=0.1),
    "debug_l": dict(image_size=24, patch_size=4, dim=96, depth=3, num_heads=4, layer_scale=0.1),
}
PYRAMID_BLOCKS = {12: (3, 5, 7, 11), 24: (7, 11, 15, 23)}  # depth -> blocks whose outputs make c2 .. c5


class CaeV2(Network):
    """[B,3,H,W] -> {"cls": [B,dim], "tokens": [B,N,dim]}, or logits [B,K] when `num_classes` is K > 0.

    Args:
        num_classes: 0 for the encoder.
        image_size: native size; the grid has (image_size / patch_size)^2 patches.
        patch_size: side of a patch.
        dim: width.
        depth: number of blocks.
        num_heads: of the attention.
        layer_scale: start of the branch scales.
        drop_path: stochastic depth of the last block; grows linearly from 0.
        pool: what a classifier reads: "mean" of the patches through `fc_norm` (fine-tuning; the encoder's final norm is
            left out), or the class token after the final norm through a batch norm without scale ("cls", linear probe).
        rel_pos_bias: learned relative position bias in every block; null: exactly for a classifier with pool "mean".
        abs_pos: fixed sin-cos positions.
        init: of the matrices: "xavier", as the released runs started, or "beit".
    """

    def __init__(
        self,
        num_classes: int = 0,
        *,
        image_size: int,
        patch_size: int,
        dim: int,
        depth: int,
        num_heads: int,
        layer_scale: float,
        drop_path: float = 0.1,
        pool: Literal["mean", "cls"] = "mean",
        rel_pos_bias: bool | None = None,
        abs_pos: bool = True,
        init: Literal["xavier", "beit"] = "xavier",
    ):
        super().__init__()
        at_least(0, num_classes=num_classes, layer_scale=layer_scale)
        at_least(1, image_size=image_size, patch_size=patch_size, dim=dim, depth=depth, num_heads=num_heads)
        within(0, 1, below=True, drop_path=drop_path)
        whole = image_size % patch_size == 0
        require(whole, "image_size", f"must be a multiple of patch_size {patch_size}, got {image_size}")
        require(dim % num_heads == 0, "num_heads", f"must divide the width {dim}, got {num_heads}")
        require(dim % 4 == 0 or not abs_pos, "dim", f"must be a multiple of 4 for fixed positions, got {dim}")
        self.num_classes = num_classes
        self.dim = dim
        self.depth = depth
        self.num_heads = num_heads
        self.pool = pool
        self.patch_size = patch_size
        self.grid = image_size // patch_size
        self.drop_path = drop_path
        classifier = num_classes > 0
        if rel_pos_bias is None:
            rel_pos_bias = classifier and pool == "mean"
        self.abs_pos, self.rel_pos_bias = abs_pos, rel_pos_bias
        window = (self.grid, self.grid) if rel_pos_bias else None
        self.patch_embed = PatchEmbed(dim, patch_size)
        self.cls_token = parameter(self, [1, 1, dim], None)
        if abs_pos:
            self.register_buffer("pos_embed", paddle.to_tensor(sincos_table(dim, self.grid, self.grid)))
        rates = np.linspace(0.0, drop_path, depth)
        self.blocks = nn.LayerList(Block(dim, num_heads, 4.0, layer_scale, float(rate), window) for rate in rates)
        self.norm = nn.Identity() if classifier and pool == "mean" else nn.LayerNorm(dim, epsilon=1e-6)
        if init == "beit":
            init_beit(self, self.blocks)
        else:
            init_xavier(self)
        if classifier:
            self.fc_norm = (
                nn.LayerNorm(dim, epsilon=1e-6)
                if pool == "mean"
                else nn.BatchNorm1D(dim, epsilon=1e-6, weight_attr=False, bias_attr=False)
            )
            self.head = nn.Linear(dim, num_classes)
            (TRUNCATED if pool == "mean" else nn.initializer.Normal(std=0.01))(self.head.weight)
            if pool == "mean":  # the published start: almost equal logits
                self.head.weight.set_value(self.head.weight * 0.001)
        self.feature_channels, self.feature_strides = {"c4": dim}, {"c4": patch_size}
        self.recompute_blocks = tuple(f"blocks.{i}" for i in range(depth))

    def embed(self, image: Tensor, keep: Tensor | None = None) -> tuple[Tensor, list[int]]:
        """Class token and (kept) patches with their positions, [B,1+V,dim]; and the grid (rows, columns)."""
        x_BDHW = self.patch_embed(image)
        height, width = x_BDHW.shape[2:]
        native = all(isinstance(side, int) and side == self.grid for side in (height, width))  # free sides are not
        if self.rel_pos_bias and not native:
            raise UserError(
                f"cae_v2: relative positions are learned for {self.grid * self.patch_size} pixels; the image is "
                f"{image.shape[2]}x{image.shape[3]}"
            )
        patches = x_BDHW.flatten(2).transpose([0, 2, 1])
        cls = self.cls_token.expand([x_BDHW.shape[0], 1, self.dim])
        if self.abs_pos:
            table = self.pos_embed[:, 1:]
            if not native:
                table = table.reshape([1, self.grid, self.grid, self.dim]).transpose([0, 3, 1, 2])
                table = resize(table, x_BDHW.shape[2:]).flatten(2).transpose([0, 2, 1])
            patches, cls = patches + table, cls + self.pos_embed[:, :1]
        if keep is not None:
            patches = take_tokens(patches, keep)
        return paddle.concat([cls, patches], axis=1), [height, width]

    def features(self, image: Tensor, keep: Tensor | None = None) -> dict[str, Tensor]:
        """{"cls": [B,dim], "tokens": [B,N,dim], "c4": the tokens as a map}, after the final norm where there is one.

        Args:
            image: [B,3,H,W].
            keep: int64 [B,V], patches to encode, in row-major numbering; the others are never seen, `tokens` is
                [B,V,dim] in the order of `keep`, and there is no map.

        Raises:
            UserError: `keep` with a relative position bias, which knows whole grids only.
        """
        if keep is not None and self.rel_pos_bias:
            raise UserError("cae_v2: keep needs rel_pos_bias: false")
        x_BND, (height, width) = self.embed(image, keep)
        for block in self.blocks:
            x_BND = block(x_BND)
        x_BND = self.norm(x_BND)
        cls, tokens = x_BND[:, 0], x_BND[:, 1:]
        if keep is not None:
            return {"cls": cls, "tokens": tokens}
        grid = tokens.transpose([0, 2, 1]).reshape([-1, self.dim, height, width])
        return {"cls": cls, "tokens": tokens, "c4": grid}

    def forward(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        maps = self.features(image)
        if not self.num_classes:
            return {"cls": maps["cls"], "tokens": maps["tokens"]}
        pooled = maps["tokens"].mean(1) if self.pool == "mean" else maps["cls"]
        return self.head(self.fc_norm(pooled))


class CaeV2Pyramid(CaeV2):
    """Four maps of a plain encoder as a backbone for dense heads: c2 (stride patch / 4) .. c5 (2 patch).

    Outputs of four blocks are resampled by two transposed convolutions, one, none, and max pooling, as BEiT's and CAE's
    segmentation does. Relative position bias on, absolute positions off unless told otherwise.

    Args:
        blocks: indices of the blocks that are read; null: those published for 12 and 24 blocks, else spread evenly.
        kwargs: see `CaeV2`.
    """

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        dim: int,
        depth: int,
        num_heads: int,
        layer_scale: float,
        drop_path: float = 0.1,
        rel_pos_bias: bool = True,
        abs_pos: bool = False,
        blocks: tuple[int, int, int, int] | None = None,
    ):
        super().__init__(
            image_size=image_size,
            patch_size=patch_size,
            dim=dim,
            depth=depth,
            num_heads=num_heads,
            layer_scale=layer_scale,
            drop_path=drop_path,
            rel_pos_bias=rel_pos_bias,
            abs_pos=abs_pos,
        )
        self.norm = nn.Identity()
        require(patch_size % 4 == 0, "patch_size", f"must be a multiple of 4 for a pyramid, got {patch_size}")
        ordered = blocks is None or (len(blocks) == 4 and list(blocks) == sorted(set(blocks)))
        inside = blocks is None or (ordered and blocks[0] >= 0 and blocks[3] < depth)
        require(inside, "blocks", f"names four blocks, ascending, of 0..{depth - 1}, got {blocks}")
        even = tuple(max((i + 1) * depth // 4 - 1, 0) for i in range(4))
        self.levels = blocks or PYRAMID_BLOCKS.get(depth, even)
        self.fpn1 = nn.Sequential(
            nn.Conv2DTranspose(dim, dim, 2, 2),
            nn.BatchNorm2D(dim),
            nn.GELU(),
            nn.Conv2DTranspose(dim, dim, 2, 2),
        )
        self.fpn2 = nn.Conv2DTranspose(dim, dim, 2, 2)
        self.fpn4 = nn.MaxPool2D(2, 2)
        names, strides = ("c2", "c3", "c4", "c5"), (patch_size // 4, patch_size // 2, patch_size, 2 * patch_size)
        self.feature_channels = dict.fromkeys(names, dim)
        self.feature_strides = dict(zip(names, strides))

    def features(self, image: Tensor, keep: None = None) -> dict[str, Tensor]:
        """{"c2": …, "c3": …, "c4": …, "c5": …}, each [B,dim,h,w]."""
        x_BND, (height, width) = self.embed(image)
        outputs = {}
        for i, block in enumerate(self.blocks):
            x_BND = block(x_BND)
            if i in self.levels:
                outputs[i] = x_BND[:, 1:].transpose([0, 2, 1]).reshape([-1, self.dim, height, width])
        maps = [outputs[i] for i in self.levels]
        resampled = (self.fpn1(maps[0]), self.fpn2(maps[1]), maps[2], self.fpn4(maps[3]))
        return dict(zip(self.feature_channels, resampled))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return self.features(image)
