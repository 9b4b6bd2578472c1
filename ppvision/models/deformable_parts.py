"""What Deformable DETR and DINO share: several levels of tokens, their encoder, the anchors of its proposals.

Papers:   X. Zhu et al., "Deformable DETR", arXiv:2010.04159; H. Zhang et al., "DINO", arXiv:2203.03605.
Checked:  inside Deformable DETR against `transformers` on torch, with padding and odd sizes.
Deviates: an anchor that is no use has the finite logit 20 instead of infinity: the same box, and no NaN in a gradient.
          The layers' names are PaddleDetection's (which are upstream's): `self_attn`, `linear1`, `linear2`, `norm1` ...
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppvision.errors import UserError
from ppvision.models.network import promises
from ppvision.models.queries import Context
from ppvision.nn.attention import MultiHeadAttention
from ppvision.nn.deformable import MultiScaleDeformableAttention, level_sizes
from ppvision.nn.group_norm import GroupNorm
from ppvision.nn.positions import sine_map

__all__ = [
    "DeformableDecoderLayer",
    "DeformableEncoder",
    "DeformableEncoderLayer",
    "InputProjection",
    "anchors",
    "build_backbone",
    "level_masks",
    "picture_share",
    "scaled",
]

USELESS = 20.0  # logit of an anchor that must not be chosen


def build_backbone(
    backbone: str | nn.Layer, levels: Sequence[str], options: Mapping[str, Any] | None = None
) -> nn.Layer:
    """The feature extractor of a detector.

    What any network must offer to be one: `features(image) -> dict` of maps [B,C,h,w] by level, fine to coarse ("c3"
    is stride 8, "c4" 16, "c5" 32), `feature_channels`, level -> C, and `feature_strides`. All of its parameters that
    train must be used by `features`.

    Args:
        backbone: a name of the zoo, or a network. By name it is built without its classifier (`num_classes=0`), a
            ResNet with frozen batch norms and its stem and first stage fixed, as every DETR has it.
        levels: the levels the detector reads, fine to coarse.
        options: arguments of the network named by `backbone`, which override the above.

    Raises:
        UserError: the network offers no such levels, or `options` are given for a network that is built already.
    """
    if isinstance(backbone, str):
        from ppvision.models import zoo

        fixed = {"num_classes": 0, "frozen_bn": True, "freeze_at": 2}
        known = zoo.signature(backbone).parameters
        given = {k: v for k, v in fixed.items() if k in known}
        net = zoo.create_model(backbone, **{**given, **(options or {})})
    else:
        if options:
            raise UserError("backbone_options are arguments of a backbone given by name, not of one that is built")
        net = backbone
    offered = promises(net).feature_channels
    if not promises(net).offers("features") or not isinstance(offered, Mapping):
        raise UserError(f"backbone: {type(net).__name__} has no features() with feature_channels")
    if missing := [level for level in levels if level not in offered]:
        raise UserError(
            f"backbone: {type(net).__name__} has no level {', '.join(missing)}; it has {', '.join(offered)}"
        )
    return net


class InputProjection(nn.LayerList):
    """Maps of the backbone -> maps of `dim` channels, and coarser ones down to `num_levels`.

    Level l is convolution 1x1 and group norm (`{l}.conv`, `{l}.norm`); each further one is a convolution 3x3 with
    stride 2, of the backbone's last map first, then of the level before.

    Args:
        num_in: channels of the backbone's maps, fine to coarse.
        dim: channels of every level.
        num_levels: at least as many as maps.
    """

    def __init__(self, num_in: Sequence[int], dim: int, num_levels: int):
        super().__init__()
        if num_levels < len(num_in):
            raise ValueError(f"{len(num_in)} maps do not make {num_levels} levels")
        self.num_maps = len(num_in)
        for level in range(num_levels):
            extra = level >= len(num_in)
            channels = num_in[min(level, len(num_in) - 1)] if level <= len(num_in) else dim
            conv = nn.Conv2D(
                channels,
                dim,
                3 if extra else 1,
                stride=2 if extra else 1,
                padding=1 if extra else 0,
                weight_attr=paddle.ParamAttr(initializer=nn.initializer.XavierUniform()),
                bias_attr=paddle.ParamAttr(initializer=nn.initializer.Constant(0.0)),
            )
            norm = GroupNorm(math.gcd(32, dim), dim)
            self.append(nn.Sequential(("conv", conv), ("norm", norm)))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        levels = [self[i](maps[i]) for i in range(self.num_maps)]
        for i in range(self.num_maps, len(self)):
            levels.append(self[i](maps[-1] if i == self.num_maps else levels[-1]))
        return levels


def level_masks(valid: Tensor | None, maps: Sequence[Tensor]) -> list[Tensor] | None:
    """`valid` [B,H,W] at the size of each map, [B,h,w], by the pixel at floor(i * H / h); None stays None.

    Integer indices instead of a nearest-neighbour resize, whose rounding differs between the runtimes of a graph.
    """
    if valid is None:
        return None
    masks = []
    for x in maps:
        rows = _nearest_cells(valid.shape[1], x.shape[2])
        columns = _nearest_cells(valid.shape[2], x.shape[3])
        masks.append(valid.index_select(rows, axis=1).index_select(columns, axis=2))
    return masks


def _nearest_cells(length: int | Tensor, count: int | Tensor) -> Tensor:
    """int64 [count]: floor(i * length / count)."""
    return paddle.arange(count, dtype="int64") * length // count


def picture_share(mask: Tensor) -> Tensor:
    """[B,h,w] -> [B,2]: which share of width and height is picture; the picture lies in the upper left corner.

    No `stack` of two tensors of shape [B]: for a batch fixed to one paddle2onnx 2.1 takes them for scalars.
    """
    mask = mask.astype("float32")
    return paddle.concat([mask[:, 0].mean(-1, keepdim=True), mask[:, :, 0].mean(-1, keepdim=True)], axis=-1)


def scaled(references: Tensor, valid_ratios: Tensor | None) -> Tensor:
    """References in 0..1 of the picture [B or 1,N,2|4] -> in 0..1 of every level's padded map [B or 1,N,L or 1,2|4]."""
    if valid_ratios is None:
        return references.unsqueeze(2)
    ratios = valid_ratios.unsqueeze(1)
    if references.shape[-1] == 4:
        ratios = paddle.concat([ratios, ratios], axis=-1)
    return references.unsqueeze(2) * ratios


