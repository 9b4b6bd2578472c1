"""DINO's names in PaddleDetection (configs/dino, configs/group_detr) and in IDEA-Research/DINO.

Three traps: PaddleDetection's DINO calls the decoder norms in the order in which they are applied, its Group DINO and
IDEA call the one after self-attention `norm2` and the one after cross-attention `norm1`, as ours do. Group DINO lists
the encoder's output layers of all groups under one name, its other parts by group. IDEA's heads have a row for every
COCO category id up to 90, of which 80 are in use; in its files one head may stand under several names.

What is not part of the deployed network goes to method `group_detr`: `groups.{g}.…`, queries of groups 1 to K - 1, and
`denoising.{g}.weight`, class tables of groups 0 to K - 1.

Checked: round trips without loss (tests/weights/names/test_dino.py); PaddleDetection 2.6's DINO gives the same outputs
from the converted file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppvision.weights.names.engine import Dialect, Names, Rules, below
from ppvision.weights.names.resnet import is_deep, paddledetection

if TYPE_CHECKING:
    from paddle import nn

# Parts of method `group_detr` under its own names.
OWN_TRAINING: Rules = (("{part:groups|denoising}.{rest}", "{part}.{rest}"),)
TABLES = r"denoising\.\d+\.weight"

_HEAD = "{h:enc_score_head|enc_bbox_head}"
_PARTS: Rules = (
    ("neck.simfp_{rest}", "neck.simfp_{rest}"),
    ("transformer.input_proj.{rest}", "neck.{rest}"),
    ("transformer.level_embed.weight", "encoder.level_embed"),
    ("transformer.tgt_embed.weight", "queries.tgt_embed.weight"),
    (f"transformer.{_HEAD}.{{rest}}", f"queries.{_HEAD}.{{rest}}"),
    (
        "transformer.{p:encoder|decoder|query_pos_head|dec_score_head|dec_bbox_head}.{rest}",
        "{p}.{rest}",
    ),
)
_SINGLE: Rules = (
    ("transformer.enc_output.{k:[01]}.{leaf:weight|bias}", "queries.enc_output.{k}.{leaf}"),
    ("transformer.decoder.layers.{i}.norm1.{leaf}", "decoder.layers.{i}.norm2.{leaf}"),
    ("transformer.decoder.layers.{i}.norm2.{leaf}", "decoder.layers.{i}.norm1.{leaf}"),
)
_GROUPS: Rules = (("transformer.enc_output.0.{k:[01]}.{leaf}", "queries.enc_output.{k}.{leaf}"),)
_DENOISING: Rules = (("transformer.denoising_class_embed.weight", "denoising.0.weight"),)
_GROUPS_TRAINING: Rules = (
    ("transformer.enc_output.{g+1}.{k:[01]}.{leaf}", "groups.{g}.enc_output.{k}.{leaf}"),
    ("transformer.tgt_embed_dual.{g}.weight", "groups.{g}.tgt_embed.weight"),
    (f"transformer.{_HEAD}_dq.{{g}}.{{rest}}", f"groups.{{g}}.{_HEAD}.{{rest}}"),
    ("transformer.denoising_class_embed_groups.{g}.weight", "denoising.{g+1}.weight"),
    *_DENOISING,
)
_IDEA: Rules = (
    ("backbone.0.body.{rest}", "backbone.{rest}"),
    ("input_proj.{i}.0.{leaf}", "neck.{i}.conv.{leaf}"),
    ("input_proj.{i}.1.{leaf}", "neck.{i}.norm.{leaf}"),
    ("transformer.level_embed", "encoder.level_embed"),
    ("transformer.tgt_embed.weight", "queries.tgt_embed.weight"),
    ("transformer.enc_output.{leaf:weight|bias}", "queries.enc_output.0.{leaf}"),
    ("transformer.enc_output_norm.{leaf}", "queries.enc_output.1.{leaf}"),
    ("transformer.enc_out_class_embed.{rest}", "queries.enc_score_head.{rest}"),
    ("transformer.enc_out_bbox_embed.{rest}", "queries.enc_bbox_head.{rest}"),
    ("transformer.decoder.ref_point_head.{rest}", "query_pos_head.{rest}"),
    ("transformer.{p:encoder|decoder}.{rest:(layers|norm)[.].+}", "{p}.{rest}"),
    ("class_embed.{rest}", "dec_score_head.{rest}"),
    ("bbox_embed.{rest}", "dec_bbox_head.{rest}"),
)


def names(net: nn.Layer) -> Names:
    """Classes: a file of 365 (Objects365) starts a network of 80 (COCO) by the rows of the classes that are the same;
    IDEA's 91 rows are COCO's category ids, of which 80 are used.
    """
    resnet = below("backbone.", paddledetection(is_deep(net, "backbone.")), "backbone.")
    of = "a DINO of PaddleDetection"
    return Names(
        {
            "idea": Dialect(
                of="IDEA's DINO",
                pattern=r"backbone\.0\.body\..+|label_enc\.weight",
                rules=_IDEA,
                training=(("label_enc.weight", "denoising.0.weight"),),
                also=(
                    ("transformer.decoder.class_embed.{rest}", "dec_score_head.{rest}"),
                    ("transformer.decoder.bbox_embed.{rest}", "dec_bbox_head.{rest}"),
                ),
                torch=True,
            ),
            "paddledetection": Dialect(
                of=of,
                pattern=r"transformer\.enc_output\.0\.weight",
                rules=(*_SINGLE, *_PARTS, *resnet),
                training=_DENOISING,
            ),
            "paddledetection_groups": Dialect(
                of=of,
                pattern=r"transformer\..+",
                rules=(*_GROUPS, *_PARTS, *resnet),
                training=_GROUPS_TRAINING,
                padded=True,
            ),
        },
        own=Dialect(rules=(("model.{rest}", "{rest}"),), training=OWN_TRAINING),
        backbone="backbone",
        whole=r"(model\.)?(queries|dec_score_head|dec_bbox_head|query_pos_head|(en|de)coder\.layers|neck|backbone|"
        r"transformer|class_embed|bbox_embed|label_enc|input_proj)\..+",
        heads=r"(dec_score_head\.\d+|queries\.enc_score_head|groups\.\d+\.enc_score_head)\.(weight|bias)",
        tables=TABLES,
        num_classes=net.num_classes,
    )
