"""Static graphs: written with the names of their inputs and outputs, and checked to be whole.

`paddle.jit.save` calls outputs fetch_name_0, fetch_name_1, …; the names are changed in the `.json` file, where
paddle2onnx finds them too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
from paddle import Tensor, nn

from ppvision.errors import RunError, UserError
from ppvision.models.network import Input, graph_name, promises


def resolved(inputs: Mapping[str, Input], shapes: Mapping[str, Sequence[int]]) -> dict[str, Input]:
    """Inputs with the sides that an export fixes.

    Args:
        inputs: as a network declares them, free sides as letters.
        shapes: by name of the argument or of the graph, -1 is free. A letter that one shape fixes is fixed everywhere.

    Raises:
        UserError: an unknown name, another number of axes, a length that the network does not have, or two lengths of
            one side.
    """
    given = {}
    for key, shape in shapes.items():
        name = next((n for n in inputs if key in (n, graph_name(n))), None)
        if name is None:
            names = ", ".join(graph_name(n) for n in inputs)
            raise UserError(f"export: the network has no input '{key}' (inputs: {names})")
        given[name] = list(shape)
    known: dict[str, int] = {}
    for name, shape in given.items():
        declared = inputs[name].shape
        fits = len(shape) == len(declared) and all(
            side == -1 or (side >= 1 if isinstance(own, str) else side == own) for side, own in zip(shape, declared)
        )
        if not fits:
            sides = ", ".join(map(str, declared))
            raise UserError(f"export: the shape of '{graph_name(name)}' is [{sides}], -1 for a free side, got {shape}")
        fixed = {own: side for side, own in zip(shape, declared) if isinstance(own, str) and side != -1}
        for own in fixed.keys() & known.keys():
            if fixed[own] != known[own]:
                message = f"{own} is {known[own]} in one shape and {fixed[own]} in that of '{graph_name(name)}'"
                raise UserError(f"export: {message}")
        known |= fixed
    if "B" in known:
        known["B+1"] = known["B"] + 1
    elif "B+1" in known:
        known["B"] = known["B+1"] - 1
    return {
        name: replace(spec, shape=tuple(known.get(side, side) for side in spec.shape)) for name, spec in inputs.items()
    }


class InOrder(nn.Layer):
    """A layer that is called with a dict, called with a list: a dict would reach the graph in alphabetical order."""

    def __init__(self, layer: nn.Layer, names: Sequence[str]):
        super().__init__()
        self.layer, self.names = layer, list(names)

    def forward(self, values: list[Tensor]) -> list[Tensor]:
        return self.layer(dict(zip(self.names, values)))


def save_static(layer: nn.Layer, stem: Path, inputs: Mapping[str, Input], outputs: Sequence[str]) -> None:
    """Write `<stem>.json` and `<stem>.pdiparams` (`.pdmodel` under the legacy IR, which keeps Paddle's output names).

    Args:
        layer: called with a dict of tensors by the names of the graph.
        stem: path without ending.
        inputs: by the names of the network's arguments.
        outputs: names of what the layer gives, in order.

    Raises:
        UserError: the layer does not read one of its inputs.
    """
    specs = []
    for name, spec in inputs.items():
        shape = [side if isinstance(side, int) else None for side in spec.shape]
        specs.append(paddle.static.InputSpec(shape, spec.dtype, graph_name(name)))
    ordered = InOrder(layer, [spec.name for spec in specs])
    try:
        paddle.jit.save(ordered, str(stem), input_spec=[specs])
    except ValueError as error:
        if "is not involved in the target_vars" not in str(error):
            raise
        names = ", ".join(spec.name for spec in specs)
        raise UserError(
            f"export: the network does not read one of its inputs ({names}), so it must not declare it"
        ) from None
    model = stem.with_name(f"{stem.name}.json")
    if model.is_file():
        name_outputs(model, outputs)


def name_outputs(model: Path, outputs: Sequence[str]) -> None:
    """Give the outputs of a `.json` graph their names.

    Raises:
        RunError: the file is cut off, or has another number of outputs.
    """
    text = model.read_text(encoding="utf-8")
    for i, name in enumerate(outputs):
        old = json.dumps(f"fetch_name_{i}")  # with its quotes, so that fetch_name_1 is not found in fetch_name_10
        if text.count(old) != 1:
            raise RunError(f"export: {model.name} was not written completely; is the disk full?")
        text = text.replace(old, json.dumps(name))
    model.write_text(text, encoding="utf-8")


def check_graph(stem: Path) -> None:
    """The graph was written to its end: `paddle.jit.save` says nothing of a full disk.

    Raises:
        RunError: a file is missing, empty or cut off.
    """
    for suffix in (".json", ".pdiparams"):
        path = stem.with_name(stem.name + suffix)
        try:
            if suffix == ".json":
                json.loads(path.read_bytes())
            elif not path.stat().st_size:
                raise ValueError("empty")
        except (FileNotFoundError, ValueError):
            raise RunError(f"export: {path.name} was not written completely; is the disk full?") from None


def check_parameters(net: nn.Layer, stem: Path) -> None:
    """The graph holds exactly the network's parameters and buffers, but for those of its `training_heads`: nothing of
    the training, nothing lost.

    Raises:
        UserError: naming what is too much or missing.
        RunError: the parameter file is shorter than the parameters, or cannot be read back.
    """
    params = stem.with_name(f"{stem.name}.pdiparams")
    try:
        exported = paddle.jit.load(str(stem)).state_dict().values()
    except (RuntimeError, ValueError, OSError, SystemError) as error:
        raise RunError(f"export: {params.name} cannot be read back; is the disk full?") from error
    found = sorted(tuple(value.shape) for value in exported)
    heads = tuple(f"{name}." for name in promises(net).training_heads)
    entries = {name: value for name, value in net.state_dict().items() if not name.startswith(heads)}
    expected = {name: tuple(value.shape) for name, value in entries.items()}
    if found == sorted(expected.values()):
        needed = sum(_stored_size(value) for value in entries.values())
        if params.stat().st_size < needed:
            written = params.stat().st_size
            raise RunError(f"export: {params.name} has {written} bytes of at least {needed}; is the disk full?")
        return
    rest = list(found)
    lost = [name for name, shape in expected.items() if shape not in rest or rest.remove(shape)]
    sizes = [sum(int(np.prod(shape)) for shape in shapes) for shapes in (found, expected.values())]
    raise UserError(
        f"export: the graph has {sizes[0]} parameters, the network {sizes[1]}; not in the graph: "
        f"{', '.join(lost[:5]) or 'none'}; not in the network: {len(rest)} arrays of shapes {rest[:5]}. "
        "A deployable must use all it has, and nothing else"
    )


def _stored_size(value: paddle.Tensor) -> int:
    """Bytes of a parameter in a .pdiparams file: 20 of versions and lengths, a protobuf of type and shape, the
    numbers. Paddle reads a file whose last numbers are missing without a word."""
    shape = 2 + sum(1 + max(-(-int(side).bit_length() // 7), 1) for side in value.shape)
    return 20 + shape + value.size * value.element_size()