def _centres(shapes: Sequence[tuple]) -> list[Tensor]:
    """(x, y) of the middle of every cell of each level, [1,h*w,2], in cells."""
    centres = []
    for height, width in shapes:
        y = (paddle.arange(height).astype("float32") + 0.5).reshape([1, -1, 1, 1])
        x = (paddle.arange(width).astype("float32") + 0.5).reshape([1, 1, -1, 1])
        zero = paddle.zeros_like(x + y)
        centres.append(paddle.concat([x + zero, y + zero], axis=-1).flatten(1, 2))
    return centres


def _cells(shapes: Sequence[tuple], valid_ratios: Tensor | None) -> list[Tensor]:
    """(x, y) of the middle of every cell of each level, [B or 1,h*w,2], in 0..1 of the picture."""
    sizes = level_sizes(shapes).unsqueeze(0)
    if valid_ratios is not None:
        sizes = sizes * valid_ratios
    return [centre / sizes[:, i : i + 1] for i, centre in enumerate(_centres(shapes))]


def anchors(context: Context, side: float = 0.05) -> tuple[Tensor, Tensor]:
    """A box around the middle of every token, `side * 2**level` of the picture wide and high.

    Returns:
        Logits [B or 1,S,4] (cxcywh), `USELESS` where the next is False; and bool [B or 1,S,1]: True where the box lies
        between 0.01 and 0.99 in all four numbers and the token is part of the picture.
    """
    boxes = []
    for level, centre in enumerate(_cells(context.shapes, context.valid_ratios)):
        boxes.append(paddle.concat([centre, paddle.full_like(centre, side * 2.0**level)], axis=-1))
    boxes = paddle.concat(boxes, axis=1)
    useful = paddle.logical_and(boxes > 0.01, boxes < 0.99).all(axis=-1, keepdim=True)
    if context.valid is not None:
        useful = paddle.logical_and(useful, context.valid.unsqueeze(-1))
    inside = paddle.where(useful, boxes, paddle.full_like(boxes, 0.5))
    logits = paddle.log(inside / (1.0 - inside))
    return paddle.where(useful, logits, paddle.full_like(logits, USELESS)), useful


class FeedForward(nn.Layer):
    """What ends a layer of encoder and decoder: `linear1`, ReLU, `linear2`, and dropout.

    Args:
        dim: d.
        hidden: width between the two.
        dropout: after each, and of whatever `drop` is used for.
    """

    def __init__(self, dim: int, hidden: int, dropout: float):
        super().__init__()
        xavier = nn.initializer.XavierUniform()
        self.linear1 = nn.Linear(dim, hidden, weight_attr=paddle.ParamAttr(initializer=xavier))
        self.linear2 = nn.Linear(hidden, dim, weight_attr=paddle.ParamAttr(initializer=xavier))
        self.dropout = dropout

    def drop(self, x: Tensor) -> Tensor:
        """Dropout while training."""
        return F.dropout(x, self.dropout) if self.training and self.dropout else x

    def feed(self, x: Tensor) -> Tensor:
        """The two layers."""
        return self.drop(self.linear2(self.drop(F.relu(self.linear1(x)))))


