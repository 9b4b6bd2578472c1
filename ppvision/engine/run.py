"""A run: from a checked configuration to a folder with checkpoints, and the loop around the Trainer.

Nothing here knows a system by name: model, method, data, optimizer and metrics come from the recipe.
"""

from __future__ import annotations

import contextlib
import json
import math
import platform
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

import ppvision
from ppvision import weights as weight_files
from ppvision.config import Component, Config, build, check, load, optimizer_spec, parse_profiler, resolve
from ppvision.data.batch import to_device
from ppvision.device import use_device
from ppvision.engine import checkpoint, distributed
from ppvision.engine.continuity import check_continuity
from ppvision.engine.evaluator import Evaluator
from ppvision.engine.log import RunLog, stamped, truncate
from ppvision.engine.profiler import StepProfiler
from ppvision.engine.schedule import Schedule
from ppvision.engine.trainer import Trainer
from ppvision.errors import RunError, UserError
from ppvision.losses.base import loss_promises
from ppvision.methods.base import Method
from ppvision.models import zoo

RESOLVED = "# A resolved recipe, written by ppvision.\n"


def train(config: str | Path | Config, overrides: Sequence[str] = ()) -> dict[str, float]:
    """Train a recipe to its end, or continue it; returns the last evaluation's figures (empty without evaluation).

    Raises:
        UserError: the recipe, the data or the weights are wrong; the run folder is in use and neither `--resume` nor
            `--overwrite` is given.
        RunError: training cannot go on (too many non-finite updates, full disk).
    """
    cfg = load(config, overrides)
    check(cfg)
    set_device(cfg.train.device)
    distributed.start()
    return Run(cfg).fit()


def evaluate(
    config: str | Path | Config,
    overrides: Sequence[str] = (),
    weights: str | None = None,
    output: str | Path | None = None,
) -> dict[str, float]:
    """Figures of a recipe's model on its validation data.

    Args:
        config: recipe.
        overrides: `key=value` strings.
        weights: file or folder; default: `best_model` of the recipe's run folder.
        output: folder that gets what the metrics write besides their figures: detections, curves, pictures.

    Raises:
        UserError: recipe, data or weights are wrong; `output` cannot be written.
    """
    cfg = load(config, overrides)
    set_device(cfg.train.device)
    distributed.start()
    source = weights or str(run_folder(cfg) / "best_model")
    if weights is None and not Path(source).exists():
        raise UserError(f"no weights: {source} does not exist; train first or give --model_path")
    net = load_model(cfg, source)
    evaluator = build_evaluator(cfg, net)
    if evaluator.wants_losses:
        evaluator.attach(load_method(cfg, net, source))
    started = time.time()
    figures = evaluator(zoo.deployables(net), progress=distributed.rank() == 0)
    if distributed.rank() == 0:
        images = len(evaluator.loader.dataset)
        line = f"[EVAL] #Images: {images} " + " ".join(f"{k}: {v:.4f}" for k, v in figures.items())
        print(stamped(line), flush=True)
        for metric in evaluator.metrics:
            _print_table(metric.table())
        print(f"{images / (time.time() - started):.2f} images/s", flush=True)
        if output is not None:
            write_details(evaluator, Path(output))
    return figures


def write_details(evaluator: Evaluator, folder: Path) -> None:
    """What the metrics of a finished evaluation can write; nothing where they have nothing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for metric in evaluator.metrics:
            metric.write(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from None


def set_device(device: str | None) -> str:
    """Use `cpu` or `gpu`; None takes a usable GPU, else the CPU.

    Raises:
        UserError: a GPU is asked for and there is none, or the word is unknown.
    """
    usable = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    device = device or ("gpu" if usable else "cpu")
    if device not in ("cpu", "gpu"):
        raise UserError(f"train.device: '{device}' is not supported; use cpu or gpu")
    if device == "gpu" and not usable:
        raise UserError(
            "train.device: no usable GPU (this Paddle is a CPU build or no device is visible); use --device cpu"
        )
    use_device(device)
    return device


def run_folder(cfg: Config) -> Path:
    """`train.save_dir` itself, or `output/<name of the config>`."""
    return Path(cfg.train.save_dir) if cfg.train.save_dir else Path("output") / cfg.name


def build_model(cfg: Config, starting_weights: bool = True) -> tuple[nn.Layer, weight_files.Report | None]:
    """The recipe's network, and what of `model.weights` went into it (a file of another class count or a bare
    backbone fits in part).

    Raises:
        UserError: nothing in the file fits.
    """
    net = build("model", cfg.model)
    source = cfg.model.weights if starting_weights else None
    if not source:
        return net, None
    report = weight_files.load_weights(net, source, strict=False)
    if not report.loaded:
        raise UserError(f"{cfg.where('model.weights')}: nothing in '{source}' fits {cfg.model.type}")
    return net, report


def statistics(cfg: Config) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and std of the network's input, 0..255: the zoo entry's, unless the recipe names its own."""
    if cfg.data.mean is not None and cfg.data.std is not None:
        return cfg.data.mean, cfg.data.std
    if cfg.model.type not in zoo.ZOO:
        raise UserError(f"data.mean and data.std are needed for '{cfg.model.type}', which is not in the model zoo")
    return zoo.entry(cfg.model.type).mean_std


