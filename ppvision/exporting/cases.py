"""What an export is compared at: inputs as deployment gives them, and pictures of two sizes where the graph is free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from paddle import nn

from ppvision.data.collate import collate
from ppvision.data.fields import start
from ppvision.exporting import parity
from ppvision.models.network import Input, Network, example_of, graph_name
from ppvision.predict.tasks.base import Task

NUM_SAMPLES = 8  # of the validation set: comparisons take the first ones, the shape profile looks at all

Arrays = dict[str, np.ndarray]


def batches(task: Task, dataset: Any | None, transform: Any) -> list[dict[str, Any]]:
    """Some samples of the validation set after its transforms, spread over it, each a batch of one."""
    if dataset is None or not len(dataset):
        return []
    found = []
    for index in np.unique(np.linspace(0, len(dataset) - 1, NUM_SAMPLES).astype(int)):
        sample = transform(start(dict(dataset[int(index)])), np.random.default_rng(0))
        found.append(collate([{"name": str(index), **sample}]))
    return found


def cases(
    name: str,
    net: nn.Layer,
    inputs: Mapping[str, Input],
    task: Task,
    given: Sequence[Mapping[str, Any]],
    example: tuple[int, int],
) -> list[Arrays]:
    """Inputs by the names of the graph.

    Args:
        name: of the deployable.
        net: the deployable.
        inputs: with the sides that the export fixes.
        task: makes inputs of samples.
        given: batches of one sample each, of the validation set.
        example: height and width of a usual picture.
    """
    deployed = [_known(task.inputs(batch), inputs) for batch in given[:2]]
    pictures = [key for key, spec in inputs.items() if spec.kind == "image"]
    usable = [case for case in deployed if _complete(case, inputs)]
    if not pictures:
        found = usable or [_made(net, inputs, batch, example, {}) for batch in _batches(inputs)]
        return [_graph(case) for case in found]
    seen = {key: [case[key][0].transpose(1, 2, 0) for case in deployed if key in case] for key in pictures}
    shape = [side if isinstance(side, int) else -1 for side in inputs[pictures[0]].shape]
    found = [_made(net, inputs, shape[0], shape[2:], seen) for shape in parity.shapes_for(shape, example)]
    # What the transforms make, where that is more than a picture of another size.
    found += [case for case in usable if len(inputs) > 1 and _is_special(case) and _fits(case, inputs)][:1]
    return [_graph(case) for case in found]


def profile(
    name: str, net: nn.Layer, inputs: Mapping[str, Input], task: Task, given: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, list[int]]] | None:
    """Least, middle and largest shape of every input among the samples, for TensorRT; None without samples."""
    found = [case for case in (_known(task.inputs(batch), inputs) for batch in given) if case]
    if not found:
        return None
    result: dict[str, dict[str, list[int]]] = {"min": {}, "opt": {}, "max": {}}
    for key, spec in inputs.items():
        reference = key if key in found[0] else next(iter(found[0]))
        shapes = np.asarray([case[reference].shape for case in found])
        if spec.kind == "mask":  # as large as the picture it belongs to
            shapes = shapes[:, [0, -2, -1]]
        for bound, sides in (("min", shapes.min(0)), ("opt", np.median(shapes, 0)), ("max", shapes.max(0))):
            fixed = [own if isinstance(own, int) else int(side) for own, side in zip(spec.shape, sides)]
            result[bound][graph_name(key)] = fixed
    return result


def _batches(inputs: Mapping[str, Input]) -> list[int]:
    """Batch sizes to try: one and two where it is free."""
    fixed = [spec.shape[0] for spec in inputs.values() if isinstance(spec.shape[0], int) and spec.kind != "size"]
    return fixed[:1] or [1, 2]


def _made(
    net: nn.Layer,
    inputs: Mapping[str, Input],
    batch: int,
    size: Sequence[int],
    seen: Mapping[str, Sequence[np.ndarray]],
) -> Arrays:
    """Pictures of the given size, and what the network itself names as an example of the rest."""
    rng = np.random.default_rng(0)
    height, width = size
    if isinstance(net, Network):
        arrays = net.example(batch, (height, width), rng)
    else:
        arrays = example_of(inputs, batch, (height, width), rng)
    made = {}
    for key, spec in inputs.items():
        if spec.kind == "image":
            sides = [own if isinstance(own, int) else free for own, free in zip(spec.shape[2:], (height, width))]
            made[key] = parity.pictures([batch, 3, *sides], [p.astype(np.uint8) for p in seen.get(key, ())])
        else:
            made[key] = arrays[key]
    return made


def _known(arrays: Mapping[str, np.ndarray], inputs: Mapping[str, Input]) -> Arrays:
    """The inputs that a network takes, in the types it takes them."""
    known = {key: np.ascontiguousarray(arrays[key], spec.dtype) for key, spec in inputs.items() if key in arrays}
    for key, spec in inputs.items():
        if spec.kind == "mask" and key not in known and "image" in known:
            picture = known["image"]
            known[key] = np.ones((len(picture), *picture.shape[2:]), bool)
    return known


def _complete(case: Arrays, inputs: Mapping[str, Input]) -> bool:
    return all(key in case for key in inputs)


def _is_special(case: Arrays) -> bool:
    """Whether something in it is not what `_made` makes: a padded picture, or an input that is neither picture nor
    mask."""
    return any(array.dtype == bool and not array.all() for array in case.values()) or any(
        array.ndim != 4 and array.dtype != bool for array in case.values()
    )


def _fits(case: Arrays, inputs: Mapping[str, Input]) -> bool:
    return all(
        not isinstance(own, int) or own == side
        for key, spec in inputs.items()
        for own, side in zip(spec.shape, case[key].shape)
    )


def _graph(case: Arrays) -> Arrays:
    return {graph_name(key): array for key, array in case.items()}
