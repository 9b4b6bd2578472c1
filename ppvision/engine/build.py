"""From a checked recipe to the parts of a run: data, network, method, trainer, evaluator.

Nothing here knows a system by name: model, method, data, optimizer and metrics come from the recipe. All is built
before the first step and before the run folder is touched, so that every mistake shows at once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paddle
from paddle import Tensor, nn

from ppvision import weights as weight_files
from ppvision.config import Component, Config, build, optimizer_spec
from ppvision.data import Loader, build_transforms
from ppvision.engine import distributed
from ppvision.engine.evaluator import Evaluator
from ppvision.engine.log import warn
from ppvision.engine.progress import Length
from ppvision.engine.schedule import Schedule
from ppvision.engine.trainer import Trainer
from ppvision.errors import UserError
from ppvision.losses.base import loss_promises
from ppvision.methods.base import Method
from ppvision.models.network import promises
from ppvision.predict import TASKS, assemble


@dataclass
class Parts:
    """What a run is made of.

    Attributes:
        loader: of the training data.
        trainer: holds the method, and so the networks.
        evaluator: none without evaluation.
        length: of the run.
    """

    loader: Loader
    trainer: Trainer
    evaluator: Evaluator | None
    length: Length


def build_parts(cfg: Config) -> Parts:
    """The parts of a recipe's run.

    Raises:
        UserError: they cannot be built, or do not fit each other.
    """
    # initial weights are a function of the seed
    paddle.seed(cfg.train.seed)
    loader = build_loader(cfg)
    length = length_of(cfg, loader)
    net, report = assemble.starting_network(cfg)
    method = build_method(cfg, net, report, loader.dataset)
    method.total_updates = length.total
    trainer = build_trainer(cfg, method, length)
    evaluator = build_evaluator(cfg, net) if cfg.eval.enabled else None
    if evaluator is not None:
        evaluator.attach(method)
        check_best(cfg, evaluator)
    return Parts(loader, trainer, evaluator, length)


def build_loader(cfg: Config) -> Loader:
    """Endless batches of `data.train` for this rank."""
    return Loader(
        assemble.data_set(cfg, "train"),
        build_transforms(cfg.data.train.transforms),
        batch_size=cfg.train.batch_size,
        shuffle=True,
        seed=cfg.train.seed,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        workers=cfg.data.workers,
        drop_last=True,
        skip_bad=cfg.data.skip_bad,
        repeats=cfg.train.repeats,
    )


def length_of(cfg: Config, loader: Loader) -> Length:
    """The run in updates: `train.epochs` makes all its intervals count in epochs, `train.iters` in updates."""
    settings = cfg.train
    updates_per_epoch = max(len(loader) // settings.accumulate, 1)
    unit = 1 if settings.epochs is None else updates_per_epoch
    return Length(
        total=(settings.iters if settings.epochs is None else settings.epochs) * unit,
        updates_per_epoch=updates_per_epoch,
        save_interval=settings.save_interval * unit,
        eval_interval=(cfg.eval.interval or settings.save_interval) * unit,
    )


def build_method(cfg: Config, net: nn.Layer, report: weight_files.Report | None, dataset: Any) -> Method:
    """The recipe's method around its network, checked against the training data.

    Args:
        cfg: the recipe.
        net: its network.
        report: on the network's starting weights, which may bring some for the method.
        dataset: the training data.
    """
    check_classes(cfg, dataset, net)
    method = build("method", cfg.method, model=net)
    check_ignored(cfg, dataset, method)
    if cfg.train.sync_bn:
        for line in distributed.synchronise_batch_norm(method):
            warn(line)
    if report is not None:
        extra = method.load_training_only(report.training_only)
        more = f"; {len(extra)} of the Method's own" if extra else ""
        if distributed.rank() == 0:
            print(f"starting weights {cfg.model.weights}: {report}{more}", flush=True)
    method.seed = cfg.train.seed
    method.mean, method.std = assemble.statistics(cfg)
    if cfg.train.to_static:
        to_static(method)
    return method


def build_trainer(cfg: Config, method: Method, length: Length) -> Trainer:
    """A trainer with the recipe's optimizers and schedule."""
    settings = cfg.train
    names = {phase.optimizer for phase in method.phases}

    def make_group(name: str, parameters: dict[str, Tensor]) -> tuple[paddle.optimizer.Optimizer, Schedule]:
        spec = optimizer_spec(cfg, name, names)
        optimizer = build("optimizer", spec, parameters=parameters)
        return optimizer, build("schedule", cfg.schedule, lr=float(spec["lr"]), total=length.total)

    return Trainer(
        method,
        make_group,
        seed=settings.seed,
        amp=settings.amp,
        amp_dtype=settings.amp_dtype,
        loss_scale=settings.loss_scale,
        clip_norm=settings.clip_norm,
        ema=settings.ema,
        max_bad_steps=settings.max_bad_steps,
        recompute=settings.recompute,
        shard_optimizer=settings.shard_optimizer,
        warn=warn,
    )


def load_model(cfg: Config, source: str | Path) -> nn.Layer:
    """The recipe's network in eval mode with the weights of a file or checkpoint folder."""
    paddle.seed(cfg.train.seed)  # as in training: what `load_method` builds next without weights is the same again
    return assemble.network(cfg, source)


