"""DAB-DETR's names in its release (IDEA-Research) and in `transformers`, of two ages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppvision.weights.names.deformable_detr import OWN_METHOD, OWN_NETWORK
from ppvision.weights.names.engine import Dialect, Names, Rules, below
from ppvision.weights.names.resnet import TORCHVISION
from ppvision.weights.names.resnet import TRANSFORMERS as RESNET

if TYPE_CHECKING:
    from paddle import nn

_SELF = {
    "query_content_proj": "sa_qcontent_proj",
    "query_pos_proj": "sa_qpos_proj",
    "key_content_proj": "sa_kcontent_proj",
    "key_pos_proj": "sa_kpos_proj",
    "value_proj": "sa_v_proj",
}
_CROSS = {
    "query_content_proj": "ca_qcontent_proj",
    "key_content_proj": "ca_kcontent_proj",
    "key_pos_proj": "ca_kpos_proj",
    "value_proj": "ca_v_proj",
    "query_pos_sine_proj": "ca_qpos_sine_proj",
    "query_pos_proj": "ca_qpos_proj",
}


def _decoder_layer(first: str, second: str, third: str) -> Rules:
    """A decoder layer of `transformers` whose parts are called so."""
    return below(
        "model.decoder.layers.{i}.",
        (
            *((f"{first}.self_attn_{theirs}.{{leaf}}", f"{ours}.{{leaf}}") for theirs, ours in _SELF.items()),
            *((f"{second}.cross_attn_{theirs}.{{leaf}}", f"{ours}.{{leaf}}") for theirs, ours in _CROSS.items()),
            (f"{first}.self_attn.output_proj.{{leaf}}", "self_attn.out_proj.{leaf}"),
            (f"{second}.cross_attn.output_proj.{{leaf}}", "cross_attn.out_proj.{leaf}"),
            (f"{first}.self_attn_layer_norm.{{leaf}}", "norm1.{leaf}"),
            (f"{second}.cross_attn_layer_norm.{{leaf}}", "norm2.{leaf}"),
            (f"{third}.final_layer_norm.{{leaf}}", "norm3.{leaf}"),
            (f"{third}.fc{{n}}.{{leaf}}", "linear{n}.{leaf}"),
            (f"{third}.activation_fn.{{leaf}}", "activation.{leaf}"),
        ),
        "transformer.decoder.layers.{i}.",
    )


_BACKBONE = "model.backbone.conv_encoder.model."
_ENCODER = ("model.encoder.layers.{i}.", "transformer.encoder.layers.{i}.")
_TRANSFORMERS: Rules = (
    *below(_BACKBONE, TORCHVISION, "backbone."),  # timm's
    ("model.query_refpoint_embeddings.weight", "queries.refpoint_embed.weight"),
    ("model.patterns.weight", "queries.patterns.weight"),
    ("model.input_projection.{leaf}", "input_proj.{leaf}"),
    (f"{_ENCODER[0]}self_attn.{{qkv}}_proj.{{leaf}}", f"{_ENCODER[1]}self_attn.in_proj_{{leaf}}"),
    (f"{_ENCODER[0]}self_attn.{{rest}}", f"{_ENCODER[1]}self_attn.{{rest}}"),
    (f"{_ENCODER[0]}fc{{n}}.{{leaf}}", f"{_ENCODER[1]}linear{{n}}.{{leaf}}"),
    (f"{_ENCODER[0]}self_attn_layer_norm.{{leaf}}", f"{_ENCODER[1]}norm1.{{leaf}}"),
    (f"{_ENCODER[0]}final_layer_norm.{{leaf}}", f"{_ENCODER[1]}norm2.{{leaf}}"),
    (f"{_ENCODER[0]}activation_fn.{{leaf}}", f"{_ENCODER[1]}activation.{{leaf}}"),
    *_decoder_layer("self_attn", "cross_attn", "mlp"),
    ("model.decoder.layernorm.{leaf}", "transformer.decoder.norm.{leaf}"),
    (
        "model.{p:encoder|decoder}.{h:query_scale|ref_point_head|ref_anchor_head}.{rest}",
        "transformer.{p}.{h}.{rest}",
    ),
    ("bbox_predictor.{rest}", "bbox_embed.{rest}"),
    ("class_embed.{leaf}", "class_embed.{leaf}"),
)
_READS: Rules = (  # timm's ResNet of another age, their own, and layers of another age
    *below(f"{_BACKBONE}_backbone.", TORCHVISION, "backbone."),
    *below(_BACKBONE, RESNET, "backbone."),
    *_decoder_layer("layer.0", "layer.1", "layer.2"),
)
_RELEASE: Rules = (
    ("backbone.0.body.{rest}", "backbone.{rest}"),
    ("refpoint_embed.weight", "queries.refpoint_embed.weight"),
    ("transformer.patterns.weight", "queries.patterns.weight"),
    ("transformer.{rest}", "transformer.{rest}"),
    ("{part:input_proj|class_embed|bbox_embed}.{rest}", "{part}.{rest}"),
)


def names(net: nn.Layer) -> Names:
    """Of 91 slots, COCO's category ids, a network of 80 classes takes those in use."""
    return Names(
        {
            "own": Dialect(pattern=r"model\.transformer\..+", rules=OWN_NETWORK, training=OWN_METHOD),
            "transformers": Dialect(
                of="a DAB-DETR of transformers",
                pattern=r"model\.encoder\..+",
                rules=_TRANSFORMERS,
                reads=_READS,
                also=(("model.decoder.bbox_embed.{rest}", "bbox_embed.{rest}"),),
                torch=True,
            ),
            "release": Dialect(
                of="the released DAB-DETR",
                pattern=r"backbone\.0\.body\..+|refpoint_embed\.weight",
                rules=_RELEASE,
                also=(("transformer.decoder.bbox_embed.{rest}", "bbox_embed.{rest}"),),
                torch=True,
            ),
        },
        backbone="backbone",
        whole=r"(transformer|model)\..+",
        heads=r"class_embed\..+",
        num_classes=net.num_classes,
    )