def load_deployables(nets: dict[str, nn.Layer], source: str) -> None:
    """Load `model.pdparams` as the Trainer writes it: plain keys for one network, else `<name>.<key>`."""
    for name, net in nets.items():
        if len(nets) == 1:
            weight_files.load_weights(net, source)
        else:
            arrays = weight_files.read(source)
            weight_files.load_weights(
                net, {k.removeprefix(f"{name}."): v for k, v in arrays.items() if k.startswith(f"{name}.")}
            )


def load_model(cfg: Config, source: str | Path) -> nn.Layer:
    """The recipe's network in eval mode with the weights of a file or checkpoint folder."""
    paddle.seed(cfg.train.seed)  # as in training: what `load_method` builds next without weights is the same again
    net, _ = build_model(cfg, starting_weights=False)
    load_deployables(zoo.deployables(net), str(source))
    net.eval()
    return net


def load_method(cfg: Config, net: nn.Layer, source: str | Path) -> Method:
    """The recipe's method in eval mode around a network that has its weights; the method's own parts are read from
    `method.pdparams` in the checkpoint that `source` (the folder, or a file in it) belongs to.

    Raises:
        UserError: there is no such file, it is another recipe's, or a frozen part has other weights than in training.
    """
    method = build("method", cfg.method, model=net)
    method.seed, (method.mean, method.std) = cfg.train.seed, statistics(cfg)
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
    """Refuse a rule for the best model that names no figure, or takes the worst for the best."""
    rule, figures = cfg.eval.best, evaluator.figures()
    name = rule.get("name") or next(iter(figures))
    if name not in figures:
        raise UserError(f"{cfg.where('eval.best.name')}: no figure '{name}' among {', '.join(figures)}")
    falling = any(metric.smaller_is_better and name in metric.compute() for metric in evaluator.metrics)
    if falling and rule.get("mode", "max") == "max":
        raise UserError(f"{cfg.where('eval.best')}: '{name}' is better when it is smaller; set eval.best.mode: min")


def build_data(cfg: Config, part: str) -> Any:
    """The data set of `data.train` or `data.val`.

    Raises:
        UserError: the recipe has no such part.
    """
    component = getattr(cfg.data, part)
    if component is None:
        raise UserError(f"{cfg.where('data')}: 'data.{part}' is missing")
    return build("dataset", component)


def build_evaluator(cfg: Config, net: nn.Layer) -> Evaluator:
    """Loader of `data.val`, task and metrics of the recipe."""
    from ppvision.data import Loader, build_transforms
    from ppvision.predict.tasks.base import create_task

    dataset = build_data(cfg, "val")
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
    names, palette = getattr(dataset, "class_names", ()), getattr(dataset, "palette", None)
    task_name = cfg.eval.task or (zoo.entry(cfg.model.type).task if cfg.model.type in zoo.ZOO else None)
    if task_name is None:
        raise UserError(f"eval.task is needed for '{cfg.model.type}', which is not in the model zoo")
    options = {k: getattr(cfg.eval, k) for k in ("flip", "flip_vertical", "scales", "slide")}
    task = create_task(task_name, class_names=names, palette=palette, **options)
    known = {
        "num_classes": getattr(dataset, "num_classes", 0),
        "ignore_index": getattr(dataset, "ignore_index", 255),
        "class_names": names,
    }
    specs = [{"type": m} if isinstance(m, str) else m for m in cfg.eval.metrics]
    metrics = [build("metric", Component(m, f"eval.metrics.{i}", cfg.where), **known) for i, m in enumerate(specs)]
    for i, metric in enumerate(metrics):
        if metric.tasks and task_name not in metric.tasks:
            raise UserError(
                f"{cfg.where(f'eval.metrics.{i}')}: {type(metric).__name__} judges {', '.join(metric.tasks)}, "
                f"but {cfg.model.type} does {task_name}"
            )
    if not metrics:
        raise UserError(f"{cfg.where('eval')}: 'eval.metrics' names no metric")
    return Evaluator(task, metrics, loader, *statistics(cfg))


