"""Weights of DINO and Group DINO under other people's names, to ours and back.

Source:   PaddleDetection, configs/dino and configs/group_detr; IDEA-Research/DINO.
Checked:  round trips without loss (tests/models/test_dino_names.py); PaddleDetection 2.6's DINO gives the same outputs
          from the converted file.
Deviates: nothing.

Three traps: PaddleDetection's DINO calls the decoder norms in the order in which they are applied, its Group DINO and
IDEA call the one after self-attention `norm2` and the one after cross-attention `norm1`, as ours do. Group DINO lists
the encoder's output layers of all groups under one name, its other parts by group. IDEA's heads have a row for every
COCO category id up to 90, of which 80 are in use; in its files one head may stand under several names.

What is not part of the deployed network goes to method `group_detr`: `groups.{g}.…`, queries of groups 1 to K - 1, and
`denoising.{g}.weight`, class tables of groups 0 to K - 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ppvision.errors import UserError
from ppvision.models.deformable_detr import COCO_IDS
from ppvision.models.objects365 import NUM_OBJECTS365, coco_rows
from ppvision.models.resnet import rename

__all__ = [
    "below_backbone",
    "from_upstream",
    "in_torch_layout",
    "is_bare_backbone",
    "network_of",
    "to_idea",
    "to_paddledetection",
]

State = dict[str, np.ndarray]
IDEA_CLASSES = 91

_DETECTOR = (
    *(
        "queries.",
        "dec_score_head.",
        "dec_bbox_head.",
        "query_pos_head.",
        "decoder.layers.",
        "encoder.layers.",
        "neck.",
    ),
    *("backbone.", "transformer.", "class_embed.", "bbox_embed.", "label_enc.", "input_proj."),
)

# PaddleDetection -> ours; the first that matches
_PADDLEDETECTION = (
    (r"transformer\.input_proj\.(.+)", r"neck.\1"),
    (r"transformer\.level_embed\.weight", r"encoder.level_embed"),
    (r"transformer\.tgt_embed\.weight", r"queries.tgt_embed.weight"),
    (r"transformer\.tgt_embed_dual\.(\d+)\.weight", r"groups.\1.tgt_embed.weight"),
    (r"transformer\.enc_output\.([01])\.(weight|bias)", r"queries.enc_output.\1.\2"),
    (r"transformer\.enc_output\.(\d+)\.([01]\..+)", r"enc_output_of.\1.\2"),
    (r"transformer\.(enc_score_head|enc_bbox_head)\.(.+)", r"queries.\1.\2"),
    (r"transformer\.(enc_score_head|enc_bbox_head)_dq\.(\d+)\.(.+)", r"groups.\2.\1.\3"),
    (r"transformer\.denoising_class_embed\.weight", r"denoising.0.weight"),
    (r"transformer\.denoising_class_embed_groups\.(\d+)\.weight", r"denoising_of.\1.weight"),
    (r"transformer\.(encoder|decoder|query_pos_head|dec_score_head|dec_bbox_head)\.(.+)", r"\1.\2"),
)
# IDEA -> ours
_IDEA = (
    (r"backbone\.0\.body\.(.+)", r"backbone.\1"),
    (r"input_proj\.(\d+)\.0\.(.+)", r"neck.\1.conv.\2"),
    (r"input_proj\.(\d+)\.1\.(.+)", r"neck.\1.norm.\2"),
    (r"transformer\.level_embed", r"encoder.level_embed"),
    (r"transformer\.tgt_embed\.weight", r"queries.tgt_embed.weight"),
    (r"transformer\.enc_output\.(weight|bias)", r"queries.enc_output.0.\1"),
    (r"transformer\.enc_output_norm\.(.+)", r"queries.enc_output.1.\1"),
    (r"transformer\.enc_out_class_embed\.(.+)", r"queries.enc_score_head.\1"),
    (r"transformer\.enc_out_bbox_embed\.(.+)", r"queries.enc_bbox_head.\1"),
    (r"transformer\.decoder\.ref_point_head\.(.+)", r"query_pos_head.\1"),
    (r"transformer\.(encoder|decoder)\.((?:layers|norm)\..+)", r"\1.\2"),
    (r"class_embed\.(.+)", r"dec_score_head.\1"),
    (r"bbox_embed\.(.+)", r"dec_bbox_head.\1"),
    (r"label_enc\.weight", r"denoising.0.weight"),
)
_IDEA_TWICE = r"transformer\.decoder\.(class_embed|bbox_embed)\..+"
_CLASS_HEAD = r"(dec_score_head\.\d+|queries\.enc_score_head|groups\.\d+\.enc_score_head)\.(weight|bias)"
_CLASS_TABLE = r"denoising\.\d+\.weight"


def _renamed(name: str, table: tuple[tuple[str, str], ...]) -> str | None:
    return next((match.expand(new) for old, new in table if (match := re.fullmatch(old, name))), None)


def is_bare_backbone(state: Mapping[str, Any]) -> bool:
    """Whether a file holds a feature extractor and nothing of a detector."""
    return not any(k.startswith(_DETECTOR) for k in network_of(state))


def network_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """A Method's own file with the network's names as in the network's own."""
    return {k.removeprefix("model."): v for k, v in state.items()}


