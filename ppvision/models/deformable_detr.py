"""Deformable DETR: a detector whose attention looks at a few places on several levels.

Paper:    X. Zhu, W. Su, L. Lu, B. Li, X. Wang, J. Dai, "Deformable DETR: Deformable Transformers for End-to-End Object
          Detection", arXiv:2010.04159.
Checked:  against `transformers` 4.57 `DeformableDetrForObjectDetection`, random small configurations, one stage,
          refined and two-stage, padded pictures and odd sizes: memory, logits and boxes to 1e-4
          (tests/models/test_against_transformers_deformable_detr.py).
Deviates: with two stages a token whose anchor is no use (at the rim, or padding) cannot be chosen as a query; upstream
          gives it an infinite box and leaves the choice to the classifier. A picture with fewer tokens than queries
          gets as many queries as tokens. References are logits throughout, kept within +-11.5.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppvision.errors import at_least, require, within
from ppvision.models.deformable_parts import (
    DeformableDecoderLayer,
    DeformableEncoder,
    InputProjection,
    anchors,
    build_backbone,
    scaled,
)
from ppvision.models.detr import Detr, Queries
from ppvision.models.network import promises
from ppvision.models.queries import Context, Proposals, QuerySet
from ppvision.nn.mlp import Mlp
from ppvision.nn.positions import sine_boxes
from ppvision.nn.stem import ConvStem
from ppvision.nn.vit import take_tokens

__all__ = ["VARIANTS", "DeformableDetr", "ProposalQueries", "TableQueries"]

VARIANTS: dict[str, dict[str, Any]] = {
    "r18": dict(backbone="resnet18"),
    "r50": dict(backbone="resnet50"),
    "r101": dict(backbone="resnet101"),
    # ours, for tests
    "debug": dict(
        backbone="conv_stem", levels=("c3",), num_levels=2, num_queries=20, dim=48, heads=4, ffn=96,
        encoder_layers=1, decoder_layers=2, dropout=0.0, refine=True,
    ),
}  # fmt: skip
PRIOR = -math.log(99.0)  # bias of a class head whose scores start at 0.01
LIMIT = 11.512915  # logit of 1 - 1e-5: how far a reference may be from the middle before a box is added to it
WORST = -1.0e4  # score of a token that must not be chosen


def _xavier() -> paddle.ParamAttr:
    return paddle.ParamAttr(initializer=nn.initializer.XavierUniform())


def _zero() -> paddle.ParamAttr:
    return paddle.ParamAttr(initializer=nn.initializer.Constant(0.0))


def _class_head(dim: int, num_classes: int) -> nn.Linear:
    bound = dim**-0.5
    start = paddle.ParamAttr(initializer=nn.initializer.Uniform(-bound, bound))
    prior = paddle.ParamAttr(initializer=nn.initializer.Constant(PRIOR))
    return nn.Linear(dim, num_classes, weight_attr=start, bias_attr=prior)


def _box_head(dim: int, side: float) -> Mlp:
    """Says "where the reference is" at first, with sides of logit `side`, or `side` more than the reference's."""
    head = Mlp(dim, dim, 4, 3)
    nn.initializer.Constant(0.0)(head.layers[2].weight)
    head.layers[2].bias.set_value(paddle.to_tensor([0.0, 0.0, side, side]))
    return head


class TableQueries(Queries):
    """Learned queries: a table of positions and content; a position tells its reference point.

    Args:
        dim: d.
        num_queries: N.
    """

    def __init__(self, dim: int, num_queries: int):
        super().__init__()
        self.dim = dim
        normal = paddle.ParamAttr(initializer=nn.initializer.Normal())
        self.query_embed = nn.Embedding(num_queries, 2 * dim, weight_attr=normal)
        self.reference_points = nn.Linear(dim, 2, weight_attr=_xavier(), bias_attr=_zero())

    def forward(self, context: Context) -> QuerySet:
        table = self.query_embed.weight.unsqueeze(0)
        positions, content = table[..., : self.dim], table[..., self.dim :]
        return self.of_places(positions, content)

    def of_places(self, positions: Tensor, content: Tensor) -> QuerySet:
        """See `Queries`."""
        return QuerySet(self.reference_points(positions), content, positions)