def check_classes(cfg: Config, dataset: Any, net: nn.Layer) -> None:
    """Refuse a data set with more or fewer classes than the network: labels must never be dropped in silence."""
    theirs, ours = getattr(dataset, "num_classes", None), getattr(net, "num_classes", None)
    if theirs and ours and theirs != ours:
        raise UserError(
            f"{cfg.where('model.num_classes')}: model.num_classes is {ours}, but {cfg.data.root} has {theirs} classes"
        )


def check_ignored(cfg: Config, dataset: Any, method: Method) -> None:
    """Refuse labels that mean "ignored" to the data and a class to the loss, or the other way round."""
    mark, loss = getattr(dataset, "ignore_index", None), getattr(method, "loss", None)
    if mark is None:
        return
    ours = None if loss is None else loss_promises(loss).ignore_index
    if ours is not None and ours != mark:
        key = "method.loss.ignore_index"
        raise UserError(f"{cfg.where(key)}: '{key}' is {ours}, but {cfg.data.root} marks what does not count by {mark}")
    classes = getattr(dataset, "num_classes", 0)
    for i, transform in enumerate(cfg.data.train.transforms):
        border, key = transform.kwargs.get("ignore", mark), f"data.train.transforms.{i}.ignore"
        if classes and border != mark and border >= classes:
            raise UserError(
                f"{cfg.where(key)}: '{key}' is {border}: neither {mark} (ignored) nor one of {classes} classes"
            )


