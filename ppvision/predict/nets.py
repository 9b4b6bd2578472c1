"""Deployables as a Task calls them: by keyword, with raw inputs. The eager network behind its normalisation and the
exported graph are called alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from ppvision.device import tensor_of
from ppvision.errors import UserError, did_you_mean
from ppvision.models.network import Input, Network, graph_name, inputs_of
from ppvision.nn.normalise import Normalise


def on_device(inputs: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """What `Task.inputs` gave, as tensors; pictures travel as uint8 and become float32 on the device."""
    tensors = {name: tensor_of(array) for name, array in inputs.items()}
    return {name: t.astype("float32") if t.dtype == paddle.uint8 else t for name, t in tensors.items()}


def filled(
    inputs: Mapping[str, np.ndarray], batch: int, specs: Mapping[str, Input] | None = None
) -> dict[str, np.ndarray]:
    """Inputs for a graph of a fixed batch: the last row is repeated (the last offset: samples without points), what
    comes of it is dropped by the caller.

    Args:
        inputs: by name.
        batch: number of samples.
        specs: what they are; a size and ragged rows stay as they are.
    """
    result = dict(inputs)
    for name, array in inputs.items():
        kind = specs[name].kind if specs is not None and name in specs else "image"
        if kind not in ("size", "points"):
            length = batch + 1 if kind == "offsets" else batch
            result[name] = np.concatenate([array, np.repeat(array[-1:], length - len(array), axis=0)])
    return result


class EagerNet:
    """A network in eager mode behind its normalisation.

    Args:
        layer: the deployable, in evaluation mode.
        mean: per channel, 0..255.
        std: likewise.

    Attributes:
        inputs: what it takes, by name.
    """

    def __init__(self, layer: nn.Layer, mean: Sequence[float], std: Sequence[float]):
        self.layer, self.inputs = layer, inputs_of(layer)
        self.normalise = Normalise(mean, std)

    def __call__(self, **given: Tensor) -> Any:
        """The layer's outputs. A mask it does not take is used by the normalisation alone."""
        checked(type(self.layer).__name__, self.inputs, given)
        return call(self.layer, normalised(self.inputs, given, self.normalise))


class GraphNet:
    """An exported graph.

    Args:
        session: see `runtime`; called with arrays by name.
        inputs: what the graph takes, by the names of the network's arguments.
        name: for messages.
    """

    def __init__(self, session: Any, inputs: Mapping[str, Input], name: str = "graph"):
        self.session = session
        self.inputs = dict(inputs)
        self.name = name

    def __call__(self, **given: Tensor) -> Any:
        """The outputs by name; a single one by itself. A mask that is not given is True everywhere."""
        checked(self.name, self.inputs, given)
        arrays = {name: given[name].numpy() for name in self.inputs if name in given}
        for name, spec in self.inputs.items():
            if spec.kind == "mask" and name not in arrays:
                picture = next(arrays[n] for n, s in self.inputs.items() if s.kind == "image" and n in arrays)
                arrays[name] = np.ones((len(picture), *picture.shape[2:]), bool)
        same_sides(self.name, self.inputs, arrays)
        outputs = self.session({graph_name(name): array for name, array in arrays.items()})
        tensors = {name: paddle.to_tensor(array) for name, array in outputs.items()}
        return next(iter(tensors.values())) if len(tensors) == 1 else tensors


def same_sides(name: str, inputs: Mapping[str, Input], arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse arrays whose common sides differ: a graph may stretch one over the other without a word.

    Raises:
        UserError: naming the side and the two inputs.
    """
    known: dict[str, tuple[int, str]] = {}
    for key, array in arrays.items():
        for letter, side in zip(inputs[key].shape, array.shape):
            if isinstance(letter, str):
                first, owner = known.setdefault(letter, (side, key))
                if first != side:
                    raise UserError(f"{name}: {letter} is {first} in '{owner}' and {side} in '{key}'")


def checked(name: str, inputs: Mapping[str, Input], given: Mapping[str, Any]) -> None:
    """Refuse inputs that a network does not take, but for a padding mask, and the absence of those it needs.

    Raises:
        UserError: naming the network and the input.
    """
    for key in given:
        if key not in inputs and key != "valid":
            raise UserError(f"{name} takes no input '{key}'{did_you_mean(key, inputs)} (it takes: {', '.join(inputs)})")
    missing = [key for key, spec in inputs.items() if key not in given and not spec.optional]
    if missing:
        raise UserError(f"{name}: input '{missing[0]}' is missing (it takes: {', '.join(inputs)})")


def normalised(inputs: Mapping[str, Input], given: Mapping[str, Tensor], normalise: Normalise) -> dict[str, Tensor]:
    """The given inputs that a network takes, its pictures normalised; `valid` belongs to `image`."""
    result = {}
    for key, spec in inputs.items():
        if key not in given:
            continue
        if spec.kind == "image":
            result[key] = normalise(given[key], given.get("valid") if key == "image" else None)
        else:
            result[key] = given[key]
    return result


def call(layer: nn.Layer, inputs: Mapping[str, Tensor]) -> Any:
    """A layer of ours by keyword, one of another package in order: its arguments have names of their own."""
    return layer(**inputs) if isinstance(layer, Network) else layer(*inputs.values())