class ProposalQueries(Queries):
    """Two stages: the most promising tokens of the memory, as boxes; position and content come from the box.

    Args:
        dim: d.
        num_classes: K; only the first class, "object", is used.
        num_queries: N.
    """

    def __init__(self, dim: int, num_classes: int, num_queries: int):
        super().__init__()
        self.dim, self.num_queries = dim, num_queries
        self.enc_output, self.enc_output_norm = nn.Linear(dim, dim, weight_attr=_xavier()), nn.LayerNorm(dim)
        self.pos_trans, self.pos_trans_norm = nn.Linear(2 * dim, 2 * dim, weight_attr=_xavier()), nn.LayerNorm(2 * dim)
        self.class_embed, self.bbox_embed = _class_head(dim, num_classes), _box_head(dim, 0.0)

    def forward(self, context: Context, chosen: Tensor | None = None) -> QuerySet:
        """Queries from the best tokens, or from those of `chosen` int64 [B,N]."""
        anchor_BS4, useful_BS1 = anchors(context)
        memory = context.memory
        tokens = self.enc_output_norm(self.enc_output(paddle.where(useful_BS1, memory, paddle.zeros_like(memory))))
        logits = self.class_embed(tokens)
        boxes = self.bbox_embed(tokens).astype("float32") + anchor_BS4
        score = logits[..., 0].astype("float32")
        score = paddle.where(useful_BS1.squeeze(-1), score, paddle.full_like(score, WORST))
        count = self.num_queries
        if isinstance(memory.shape[1], int) and memory.shape[1] >= 0:  # free in a static graph
            count = min(count, memory.shape[1])
        index_BN = paddle.topk(score, count, axis=1)[1] if chosen is None else chosen
        proposals = Proposals(logits, F.sigmoid(boxes), binary=True, chosen=index_BN, scores=score)
        return replace(self.of_boxes(take_tokens(boxes, index_BN).detach()), proposals=proposals)

    def of_boxes(self, references: Tensor) -> QuerySet:
        """Queries for boxes [B,N,4], given as logits."""
        places = sine_boxes(F.sigmoid(references), self.dim // 2, order=(0, 1, 2, 3))
        both = self.pos_trans_norm(self.pos_trans(places.astype(self.pos_trans.weight.dtype)))
        return QuerySet(references, content=both[..., self.dim :], positions=both[..., : self.dim])


class Decoder(nn.Layer):
    """The layers, under upstream's name."""

    def __init__(self, dim: int, heads: int, ffn: int, num_layers: int, levels: int, points: int, dropout: float):
        super().__init__()
        self.layers = nn.LayerList(
            DeformableDecoderLayer(dim, heads, ffn, levels, points, dropout) for _ in range(num_layers)
        )


class DeformableDetr(Detr):
    """[B,3,H,W] -> {"logits": [B,N,K], "boxes": [B,N,4]}; see `ppvision.models.detr`.

    Args:
        num_classes: K.
        backbone: a name of the zoo, "conv_stem", or a network with `features`: see
            `ppvision.models.deformable_parts.build_backbone`.
        backbone_options: its arguments, where they differ from those a detector needs.
        stem: widths of "conv_stem".
        levels: maps of the backbone that are read, fine to coarse.
        num_levels: of the memory; the coarser ones come from convolutions with stride 2.
        num_queries: N.
        dim: d.
        heads: of every attention.
        ffn: hidden width of the feed-forward networks.
        encoder_layers: number of them.
        decoder_layers: number of them.
        points: places each query looks at per head and level.
        dropout: of the transformer.
        refine: every decoder layer starts from the boxes of the one before, and has heads of its own.
        two_stage: queries come from what the encoder proposes; needs `refine`.
    """

    def __init__(
        self,
        num_classes: int = 80,
        *,
        backbone: str | nn.Layer = "resnet50",
        backbone_options: dict[str, Any] | None = None,
        stem: tuple[int, ...] = (16, 32, 48, 48),
        levels: tuple[str, ...] = ("c3", "c4", "c5"),
        num_levels: int = 4,
        num_queries: int = 300,
        dim: int = 256,
        heads: int = 8,
        ffn: int = 1024,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        points: int = 4,
        dropout: float = 0.1,
        refine: bool = False,
        two_stage: bool = False,
    ):
        super().__init__()
        at_least(1, num_classes=num_classes, num_queries=num_queries, dim=dim, heads=heads, ffn=ffn, points=points)
        at_least(1, decoder_layers=decoder_layers, num_levels=num_levels)
        at_least(0, encoder_layers=encoder_layers)
        within(0, 1, below=True, dropout=dropout)
        require(dim % heads == 0, "heads", f"must divide the width {dim}, got {heads}")
        require(dim % 4 == 0, "dim", f"must be a multiple of 4, got {dim}")
        require(len(levels) >= 1, "levels", "names at least one map of the backbone")
        enough = len(levels) <= num_levels
        require(enough, "num_levels", f"must be at least the number of levels {len(levels)}, got {num_levels}")
        require(refine or not two_stage, "two_stage", "needs refine: true")
        self.num_classes = num_classes
        self.num_queries = num_queries
        self.dim = dim
        self.levels = tuple(levels)
        self.refine, self.two_stage = refine, two_stage
        if backbone == "conv_stem":
            backbone = ConvStem(stem)
        self.backbone = build_backbone(backbone, self.levels, backbone_options)
        self.feature_channels = dict(self.backbone.feature_channels)
        self.feature_strides = dict(self.backbone.feature_strides)
        self.input_proj = InputProjection([self.feature_channels[level] for level in levels], dim, num_levels)
        self.encoder = DeformableEncoder(dim, heads, ffn, encoder_layers, num_levels, points, dropout)
        self.decoder = Decoder(dim, heads, ffn, decoder_layers, num_levels, points, dropout)
        count = decoder_layers if refine else 1  # without refinement all layers share the heads
        self.class_embed = nn.LayerList(_class_head(dim, num_classes) for _ in range(count))
        self.training_heads = tuple(f"class_embed.{i}" for i in range(count - 1))
        self.bbox_embed = nn.LayerList(_box_head(dim, 0.0 if i or two_stage else -2.0) for i in range(count))
        self.queries = self.new_queries()
        self.recompute_blocks = tuple(f"backbone.{name}" for name in promises(self.backbone).recompute_blocks)

    def new_queries(self) -> TableQueries | ProposalQueries:
        """See `Network`."""
        if self.two_stage:
            return ProposalQueries(self.dim, self.num_classes, self.num_queries)
        return TableQueries(self.dim, self.num_queries)

    def features(self, image: Tensor) -> dict[str, Tensor]:
        """The backbone's maps by level."""
        return self.backbone.features(image)

    def encode(self, image: Tensor, valid: Tensor | None = None) -> Context:
        """See `Network`."""
        maps = self.features(image)
        return self.encoder(self.input_proj([maps[level] for level in self.levels]), valid)

    def decode(self, context: Context, queries: QuerySet) -> list[tuple[Tensor, Tensor]]:
        """See `Network`. `queries` need content and positions; references may be points or boxes."""
        if queries.content is None or queries.positions is None:
            raise ValueError("Deformable DETR decodes queries with content and positions")
        x = queries.content + paddle.zeros_like(context.memory[:, :1, :1])  # to the size of the batch
        at = queries.references.astype("float32")
        outputs = []
        for i, layer in enumerate(self.decoder.layers):
            places = scaled(F.sigmoid(at), context.valid_ratios)
            x = layer(x, queries.positions, places, context, queries.mask, queries.groups)
            head = i if self.refine else 0
            delta = self.bbox_embed[head](x).astype("float32")
            known = at.clip(-LIMIT, LIMIT)
            if at.shape[-1] == 2:
                box = paddle.concat([delta[..., :2] + known, delta[..., 2:]], axis=-1)
            else:
                box = delta + known
            outputs.append((self.class_embed[head](x), F.sigmoid(box)))
            if self.refine:
                at = box.detach()
        return outputs
