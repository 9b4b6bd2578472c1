"""Weights into a layer by name: what fitted, what did not, and foreign names turned into ours."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ppvision.errors import UserError
from ppvision.weights.names import to_ours
from ppvision.weights.reader import read_file

if TYPE_CHECKING:
    from paddle import nn

__all__ = ["Report", "load_weights", "state_of"]


@dataclass
class Report:
    """What `load_weights` did with every name.

    Attributes:
        loaded: names that were set.
        missing: names of the layer that the source lacks.
        unexpected: names of the source that the layer lacks.
        mismatched: name -> (shape in the source, shape in the layer).
        training_only: name as a Method calls it -> array: parts of a foreign file that the network alone does not have.
        ignored: names that are known to serve nothing: of the source, or ours where this network does without.
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    training_only: dict[str, np.ndarray] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = {k: len(v) for k, v in vars(self).items()}
        return ", ".join(f"{n} {k.replace('_', '-')}" for k, n in counts.items() if n or k == "loaded")

    def problem(self) -> str:
        """Missing, unexpected and mismatched names, five of each and the counts; empty when there are none."""
        shapes = [f"{k} is {_shape(a)}, expected {_shape(b)}" for k, (a, b) in self.mismatched.items()]
        problems = [
            f"{len(names)} {kind} ({', '.join(names[:5])}{', …' if len(names) > 5 else ''})"
            for kind, names in (("missing", self.missing), ("unexpected", self.unexpected), ("mismatched", shapes))
            if names
        ]
        return "; ".join(problems)


def _shape(shape: Sequence[int]) -> str:
    return json.dumps(list(shape), separators=(",", ":"))


def _numpy(value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    if "bfloat16" in str(getattr(value, "dtype", "")):
        value = value.astype("float32")
    return np.asarray(value.numpy() if hasattr(value, "numpy") else value)


def load_weights(layer: nn.Layer, source: str | os.PathLike | Mapping[str, Any], strict: bool = True) -> Report:
    """Set the parameters and buffers of `layer` by name.

    Foreign names become ours by the tables of `ppvision.weights.names`. torch files get Paddle's names for batch-norm
    statistics, and weights of `nn.Linear` are transposed ([out, in] there, [in, out] here).

    Args:
        layer: any layer.
        source: a weight file, see `read`, or names with arrays or tensors.
        strict: raise when a name is missing, unexpected or of another shape, and change nothing then. Otherwise load
            what fits.

    Returns:
        What happened to every name.

    Raises:
        UserError: the file cannot be read, or does not fit (`strict`), or not one of its names fits.
    """
    import paddle

    if isinstance(source, Mapping):
        state, label, torch = {k: _numpy(v) for k, v in source.items()}, "weights", False
    else:
        state, label, torch = read_file(source)
    converted = to_ours(layer, state, torch)
    state = converted.network
    report = Report(training_only=converted.training_only, ignored=converted.ignored)
    own = layer.state_dict()
    report.missing = [k for k in own if k not in state]
    report.unexpected = [k for k in state if k not in own]
    for key in own.keys() & state.keys():
        if tuple(own[key].shape) != state[key].shape:
            report.mismatched[key] = (state[key].shape, tuple(own[key].shape))
    report.mismatched = {k: report.mismatched[k] for k in own if k in report.mismatched}
    fits = [k for k in own if k in state and k not in report.mismatched]
    kind = type(layer).__name__
    if strict and (problem := report.problem()):
        raise UserError(f"{label}: does not fit {kind}: {problem} (strict=False loads the {len(fits)} names that fit)")
    if own and not fits:
        raise UserError(f"{label}: none of its {len(state)} names fits {kind}: {report.problem()}")
    for key in fits:
        own[key].set_value(
            paddle.to_tensor(np.ascontiguousarray(state[key]).reshape(state[key].shape)).astype(own[key].dtype)
        )
    report.loaded = fits
    return report


def state_of(layer: nn.Layer) -> dict[str, np.ndarray]:
    """Copies of the layer's parameters and persistent buffers by structured name; bfloat16 as float32."""
    return {k: np.array(_numpy(v)) for k, v in layer.state_dict().items()}
