"""Multi-head attention with packed projections, over queries that may come in groups.

Papers:   A. Vaswani et al., "Attention Is All You Need", arXiv:1706.03762; Q. Chen et al., "Group DETR",
          arXiv:2207.13085 (groups).
Checked:  against `paddle.nn.MultiHeadAttention` with the same matrices, groups against a block-diagonal mask
          (tests/nn/test_attention.py), and inside Deformable DETR against `transformers` on torch.
Deviates: the projections of queries, keys and values are one matrix `in_proj_weight` [d,3d], as PaddleDetection and
          torch pack them. A query that may attend to nothing gets the mean of all values, not NaN.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

__all__ = ["MultiHeadAttention", "attend"]

MASKED = -1.0e9  # a score that softmax turns into 0; finite, so that a fully masked row has no NaN


def attend(
    query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Softmax attention, [B,h,N,e], [B,h,M,e] and [B,h,M,f] -> [B,h,N,f]; the softmax in float32.

    Args:
        query: as above.
        key: as above.
        value: as above.
        scale: of the scores.
        mask: bool, True = may attend, broadcastable to [B,h,N,M].
        dropout: of the weights; 0 outside training.
    """
    score = paddle.matmul(query * scale, key, transpose_y=True)
    if score.dtype in (paddle.float16, paddle.bfloat16):
        score = score.astype("float32")
    if mask is not None:
        score = paddle.where(mask, score, paddle.full_like(score, MASKED))
    weights = F.softmax(score, axis=-1)
    if dropout:
        weights = F.dropout(weights, dropout)
    return paddle.matmul(weights.astype(value.dtype), value)


class MultiHeadAttention(nn.Layer):
    """Queries [B,N,d] over keys and values [B,M,d] -> [B,N,d].

    Args:
        dim: d.
        heads: must divide `dim`.
        dropout: of the attention weights.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0):
        super().__init__()
        if dim % heads:
            raise ValueError(f"attention: {heads} heads do not divide width {dim}")
        self.dim = dim
        self.heads = heads
        self.dropout = dropout
        xavier = nn.initializer.XavierUniform(fan_in=dim, fan_out=3 * dim)
        self.in_proj_weight = self.create_parameter([dim, 3 * dim], default_initializer=xavier)
        self.in_proj_bias = self.create_parameter([3 * dim], is_bias=True)
        self.out_proj = nn.Linear(dim, dim, weight_attr=paddle.ParamAttr(initializer=nn.initializer.XavierUniform()))

    def _project(self, x: Tensor, part: int, groups: int) -> Tensor:
        """Query (0), key (1) or value (2): [B,N,d] -> [B * groups, heads, N / groups, d / heads]."""
        columns = slice(part * self.dim, (part + 1) * self.dim)
        x = F.linear(x, self.in_proj_weight[:, columns], self.in_proj_bias[columns])
        if groups > 1:  # groups lie one after the other, so each becomes a sample of its own without a copy
            x = x.reshape([-1, x.shape[1] // groups, self.dim])
        return x.reshape([0, 0, self.heads, self.dim // self.heads]).transpose([0, 2, 1, 3])

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, groups: int = 1) -> Tensor:
        """Attend.

        Args:
            q: [B,N,d].
            k: [B,M,d].
            v: [B,M,d].
            mask: bool, True = may attend, broadcastable to [B,heads,N,M]; with groups, to [B,heads,T,T].
            groups: N = M = groups x T: that many groups, one after the other, which do not see each other.
        """
        if mask is not None and groups > 1 and mask.ndim == 4 and mask.shape[0] != 1:
            mask = mask.unsqueeze(1).tile([1, groups, 1, 1, 1]).flatten(0, 1)
        query, key, value = (self._project(x, i, groups) for i, x in enumerate((q, k, v)))
        dropout = self.dropout if self.training else 0.0
        y = attend(query, key, value, scale=(self.dim // self.heads) ** -0.5, mask=mask, dropout=dropout)
        y = y.transpose([0, 2, 1, 3]).flatten(2)
        if groups > 1:
            y = y.reshape([-1, q.shape[1], self.dim])
        return self.out_proj(y)