def load_method(cfg: Config, net: nn.Layer, source: str | Path) -> Method:
    """The recipe's method in eval mode around a network that has its weights; the method's own parts are read from
    `method.pdparams` in the checkpoint that `source` (the folder, or a file in it) belongs to.

    Raises:
        UserError: there is no such file, it is another recipe's, or a frozen part has other weights than in training.
    """
    method = build("method", cfg.method, model=net)
    method.seed, (method.mean, method.std) = cfg.train.seed, assemble.statistics(cfg)
    method.eval()
    folder = Path(source) if Path(source).is_dir() else Path(source).parent
    if (folder / "state.json").is_file():
        trained_with = json.loads((folder / "state.json").read_text(encoding="utf-8"))["frozen"]
        for name, found in method.frozen_sources().items():
            if name in trained_with and trained_with[name]["sha256"] != found["sha256"]:
                raise UserError(f"{folder}: was trained with another {name} than that of {cfg.path}")
    networks = {id(t) for layer in method.deployables().values() for t in layer.state_dict().values()}
    own = {k: t for k, t in method.trained_state().items() if id(t) not in networks}
    if not own:
        return method
    file = folder / "method.pdparams"
    if not file.is_file():
        raise UserError(f"{file} is missing: the method '{cfg.method.type}' has trained parts of its own")
    saved = weight_files.read(file)
    wrong = [k for k in own if k not in saved or tuple(saved[k].shape) != tuple(own[k].shape)]
    if wrong:
        raise UserError(f"{file}: does not fit {cfg.path} ({', '.join(wrong[:5])})")
    for key, tensor in own.items():
        tensor.set_value(saved[key])
    return method


def check_best(cfg: Config, evaluator: Evaluator) -> None:
    """Refuse a rule for the best model that names no metric, or takes the worst for the best."""
    rule, metrics = cfg.eval.best, evaluator.compute()
    name = rule.get("name") or next(iter(metrics))
    if name not in metrics:
        raise UserError(f"{cfg.where('eval.best.name')}: no figure '{name}' among {', '.join(metrics)}")
    falling = any(metric.smaller_is_better and name in metric.compute() for metric in evaluator.metrics)
    if falling and rule.get("mode", "max") == "max":
        raise UserError(f"{cfg.where('eval.best')}: '{name}' is better when it is smaller; set eval.best.mode: min")


def build_evaluator(cfg: Config, net: nn.Layer) -> Evaluator:
    """Loader of `data.val`, task and metrics of the recipe."""
    dataset = assemble.data_set(cfg, "val")
    check_classes(cfg, dataset, net)
    loader = Loader(
        dataset,
        build_transforms(cfg.data.val.transforms),
        batch_size=cfg.eval.batch_size,
        shuffle=False,
        seed=cfg.train.seed,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        workers=cfg.data.workers if cfg.eval.workers is None else cfg.eval.workers,
        keep_target=True,
    )
    task_name = assemble.task_name(cfg)
    task = assemble.task(cfg, dataset)
    known = {
        "num_classes": dataset.num_classes,
        "ignore_index": dataset.ignore_index,
        "class_names": task.class_names,
    }
    specs = [{"type": m} if isinstance(m, str) else m for m in cfg.eval.metrics]
    metrics = [build("metric", Component(m, f"eval.metrics.{i}", cfg.where), **known) for i, m in enumerate(specs)]
    for i, metric in enumerate(metrics):
        if metric.tasks and task_name in TASKS and task_name not in metric.tasks:
            raise UserError(
                f"{cfg.where(f'eval.metrics.{i}')}: {type(metric).__name__} judges {', '.join(metric.tasks)}, "
                f"but {cfg.model.type} does {task_name}"
            )
    if not metrics:
        raise UserError(f"{cfg.where('eval')}: 'eval.metrics' names no metric")
    return Evaluator(task, metrics, loader, *assemble.statistics(cfg))


def check_classes(cfg: Config, dataset: Any, net: nn.Layer) -> None:
    """Refuse a data set with more or fewer classes than the network: labels must never be dropped in silence."""
    theirs, ours = dataset.num_classes, promises(net).num_classes
    if theirs and ours and theirs != ours:
        raise UserError(
            f"{cfg.where('model.num_classes')}: model.num_classes is {ours}, but {cfg.data.root} has {theirs} classes"
        )


def check_ignored(cfg: Config, dataset: Any, method: Method) -> None:
    """Refuse labels that mean "ignored" to the data and a class to the loss, or the other way round."""
    mark = dataset.ignore_index
    if mark is None:
        return
    ours = None if method.loss is None else loss_promises(method.loss).ignore_index
    if ours is not None and ours != mark:
        key = "method.loss.ignore_index"
        raise UserError(f"{cfg.where(key)}: '{key}' is {ours}, but {cfg.data.root} marks what does not count by {mark}")
    classes = dataset.num_classes
    for i, transform in enumerate(cfg.data.train.transforms):
        border, key = transform.kwargs.get("ignore", mark), f"data.train.transforms.{i}.ignore"
        if classes and border != mark and border >= classes:
            raise UserError(
                f"{cfg.where(key)}: '{key}' is {border}: neither {mark} (ignored) nor one of {classes} classes"
            )


def to_static(method: nn.Layer) -> None:
    """Train the deployables as static graphs: `features` and `decode` where a network has them (its `forward`
    composes them; a static function inside a static function crashes Paddle 3.3.1), else `forward`."""
    for net in method.deployables().values():
        for name in ("features", "decode") if promises(net).offers("decode") else ("forward",):
            setattr(net, name, paddle.jit.to_static(getattr(net, name)))
