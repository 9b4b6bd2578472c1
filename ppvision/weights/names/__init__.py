"""Whose weight files fit which network: tables of rules, one file per family, and the engine that applies them.

A network of another package gets rules by an entry of its own, "module:class" -> "module:function", from
`NAMES["mynets.strip:StripNet"] = "mynets.names:strip"`: the function is called with the network and returns `Names`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from ppvision.errors import UserError, did_you_mean
from ppvision.weights.names.engine import Converted, Dialect, Names, State, convert, statistics, write

if TYPE_CHECKING:
    from paddle import nn

__all__ = ["NAMES", "Converted", "Dialect", "Names", "names_of", "to_ours", "to_theirs"]

# Class of a network (subclasses follow it) -> what gives its names.
NAMES: dict[str, str] = {
    "ppvision.models.cae_v2:CaeV2": "ppvision.weights.names.cae_v2:names",
    "ppvision.models.clip_vision:ClipVision": "ppvision.weights.names.clip_vision:names",
    "ppvision.models.dab_detr:DabDetr": "ppvision.weights.names.dab_detr:names",
    "ppvision.models.deformable_detr:DeformableDetr": "ppvision.weights.names.deformable_detr:names",
    "ppvision.models.dino:Dino": "ppvision.weights.names.dino:names",
    "ppvision.models.resnet:ResNet": "ppvision.weights.names.resnet:names",
    "ppvision.models.retinanet:RetinaNet": "ppvision.weights.names.retinanet:names",
    "ppvision.models.rtformer:RTFormer": "ppvision.weights.names.rtformer:names",
    "ppvision.models.uhrnet:UHRNet": "ppvision.weights.names.uhrnet:names",
    "ppvision.models.upernet:UperNet": "ppvision.weights.names.upernet:names",
    "ppvision.models.vit_det:VitDet": "ppvision.weights.names.vit_det:names",
}


def names_of(net: nn.Layer) -> Names | None:
    """What is known of a network's weight names: the entry of its class or of the nearest base that has one."""
    for cls in type(net).__mro__:
        target = NAMES.get(f"{cls.__module__}:{cls.__qualname__}")
        if target is not None:
            module, _, function = target.partition(":")
            return getattr(importlib.import_module(module), function)(net)
    return None


def to_ours(net: nn.Layer, state: Mapping[str, np.ndarray], torch: bool = False) -> Converted:
    """A weight file in the names and layout of `net`.

    A file that holds a feature extractor and nothing of the network around it goes where the feature extractor is.

    Args:
        net: the network.
        state: the file.
        torch: it is known to be torch's.

    Raises:
        UserError: see `engine.convert`.
    """
    state, ignored, torch = statistics(state, torch)
    found = _to_ours(net, state, torch)
    found.ignored = [*ignored, *found.ignored]
    return found


def _to_ours(net: nn.Layer, state: Mapping[str, np.ndarray], torch: bool) -> Converted:
    names = names_of(net)
    if names is None or not names.backbone or any(re.fullmatch(names.whole, k) for k in state):
        return convert(net, names or Names(layout=""), state, torch)
    backbone = reduce(getattr, names.backbone.split("."), net)
    # a Method's own file calls its network `model`
    found = _to_ours(backbone, {k.removeprefix("model."): v for k, v in state.items()}, torch)
    if names_of(backbone) is None:
        own = backbone.state_dict()
        found.ignored += [k for k in found.network if k not in own]
        found.network = {k: v for k, v in found.network.items() if k in own}
    network = {f"{names.backbone}.{k}": v for k, v in found.network.items()}
    return Converted(network, ignored=[*found.ignored, *found.training_only])


def to_theirs(
    net: nn.Layer,
    dialect: str,
    network: Mapping[str, np.ndarray],
    training_only: Mapping[str, np.ndarray] | None = None,
) -> State:
    """The weights of `net` as another project's file has them, the inverse of `to_ours`.

    Args:
        net: the network.
        dialect: a name of `names_of(net).dialects`.
        network: its state, see `ppvision.weights.state_of`.
        training_only: parts of the Method under its names, as in `Report.training_only`.

    Raises:
        UserError: there is no such dialect, or it has no place for a name.
    """
    names = names_of(net)
    known = {} if names is None else {k: d for k, d in names.dialects.items() if d.of}
    if dialect not in known:
        can = f" (there is: {', '.join(known) or 'none'})"
        raise UserError(f"{type(net).__name__}: no names '{dialect}'{did_you_mean(dialect, known)}{can}")
    return write(net, names, known[dialect], network, training_only or {})
