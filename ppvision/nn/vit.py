"""Blocks of plain vision transformers in the convention of BEiT and CAE.

Paper:    H. Bao et al., "BEiT: BERT Pre-Training of Image Transformers", arXiv:2106.08254; X. Chen et al., "Context
          Autoencoder for Self-Supervised Representation Learning", arXiv:2202.03026.
Checked:  blocks against `transformers` 4.57 BEiT layers (tests/models/test_against_transformers.py).
Deviates: nothing. Keys have no bias: `qkv` is one matrix, `q_bias` and `v_bias` are parameters of their own.

Names of axes: B batch, N tokens, Q queries, D width, A heads, E width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppvision.nn.drop import DropPath

__all__ = [
    "Attention",
    "Block",
    "CrossAttention",
    "Mlp",
    "PatchEmbed",
    "init_beit",
    "init_xavier",
    "relative_position_index",
    "sincos_table",
    "take_tokens",
]

TRUNCATED = nn.initializer.TruncatedNormal(std=0.02)


def parameter(layer: nn.Layer, shape: Sequence[int], value: float | None = 0.0) -> Tensor:
    """A parameter filled with `value`, or with None drawn from a truncated normal of deviation 0.02."""
    initializer = TRUNCATED if value is None else nn.initializer.Constant(value)
    return layer.create_parameter(list(shape), default_initializer=initializer)


def sincos_table(dim: int, height: int, width: int) -> np.ndarray:
    """Fixed positions float32 [1, 1 + height * width, dim]: zeros for the class token, then per patch sin and cos of
    its row, sin and cos of its column, `dim / 4` channels each.
    """
    if dim % 4:
        raise ValueError(f"sin-cos positions need a width divisible by 4, not {dim}")
    omega = 10000.0 ** (-np.arange(dim // 4) / (dim // 4))
    row, column = (np.outer(axis.flatten(), omega) for axis in np.mgrid[:height, :width])
    patches = np.concatenate([np.sin(row), np.cos(row), np.sin(column), np.cos(column)], axis=1)
    return np.concatenate([np.zeros((1, dim)), patches])[None].astype(np.float32)


def relative_position_index(height: int, width: int) -> np.ndarray:
    """int64 [1 + N, 1 + N]: row of the bias table for every (query, key).

    The table has (2 height - 1)(2 width - 1) rows for pairs of patches, then three: class token to patch, patch to
    class token, class token to itself.
    """
    y, x = (axis.flatten() for axis in np.mgrid[:height, :width])
    pairs = (y[:, None] - y[None] + height - 1) * (2 * width - 1) + x[:, None] - x[None] + width - 1
    rows = (2 * height - 1) * (2 * width - 1)
    index = np.empty((1 + height * width,) * 2, np.int64)
    index[1:, 1:] = pairs
    index[0, :] = rows
    index[:, 0] = rows + 1
    index[0, 0] = rows + 2
    return index


def take_tokens(x_BND: Tensor, index_BV: Tensor) -> Tensor:
    """Rows `index_BV` (int64) of each sample: [B,N,D] -> [B,V,D]."""
    batch, count, dim = x_BND.shape
    flat = (index_BV + paddle.arange(batch, dtype="int64").unsqueeze(1) * count).flatten()
    return paddle.gather(x_BND.reshape([-1, dim]), flat).reshape([batch, index_BV.shape[1], dim])


def init_xavier(layer: nn.Layer) -> None:
    """Every Linear below `layer` Xavier-uniform with zero bias: what the released CAE v2 runs start from."""
    for module in layer.sublayers(include_self=True):
        if isinstance(module, nn.Linear):
            nn.initializer.XavierUniform()(module.weight)
            if module.bias is not None:
                nn.initializer.Constant(0.0)(module.bias)


def init_beit(layer: nn.Layer, blocks: Sequence[nn.Layer]) -> None:
    """Every Linear below `layer` truncated normal with zero bias; the matrices that end a residual branch of block i
    (from 1) divided by sqrt(2 i).
    """
    for module in layer.sublayers(include_self=True):
        if isinstance(module, nn.Linear):
            TRUNCATED(module.weight)
            if module.bias is not None:
                nn.initializer.Constant(0.0)(module.bias)
    for i, block in enumerate(blocks, 1):
        for name, module in block.named_sublayers():
            if isinstance(module, nn.Linear) and name.rpartition(".")[2] in ("proj", "fc2"):
                module.weight.set_value(module.weight / (2.0 * i) ** 0.5)


class PatchEmbed(nn.Layer):
    """Non-overlapping patches: [B,3,H,W] -> map [B,dim,H/patch,W/patch]."""

    def __init__(self, dim: int, patch_size: int, bias: bool = True):
        super().__init__()
        weight = paddle.ParamAttr(initializer=TRUNCATED)
        self.proj = nn.Conv2D(3, dim, patch_size, patch_size, weight_attr=weight, bias_attr=None if bias else False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class Mlp(nn.Layer):
    """Linear, GELU, Linear."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Attention(nn.Layer):
    """Self-attention over [B,N,dim] without a bias on the keys.

    Args:
        dim: width.
        num_heads: must divide `dim`.
        window: (height, width) of the patch grid for a learned relative position bias, which starts at zero; None:
            none. The tokens then are the class token and all patches of that grid.
    """

    def __init__(self, dim: int, num_heads: int, window: tuple[int, int] | None = None):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"attention: {num_heads} heads do not divide width {dim}")
        self.dim = dim
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim, bias_attr=False)
        self.q_bias, self.v_bias = parameter(self, [dim]), parameter(self, [dim])
        self.proj = nn.Linear(dim, dim)
        self.window = window
        if window is not None:
            rows = (2 * window[0] - 1) * (2 * window[1] - 1) + 3
            self.relative_position_bias_table = parameter(self, [rows, num_heads])
            index = relative_position_index(*window)
            self.register_buffer("relative_position_index", paddle.to_tensor(index))

    def position_bias(self) -> Tensor:
        """[1,A,1+N,1+N], added to the scores."""
        index = self.relative_position_index
        bias = paddle.gather(self.relative_position_bias_table, index.flatten())
        return bias.reshape([*index.shape, self.num_heads]).transpose([2, 0, 1]).unsqueeze(0)

    def forward(self, x_BND: Tensor) -> Tensor:
        bias = paddle.concat([self.q_bias, paddle.zeros_like(self.q_bias), self.v_bias])
        qkv = (self.qkv(x_BND) + bias).reshape([0, 0, 3, self.num_heads, self.dim // self.num_heads])
        q_BANE, k_BANE, v_BANE = qkv.transpose([2, 0, 3, 1, 4]).unbind(0)
        score = paddle.matmul(q_BANE * self.scale, k_BANE, transpose_y=True)
        if self.window is not None:
            score = score + self.position_bias()
        y_BANE = paddle.matmul(F.softmax(score, axis=-1), v_BANE)
        return self.proj(y_BANE.transpose([0, 2, 1, 3]).flatten(2))


class CrossAttention(nn.Layer):
    """Attention of queries [B,Q,dim] to keys and values [B,N,dim], each with a matrix of its own, no bias on keys."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"attention: {num_heads} heads do not divide width {dim}")
        self.num_heads, self.scale = num_heads, (dim // num_heads) ** -0.5
        self.q, self.k, self.v = (nn.Linear(dim, dim, bias_attr=False) for _ in range(3))
        self.q_bias, self.v_bias = parameter(self, [dim]), parameter(self, [dim])
        self.proj = nn.Linear(dim, dim)

    def forward(self, query_BQD: Tensor, key_BND: Tensor, value_BND: Tensor) -> Tensor:
        q, k, v = (
            t.reshape([0, 0, self.num_heads, -1]).transpose([0, 2, 1, 3])
            for t in (self.q(query_BQD) + self.q_bias, self.k(key_BND), self.v(value_BND) + self.v_bias)
        )
        weights = F.softmax(paddle.matmul(q * self.scale, k, transpose_y=True), axis=-1)
        return self.proj(paddle.matmul(weights, v).transpose([0, 2, 1, 3]).flatten(2))


class Block(nn.Layer):
    """Pre-norm transformer block whose branches are scaled per channel (LayerScale, arXiv:2103.17239).

    Args:
        dim: width.
        num_heads: of the attention.
        mlp_ratio: hidden width of the MLP over `dim`.
        layer_scale: start of `gamma_1` and `gamma_2`.
        drop_path: rate of stochastic depth.
        window: see `Attention`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        layer_scale: float = 0.1,
        drop_path: float = 0.0,
        window: tuple[int, int] | None = None,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, epsilon=1e-6)
        self.attn = Attention(dim, num_heads, window)
        self.gamma_1 = parameter(self, [dim], layer_scale)
        self.norm2 = nn.LayerNorm(dim, epsilon=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.gamma_2 = parameter(self, [dim], layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BND: Tensor) -> Tensor:
        x_BND = x_BND + self.drop_path(self.gamma_1 * self.attn(self.norm1(x_BND)))
        return x_BND + self.drop_path(self.gamma_2 * self.mlp(self.norm2(x_BND)))
