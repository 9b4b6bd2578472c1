"""DAB-DETR: queries are boxes, which every decoder layer refines.

Paper:    S. Liu et al., "DAB-DETR: Dynamic Anchor Boxes are Better Queries for DETR", arXiv:2201.12329.
Checked:  memory, logits and boxes of every layer against `transformers` 4.57 `DabDetrForObjectDetection` with random
          weights, padding and injected queries, to 1e-4 (tests/models/test_against_transformers_detr.py).
Deviates: sides of an anchor are taken as at least 1e-5 where the decoder divides by them. No dropout, as upstream's
          recipes. The table of anchors is a part of its own (`queries`), so that there can be several.

Names of axes: B batch, S tokens of the memory, N queries, K classes, d width, h heads, e width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppvision.errors import require
from ppvision.models.deformable_parts import build_backbone, level_masks
from ppvision.models.detr import Detr, Queries
from ppvision.models.queries import Context, QuerySet
from ppvision.nn.attention import MultiHeadAttention, attend
from ppvision.nn.boxes import inverse_sigmoid
from ppvision.nn.mlp import Mlp
from ppvision.nn.positions import sine_boxes, sine_map
from ppvision.nn.stem import ConvStem
from ppvision.nn.vit import init_xavier

__all__ = ["VARIANTS", "DabDetr"]

# arXiv:2201.12329 and its release; the debug size is ours
VARIANTS: dict[str, dict[str, Any]] = {
    "r18": dict(backbone="resnet18"),
    "r50": dict(backbone="resnet50"),
    "r101": dict(backbone="resnet101"),
    "debug": dict(
        backbone="conv_stem",
        level="c3",
        dim=48,
        heads=4,
        ffn=96,
        encoder_layers=1,
        decoder_layers=2,
        num_queries=20,
    ),
}


class PReLU(nn.Layer):
    """x where positive, else `weight` x; one learned number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = self.create_parameter([1], default_initializer=nn.initializer.Constant(0.25))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x) - self.weight * F.relu(-x)


class FeedForward(nn.Layer):
    """Layers that end with `linear1`, PReLU, `linear2`."""

    def __init__(self, dim: int, ffn: int):
        super().__init__()
        self.linear1 = nn.Linear(dim, ffn)
        self.linear2 = nn.Linear(ffn, dim)
        self.activation = PReLU()

    def feed(self, x: Tensor) -> Tensor:
        """[...,d] -> [...,d]."""
        return self.linear2(self.activation(self.linear1(x)))


class EncoderLayer(FeedForward):
    """Self-attention and a feed-forward network, a norm after each; [B,S,d] -> [B,S,d]."""

    def __init__(self, dim: int, heads: int, ffn: int):
        super().__init__(dim, ffn)
        self.self_attn = MultiHeadAttention(dim, heads)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        q = x + positions
        x = self.norm1(x + self.self_attn(q, q, x, mask))
        return self.norm2(x + self.feed(x))


class Encoder(nn.Layer):
    """Positions are scaled by what is seen, by one MLP for all layers."""

    def __init__(self, dim: int, heads: int, ffn: int, num_layers: int):
        super().__init__()
        self.query_scale = Mlp(dim, dim, dim, 2)
        self.layers = nn.LayerList(EncoderLayer(dim, heads, ffn) for _ in range(num_layers))

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        masks = () if mask is None else (mask,)
        for layer in self.layers:
            x = layer(x, positions * self.query_scale(x), *masks)
        return x


class Projected(nn.Layer):
    """The last projection of an attention whose others are its owner's: `out_proj`."""

    def __init__(self, dim: int):
        super().__init__()
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(x)