def in_torch_layout(state: Mapping[str, np.ndarray]) -> bool:
    """Whether matrices are [out,in]: told by the packed projections, which are three times as wide as high."""
    return any(v.shape[0] > v.shape[1] for k, v in state.items() if k.endswith(".self_attn.in_proj_weight"))


def below_backbone(backbone: Any, state: Mapping[str, np.ndarray]) -> tuple[State, State, list[str]]:
    """A feature extractor's file as part of a detector; what only its classifier or its training need is ignored."""
    state = network_of(state)
    if hasattr(backbone, "from_upstream"):
        state, _, ignored = backbone.from_upstream(state)
    else:
        own = set(backbone.state_dict())
        state, ignored = {k: v for k, v in state.items() if k in own}, [k for k in state if k not in own]
    return {f"backbone.{k}": v for k, v in state.items()}, {}, ignored


def from_upstream(state: Mapping[str, np.ndarray], num_classes: int) -> tuple[State, State, list[str]]:
    """A detector's file -> (network state, state of method `group_detr`, ignored names).

    Args:
        state: of PaddleDetection's DINO or Group DINO, IDEA's DINO, a Method of ours (`model.…`) or our own network.
        num_classes: of the network: class heads and tables get that many rows where it is known which.
    """
    turned, ignored = in_torch_layout(state), []
    if any(k.startswith("backbone.0.body.") for k in state) or "label_enc.weight" in state:
        whole, ignored = _from_idea(state)
    elif any(k.startswith("transformer.") for k in state):
        whole = _from_paddledetection(state)
    else:
        whole = network_of(state)
    whole = {k: _classes(k, v, num_classes, turned) for k, v in whole.items()}
    extra = ("groups.", "denoising.")
    method = {k: v for k, v in whole.items() if k.startswith(extra)}
    return {k: v for k, v in whole.items() if not k.startswith(extra)}, method, ignored


def _classes(name: str, value: np.ndarray, num_classes: int, turned: bool) -> np.ndarray:
    """Rows of the network's classes."""
    table = re.fullmatch(_CLASS_TABLE, name) is not None
    if not table and not re.fullmatch(_CLASS_HEAD, name):
        return value
    axis = 0 if table or turned or value.ndim == 1 else 1
    count = value.shape[axis]
    spare = 1 if table else 0  # a table may have a row for padding
    if num_classes == len(COCO_IDS) and count in (NUM_OBJECTS365, NUM_OBJECTS365 + spare):
        return coco_rows(value.take(range(NUM_OBJECTS365), axis), axis)
    if num_classes == len(COCO_IDS) and count in (IDEA_CLASSES, IDEA_CLASSES + spare):
        return value.take(COCO_IDS, axis)
    return value[:num_classes] if table and count == num_classes + 1 else value