class Run:
    """One training run.

    Args:
        cfg: a checked recipe. Data, networks and optimizers are built here, so every mistake shows before the first
            step and before
            the run folder is touched.
    """

    def __init__(self, cfg: Config):
        from ppvision.data import Loader, build_transforms

        self.cfg, self.folder = cfg, run_folder(cfg)
        self.log: RunLog | None = None
        self.rank, self.world = distributed.rank(), distributed.world_size()
        settings = cfg.train
        resumed = self._find_checkpoint()
        paddle.seed(settings.seed)
        dataset = build_data(cfg, "train")
        self.loader = Loader(
            dataset,
            build_transforms(cfg.data.train.transforms),
            batch_size=settings.batch_size,
            shuffle=True,
            seed=settings.seed,
            rank=self.rank,
            world_size=self.world,
            workers=cfg.data.workers,
            drop_last=True,
            skip_bad=cfg.data.skip_bad,
            repeats=settings.repeats,
        )
        self.updates_per_epoch = max(len(self.loader) // settings.accumulate, 1)
        if settings.epochs is not None:
            self.total = settings.epochs * self.updates_per_epoch
            self.save_interval = settings.save_interval * self.updates_per_epoch
            self.eval_interval = (cfg.eval.interval or settings.save_interval) * self.updates_per_epoch
        else:
            self.total, self.save_interval = settings.iters, settings.save_interval
            self.eval_interval = cfg.eval.interval or settings.save_interval
        net, report = build_model(cfg)
        check_classes(cfg, dataset, net)
        method = build("method", cfg.method, model=net)
        check_ignored(cfg, dataset, method)
        if settings.sync_bn:
            for line in distributed.synchronise_batch_norm(method):
                self._warn(line)
        if report is not None:
            extra = method.load_training_only(report.training_only)
            more = f"; {len(extra)} of the Method's own" if extra else ""
            if self.rank == 0:
                print(f"starting weights {cfg.model.weights}: {report}{more}", flush=True)
        method.seed, (method.mean, method.std) = settings.seed, statistics(cfg)
        if settings.to_static:
            to_static(method)
        self.trainer = Trainer(
            method,
            self._make_group,
            seed=settings.seed,
            amp=settings.amp,
            amp_dtype=settings.amp_dtype,
            loss_scale=settings.loss_scale,
            clip_norm=settings.clip_norm,
            ema=settings.ema,
            max_bad_steps=settings.max_bad_steps,
            recompute=settings.recompute,
            shard_optimizer=settings.shard_optimizer,
            warn=self._warn,
        )
        self.evaluator = build_evaluator(cfg, net) if cfg.eval.enabled else None
        if self.evaluator is not None:
            self.evaluator.attach(method)
            check_best(cfg, self.evaluator)
        self.best: dict[str, Any] | None = None
        self.evals_without_gain = 0
        self.pending: list[dict[str, float]] = []  # terms since the last log line
        self.epoch_sum: dict[str, float] = {}
        self.epoch_count = 0
        if resumed is not None:
            self._resume(resumed)

    def fit(self) -> dict[str, float]:
        """Run to the end; returns the last figures."""
        if self.rank == 0:
            self._open_folder()
        distributed.barrier()
        cfg, trainer = self.cfg, self.trainer
        self.log = RunLog(self.folder, self.total, vdl=cfg.log.vdl, vdl_dir=cfg.log.dir, quiet=self.rank != 0)
        figures: dict[str, float] = {}
        try:
            stopped = bool(cfg.train.early_stop) and self.evals_without_gain >= cfg.train.early_stop
            if trainer.step >= self.total or stopped:
                early = ", stopped early" if stopped else ""
                self.log.info(f"{self.folder}: already trained to iter {trainer.step}{early}; nothing to do")
                return dict(self.best["figures"]) if self.best else {}
            self._say_start()
            with self._catching_signals():
                figures = self._loop()
        finally:
            self.log.close()
        return figures

    def _loop(self) -> dict[str, float]:
        cfg, trainer, log = self.cfg, self.trainer, self.log
        accumulate, figures = cfg.train.accumulate, {}
        batches = self.loader.stream(trainer.step * accumulate)
        reader = spent = 0.0
        since = 0
        started, first = time.perf_counter(), trainer.step
        profiler = StepProfiler(parse_profiler(cfg.train.profiler)) if cfg.train.profiler else None
        with contextlib.closing(batches):
            while trainer.step < self.total and not trainer.stop_requested:
                t0 = time.perf_counter()
                micro = [next(batches) for _ in range(accumulate)]
                reader += time.perf_counter() - t0
                skipped = trainer.skipped
                try:
                    terms = trainer.update([to_device(batch) for batch in micro])
                except RunError as error:
                    raise RunError(f"{error}; {self._after_fault(micro)}") from None
                if trainer.skipped > skipped:
                    self._dump(micro)
                    log.record("skipped", trainer.step, phase=trainer.last_fault.phase, what=trainer.last_fault.what)
                spent += time.perf_counter() - t0
                since += 1
                if profiler is not None and profiler.step(accumulate * cfg.train.batch_size):
                    log.info(f"profiled up to iter {trainer.step}; ended as exit_on_finished asks")
                    return figures
                step = trainer.step
                self._collect(terms)
                log.advance(step, terms.get("loss"))
                if step % cfg.log.interval == 0 or step == self.total:
                    eta = (time.perf_counter() - started) / (step - first) * (self.total - step)
                    images = since * accumulate * cfg.train.batch_size
                    cost = {
                        "batch_cost": spent / since,
                        "reader_cost": reader / since,
                        "ips": images / spent,
                        **_memory(),
                    }
                    self._log_train(step, cost, eta)
                    reader = spent = 0.0
                    since = 0
                if step % self.updates_per_epoch == 0 or step == self.total:
                    self._log_epoch(step)
                last = step == self.total or trainer.stop_requested
                if self.evaluator is not None and (step % self.eval_interval == 0 or step == self.total):
                    judged = self._evaluate(step)
                    figures = judged or figures
                    best = bool(judged) and self._is_best(judged, step)
                    if best or step % self.save_interval == 0 or last or trainer.stop_requested:
                        self._save(step)
                    if cfg.train.early_stop and self.evals_without_gain >= cfg.train.early_stop:
                        log.info(f"no gain in {self.evals_without_gain} evaluations: stopped early at iter {step}")
                        self._save(step)
                        break
                elif step % self.save_interval == 0 or last:
                    self._save(step)
        if trainer.skipped and trainer.skipped == trainer.step:
            raise RunError(f"{self.folder}: every one of the {trainer.step} updates was skipped; nothing was learnt")
        if trainer.stop_requested and trainer.step < self.total:
            log.info(f"stopped by a signal at iter {trainer.step}; saved, continue with --resume")
        return figures

    def _make_group(self, name: str, parameters: dict[str, Tensor]) -> tuple[paddle.optimizer.Optimizer, Schedule]:
        cfg = self.cfg
        groups = {phase.optimizer for phase in resolve("method", cfg.method.type).phases}
        spec = optimizer_spec(cfg, name, groups)
        optimizer = build("optimizer", spec, parameters=parameters)
        return optimizer, build("schedule", cfg.schedule, lr=float(spec["lr"]), total=self.total)

    def _find_checkpoint(self) -> checkpoint.Checkpoint | None:
        settings = self.cfg.train
        if settings.resume:
            found = checkpoint.find(settings.resume, self.folder, self._warn)
            if found is not None:
                check_continuity(self.cfg, found.folder, self._warn, (found.state.get("world", self.world), self.world))
            return found
        records = self.folder / "log.jsonl"
        used = checkpoint.steps(self.folder) or (records.is_file() and records.stat().st_size > 0)
        if used and not settings.save_dir and not settings.overwrite:
            raise UserError(
                f"{self.folder} holds an earlier run; continue it with --resume or replace it with --overwrite"
            )
        return None

    def _open_folder(self) -> None:
        target = self.folder / "config.yml"
        if target.is_file() and Path(self.cfg.path).resolve() == target.resolve():
            if not target.read_text(encoding="utf-8").startswith(RESOLVED):
                raise UserError(f"{target}: the run would overwrite its own recipe; give another --save_dir")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.trainer.step == 0 and not self.cfg.train.resume:
                checkpoint.clear(self.folder)
            else:
                truncate(self.folder, self.trainer.step)
                checkpoint.rewind(self.folder, self.trainer.step)
                self._bring_best()
                # a kill may have come between the last checkpoint and what follows it: links, pruning, tidying
                kept = {self.trainer.step, *([self.best["step"]] if self.best else [])} & {
                    *checkpoint.steps(self.folder)
                }
                if self.trainer.step in kept:
                    checkpoint.link(self.folder, "latest", self.trainer.step)
                if self.best and self.best["step"] in kept:
                    checkpoint.link(self.folder, "best_model", self.best["step"])
                checkpoint.prune(self.folder, self.cfg.train.keep, kept)
            target.write_text(self._plain_recipe(), encoding="utf-8")
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written ({(error.strerror or str(error)).lower()})") from None

    def _bring_best(self) -> None:
        """After resuming from another folder or an earlier step: the best model must be here, or there is none."""
        if self.best is None or self.best["step"] in checkpoint.steps(self.folder):
            return
        source = self.resumed_from.parent / f"iter_{self.best['step']}"
        if source.is_dir() and checkpoint.fault(source) is None:
            checkpoint.bring(source, self.folder)
            checkpoint.link(self.folder, "best_model", self.best["step"])
        else:
            self._warn(f"the best model so far (iter {self.best['step']}) is gone; the next evaluation starts anew")
            self.best = None

    def _plain_recipe(self) -> str:
        """The resolved recipe, to run again: how this run was started is not part of it."""
        return RESOLVED + load(self.cfg, ["train.resume=null", "train.overwrite=false"]).to_yaml()

    def _resume(self, saved: checkpoint.Checkpoint) -> None:
        self.resumed_from = saved.folder.resolve()
        self.trainer.load(saved.state["trainer"], saved.arrays, str(saved.folder))
        self.best, self.evals_without_gain = saved.state["best"], saved.state["evals_without_gain"]
        self.pending, self.epoch_sum = saved.state["pending"], saved.state["epoch_sum"]
        self.epoch_count = saved.state["epoch_count"]
        bad = saved.state.get("bad", [])
        if len(bad) == self.world:  # each process has samples of its own
            self.loader.bad = dict.fromkeys(bad[self.rank], "bad before this run was continued")
        if saved.state["seed"] != self.cfg.train.seed:
            raise UserError(
                f"{saved.folder}: was trained with seed {saved.state['seed']}, the recipe says {self.cfg.train.seed}"
            )

    def _save(self, step: int) -> None:
        self.trainer.average_buffers()
        shared = self.rank == 0 or self.cfg.train.shard_optimizer
        optimizers = self.trainer.optimizer_arrays() if shared else {}
        bad = [part["bad"].tolist() for part in distributed.gather({"bad": np.array([*self.loader.bad], np.int64)})]
        if self.rank == 0:
            state = {
                "trainer": self.trainer.state(),
                "world": self.world,
                "bad": bad,
                "step": step,
                "epoch": step / self.updates_per_epoch,
                "batch": step * self.cfg.train.accumulate,
                "seed": self.cfg.train.seed,
                "best": self.best,
                "evals_without_gain": self.evals_without_gain,
                "pending": self.pending,
                "epoch_sum": self.epoch_sum,
                "epoch_count": self.epoch_count,
                "frozen": self.trainer.method.frozen_sources(),
                "versions": versions(),
            }
            files = self.trainer.files(optimizers)
            best = self.best["step"] if self.best else None
            texts = {"config.yml": self._plain_recipe()}
            checkpoint.save(self.folder, step, files, state, keep=self.cfg.train.keep, best_step=best, texts=texts)
        distributed.barrier()

    def _evaluate(self, step: int) -> dict[str, float]:
        started = time.perf_counter()
        with self.trainer.evaluating() as nets:
            stop = (lambda: self.trainer.stop_wanted) if self.world == 1 else None
            figures = self.evaluator(nets, stop=stop)
            if figures and self.rank == 0:
                self.log.pictures(step, self.trainer.method.pictures(self.evaluator.first))
            self.evaluator.first = None
        if not figures:
            self.trainer.stop_requested = True  # a signal came while evaluating: saving comes first
            return {}
        self.log.evaluation(step, len(self.evaluator.loader.dataset), figures, time.perf_counter() - started)
        return figures

    def _is_best(self, figures: dict[str, float], step: int) -> bool:
        rule = self.cfg.eval.best
        name, sign = rule.get("name") or next(iter(figures)), 1 if rule.get("mode", "max") == "max" else -1
        if name not in figures:  # a figure that only some data have, such as the precision of small objects
            raise UserError(
                f"{self.cfg.where('eval.best.name')}: the validation data give no '{name}', only {', '.join(figures)}"
            )
        if self.best is not None and not sign * figures[name] > sign * self.best["value"]:
            self.evals_without_gain += 1
            value, at = self.best["value"], self.best["step"]
            line = f"[EVAL] The model with the best validation {name} ({value:.4f}) was saved at iter {at}."
            self.log.info(line)
            return False
        self.best = {"name": name, "value": figures[name], "step": step, "figures": figures}
        self.evals_without_gain = 0
        self.log.info(
            f"[EVAL] The model with the best validation {name} ({figures[name]:.4f}) was saved at iter {step}."
        )
        return True

    def _collect(self, terms: dict[str, float]) -> None:
        if terms:
            self.pending.append(terms)
            self.epoch_count += 1
            for key, value in terms.items():
                self.epoch_sum[key] = self.epoch_sum.get(key, 0.0) + value

    def _log_train(self, step: int, cost: dict[str, float], eta: float) -> None:
        if not self.pending:  # every update since the last line was skipped, and each said so
            return
        keys = {k for terms in self.pending for k in terms}
        mean = {k: float(np.mean([terms[k] for terms in self.pending if k in terms])) for k in keys}
        norms = [v for k, v in mean.items() if k.endswith("grad_norm")]
        parts = {k: v for k, v in mean.items() if k != "loss" and not k.endswith("grad_norm")}
        group = self.trainer.groups[self.trainer.method.phases[-1].optimizer]
        epoch = (step - 1) // self.updates_per_epoch + 1
        self.log.train(step, epoch, mean["loss"], parts, group.schedule(step - 1), max(norms, default=0.0), cost, eta)
        self.pending = []

    def _log_epoch(self, step: int) -> None:
        if self.epoch_count:
            mean = {k: v / self.epoch_count for k, v in self.epoch_sum.items() if not k.endswith("grad_norm")}
            epochs = math.ceil(self.total / self.updates_per_epoch)
            self.log.epoch(math.ceil(step / self.updates_per_epoch), epochs, mean.pop("loss"), mean)
        self.epoch_sum, self.epoch_count = {}, 0

    def _say_start(self) -> None:
        found = versions()
        self.log.info(
            f"ppvision {found['ppvision']}, paddle {found['paddle']}, {paddle.device.get_device()}, "
            f"{self.world} process(es)"
        )
        self.log.info(f"config {self.cfg.path}, resolved in {self.folder / 'config.yml'}", screen=True)
        for line in self.cfg.to_yaml().splitlines():
            self.log.info(f"  {line}", screen=False)
        warmup = max(group.schedule.warmup_iters for group in self.trainer.groups.values())
        if warmup >= self.total:
            self._warn(
                f"{self.cfg.where('schedule.warmup_iters')}: schedule.warmup_iters {warmup} is not shorter than the "
                f"run ({self.total} updates), whose rate never reaches optimizer.lr"
            )
        count = sum(int(np.prod(p.shape)) for g in self.trainer.groups.values() for p in g.parameters.values())
        start = f", continuing at iter {self.trainer.step}" if self.trainer.step else ""
        self.log.info(
            f"{len(self.loader.dataset)} samples, {self.updates_per_epoch} updates an epoch, "
            f"{count:,} trained parameters{start}"
        )
        if self.cfg.train.amp != "O0" and paddle.device.get_device() == "cpu":
            self.log.info(f"train.amp {self.cfg.train.amp} changes nothing on CPU: auto-cast is inert there")

    def _warn(self, line: str) -> None:
        if self.log is not None:
            self.log.info(f"warning: {line}")
        elif self.rank == 0:
            print(f"warning: {line}", flush=True)

    def _dump(self, micro: list[dict[str, Any]]) -> None:
        """Keep the first poisoned batch for inspection."""
        path = self.folder / ("fault.npz" if self.world == 1 else f"fault_rank{self.rank}.npz")
        if not self.trainer.last_fault.elsewhere and not path.exists():
            arrays = {
                f"{i}/{k}": v
                for i, b in enumerate(micro)
                for k, v in b.items()
                if isinstance(v, np.ndarray) and v.dtype != object
            }
            names = {f"{i}/name": np.array([str(n) for n in b.get("name", [])]) for i, b in enumerate(micro)}
            np.savez_compressed(path, **arrays, **names)

    def _after_fault(self, micro: list[dict[str, Any]]) -> str:
        self._dump(micro)
        found = checkpoint.steps(self.folder)
        last = f"last good checkpoint {self.folder / f'iter_{found[-1]}'}" if found else "no checkpoint was written"
        name = "fault.npz" if self.world == 1 else "fault_rank*.npz"
        return f"{last}; the batch is in {self.folder / name}"

    @contextlib.contextmanager
    def _catching_signals(self) -> Iterator[None]:
        """SIGTERM means: finish this update, save, end well (a preempted machine)."""

        def note(number: int, frame: Any) -> None:
            self.trainer.stop_wanted = True  # the next update tells the other ranks

        before = signal.signal(signal.SIGTERM, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def to_static(method: nn.Layer) -> None:
    """Train the deployables as static graphs: `features` and `decode` where a network has them (its `forward`
    composes them; a static function inside a static function crashes Paddle 3.3.1), else `forward`."""
    for net in method.deployables().values():
        for name in ("features", "decode") if hasattr(net, "decode") else ("forward",):
            setattr(net, name, paddle.jit.to_static(getattr(net, name)))


def versions() -> dict[str, str]:
    """Versions that a checkpoint records."""
    return {
        "ppvision": ppvision.__version__,
        "paddle": paddle.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _memory() -> dict[str, float]:
    if paddle.device.get_device() == "cpu":
        return {}
    megabyte = 1024 * 1024
    return {
        "max_mem_reserved": paddle.device.cuda.max_memory_reserved() / megabyte,
        "max_mem_allocated": paddle.device.cuda.max_memory_allocated() / megabyte,
    }


def _print_table(rows: list[dict[str, Any]]) -> None:
    if rows:
        head = list(rows[0])
        cells = [[f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
        widths = [max(len(h), *(len(c[i]) for c in cells)) for i, h in enumerate(head)]
        for line in [head, *cells]:
            print("  ".join(v.rjust(w) for v, w in zip(line, widths, strict=True)), flush=True)
