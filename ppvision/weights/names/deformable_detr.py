"""Deformable DETR's names in its release (fundamentalvision) and in `transformers`.

A head may stand in a file under several names: without refinement all layers share one, with refinement the decoder
lists them again. With two stages the last head is the proposals'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppvision.weights.names.engine import Dialect, Names, Rules, below
from ppvision.weights.names.resnet import TORCHVISION
from ppvision.weights.names.resnet import TRANSFORMERS as RESNET

if TYPE_CHECKING:
    from paddle import nn

# A Method's own file: the network below `model.`, the rest is the Method's.
OWN_NETWORK: Rules = (("model.{rest}", "{rest}"),)
OWN_METHOD: Rules = (("{rest:(?!model[.]).+}", "{rest}"),)

_QUERIES = "{part:reference_points|enc_output|enc_output_norm|pos_trans|pos_trans_norm}"
_RELEASE: Rules = (
    ("backbone.0.body.{rest}", "backbone.{rest}"),
    ("transformer.level_embed", "encoder.level_embed"),
    ("input_proj.{i}.0.{leaf}", "input_proj.{i}.conv.{leaf}"),
    ("input_proj.{i}.1.{leaf}", "input_proj.{i}.norm.{leaf}"),
    ("query_embed.weight", "queries.query_embed.weight"),
    (f"transformer.{_QUERIES}.{{leaf}}", f"queries.{_QUERIES}.{{leaf}}"),
    ("transformer.{p:encoder|decoder}.layers.{rest}", "{p}.layers.{rest}"),
)
_BACKBONE = "model.backbone.conv_encoder.model."
_TRANSFORMERS: Rules = (
    *below(_BACKBONE, TORCHVISION, "backbone."),  # timm's
    ("model.level_embed", "encoder.level_embed"),
    ("model.input_proj.{i}.0.{leaf}", "input_proj.{i}.conv.{leaf}"),
    ("model.input_proj.{i}.1.{leaf}", "input_proj.{i}.norm.{leaf}"),
    ("model.query_position_embeddings.weight", "queries.query_embed.weight"),
    (f"model.{_QUERIES}.{{leaf}}", f"queries.{_QUERIES}.{{leaf}}"),
    ("model.encoder.layers.{i}.self_attn_layer_norm.{leaf}", "encoder.layers.{i}.norm1.{leaf}"),
    ("model.encoder.layers.{i}.final_layer_norm.{leaf}", "encoder.layers.{i}.norm2.{leaf}"),
    ("model.decoder.layers.{i}.self_attn_layer_norm.{leaf}", "decoder.layers.{i}.norm2.{leaf}"),
    ("model.decoder.layers.{i}.encoder_attn_layer_norm.{leaf}", "decoder.layers.{i}.norm1.{leaf}"),
    ("model.decoder.layers.{i}.final_layer_norm.{leaf}", "decoder.layers.{i}.norm3.{leaf}"),
    ("model.decoder.layers.{i}.encoder_attn.{rest}", "decoder.layers.{i}.cross_attn.{rest}"),
    ("model.decoder.layers.{i}.self_attn.{qkv}_proj.{leaf}", "decoder.layers.{i}.self_attn.in_proj_{leaf}"),
    ("model.{p:encoder|decoder}.layers.{i}.fc{n}.{leaf}", "{p}.layers.{i}.linear{n}.{leaf}"),
    ("model.{p:encoder|decoder}.layers.{rest}", "{p}.layers.{rest}"),
)
_READS: Rules = (  # timm's ResNet of another age, and their own
    *below(f"{_BACKBONE}_backbone.", TORCHVISION, "backbone."),
    *below(_BACKBONE, RESNET, "backbone."),
)


def _heads(depth: int, refine: bool, two_stage: bool) -> tuple[Rules, Rules]:
    """Rules for the heads of `depth` layers, and for those that are the same once more."""
    once: list[tuple[str, str]] = []
    again: list[tuple[str, str]] = []
    for kind in ("class_embed", "bbox_embed"):
        for i in range(depth):
            rule = (f"{kind}.{i}.{{leaf}}", f"{kind}.{i if refine else 0}.{{leaf}}")
            (once if refine or i == 0 else again).append(rule)
        if two_stage:
            once.append((f"{kind}.{depth}.{{leaf}}", f"queries.{kind}.{{leaf}}"))
    return tuple(once), tuple(again)


def names(net: nn.Layer) -> Names:
    """Of 91 classes, COCO's category ids, a network of 80 takes those in use."""
    once, again = _heads(len(net.decoder.layers), net.refine, net.two_stage)
    listed = [rule for rule in once if net.refine and (net.two_stage or rule[0].startswith("bbox_embed"))]
    hint = ": the file needs refine: true"
    return Names(
        {
            "own": Dialect(pattern=r"model\.encoder\.level_embed", rules=OWN_NETWORK, training=OWN_METHOD),
            "transformers": Dialect(
                of="a Deformable DETR of transformers",
                pattern=r"model\..+",
                rules=(*_TRANSFORMERS, *once),
                reads=_READS,
                also=(*again, *below("model.decoder.", tuple(listed))),
                torch=True,
                hint=hint,
            ),
            "release": Dialect(
                of="the released Deformable DETR",
                pattern=r"transformer\..+|backbone\.0\.body\..+|input_proj\.\d+\.[01]\..+",
                rules=(*_RELEASE, *once),
                also=(*again, *below("transformer.decoder.", tuple(listed))),
                torch=True,
                hint=hint,
            ),
        },
        backbone="backbone",
        whole=r"(transformer|model|class_embed|bbox_embed|queries|input_proj|backbone)\..+|encoder\.level_embed",
        heads=r"(queries\.)?class_embed\..+",
        num_classes=net.num_classes,
    )