class DeformableEncoderLayer(FeedForward):
    """Deformable self-attention and a feed-forward network, each followed by its norm; [B,S,d] -> [B,S,d]."""

    def __init__(self, dim: int, heads: int, ffn: int, levels: int, points: int, dropout: float = 0.0):
        super().__init__(dim, ffn, dropout)
        self.self_attn = MultiScaleDeformableAttention(dim, heads, levels, points)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(
        self, x: Tensor, positions: Tensor, references: Tensor, shapes: Sequence[tuple], valid: Tensor | None
    ) -> Tensor:
        x = self.norm1(x + self.drop(self.self_attn(x + positions, references, x, shapes, valid)))
        return self.norm2(x + self.feed(x))


class DeformableEncoder(nn.Layer):
    """Maps of several levels -> `Context`: every token attends to places on all levels.

    Args:
        dim: d.
        heads: of the attention.
        ffn: hidden width of the feed-forward networks.
        num_layers: of the encoder.
        levels: L.
        points: places per head and level.
        dropout: after each attention and inside the feed-forward networks.
        temperature: of the sine positions: 10000 (Deformable DETR) or 20 (DINO).
        offset: of the sine positions: -0.5 (Deformable DETR) or 0 (DINO).
    """

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        ffn: int = 1024,
        num_layers: int = 6,
        levels: int = 4,
        points: int = 4,
        dropout: float = 0.0,
        temperature: float = 10000.0,
        offset: float = -0.5,
    ):
        super().__init__()
        self.dim = dim
        self.temperature = temperature
        self.offset = offset
        self.level_embed = self.create_parameter([levels, dim], default_initializer=nn.initializer.Normal())
        self.layers = nn.LayerList(
            DeformableEncoderLayer(dim, heads, ffn, levels, points, dropout) for _ in range(num_layers)
        )

    def positions(self, shapes: Sequence[tuple], masks: Sequence[Tensor] | None) -> Tensor:
        """Sine of the place and embedding of the level, [B or 1,S,d]."""
        parts = []
        for i, (height, width) in enumerate(shapes):
            sine = sine_map(
                height,
                width,
                self.dim,
                valid=None if masks is None else masks[i],
                temperature=self.temperature,
                offset=self.offset,
            )
            parts.append(sine.flatten(1, 2) + self.level_embed[i])
        return paddle.concat(parts, axis=1)

    def forward(self, maps: Sequence[Tensor], valid: Tensor | None = None) -> Context:
        """Encode.

        Args:
            maps: [B,d,h,w] of each level, fine to coarse.
            valid: bool [B,H,W] of the image; None: no padding.
        """
        shapes = [(x.shape[2], x.shape[3]) for x in maps]
        x = paddle.concat([m.flatten(2).transpose([0, 2, 1]) for m in maps], axis=1)
        masks = level_masks(valid, maps)
        tokens = ratios = None
        if masks is not None:
            tokens = paddle.concat([m.flatten(1) for m in masks], axis=1)
            ratios = paddle.stack([picture_share(mask) for mask in masks], axis=1)  # [B,L,2]
        positions = self.positions(shapes, masks)
        references = scaled(paddle.concat(_cells(shapes, ratios), axis=1), ratios)
        for layer in self.layers:
            x = layer(x, positions, references, shapes, tokens)
        return Context(memory=x, valid=tokens, shapes=shapes, valid_ratios=ratios)


class DeformableDecoderLayer(FeedForward):
    """Self-attention of the queries, deformable attention to the memory, a feed-forward network, a norm after each.

    `norm2` follows self-attention and `norm1` the other, as upstream named them.
    """

    def __init__(self, dim: int, heads: int, ffn: int, levels: int, points: int, dropout: float = 0.0):
        super().__init__(dim, ffn, dropout)
        self.self_attn = MultiHeadAttention(dim, heads, dropout)
        self.cross_attn = MultiScaleDeformableAttention(dim, heads, levels, points)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        references: Tensor,
        context: Context,
        mask: Tensor | None = None,
        groups: int = 1,
    ) -> Tensor:
        """Queries [B,N,d] -> [B,N,d].

        Args:
            x: [B,N,d].
            positions: [B or 1,N,d], added to the queries of both attentions and to the keys of the first.
            references: [B or 1,N,L or 1,2|4] of the padded maps, see `scaled`.
            context: of the encoder.
            mask: bool [T,T], True = may attend.
            groups: N = groups x T.
        """
        q = x + positions
        x = self.norm2(x + self.drop(self.self_attn(q, q, x, mask, groups)))
        seen = self.cross_attn(x + positions, references, context.memory, context.shapes, context.valid)
        x = self.norm1(x + self.drop(seen))
        return self.norm3(x + self.feed(x))
