"""Names of CLIP's image tower: OpenAI's (`visual.*`) and those of `transformers` (`vision_model.*`).

The text tower is ignored. OpenAI's projection is multiplied from the right and lies [in,out], all other matrices lie as
torch's do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppvision.weights.names.engine import Dialect, Names, below

if TYPE_CHECKING:
    from paddle import nn

OPENAI = (
    ("conv1.weight", "patch_embed.proj.weight"),
    ("class_embedding", "cls_token"),
    ("positional_embedding", "pos_embed"),
    ("proj", "head.weight"),
    ("ln_pre.{leaf}", "norm_pre.{leaf}"),
    ("ln_post.{leaf}", "norm.{leaf}"),
    ("transformer.resblocks.{i}.ln_{n}.{leaf}", "blocks.{i}.norm{n}.{leaf}"),
    ("transformer.resblocks.{i}.attn.in_proj_{leaf}", "blocks.{i}.attn.qkv.{leaf}"),
    ("transformer.resblocks.{i}.attn.out_proj.{leaf}", "blocks.{i}.attn.proj.{leaf}"),
    ("transformer.resblocks.{i}.mlp.c_fc.{leaf}", "blocks.{i}.fc1.{leaf}"),
    ("transformer.resblocks.{i}.mlp.c_proj.{leaf}", "blocks.{i}.fc2.{leaf}"),
)
TRANSFORMERS = (
    ("embeddings.patch_embedding.weight", "patch_embed.proj.weight"),
    ("embeddings.class_embedding", "cls_token"),
    ("embeddings.position_embedding.weight", "pos_embed"),
    ("pre_layrnorm.{leaf}", "norm_pre.{leaf}"),
    ("post_layernorm.{leaf}", "norm.{leaf}"),
    ("encoder.layers.{i}.layer_norm{n}.{leaf}", "blocks.{i}.norm{n}.{leaf}"),
    ("encoder.layers.{i}.self_attn.{qkv}_proj.{leaf}", "blocks.{i}.attn.qkv.{leaf}"),
    ("encoder.layers.{i}.self_attn.out_proj.{leaf}", "blocks.{i}.attn.proj.{leaf}"),
    ("encoder.layers.{i}.mlp.fc{n}.{leaf}", "blocks.{i}.fc{n}.{leaf}"),
)
TOWER = "CLIP's image tower"


def names(net: nn.Layer) -> Names:
    """Of the tower, out of a whole CLIP or alone."""
    openai = dict(closed=TOWER, torch=True, straight=r"head\.weight", flat="cls_token|pos_embed")
    transformers = Dialect(
        of=TOWER,
        pattern=r"(vision_model|text_model)\..+|embeddings\..+|(encoder\.layers|pre_layrnorm|post_layernorm)\..+",
        rules=(*below("vision_model.", TRANSFORMERS), ("visual_projection.weight", "head.weight")),
        reads=TRANSFORMERS,
        ignored=r"(text_model|text_projection|logit_scale)\b.*|.*position_ids",
        closed=TOWER,
        torch=True,
        flat="cls_token|pos_embed",
    )
    return Names(
        {
            "openai": Dialect(
                of=TOWER,
                pattern=r"visual\.class_embedding",
                rules=below("visual.", OPENAI),
                ignored=r"(?!visual\.).+",
                **openai,
            ),
            "openai_tower": Dialect(of=TOWER, pattern="class_embedding", rules=OPENAI, **openai),
            "transformers": transformers,
        },
        layout=r".*\.fc1\.weight",
    )