def _from_paddledetection(state: Mapping[str, np.ndarray]) -> State:
    whole: State = {}
    single = "transformer.enc_output.0.weight" in state  # DINO; a list of them: Group DINO
    for name, value in state.items():
        ours = _renamed(name, _PADDLEDETECTION) or name
        if match := re.fullmatch(r"(enc_output|denoising)_of\.(\d+)\.(.+)", ours):
            kind, group, leaf = match[1], int(match[2]), match[3]
            if kind == "denoising":
                ours = f"denoising.{group + 1}.{leaf}"
            else:
                ours = f"groups.{group - 1}.enc_output.{leaf}" if group else f"queries.enc_output.{leaf}"
        if single:
            ours = _swapped(ours)
        if ours.startswith("backbone."):
            ours = f"backbone.{rename(ours.removeprefix('backbone.'))}"
        whole[ours] = value
    return whole


def _swapped(name: str) -> str:
    """norm1 <-> norm2 of a decoder layer."""
    return re.sub(r"(decoder\.layers\.\d+\.norm)([12])\.", lambda m: f"{m[1]}{3 - int(m[2])}.", name)


def _from_idea(state: Mapping[str, np.ndarray]) -> tuple[State, list[str]]:
    whole: State = {}
    ignored: list[str] = []
    for name, value in state.items():
        if re.fullmatch(_IDEA_TWICE, name):
            ignored.append(name)
            continue
        ours = _renamed(name, _IDEA) or name
        whole[ours] = value.T if ours.endswith(".self_attn.in_proj_weight") else value
    return whole, ignored


def to_paddledetection(network: Mapping[str, np.ndarray], method: Mapping[str, np.ndarray] | None = None) -> State:
    """The inverse of `from_upstream` for PaddleDetection.

    Args:
        network: state of the network (`weights.state_of`).
        method: state of method `group_detr`: `groups.…` and `denoising.…`, as in `Report.training_only`. With queries
            of further groups the result is a Group DINO, otherwise a DINO.

    Raises:
        UserError: a name that those do not have.
    """
    method = dict(method or {})
    group = any(k.startswith("groups.") for k in method)
    deep = {k.split(".")[1] for k in network if re.fullmatch(r"backbone\.layer3\.1[0-9]\..+", k)}
    out: State = {}
    for name, value in {**network, **method}.items():
        theirs = _paddledetection_name(name, group, bool(deep))
        if theirs is None:
            raise UserError(f"'{name}' is no part of a DINO of PaddleDetection")
        if group and re.fullmatch(_CLASS_TABLE, name):
            value = np.concatenate([value, np.zeros_like(value[:1])])  # the row of padding
        out[theirs] = np.asarray(value)
    return out


def _paddledetection_name(name: str, group: bool, deep: bool) -> str | None:
    if match := re.fullmatch(r"groups\.(\d+)\.(.+)", name):
        index, leaf = int(match[1]), match[2]
        for part, theirs in (
            (r"tgt_embed\.weight", f"tgt_embed_dual.{index}.weight"),
            (r"enc_output\.(.+)", rf"enc_output.{index + 1}.\1"),
            (r"(enc_score_head|enc_bbox_head)\.(.+)", rf"\1_dq.{index}.\2"),
        ):
            if found := re.fullmatch(part, leaf):
                return "transformer." + found.expand(theirs)
        return None
    if match := re.fullmatch(r"denoising\.(\d+)\.weight", name):
        index = int(match[1])
        return f"transformer.denoising_class_embed{f'_groups.{index - 1}' if index else ''}.weight"
    if name.startswith("backbone."):
        return _paddledetection_resnet(name, deep)
    if name.startswith("neck.simfp_"):
        return name
    if match := re.fullmatch(r"queries\.(.+)", name):
        leaf = match[1].replace("enc_output.", "enc_output.0.") if group else match[1]
        return f"transformer.{leaf}"
    if name == "encoder.level_embed":
        return "transformer.level_embed.weight"
    if name.startswith("neck."):
        return name.replace("neck.", "transformer.input_proj.", 1)
    if name.startswith(("encoder.", "decoder.", "query_pos_head.", "dec_score_head.", "dec_bbox_head.")):
        return f"transformer.{name if group else _swapped(name)}"
    return None


