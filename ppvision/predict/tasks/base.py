"""A Task turns the outputs of networks into results. Evaluator, Predictor and parity check share it, so a figure that
was measured is a figure that is deployed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ppvision.errors import UserError, did_you_mean
from ppvision.predict.results import Result

if TYPE_CHECKING:
    from paddle import Tensor

Net = Callable[..., Any]


class Task:
    """Base class.

    Args:
        class_names: by class id; may be empty.
        palette: uint8 [K,3] RGB, where a task draws classes.
    """

    # What may end an exported graph; the first one is the default. "none" leaves the network's own outputs.
    output_ops: tuple[str, ...] = ("none",)
    # Which axis of the network's first output counts classes.
    class_axis: int = 1

    def __init__(self, class_names: Sequence[str] = (), palette: Any = None):
        self.class_names = list(class_names)
        self.palette = None if palette is None else np.asarray(palette, np.uint8).reshape(-1, 3)

    def run(self, nets: Mapping[str, Net], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Apply the networks.

        Args:
            nets: the deployables by name; each is called with `batch["image"]`, float32 [B,3,H,W], in the range it
                wants.
            batch: a batch of the loader whose image has been prepared.
        """
        raise NotImplementedError

    def results(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Any]) -> list[Result]:
        """One result per image of the batch, in the coordinates of the original image."""
        raise NotImplementedError

    def agreement(
        self, reference: Sequence[np.ndarray], product: Sequence[np.ndarray], tolerance: float
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

    def deploy_options(self, output_op: str) -> dict[str, Any]:
        """Options with which this task reads a graph that ends with `output_op`."""
        return {}


def class_agreement(
    reference: Sequence[np.ndarray], product: Sequence[np.ndarray], tolerance: float
) -> tuple[float, float]:
    """`Task.agreement` where every place has one class: scores [B,K,...] against labels [B,...] or other scores.

    A place whose two best scores are closer than the tolerance has no right answer in floating point, and on noise with
    untrained weights there are many: a decision counts as equal when the reference's score of the chosen class is
    within 2 * tolerance * magnitude of its best (each of the two scores may be off by the tolerance).
    """
    scores, given = reference[0], product[0]
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


def create_task(name: str, **options: Any) -> Task:
    """The task of that name. An option it does not know is refused, unless it says "off" (None, False, (1.0,)): a
    recipe's `eval:` section has the options of every task.

    Raises:
        UserError: unknown task or option.
    """
    import importlib

    from ppvision.predict import TASKS

    if name not in TASKS:
        raise UserError(f"no task '{name}'{did_you_mean(name, TASKS)} (tasks: {', '.join(TASKS)})")
    module, attribute = TASKS[name].split(":")
    cls = getattr(importlib.import_module(module), attribute)
    known = inspect.signature(cls).parameters
    for key, value in list(options.items()):
        if key not in known:
            if value not in (None, False, [1.0], (1.0,), [1], (1,)):
                raise UserError(f"task '{name}' has no option '{key}'{did_you_mean(key, known)}")
            del options[key]
    return cls(**options)


def images_of(batch: Mapping[str, Any], key: str, count: int) -> list[Any]:
    """`batch[key]` as a list of `count` numpy rows, or of None where the batch has no such key."""
    value = batch.get(key)
    if value is None:
        return [None] * count
    return [np.asarray(row) for row in (value.numpy() if hasattr(value, "numpy") else value)]
