"""A Task has two sides: what networks are called with, and what their outputs mean.

Evaluator, Predictor, exporter, parity check and server share it, so a metric that was measured is a metric that is
deployed. It also owns its endings: the layers that may end an exported graph.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ppvision.data.fields import field_of
from ppvision.data.io import IMAGE_SUFFIXES, read_image
from ppvision.errors import UserError, brief, did_you_mean
from ppvision.predict.results import Result

if TYPE_CHECKING:
    from paddle import Tensor

Net = Callable[..., Any]


@dataclass(frozen=True)
class Output:
    """One output of a graph, for deploy.yaml.

    Attributes:
        name: in the graph.
        kind: "labels", "probabilities", "boxes", "scores", … or "raw".
        about: axes and units, in words for a program's author.
        dtype: of the array.
    """

    name: str
    kind: str
    about: str = ""
    dtype: str = "float32"


class Ending:
    """What may end an exported graph: called with a network's outputs, gives those of the graph.

    The base class leaves the network's own outputs ("none").

    Attributes:
        parts: names of the deployables that may end so, the others then end with "none"; empty: all.
    """

    parts: ClassVar[Collection[str]] = ()

    def __call__(self, outputs: Any) -> dict[str, Tensor]:
        """
        Args:
            outputs: what the network gives: a tensor, a list or a dict of tensors.
        """
        return named(outputs)

    def outputs(self, given: Any) -> tuple[Output, ...]:
        """The outputs of the graph, in order, for a network that gives `given`."""
        return tuple(Output(name, "raw", f"{list(value.shape)}", _dtype(value)) for name, value in named(given).items())

    def options(self) -> dict[str, Any]:
        """Options with which the task reads a graph that ends so."""
        return {}


@dataclass(frozen=True)
class Extra:
    """What a task takes besides its input: the source of a face swap, a target size. Asked for by every way in.

    Attributes:
        help: one line.
        read: value as given -> keys of the sample.
        required: refuse to predict without it.
    """

    help: str
    read: Callable[[Any], dict[str, Any]]
    required: bool = False


class Task:
    """Base class: one picture, one network.

    Args:
        class_names: by class id; may be empty.
        palette: uint8 [K,3] RGB, where a task draws classes.

    Attributes:
        fill: what stands in pictures where nothing is picture, RGB 0..255: the mean of the network's statistics, which
            normalisation turns into zero. Set by whoever assembles a recipe or opens an export.
    """

    # What `read` can open, by suffix.
    suffixes: ClassVar[Collection[str]] = IMAGE_SUFFIXES
    # Name -> what may end an exported graph; the first one is the default.
    endings: ClassVar[Mapping[str, Ending]] = {"none": Ending()}
    # Name -> what predictions may, or must, be given besides their input.
    extras: ClassVar[Mapping[str, Extra]] = {}
    # How another program brings the graph's outputs to the original picture, for deploy.yaml.
    way_back: ClassVar[str] = ""
    # Which axis of the network's first output counts classes.
    class_axis: ClassVar[int] = 1

    def __init__(self, class_names: Sequence[str] = (), palette: Any = None):
        self.class_names = list(class_names)
        self.palette = None if palette is None else np.asarray(palette, np.uint8).reshape(-1, 3)
        self.fill: Sequence[float] = (0.0, 0.0, 0.0)

    def defaults(self) -> dict[str, Any]:
        """Options of this task that a program which reads its outputs must know (thresholds), for deploy.yaml."""
        return {}

    def read(self, source: Any) -> dict[str, Any]:
        """One thing to predict -> a sample: a file, or an array (RGB uint8 [H,W,3]).

        Raises:
            UserError: it cannot be read, or is no picture.
        """
        if isinstance(source, np.ndarray):
            if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or 0 in source.shape:
                raise UserError(f"expected RGB uint8 [H,W,3], got {source.dtype} {list(source.shape)}")
            return {"image": source}
        return {"image": read_image(os.fspath(source)), "name": os.fspath(source)}

    def canvas(self, source: Any) -> np.ndarray | None:
        """RGB uint8 [H,W,3] that a result of `source` is drawn on; None where there is no picture."""
        return self.read(source).get("image")

    def inputs(self, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """What the deployables are called with, by the names of their inputs, in raw range (0..255, metres).

        Args:
            batch: as collated: `image` uint8 [B,H,W,3], `valid` bool [B,H,W].

        Returns:
            `image` [B,3,H,W], uint8, or float32 with `fill` where the batch is padded; then also `valid`.
        """
        return image_inputs(batch, self.fill)

    def run(self, nets: Mapping[str, Net], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Apply the networks.

        Args:
            nets: all deployables by name; each is called with keywords, see `predict.nets`.
            inputs: what `inputs` gave, on the device, pictures as float32.
        """
        raise NotImplementedError

    def results(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Any]) -> list[Result]:
        """One result per sample of the batch, in the coordinates of the original."""
        raise NotImplementedError

    def restore(self, folder: Path, record: Mapping[str, Any]) -> Result:
        """A saved result again, for programs that compare folders of results.

        Args:
            folder: where it was saved.
            record: its entry in `predictions.json`.
        """
        raise UserError(f"{type(self).__name__} cannot read its results back")

    def agreement(
        self, reference: Mapping[str, np.ndarray], product: Mapping[str, np.ndarray], tolerance: float
    ) -> tuple[float, float] | None:
        """How far an exported graph decides as the network does.

        Args:
            reference: outputs of the network itself, in its order.
            product: outputs of the graph as it is shipped; those of the network where it ends with "none".
            tolerance: of the network's outputs, relative to their largest magnitude.

        Returns:
            (share of equal decisions where both of two that are closer than the tolerance count as right, share
            without that allowance); None where nothing is decided.
        """
        return None


