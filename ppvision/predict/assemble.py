"""From a recipe to what answers: network, weights, statistics, task, transforms. The only place where that happens, for
every command and for the API.

Weights, one rule: the ones that are given (also as `-o model.weights=…`); else `best_model` of the recipe's run folder;
else `model.weights`, said aloud; else a refusal. Training starts from `model.weights` and does not come here for them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from paddle import nn

from ppvision.config import Config, build, load, resolve
from ppvision.data.base import Dataset, adapted
from ppvision.errors import UserError
from ppvision.models import zoo
from ppvision.predict.nets import EagerNet
from ppvision.predict.tasks.base import Task, create_task
from ppvision.weights import Report, load_weights, read

logger = logging.getLogger("ppvision")

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
AUGMENTATION = ("flip", "flip_vertical", "scales", "slide")  # keys of `eval` that are options of a task


@dataclass
class Assembly:
    """A recipe made ready to predict.

    Attributes:
        cfg: the recipe.
        nets: the deployables by name, in evaluation mode.
        task: with the recipe's test-time augmentation, class names and palette.
        transform: of `data.val`.
        statistics: mean and std, 0..255.
        weights: where the weights came from.
        task_name: of the task.
    """

    cfg: Config
    nets: dict[str, nn.Layer]
    task: Task
    transform: Any
    statistics: Statistics
    weights: str
    task_name: str

    def eager(self) -> dict[str, EagerNet]:
        """The deployables as a task calls them."""
        return {name: EagerNet(layer, *self.statistics) for name, layer in self.nets.items()}


def assemble(
    source: str | os.PathLike | Mapping | Config,
    overrides: Sequence[str] = (),
    weights: str | os.PathLike | None = None,
    **options: Any,
) -> Assembly:
    """Everything a prediction needs.

    Args:
        source: a recipe.
        overrides: `a.b=1`.
        weights: see the module.
        options: of the task, over the recipe's.

    Raises:
        UserError: recipe, weights or options are wrong.
    """
    from ppvision.data.transforms.image import build_transforms

    cfg = load(source, overrides)
    found = weights_of(cfg, weights)
    net = network(cfg, found)
    transforms = cfg.data.val.transforms if cfg.data.val is not None else []
    return Assembly(
        cfg,
        zoo.deployables(net),
        task(cfg, validation_set(cfg), **options),
        build_transforms(transforms),
        statistics(cfg),
        found,
        task_name(cfg),
    )


def run_folder(cfg: Config, *parts: str) -> Path:
    """`train.save_dir` itself, or `output/<name of the recipe>`; `parts` below it."""
    return Path(cfg.train.save_dir or Path("output") / cfg.name, *parts)


def weights_of(cfg: Config, given: str | os.PathLike | None = None) -> str:
    """The weights to answer with, by the rule of this module.

    Raises:
        UserError: there are none.
    """
    if given is not None:
        return os.fspath(given)
    if cfg.model.weights and cfg.where("model.weights").startswith("-o "):
        return str(cfg.model.weights)
    best = run_folder(cfg, "best_model")
    if best.exists():
        return os.fspath(best)
    if cfg.model.weights:
        print(f"{best} does not exist: using the starting weights {cfg.model.weights}", flush=True)
        return str(cfg.model.weights)
    raise UserError(f"{cfg.path}: no weights: {best} does not exist; train first or give --model_path")


def starting_network(cfg: Config) -> tuple[nn.Layer, Report | None]:
    """The network that training starts with, and what of `model.weights` went into it (a file of another class count
    or a bare backbone fits in part).

    Raises:
        UserError: nothing in the file fits.
    """
    net = build("model", cfg.model)
    if not cfg.model.weights:
        return net, None
    report = load_weights(net, cfg.model.weights, strict=False)
    if not report.loaded:
        raise UserError(f"{cfg.where('model.weights')}: nothing in '{cfg.model.weights}' fits {cfg.model.type}")
    return net, report


def network(cfg: Config, weights: str | os.PathLike) -> nn.Layer:
    """The recipe's network in evaluation mode with the weights of a file or checkpoint folder.

    Raises:
        UserError: they do not fit.
    """
    net = build("model", cfg.model)
    parts = zoo.deployables(net)
    if len(parts) == 1:
        load_weights(next(iter(parts.values())), weights)
    else:
        load_parts(parts, weights)
    net.eval()
    return net


def load_parts(parts: Mapping[str, nn.Layer], weights: str | os.PathLike) -> None:
    """Load a checkpoint of several deployables, whose keys are `<name>.<key>`.

    Raises:
        UserError: a part is missing or does not fit.
    """
    arrays = read(weights)
    for name, layer in parts.items():
        own = {key.removeprefix(f"{name}."): value for key, value in arrays.items() if key.startswith(f"{name}.")}
        if not own:
            raise UserError(f"{os.fspath(weights)}: holds nothing of '{name}' (keys begin with '{name}.')")
        load_weights(layer, own)


def statistics(cfg: Config) -> Statistics:
    """(mean, std) of the network's input, 0..255: those of the recipe, else of the zoo entry.

    Raises:
        UserError: a model that is not in the zoo, and no `data.mean`.
    """
    if cfg.data.mean is not None and cfg.data.std is not None:
        return tuple(cfg.data.mean), tuple(cfg.data.std)
    if cfg.model.type in zoo.ZOO:
        return zoo.entry(cfg.model.type).mean_std
    raise UserError(
        f"{cfg.where('data')}: data.mean and data.std (0..255) are needed for '{cfg.model.type}', which is not in the "
        "model zoo"
    )


def task_name(cfg: Config) -> str:
    """`eval.task`, else the zoo entry's.

    Raises:
        UserError: a model that is not in the zoo, and no `eval.task`.
    """
    if cfg.eval.task is not None:
        return cfg.eval.task
    if cfg.model.type in zoo.ZOO:
        return zoo.entry(cfg.model.type).task
    raise UserError(f"{cfg.where('eval')}: eval.task is needed for '{cfg.model.type}', which is not in the model zoo")


def task(cfg: Config, dataset: Any | None, **options: Any) -> Task:
    """The recipe's task with its test-time augmentation; `options` win over the recipe's."""
    names, palette = labels(cfg, dataset)
    own = {key: getattr(cfg.eval, key) for key in AUGMENTATION}
    made = create_task(task_name(cfg), **{"class_names": names, "palette": palette, **own, **options})
    made.fill = statistics(cfg)[0]
    return made


def labels(cfg: Config, dataset: Any | None) -> tuple[list[str], np.ndarray | None]:
    """(class names, palette) of the validation set; of its format where the files are not on this machine; else ([],
    None)."""
    if dataset is None and cfg.data.val is not None and cfg.data.val.type is not None:
        dataset = resolve("dataset", cfg.data.val.type)
    if dataset is None:
        return [], None
    names, palette = list(dataset.class_names), dataset.palette
    return names, palette if names and palette is not None and len(palette) else None


def data_set(cfg: Config, part: str) -> Dataset:
    """The data set of `data.train` or `data.val`.

    Raises:
        UserError: the recipe has no such part.
    """
    component = cfg.data.train if part == "train" else cfg.data.val
    if component is None:
        raise UserError(f"{cfg.where('data')}: 'data.{part}' is missing")
    return adapted(build("dataset", component))


def validation_set(cfg: Config) -> Dataset | None:
    """The validation data set, or None where the recipe has none or its files are not here: deployment must not need
    them."""
    if cfg.data.val is None or cfg.data.val.type is None:
        return None
    try:
        return adapted(build("dataset", cfg.data.val))
    except (UserError, OSError) as error:
        logger.debug("validation set not used: %s", error)
        return None
