"""CLIP's image tower: every token in the space that images and captions share.

Paper:    A. Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", arXiv:2103.00020.
Checked:  against `transformers` 4.57 `CLIPVisionModelWithProjection`, random small configurations, all tokens, 1e-5
          (tests/models/test_against_transformers.py).
Deviates: the last norm and the projection are applied to every token, where the stock model gives the class token
          only: that is the target CAE v2 (arXiv:2211.09799) learns. Positions are resized bilinearly where the image
          is not of the native size. Not normalised to unit length: who compares directions does that.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppvision.errors import at_least, require
from ppvision.models.network import Network
from ppvision.models.zoo.entry import CLIP
from ppvision.nn.resize import resize
from ppvision.nn.vit import PatchEmbed, parameter

__all__ = ["VARIANTS", "ClipVision"]

VARIANTS = {
    "b16": dict(image_size=224, patch_size=16, dim=768, depth=12, num_heads=12, out_dim=512),
    "l14": dict(image_size=224, patch_size=14, dim=1024, depth=24, num_heads=16, out_dim=768),
    "debug": dict(image_size=24, patch_size=4, dim=64, depth=3, num_heads=4, out_dim=48),
}


class ClipAttention(nn.Layer):
    """Multi-head self-attention over [B,N,dim], biases everywhere."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads, self.scale = num_heads, (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        qkv = self.qkv(x_BND).reshape([0, 0, 3, self.num_heads, x_BND.shape[-1] // self.num_heads])
        q, k, v = qkv.transpose([2, 0, 3, 1, 4]).unbind(0)
        weights = F.softmax(paddle.matmul(q * self.scale, k, transpose_y=True), axis=-1)
        return self.proj(paddle.matmul(weights, v).transpose([0, 2, 1, 3]).flatten(2))


class ClipBlock(nn.Layer):
    """Pre-norm block whose activation is QuickGELU, x sigmoid(1.702 x): GELU instead moves features by 1e-2."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, epsilon=1e-5)
        self.attn = ClipAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, epsilon=1e-5)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        x_BND = x_BND + self.attn(self.norm1(x_BND))
        hidden = self.fc1(self.norm2(x_BND))
        return x_BND + self.fc2(hidden * F.sigmoid(1.702 * hidden))


class ClipVision(Network):
    """[B,3,H,W] -> {"cls": [B,out_dim], "tokens": [B,N,out_dim]}, patches in row-major order.

    Args:
        image_size: native size; N = (image_size / patch_size)^2 there.
        patch_size: of the convolution that makes patches.
        dim: width.
        depth: number of blocks.
        num_heads: of the attention.
        out_dim: width of the shared space.
    """

    mean_std = CLIP  # a Method that uses it as a teacher normalises with this

    def __init__(self, image_size: int, patch_size: int, dim: int, depth: int, num_heads: int, out_dim: int):
        super().__init__()
        at_least(1, image_size=image_size, patch_size=patch_size, dim=dim, depth=depth)
        at_least(1, num_heads=num_heads, out_dim=out_dim)
        fits = image_size >= patch_size
        require(fits, "image_size", f"must hold a patch of {patch_size} pixels, got {image_size}")
        require(dim % num_heads == 0, "num_heads", f"must divide the width {dim}, got {num_heads}")
        self.image_size = image_size
        self.patch_size = patch_size
        self.dim = dim
        self.grid = image_size // patch_size
        self.patch_embed = PatchEmbed(dim, patch_size, bias=False)
        self.cls_token = parameter(self, [1, 1, dim], None)
        self.pos_embed = parameter(self, [1, 1 + self.grid**2, dim], None)
        self.norm_pre = nn.LayerNorm(dim, epsilon=1e-5)
        self.blocks = nn.LayerList(ClipBlock(dim, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, epsilon=1e-5)
        self.head = nn.Linear(dim, out_dim, bias_attr=False)
        self.feature_channels, self.feature_strides = {"c4": out_dim}, {"c4": patch_size}
        self.recompute_blocks = tuple(f"blocks.{i}" for i in range(depth))

    def features(self, image: Tensor) -> dict[str, Tensor]:
        """{"cls": [B,C], "tokens": [B,N,C], "c4": the tokens as a map [B,C,h,w]}."""
        x_BDHW = self.patch_embed(image)
        height, width = x_BDHW.shape[2:]
        positions = self.pos_embed
        if not all(isinstance(side, int) and side == self.grid for side in (height, width)):
            table = positions[:, 1:].reshape([1, self.grid, self.grid, self.dim]).transpose([0, 3, 1, 2])
            table = resize(table, x_BDHW.shape[2:]).flatten(2).transpose([0, 2, 1])
            positions = paddle.concat([positions[:, :1], table], axis=1)
        patches = x_BDHW.flatten(2).transpose([0, 2, 1])
        cls = self.cls_token.expand([x_BDHW.shape[0], 1, self.dim])
        x_BND = self.norm_pre(paddle.concat([cls, patches], axis=1) + positions)
        for block in self.blocks:
            x_BND = block(x_BND)
        y_BNC = self.head(self.norm(x_BND))
        tokens = y_BNC[:, 1:]
        grid = tokens.transpose([0, 2, 1]).reshape([0, tokens.shape[2], height, width])
        return {"cls": y_BNC[:, 0], "tokens": tokens, "c4": grid}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        maps = self.features(image)
        return {"cls": maps["cls"], "tokens": maps["tokens"]}