def image_inputs(batch: Mapping[str, Any], fill: Sequence[float], key: str = "image") -> dict[str, np.ndarray]:
    """The picture of a batch as an input, see `Task.inputs`; `valid` concerns those that share the image's size."""
    image, valid = batch[key], batch.get("valid") if field_of(key).collate == "canvas" else None
    if valid is None or valid.all():
        return {key: np.ascontiguousarray(image.transpose(0, 3, 1, 2))}
    filled = image.astype(np.float32)
    filled[~valid] = fill
    return {key: np.ascontiguousarray(filled.transpose(0, 3, 1, 2)), "valid": valid}


def named(outputs: Any) -> dict[str, Any]:
    """Outputs of a network by name, in its order: keys of a dict, else output, output1, …"""
    if isinstance(outputs, Mapping):
        return dict(outputs)
    values = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    return {"output" + (str(i) if i else ""): value for i, value in enumerate(values)}


def first(outputs: Any) -> Any:
    """The first output: networks of other packages give a list with auxiliary outputs after the logits."""
    return next(iter(named(outputs).values()))


def _dtype(value: Any) -> str:
    return str(value.dtype).rpartition(".")[2]


def class_agreement(
    reference: Mapping[str, np.ndarray], product: Mapping[str, np.ndarray], tolerance: float
) -> tuple[float, float]:
    """`Task.agreement` where every place has one class: scores [B,K,...] against labels [B,...] or other scores.

    A place whose two best scores are closer than the tolerance has no right answer in floating point, and on noise with
    untrained weights there are many: a decision counts as equal when the reference's score of the chosen class is
    within 2 * tolerance * magnitude of its best (each of the two scores may be off by the tolerance).
    """
    scores, given = first(reference), first(product)
    decisions = given if given.ndim < scores.ndim else given.argmax(1)
    best = scores.max(1)
    if decisions.shape != best.shape or decisions.size == 0:
        return 0.0, 0.0
    if decisions.min() < 0 or decisions.max() >= scores.shape[1]:
        return 0.0, 0.0
    chosen = np.take_along_axis(scores, decisions[:, None].astype(np.int64), axis=1)[:, 0]
    allowance = 2 * tolerance * float(np.abs(scores).max())
    return float((chosen >= best - allowance).mean()), float((scores.argmax(1) == decisions).mean())


def only_net(nets: Mapping[str, Net]) -> Net:
    """The network of a task that has just one, whatever its name."""
    if len(nets) != 1:
        raise UserError(f"this task takes one network, got {sorted(nets)}")
    return next(iter(nets.values()))


def task_class(name: str) -> type[Task]:
    """The class of a task.

    Args:
        name: a key of `ppvision.predict.TASKS`, or a dotted path.

    Raises:
        UserError: there is no such task.
    """
    from ppvision.config import resolve

    return resolve("task", name)


def create_task(name: str, **options: Any) -> Task:
    """The task of that name. An option it does not know is refused, unless it says "off" (None, False, (1.0,)): a
    recipe's `eval:` section has the options of every task.

    Raises:
        UserError: unknown task or option.
    """
    cls = task_class(name)
    known = inspect.signature(cls).parameters
    for key, value in list(options.items()):
        if key not in known:
            if value not in (None, False, [1.0], (1.0,), [1], (1,)):
                raise UserError(f"task '{name}' has no option '{key}'{did_you_mean(key, known)}")
            del options[key]
    return cls(**options)


def ending_of(task: Task | type[Task], name: str | None, part: str = "model") -> tuple[str, Ending]:
    """The ending a graph of `task` gets: the named one, else the task's default; "none" where that is of other parts.

    Args:
        task: a task or its class.
        name: of the ending; None: the first.
        part: name of the deployable.

    Raises:
        UserError: the task has no such ending.
    """
    if name is None:
        name = next(iter(task.endings))
    if name not in task.endings:
        near = did_you_mean(name, task.endings)
        known = ", ".join(task.endings)
        kind = task if isinstance(task, type) else type(task)
        raise UserError(f"export: no output_op '{name}' for {kind.__name__}{near} (there is: {known})")
    ending = task.endings[name]
    return ("none", Ending()) if ending.parts and part not in ending.parts else (name, ending)


def extra_keys(task: Task, given: Mapping[str, Any]) -> dict[str, Any]:
    """Keys that every sample of a prediction gets from the extras that were given.

    Raises:
        UserError: an extra the task does not know, or a required one that is missing.
    """
    for name in given:
        if name not in task.extras:
            known = ", ".join(task.extras) or "none"
            raise UserError(
                f"{type(task).__name__} takes no '{name}'{did_you_mean(name, task.extras)} (it takes: {known})"
            )
    keys: dict[str, Any] = {}
    for name, extra in task.extras.items():
        if name in given:
            try:
                keys |= extra.read(given[name])
            except (TypeError, ValueError) as error:
                raise UserError(f"'{name}' ({extra.help}) cannot be {given[name]!r}: {brief(error)}") from None
        elif extra.required:
            raise UserError(f"{type(task).__name__} needs '{name}' ({extra.help}): give --extra {name}=…")
    return keys


def images_of(batch: Mapping[str, Any], key: str, count: int) -> list[Any]:
    """`batch[key]` as a list of `count` numpy rows, or of None where the batch has no such key."""
    value = batch.get(key)
    if value is None:
        return [None] * count
    return [np.asarray(row) for row in value]
