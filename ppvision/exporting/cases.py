"""What an export is compared at: inputs as deployment gives them, and pictures of two sizes where the graph is free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from ppvision.data.collate import collate
from ppvision.data.fields import start
from ppvision.exporting import parity
from ppvision.models.network import Input, Network, example_of, fixed_batch, graph_name
from ppvision.predict.nets import EagerNet, on_device
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


def calls(
    nets: Mapping[str, nn.Layer], task: Task, given: Sequence[Mapping[str, Any]], statistics: Sequence[Sequence[float]]
) -> dict[str, list[Arrays]]:
    """What deployment calls each network with, raw and by the names of its arguments, one entry per sample.

    A single network gets what the task makes of the sample; of several the task itself says what goes into which.

    Args:
        nets: the deployables.
        task: prepares the inputs and applies the networks.
        given: batches of one sample each, of the validation set.
        statistics: mean and std, 0..255.
    """
    if len(nets) == 1:
        return {name: [task.inputs(batch) for batch in given] for name in nets}
    found: dict[str, list[Arrays]] = {name: [] for name in nets}
    for batch in given:
        for net in nets.values():
            net.eval()
        listening = {name: _Listening(EagerNet(net, *statistics)) for name, net in nets.items()}
        with paddle.no_grad():
            task.run(listening, on_device(task.inputs(batch)))
        for name, net in listening.items():
            found[name] += [net.given] if net.given else []
    return found


class _Listening:
    """A network that keeps what it is first called with."""

    def __init__(self, net: EagerNet):
        self.net = net
        self.inputs = net.inputs
        self.given = {}

    def __call__(self, **given: Tensor) -> Any:
        self.given = self.given or {name: tensor.numpy() for name, tensor in given.items()}
        return self.net(**given)


def cases(
    net: nn.Layer, inputs: Mapping[str, Input], given: Sequence[Arrays], example: tuple[int, int]
) -> list[Arrays]:
    """Inputs by the names of the graph: two sizes where they are free, and what is special about deployment.

    Args:
        net: the deployable.
        inputs: with the sides that the export fixes.
        given: what deployment calls it with, see `calls`.
        example: height and width of a usual picture.
    """
    deployed = [_known(case, inputs) for case in given[:2]]
    pictures = [key for key, spec in inputs.items() if spec.kind == "image"]
    usable = [case for case in deployed if _complete(case, inputs)]
    if not pictures:
        # Its sides may follow from those of a picture that another network reads.
        shapes = parity.shapes_for([fixed_batch(inputs) or -1, 3, -1, -1], example)
        made = [_made(net, inputs, shape[0], shape[2:], {}) for shape in shapes]
        found = [case for i, case in enumerate(made) if not any(_shapes(case) == _shapes(m) for m in made[:i])]
        found += [case for case in usable if _fits(case, inputs)][:1]
        return [_graph(case) for case in found]
    seen = {key: [case[key][0].transpose(1, 2, 0) for case in deployed if key in case] for key in pictures}
    shape = [side if isinstance(side, int) else -1 for side in inputs[pictures[0]].shape]
    found = [_made(net, inputs, shape[0], shape[2:], seen) for shape in parity.shapes_for(shape, example)]
    # What the transforms make, where that is more than a picture of another size.
    found += [case for case in usable if len(inputs) > 1 and _is_special(case) and _fits(case, inputs)][:1]
    return [_graph(case) for case in found]


def profile(inputs: Mapping[str, Input], given: Sequence[Arrays]) -> dict[str, dict[str, list[int]]] | None:
    """Least, middle and largest shape of every input among the samples, for TensorRT; None without samples."""
    found = [case for case in (_known(case, inputs) for case in given) if case]
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


def _made(
    net: nn.Layer,
    inputs: Mapping[str, Input],
    batch: int,
    size: Sequence[int],
    seen: Mapping[str, Sequence[np.ndarray]],
) -> Arrays:
    """Pictures of the given size (one with free sides of its own about half of that, turned), and what the network
    itself names as an example of the rest."""
    rng = np.random.default_rng(0)
    height, width = size
    own_sides = (width // 2 | 1, height // 2 | 1)
    if isinstance(net, Network):
        arrays = net.example(batch, (height, width), rng)
    else:
        arrays = example_of(inputs, batch, (height, width), rng)
    made = {}
    for key, spec in inputs.items():
        if spec.kind == "image":
            free = (height, width) if spec.shape[2:] == ("H", "W") else own_sides
            sides = [own if isinstance(own, int) else free[i] for i, own in enumerate(spec.shape[2:])]
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
    mask, or several pictures."""
    pictures = [array for array in case.values() if array.ndim == 4]
    return (
        len(pictures) > 1
        or any(array.dtype == bool and not array.all() for array in case.values())
        or any(array.ndim != 4 and array.dtype != bool for array in case.values())
    )


def _fits(case: Arrays, inputs: Mapping[str, Input]) -> bool:
    return all(
        not isinstance(own, int) or own == side
        for key, spec in inputs.items()
        for own, side in zip(spec.shape, case[key].shape)
    )


def _shapes(case: Arrays) -> list[tuple[int, ...]]:
    return [array.shape for array in case.values()]


def _graph(case: Arrays) -> Arrays:
    return {graph_name(key): array for key, array in case.items()}