def _paddledetection_resnet(name: str, deep: bool) -> str:
    if match := re.fullmatch(r"backbone\.(conv|bn)1\.(.+)", name):
        return f"backbone.conv1.conv1.{'conv' if match[1] == 'conv' else 'norm'}.{match[2]}"
    match = re.fullmatch(r"backbone\.layer(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)\.(.+)", name)
    if match is None:
        return name
    stage, block, kind, number, leaf = int(match[1]) + 1, int(match[2]), match[3], int(match[4]), match[5]
    long = deep and stage == 4 and block
    said = f"backbone.res{stage}.res{stage}{f'b{block}' if long else chr(ord('a') + block)}"
    if kind == "downsample.":
        return f"{said}.short.{'norm' if number else 'conv'}.{leaf}"
    return f"{said}.branch2{'abc'[number - 1]}.{'conv' if kind == 'conv' else 'norm'}.{leaf}"


def to_idea(network: Mapping[str, np.ndarray], method: Mapping[str, np.ndarray] | None = None) -> State:
    """The inverse of `from_upstream` for IDEA's DINO, in torch's layout and with as many classes as ours.

    Args:
        network: state of the network (`weights.state_of`), on a ResNet.
        method: may have `denoising.0.weight`.

    Raises:
        UserError: a name that it does not have, such as those of further groups.
    """
    out: State = {}
    for name, value in {**network, **(method or {})}.items():
        theirs = _renamed(name, _TO_IDEA)
        if theirs is None:
            raise UserError(f"'{name}' is no part of IDEA's DINO")
        theirs = theirs.replace("._mean", ".running_mean").replace("._variance", ".running_var")
        matrix = value.ndim == 2 and not re.fullmatch(
            r"encoder\.level_embed|queries\.tgt_embed\..+|denoising\..+", name
        )
        out[theirs] = np.ascontiguousarray(value.T) if matrix else np.asarray(value)
        if theirs.startswith(("class_embed.", "bbox_embed.")):
            out[f"transformer.decoder.{theirs}"] = out[theirs]
    return out


_TO_IDEA = (
    (r"backbone\.(.+)", r"backbone.0.body.\1"),
    (r"neck\.(\d+)\.conv\.(.+)", r"input_proj.\1.0.\2"),
    (r"neck\.(\d+)\.norm\.(.+)", r"input_proj.\1.1.\2"),
    (r"encoder\.level_embed", r"transformer.level_embed"),
    (r"queries\.tgt_embed\.weight", r"transformer.tgt_embed.weight"),
    (r"queries\.enc_output\.0\.(.+)", r"transformer.enc_output.\1"),
    (r"queries\.enc_output\.1\.(.+)", r"transformer.enc_output_norm.\1"),
    (r"queries\.enc_score_head\.(.+)", r"transformer.enc_out_class_embed.\1"),
    (r"queries\.enc_bbox_head\.(.+)", r"transformer.enc_out_bbox_embed.\1"),
    (r"query_pos_head\.(.+)", r"transformer.decoder.ref_point_head.\1"),
    (r"(encoder|decoder)\.((?:layers|norm)\..+)", r"transformer.\1.\2"),
    (r"dec_score_head\.(.+)", r"class_embed.\1"),
    (r"dec_bbox_head\.(.+)", r"bbox_embed.\1"),
    (r"denoising\.0\.weight", r"label_enc.weight"),
)
