"""DINO: a deformable detector whose queries start from what its encoder proposes, each layer looking one step ahead.

Papers:   H. Zhang et al., "DINO: DETR with Improved DeNoising Anchor Boxes for End-to-End Object Detection",
          arXiv:2203.03605; Q. Chen et al., "Group DETR v2", arXiv:2211.03594 (on ViT-Huge).
Checked:  against PaddleDetection 2.6's DINOTransformer with the same weights and padded pictures, to 1e-4
          (tests/models/test_dino.py); parameters of transformer and heads: 18.6 M; its weights and those of Group DINO
          and of IDEA's release convert (`ppvision.weights.names.dino`).
Deviates: a token whose anchor is no use (at the rim, or padding) cannot be chosen as a query; upstream gives it an
          infinite box and leaves the choice to the classifier. References are logits throughout. Every group of queries
          starts alike (PaddleDetection gives the prior bias to the first one only). A picture with fewer tokens than
          queries gets as many queries as tokens.

What noises queries, and further groups of them, belong to `ppvision.methods.group_detr`.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppvision.errors import at_least, require, within
from ppvision.models import deformable_detr
from ppvision.models.deformable_parts import (
    DeformableEncoder,
    InputProjection,
    anchors,
    build_backbone,
    scaled,
)
from ppvision.models.detr import Detr, Queries
from ppvision.models.network import promises
from ppvision.models.queries import Context, Proposals, QuerySet
from ppvision.models.vit_det import SimpleFeaturePyramid
from ppvision.nn.mlp import Mlp
from ppvision.nn.positions import sine_boxes
from ppvision.nn.stem import ConvStem
from ppvision.nn.vit import take_tokens

__all__ = ["VARIANTS", "Dino", "DinoQueries"]

PRIOR = -math.log(99.0)  # bias of a class head whose scores start at 0.01
WORST = -1.0e4  # score of a token that must not be chosen

# arXiv:2203.03605 and PaddleDetection's configs/dino, configs/group_detr; debug sizes are ours
VARIANTS: dict[str, dict[str, Any]] = {
    "r18": dict(backbone="resnet18"),
    "r50": dict(backbone="resnet50"),
    "r101": dict(backbone="resnet101"),
    "vit_huge": dict(backbone="vit_det_huge", levels=("c4",), neck="pyramid"),
    "debug": dict(
        backbone="conv_stem", levels=("c3",), num_levels=2, num_queries=20,
        dim=48, heads=4, ffn=96, encoder_layers=1, decoder_layers=2,
    ),
    "debug_vit": dict(
        backbone="vit_det_debug", levels=("c3",), neck="pyramid", num_levels=2, num_queries=20,
        dim=48, heads=4, ffn=96, encoder_layers=1, decoder_layers=2,
    ),
}  # fmt: skip


def _class_head(dim: int, num_classes: int) -> nn.Linear:
    bound = dim**-0.5
    return nn.Linear(
        dim,
        num_classes,
        weight_attr=paddle.ParamAttr(initializer=nn.initializer.Uniform(-bound, bound)),
        bias_attr=paddle.ParamAttr(initializer=nn.initializer.Constant(PRIOR)),
    )


def _box_head(dim: int) -> Mlp:
    """Says "where the reference is" at first."""
    head = Mlp(dim, dim, 4, 3)
    for parameter in head.layers[2].parameters():
        nn.initializer.Constant(0.0)(parameter)
    return head


class DinoQueries(Queries):
    """Mixed query selection: the most promising tokens of the memory give the boxes, a learned table the content.

    Args:
        dim: d.
        num_classes: K.
        num_queries: N.
    """

    def __init__(self, dim: int, num_classes: int, num_queries: int):
        super().__init__()
        self.num_queries = num_queries
        self.enc_output = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim))
        self.enc_score_head, self.enc_bbox_head = _class_head(dim, num_classes), _box_head(dim)
        normal = paddle.ParamAttr(initializer=nn.initializer.Normal())
        self.tgt_embed = nn.Embedding(num_queries, dim, weight_attr=normal)

    def forward(self, context: Context, chosen: Tensor | None = None) -> QuerySet:
        """Queries from the best tokens, or from those of `chosen` int64 [B,N]."""
        anchor_BS4, useful_BS1 = anchors(context)
        memory = context.memory
        tokens = self.enc_output(memory)
        logits = self.enc_score_head(tokens)
        best = logits.max(-1).astype("float32")
        best = paddle.where(useful_BS1.squeeze(-1), best, paddle.full_like(best, WORST))
        count = self.num_queries
        if isinstance(memory.shape[1], int) and memory.shape[1] >= 0:  # free in a static graph
            count = min(count, memory.shape[1])
        index_BN = paddle.topk(best, count, axis=1)[1] if chosen is None else chosen
        if context.valid is None:  # the same anchors for every picture
            anchor_BN4 = paddle.gather(anchor_BS4[0], index_BN.flatten()).reshape([-1, count, 4])
        else:
            anchor_BN4 = take_tokens(anchor_BS4, index_BN)
        boxes = self.enc_bbox_head(take_tokens(tokens, index_BN)).astype("float32") + anchor_BN4
        return QuerySet(
            references=boxes.detach(),
            content=self.tgt_embed.weight[:count].unsqueeze(0),
            proposals=Proposals(take_tokens(logits, index_BN), F.sigmoid(boxes), chosen=index_BN, scores=best),
        )

    def usual_content(self) -> Tensor:
        """See `Queries`."""
        return self.tgt_embed.weight.mean(0)


class Decoder(deformable_detr.Decoder):
    """Layers, and the norm of what they say."""

    def __init__(self, dim: int, heads: int, ffn: int, num_layers: int, levels: int, points: int, dropout: float):
        super().__init__(dim, heads, ffn, num_layers, levels, points, dropout)
        self.norm = nn.LayerNorm(dim)


class Dino(Detr):
    """[B,3,H,W] -> {"logits": [B,N,K], "boxes": [B,N,4]}; see `ppvision.models.detr`.

    Args:
        num_classes: K.
        backbone: a name of the zoo, "conv_stem", or a network with `features`.
        backbone_options: its arguments, where they differ from those a detector needs.
        stem: widths of "conv_stem".
        levels: maps of the backbone that are read, fine to coarse.
        neck: "projection": every map by a convolution, further levels by convolutions with stride 2; "pyramid": all
            levels from the single map of a plain transformer.
        num_levels: of the memory; a pyramid has 2 to 5.
        num_queries: N.
        dim: d.
        heads: of every attention.
        ffn: hidden width of the feed-forward networks.
        encoder_layers: number of them.
        decoder_layers: number of them.
        points: places each query looks at per head and level.
        dropout: of the transformer.
        temperature: of the encoder's sine positions.
        offset: of the encoder's sine positions, in cells.
    """

    def __init__(
        self,
        num_classes: int = 80,
        *,
        backbone: str | nn.Layer = "resnet50",
        backbone_options: dict[str, Any] | None = None,
        stem: tuple[int, ...] = (16, 32, 48, 48),
        levels: tuple[str, ...] = ("c3", "c4", "c5"),
        neck: Literal["projection", "pyramid"] = "projection",
        num_levels: int = 4,
        num_queries: int = 900,
        dim: int = 256,
        heads: int = 8,
        ffn: int = 2048,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        points: int = 4,
        dropout: float = 0.0,
        temperature: float = 20.0,
        offset: float = 0.0,
    ):
        super().__init__()
        at_least(1, num_classes=num_classes, num_queries=num_queries, dim=dim, heads=heads, ffn=ffn, points=points)
        at_least(1, decoder_layers=decoder_layers, num_levels=num_levels)
        at_least(0, encoder_layers=encoder_layers)
        within(0, 1, below=True, dropout=dropout)
        require(dim % heads == 0, "heads", f"must divide the width {dim}, got {heads}")
        require(dim % 4 == 0, "dim", f"must be a multiple of 4, got {dim}")
        self.num_classes = num_classes
        self.num_queries = num_queries
        self.dim = dim
        self.levels = tuple(levels)
        if backbone == "conv_stem":
            backbone = ConvStem(stem)
        self.backbone = build_backbone(backbone, self.levels, backbone_options)
        self.feature_channels = dict(self.backbone.feature_channels)
        self.feature_strides = dict(self.backbone.feature_strides)
        channels = [self.feature_channels[level] for level in self.levels]
        self.pyramid = neck == "pyramid"
        if self.pyramid:
            require(len(channels) == 1, "levels", f"a pyramid is made of one map, got {', '.join(self.levels)}")
            within(2, 5, num_levels=num_levels)
            stride = self.feature_strides[self.levels[0]]
            own = int(math.log2(stride))
            made = {2: (0, 1), 3: (-1, 0, 1), 4: (-1, 0, 1), 5: (-2, -1, 0, 1)}[num_levels]
            self.neck = SimpleFeaturePyramid(channels[0], dim, stride, [own + i for i in made], num_levels > 3)
        else:
            enough = len(channels) <= num_levels
            require(enough, "num_levels", f"must be at least the number of levels {len(channels)}, got {num_levels}")
            self.neck = InputProjection(channels, dim, num_levels)
        self.encoder = DeformableEncoder(
            dim, heads, ffn, encoder_layers, num_levels, points, dropout, temperature=temperature, offset=offset
        )
        self.decoder = Decoder(dim, heads, ffn, decoder_layers, num_levels, points, dropout)
        self.query_pos_head = Mlp(2 * dim, dim, dim, 2)
        self.dec_score_head = nn.LayerList(_class_head(dim, num_classes) for _ in range(decoder_layers))
        self.dec_bbox_head = nn.LayerList(_box_head(dim) for _ in range(decoder_layers))
        self.queries = self.new_queries()
        self.training_heads = tuple(f"dec_score_head.{i}" for i in range(decoder_layers - 1))
        self.recompute_blocks = tuple(f"backbone.{name}" for name in promises(self.backbone).recompute_blocks)

    def new_queries(self) -> DinoQueries:
        """See `Network`."""
        return DinoQueries(self.dim, self.num_classes, self.num_queries)

    def features(self, image: Tensor) -> dict[str, Tensor]:
        """The backbone's maps by level."""
        return self.backbone.features(image)

    def encode(self, image: Tensor, valid: Tensor | None = None) -> Context:
        """See `Network`."""
        maps = self.features(image)
        maps = [maps[level] for level in self.levels]
        return self.encoder(self.neck(maps[0] if self.pyramid else maps), valid)

    def decode(self, context: Context, queries: QuerySet) -> list[tuple[Tensor, Tensor]]:
        """See `Network`. `queries` need boxes and content.

        A layer's boxes go on to the next one without gradient; what the loss sees of layer i also trains the box head
        of layer i - 1 ("look forward twice").
        """
        if queries.content is None or queries.references.shape[-1] != 4:
            raise ValueError("DINO decodes boxes with content")
        zero = paddle.zeros_like(context.memory[:, :1, :1])  # to the batch's size, whatever a part's first axis is
        x = queries.content + zero
        reference = before = queries.references.detach() + zero.astype("float32")
        outputs: list[tuple[Tensor, Tensor]] = []
        for layer, scores, boxes in zip(self.decoder.layers, self.dec_score_head, self.dec_bbox_head):
            at = scaled(F.sigmoid(reference), context.valid_ratios)
            positions = self.query_pos_head(sine_boxes(at[:, :, 0], self.dim // 2).astype(x.dtype))
            x = layer(x, positions, at, context, queries.mask, queries.groups)
            normed = self.decoder.norm(x)
            outputs.append((scores(normed), F.sigmoid(boxes(normed).astype("float32") + before)))
            if len(outputs) < len(self.decoder.layers):
                before = boxes(x).astype("float32") + reference
                reference = before.detach()
        return outputs