class DecoderLayer(FeedForward):
    """Self-attention of the queries, conditional cross-attention, a feed-forward network, a norm after each.

    Content and position are projected apart; in cross-attention they stand side by side in every head, so that scores
    are a sum of two.

    Args:
        dim: d.
        heads: h.
        ffn: hidden width of the feed-forward network.
        first: of the decoder: its content knows nothing yet, so positions are added to it.
    """

    def __init__(self, dim: int, heads: int, ffn: int, first: bool):
        super().__init__(dim, ffn)
        self.dim = dim
        self.heads = heads
        self.first = first
        for name in ("sa_qcontent", "sa_qpos", "sa_kcontent", "sa_kpos", "sa_v"):
            self.add_sublayer(f"{name}_proj", nn.Linear(dim, dim))
        for name in ("ca_qcontent", "ca_kcontent", "ca_kpos", "ca_v", "ca_qpos_sine", *(["ca_qpos"] if first else [])):
            self.add_sublayer(f"{name}_proj", nn.Linear(dim, dim))
        self.self_attn, self.cross_attn = Projected(dim), Projected(dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        sine: Tensor,
        context: Context,
        mask: Tensor | None = None,
        groups: int = 1,
    ) -> Tensor:
        """Queries [B or 1,N,d] -> [B,N,d].

        Args:
            x: content.
            positions: [B or 1,N,d], made from the whole box.
            sine: [B or 1,N,d], embedding of the centre, modulated by the size.
            context: of the encoder.
            mask: bool [T,T], True = may attend.
            groups: N = groups x T.
        """
        x = self.norm1(x + self.among_queries(x, positions, mask, groups))
        x = self.norm2(x + self.to_memory(x, positions, sine, context))
        return self.norm3(x + self.feed(x))

    def among_queries(self, x: Tensor, positions: Tensor, mask: Tensor | None, groups: int) -> Tensor:
        """Self-attention inside every group."""
        q = self.sa_qcontent_proj(x) + self.sa_qpos_proj(positions)
        k = self.sa_kcontent_proj(x) + self.sa_kpos_proj(positions)
        v, count = self.sa_v_proj(x), x.shape[1]
        if groups > 1:  # groups lie one after the other, so each becomes a sample of its own without a copy
            q, k, v = (t.reshape([-1, count // groups, self.dim]) for t in (q, k, v))
        width = self.dim // self.heads
        y = attend(self._heads(q), self._heads(k), self._heads(v), scale=width**-0.5, mask=mask)
        return self.self_attn(y.transpose([0, 2, 1, 3]).reshape([-1, count, self.dim]))

    def to_memory(self, x: Tensor, positions: Tensor, sine: Tensor, context: Context) -> Tensor:
        """Cross-attention."""
        q = self.ca_qcontent_proj(x)
        k = self.ca_kcontent_proj(context.memory)
        v = self.ca_v_proj(context.memory)
        k_positions = self.ca_kpos_proj(context.positions)
        if self.first:
            q, k = q + self.ca_qpos_proj(positions), k + k_positions
        q = paddle.concat([self._heads(q), self._heads(self.ca_qpos_sine_proj(sine))], axis=-1)
        k = paddle.concat([self._heads(k), self._heads(k_positions + paddle.zeros_like(k))], axis=-1)
        mask = None if context.valid is None else context.valid.unsqueeze([1, 2])
        y = attend(q, k, self._heads(v), scale=(2 * self.dim // self.heads) ** -0.5, mask=mask)
        return self.cross_attn(y.transpose([0, 2, 1, 3]).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        """[B,N,d] -> [B,h,N,e]."""
        return x.reshape([0, 0, self.heads, self.dim // self.heads]).transpose([0, 2, 1, 3])


class Decoder(nn.Layer):
    """The layers and what makes positions out of boxes."""

    def __init__(self, dim: int, heads: int, ffn: int, num_layers: int):
        super().__init__()
        self.dim = dim
        self.layers = nn.LayerList(DecoderLayer(dim, heads, ffn, first=i == 0) for i in range(num_layers))
        self.norm = nn.LayerNorm(dim)
        self.query_scale = Mlp(dim, dim, dim, 2)
        self.ref_point_head = Mlp(2 * dim, dim, dim, 2)
        self.ref_anchor_head = Mlp(dim, dim, 2, 2)

    def places(self, x: Tensor, box: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """`positions` and `sine` for `DecoderLayer`, from content x [B or 1,N,d] and box [B or 1,N,4] in 0..1."""
        whole = sine_boxes(box, self.dim // 2)  # y, x, w, h
        sine = whole[..., : self.dim]
        if layer:
            sine = sine * self.query_scale(x)
        size = F.sigmoid(self.ref_anchor_head(x)).astype("float32")
        width, height = (size / box[..., 2:].clip(min=1e-5)).split(2, axis=-1)
        rows, columns = sine.split(2, axis=-1)
        return self.ref_point_head(whole), paddle.concat([rows * height, columns * width], axis=-1)


class Transformer(nn.Layer):
    """Encoder and decoder under upstream's names."""

    def __init__(self, dim: int, heads: int, ffn: int, encoder_layers: int, decoder_layers: int):
        super().__init__()
        self.encoder = Encoder(dim, heads, ffn, encoder_layers)
        self.decoder = Decoder(dim, heads, ffn, decoder_layers)


class DabQueries(Queries):
    """A table of anchors (as logits), each asked with every pattern.

    Args:
        num_queries: anchors.
        dim: of the patterns.
        num_patterns: content embeddings; 0: content starts from zeros.
    """

    def __init__(self, num_queries: int, dim: int, num_patterns: int = 0):
        super().__init__()
        normal = paddle.ParamAttr(initializer=nn.initializer.Normal())
        self.refpoint_embed = nn.Embedding(num_queries, 4, weight_attr=normal)
        self.patterns = nn.Embedding(num_patterns, dim, weight_attr=normal) if num_patterns else None

    def forward(self, context: Context) -> QuerySet:
        references = self.refpoint_embed.weight.unsqueeze(0)
        if self.patterns is None:
            return QuerySet(references)
        content = self.patterns.weight.repeat_interleave(references.shape[1], axis=0).unsqueeze(0)
        return QuerySet(references.tile([1, self.patterns.weight.shape[0], 1]), content)


class DabDetr(Detr):
    """[B,3,H,W] -> {"logits": [B,N,K], "boxes": [B,N,4]}.

    Args:
        num_classes: K; 80 for COCO, 91 for published weights with all their slots.
        backbone: a name of the zoo, "conv_stem", or a network with `features`.
        backbone_options: arguments of the backbone named by its name.
        stem: widths of "conv_stem".
        level: the map of the backbone that is read.
        dim: d, a multiple of 4.
        heads: of all attentions.
        ffn: hidden width of the feed-forward networks.
        encoder_layers: of the encoder.
        decoder_layers: of the decoder.
        num_queries: anchors.
        num_patterns: content embeddings that every anchor is asked with; 0: none.
        temperature: of the sine positions of the map; 20, or 10 with a dilated backbone.
    """

    query_content = False  # boxes are all there is to its queries

    def __init__(
        self,
        num_classes: int = 80,
        *,
        backbone: str | nn.Layer = "resnet50",
        backbone_options: dict[str, Any] | None = None,
        stem: Sequence[int] = (12, 24, 32, 32),
        level: str = "c5",
        dim: int = 256,
        heads: int = 8,
        ffn: int = 2048,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        num_queries: int = 300,
        num_patterns: int = 0,
        temperature: float = 20.0,
    ):
        super().__init__()
        require(dim % (2 * heads) == 0, "dim", f"must be a multiple of 2 x {heads} heads, got {dim}")
        if backbone == "conv_stem":
            backbone = ConvStem(stem)
        self.num_classes = num_classes
        self.dim = dim
        self.level = level
        self.temperature = temperature
        self.num_anchors, self.num_patterns = num_queries, num_patterns
        self.num_queries, self.query_content = num_queries * max(num_patterns, 1), num_patterns > 0
        self.backbone = build_backbone(backbone, [level], backbone_options)
        self.input_proj = nn.Conv2D(
            self.backbone.feature_channels[level],
            dim,
            1,
            weight_attr=paddle.ParamAttr(initializer=nn.initializer.XavierUniform()),
        )
        self.transformer = Transformer(dim, heads, ffn, encoder_layers, decoder_layers)
        self.queries = self.new_queries()
        self.class_embed = nn.Linear(dim, num_classes)
        self.bbox_embed = Mlp(dim, dim, 4, 3)
        for part in (self.transformer, self.class_embed, self.bbox_embed):
            init_xavier(part)
        nn.initializer.Constant(-math.log(99.0))(self.class_embed.bias)  # prior probability 0.01
        nn.initializer.Constant(0.0)(self.bbox_embed.layers[-1].weight)
        self.recompute_blocks = tuple(f"transformer.encoder.layers.{i}" for i in range(encoder_layers))

    def new_queries(self) -> DabQueries:
        return DabQueries(self.num_anchors, self.dim, self.num_patterns)

    def encode(self, image: Tensor, valid: Tensor | None = None) -> Context:
        c = self.backbone.features(image)[self.level]
        masks = level_masks(valid, [c])
        height, width = c.shape[2:]
        x = self.input_proj(c).flatten(2).transpose([0, 2, 1])
        mask = None if masks is None else masks[0]
        positions = sine_map(height, width, self.dim, valid=mask, temperature=self.temperature).flatten(1, 2)
        tokens = None if mask is None else mask.flatten(1)
        seen = None if tokens is None else tokens.unsqueeze([1, 2])
        memory = self.transformer.encoder(x, positions, seen)
        return Context(memory, tokens, [(height, width)], positions=positions)

    def decode(self, context: Context, queries: QuerySet) -> list[tuple[Tensor, Tensor]]:
        decoder = self.transformer.decoder
        box = F.sigmoid(queries.references.astype("float32"))
        fixed = box  # only the first layer's anchors get a gradient through where the decoder looks
        x = paddle.zeros([box.shape[0], box.shape[1], self.dim])
        if queries.content is not None:
            x = x + queries.content
        outputs = []
        for i, layer in enumerate(decoder.layers):
            positions, sine = decoder.places(x, fixed, i)
            x = layer(x, positions, sine, context, queries.mask, queries.groups)
            y = decoder.norm(x)
            outputs.append(
                (self.class_embed(y), F.sigmoid(self.bbox_embed(y).astype("float32") + inverse_sigmoid(box)))
            )
            if i + 1 < len(decoder.layers):
                box = F.sigmoid(self.bbox_embed(x).astype("float32") + inverse_sigmoid(fixed))
                fixed = box.detach()
        return outputs
