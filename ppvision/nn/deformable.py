"""Multi-scale deformable attention by `grid_sample`: no compiled operator, any size, exportable.

Paper:    X. Zhu et al., "Deformable DETR: Deformable Transformers for End-to-End Object Detection", arXiv:2010.04159.
Checked:  values and gradients against loops over the formula in float64 (tests/nn/test_deformable.py), and inside
          Deformable DETR against `transformers` on torch.
Deviates: computed in float32 at least, whatever surrounds it: a half-precision coordinate misses the pixel.

Names of axes: B batch, N queries, S tokens, L levels, M heads, P points, d width, e = d / M.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

__all__ = ["MultiScaleDeformableAttention", "level_sizes"]

HALVES = (paddle.float16, paddle.bfloat16)


def level_sizes(shapes: Sequence[tuple], dtype: paddle.dtype = paddle.float32) -> Tensor:
    """(height, width) of each level, numbers or tensors -> [L,2], **width first** as coordinates are."""
    flat = [paddle.full([1], side, dtype) for height, width in shapes for side in (width, height)]
    return paddle.concat(flat).reshape([-1, 2])


def _full(x: Tensor) -> Tensor:
    return x.astype("float32") if x.dtype in HALVES else x


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x, _full(layer.weight), _full(layer.bias))


class MultiScaleDeformableAttention(nn.Layer):
    """Each query looks at `points` places per head and level, which it chooses itself around its reference.

    Args:
        dim: d.
        heads: M, must divide `dim`.
        levels: L.
        points: P.
    """

    def __init__(self, dim: int, heads: int = 8, levels: int = 4, points: int = 4):
        super().__init__()
        if dim % heads:
            raise ValueError(f"deformable attention: {heads} heads do not divide width {dim}")
        self.dim = dim
        self.heads = heads
        self.levels = levels
        self.points = points
        zero, xavier = nn.initializer.Constant(0.0), nn.initializer.XavierUniform()

        def linear(num_out: int, start: nn.initializer.Initializer) -> nn.Linear:
            return nn.Linear(dim, num_out, paddle.ParamAttr(initializer=start), paddle.ParamAttr(initializer=zero))

        self.sampling_offsets = linear(heads * levels * points * 2, zero)
        self.attention_weights = linear(heads * levels * points, zero)
        self.value_proj, self.output_proj = linear(dim, xavier), linear(dim, xavier)
        self._spread()

    def _spread(self) -> None:
        """Start with head m looking in direction 2 pi m / M, point p at p + 1 steps on the rim of a square."""
        angle = 2 * math.pi / self.heads * paddle.arange(self.heads, dtype="float64")
        direction = paddle.stack([angle.cos(), angle.sin()], axis=-1)
        direction = direction / direction.abs().max(-1, keepdim=True)
        steps = paddle.arange(1, self.points + 1, dtype="float64")
        offsets = direction.reshape([-1, 1, 1, 2]) * steps.reshape([1, 1, -1, 1])
        offsets = offsets.expand([self.heads, self.levels, self.points, 2]).flatten()
        self.sampling_offsets.bias.set_value(offsets.astype(self.sampling_offsets.bias.dtype))

    def forward(
        self,
        query: Tensor,
        references: Tensor,
        value: Tensor,
        shapes: Sequence[tuple],
        valid: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            query: [B,N,d].
            references: [B or 1,N,L or 1,2] points or [..,4] boxes (cxcywh) in 0..1 of the padded maps: offsets are
                in cells of the level around a point, in `1 / (2 P)` of the box's sides around a box.
            value: [B,S,d], the levels one after the other.
            shapes: (height, width) of each level; tensors in a static graph.
            valid: bool [B,S], False where a token is padding, which counts as zero; None: nowhere.

        Returns:
            [B,N,d].
        """
        dtype = query.dtype
        with paddle.amp.auto_cast(enable=False):
            sampled = self._sample(_full(query), _full(references), _full(value), shapes, valid)
            return _linear(self.output_proj, sampled).astype(dtype)

    def _sample(
        self, query: Tensor, references: Tensor, value: Tensor, shapes: Sequence[tuple], valid: Tensor | None
    ) -> Tensor:
        heads = self.heads
        levels = self.levels
        points = self.points
        width = self.dim // self.heads
        value = _linear(self.value_proj, value)
        if valid is not None:
            value = value * valid.unsqueeze(-1).astype(value.dtype)
        value_BdS = value.transpose([0, 2, 1])
        weights = _linear(self.attention_weights, query).reshape([0, 0, heads, levels * points])
        weights = F.softmax(weights, axis=-1).transpose([0, 2, 1, 3]).flatten(0, 1).unsqueeze(1)  # [B*M,1,N,L*P]
        offsets = _linear(self.sampling_offsets, query).reshape([0, 0, heads, levels, points * 2])
        if references.shape[-1] == 4:
            reach = (references[..., 2:] * (0.5 / points)).tile([1, 1, 1, points])
        else:
            reach = (1.0 / level_sizes(shapes, value.dtype)).tile([1, points]).unsqueeze([0, 1])
        # [B,N,M,L,P*2], coordinates -1..1 of the maps' outer edges
        places = references[..., :2].tile([1, 1, 1, points]).unsqueeze(2) + offsets * reach.unsqueeze(2)
        grid = (places * 2.0 - 1.0).transpose([0, 2, 1, 3, 4]).flatten(0, 1)  # [B*M,N,L,P*2]
        out, start = None, 0
        for level, (height, breadth) in enumerate(shapes):
            stop = start + height * breadth
            image = value_BdS[:, :, start:stop].reshape([-1, width, height, breadth])
            at = grid[:, :, level].reshape([0, 0, points, 2])
            seen = F.grid_sample(image, at, mode="bilinear", padding_mode="zeros", align_corners=False)  # [B*M,e,N,P]
            part = (seen * weights[..., level * points : (level + 1) * points]).sum(-1)
            out = part if out is None else out + part
            start = stop
        return out.reshape([-1, self.dim, out.shape[-1]]).transpose([0, 2, 1])
