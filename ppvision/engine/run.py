"""A run: the loop around the Trainer, and the folder it leaves."""

from __future__ import annotations

import contextlib
import platform
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle

import ppvision
from ppvision.config import Config, check, load, parse_profiler
from ppvision.data.batch import to_device
from ppvision.device import set_device
from ppvision.engine import checkpoint, distributed
from ppvision.engine.best import Best
from ppvision.engine.build import Parts, build_parts
from ppvision.engine.continuity import check_arithmetic, check_continuity
from ppvision.engine.fault import keep_batch
from ppvision.engine.log import RunLog, truncate, warn
from ppvision.engine.profiler import StepProfiler
from ppvision.engine.progress import BadSamples, Progress
from ppvision.errors import RunError, UserError
from ppvision.predict.assemble import run_folder
from ppvision.threads import in_force

RESOLVED = "# A resolved recipe, written by ppvision.\n"


def train(config: str | Path | Config, overrides: Sequence[str] = ()) -> dict[str, float]:
    """Train a recipe to its end, or continue it; returns the last evaluation's metrics (empty without evaluation).

    Raises:
        UserError: the recipe, the data or the weights are wrong; the run folder is in use and neither `--resume` nor
            `--overwrite` is given.
        RunError: training cannot go on (too many non-finite updates, full disk).
    """
    cfg = load(config, overrides)
    check(cfg)
    set_device(cfg.train.device)
    distributed.start()
    resumed = find_checkpoint(cfg)
    return Run(cfg, build_parts(cfg), resumed).fit()


def find_checkpoint(cfg: Config) -> checkpoint.Checkpoint | None:
    """The checkpoint that a recipe's run goes on from, or none.

    Raises:
        UserError: it was made by another recipe, or the folder holds an earlier run and nobody said what to do.
    """
    settings = cfg.train
    folder = run_folder(cfg)
    world = distributed.world_size()
    if settings.resume:
        found = checkpoint.find(settings.resume, folder, warn)
        if found is not None:
            check_continuity(cfg, found.folder, warn, (found.state.get("world", world), world))
            if paddle.device.get_device() == "cpu":
                check_arithmetic(found.state, found.folder, in_force(), warn)
        return found
    records = folder / "log.jsonl"
    used = checkpoint.steps(folder) or (records.is_file() and records.stat().st_size > 0)
    if used and not settings.save_dir and not settings.overwrite:
        raise UserError(f"{folder} holds an earlier run; continue it with --resume or replace it with --overwrite")
    return None


class Run:
    """One training run.

    Args:
        cfg: a checked recipe.
        parts: built from it.
        resumed: the checkpoint to go on from, or none.
    """

    def __init__(self, cfg: Config, parts: Parts, resumed: checkpoint.Checkpoint | None = None):
        self.cfg = cfg
        self.folder = run_folder(cfg)
        self.rank = distributed.rank()
        self.world = distributed.world_size()
        self.loader = parts.loader
        self.trainer = parts.trainer
        self.evaluator = parts.evaluator
        self.length = parts.length
        self.log: RunLog | None = None
        rule = cfg.eval.best
        self.best = Best(rule.get("name"), rule.get("mode", "max"), cfg.train.early_stop, cfg.where("eval.best.name"))
        self.progress = Progress(self.length, cfg.log.interval, cfg.train.accumulate * cfg.train.batch_size)
        # what must survive a restart, beside the trainer, whose arrays have files of their own
        self.lasting = (self.best, self.progress, BadSamples(self.loader))
        if resumed is not None:
            self._load(resumed)

    def fit(self) -> dict[str, float]:
        """Run to the end; returns the last metrics."""
        if self.rank == 0:
            self._open_folder()
        distributed.barrier()
        options = self.cfg.log
        self.log = RunLog(self.folder, self.length.total, vdl=options.vdl, vdl_dir=options.dir, quiet=self.rank != 0)
        self.trainer.warn = self.log.warn
        step = self.trainer.step
        try:
            if step >= self.length.total or self.best.exhausted:
                early = ", stopped early" if self.best.exhausted else ""
                self.log.info(f"{self.folder}: already trained to iter {step}{early}; nothing to do")
                return dict(self.best.found["figures"]) if self.best.found else {}
            self._say_start()
            with self._catching_signals():
                return self._loop()
        finally:
            self.log.close()

    def _loop(self) -> dict[str, float]:
        """Read, update, log, evaluate, save: until the end, a signal or too many evaluations without gain."""
        trainer = self.trainer
        progress = self.progress
        length = self.length
        log = self.log
        accumulate = self.cfg.train.accumulate
        metrics: dict[str, float] = {}
        profiler = StepProfiler(parse_profiler(self.cfg.train.profiler)) if self.cfg.train.profiler else None
        progress.start(trainer.step)
        with contextlib.closing(self.loader.stream(trainer.step * accumulate)) as batches:
            while trainer.step < length.total and not trainer.stop_requested:
                # read
                with progress.reading():
                    micro_batches = [next(batches) for _ in range(accumulate)]
                # update
                with progress.updating():
                    terms = self._update(micro_batches)
                step = trainer.step
                if profiler is not None and profiler.step(accumulate * self.cfg.train.batch_size):
                    log.info(f"profiled up to iter {step}; ended as exit_on_finished asks")
                    return metrics
                # log
                progress.collect(terms)
                log.advance(step, terms.get("loss"))
                progress.report(log, step, self._rate(step))
                # evaluate
                last = step == length.total
                improved = False
                if self.evaluator is not None and (last or step % length.eval_interval == 0):
                    found = self._evaluate(step)
                    if found:
                        metrics = found
                        improved = self.best.update(metrics, step)
                        log.info(self.best.line())
                # save
                due = last or step % length.save_interval == 0
                if due or improved or self.best.exhausted or trainer.stop_requested:
                    self._save(step)
                # stop early
                if self.best.exhausted:
                    log.info(f"no gain in {self.best.without_gain} evaluations: stopped early at iter {step}")
                    break
        if trainer.skipped and trainer.skipped == trainer.step:
            raise RunError(f"{self.folder}: every one of the {trainer.step} updates was skipped; nothing was learnt")
        if trainer.stop_requested and trainer.step < length.total:
            log.info(f"stopped by a signal at iter {trainer.step}; saved, continue with --resume")
        return metrics

    def _update(self, micro_batches: list[dict[str, Any]]) -> dict[str, float]:
        """One update of the trainer; the batch of a skipped one is kept for inspection.

        Raises:
            RunError: too many were skipped; tells what there is to go on from.
        """
        trainer = self.trainer
        skipped = trainer.skipped
        try:
            return trainer.update([to_device(batch) for batch in micro_batches])
        except RunError as error:
            saved = checkpoint.steps(self.folder)
            last = f"last good checkpoint {self.folder / f'iter_{saved[-1]}'}" if saved else "no checkpoint was written"
            name = "fault.npz" if self.world == 1 else "fault_rank*.npz"
            raise RunError(f"{error}; {last}; the batch is in {self.folder / name}") from None
        finally:
            if trainer.skipped > skipped:
                self._keep_fault(micro_batches)

    def _keep_fault(self, micro_batches: list[dict[str, Any]]) -> None:
        """Record a skipped update; its batch is kept if it is this rank's that was bad."""
        fault = self.trainer.last_fault
        self.log.record("skipped", self.trainer.step, phase=fault.phase, what=fault.what)
        if not fault.elsewhere:
            name = "fault.npz" if self.world == 1 else f"fault_rank{self.rank}.npz"
            keep_batch(self.folder / name, micro_batches)

    def _rate(self, step: int) -> float:
        """The learning rate of update number `step`, from 1, of what the last phase trains."""
        group = self.trainer.groups[self.trainer.method.phases[-1].optimizer]
        return group.schedule(step - 1)

    def _evaluate(self, step: int) -> dict[str, float]:
        """Metrics of the deployables; none when a signal came meanwhile, since saving comes first."""
        started = time.perf_counter()
        with self.trainer.evaluating() as nets:
            stop = (lambda: self.trainer.stop_signalled) if self.world == 1 else None
            metrics = self.evaluator(nets, stop=stop)
            if metrics and self.rank == 0:
                self.log.pictures(step, self.trainer.method.pictures(self.evaluator.first))
            self.evaluator.first = None
        if not metrics:
            self.trainer.stop_requested = True
            return {}
        self.log.evaluation(step, len(self.evaluator.loader.dataset), metrics, time.perf_counter() - started)
        return metrics

    def _save(self, step: int) -> None:
        """Write `iter_<step>`. Every rank comes here: some of what is saved lies on all of them."""
        self.trainer.sync_buffers()
        state = {"trainer": self.trainer.state()}
        for part in self.lasting:
            state |= part.state()
        shared = self.rank == 0 or self.cfg.train.shard_optimizer
        optimizers = self.trainer.optimizer_arrays() if shared else {}
        if self.rank == 0:
            threads, kernels = in_force()
            state |= {
                "step": step,
                "epoch": step / self.length.updates_per_epoch,
                "batch": step * self.cfg.train.accumulate,
                "seed": self.cfg.train.seed,
                "world": self.world,
                "frozen": self.trainer.method.frozen_sources(),
                "threads": threads,
                "kernels": kernels,
                "versions": versions(),
            }
            checkpoint.save(
                self.folder,
                step,
                self.trainer.files(optimizers),
                state,
                keep=self.cfg.train.keep,
                best_step=self.best.step,
                texts={"config.yml": self._plain_recipe()},
            )
        distributed.barrier()

    def _load(self, saved: checkpoint.Checkpoint) -> None:
        """Go on from a checkpoint."""
        if saved.state["seed"] != self.cfg.train.seed:
            raise UserError(
                f"{saved.folder}: was trained with seed {saved.state['seed']}, the recipe says {self.cfg.train.seed}"
            )
        self.resumed_from = saved.folder.resolve()
        self.trainer.load(saved.state["trainer"], saved.arrays, str(saved.folder))
        for part in self.lasting:
            part.load(saved.state)

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
                kept = {self.trainer.step, self.best.step} & {*checkpoint.steps(self.folder)}
                if self.trainer.step in kept:
                    checkpoint.link(self.folder, "latest", self.trainer.step)
                if self.best.step in kept:
                    checkpoint.link(self.folder, "best_model", self.best.step)
                checkpoint.prune(self.folder, self.cfg.train.keep, kept)
            target.write_text(self._plain_recipe(), encoding="utf-8")
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written ({(error.strerror or str(error)).lower()})") from None

    def _bring_best(self) -> None:
        """After resuming from another folder or an earlier step: the best model must be here, or there is none."""
        if self.best.step is None or self.best.step in checkpoint.steps(self.folder):
            return
        source = self.resumed_from.parent / f"iter_{self.best.step}"
        if source.is_dir() and checkpoint.fault(source) is None:
            checkpoint.bring(source, self.folder)
            checkpoint.link(self.folder, "best_model", self.best.step)
        else:
            warn(f"the best model so far (iter {self.best.step}) is gone; the next evaluation starts anew")
            self.best.forget()

    def _plain_recipe(self) -> str:
        """The resolved recipe, to run again: how this run was started is not part of it."""
        return RESOLVED + load(self.cfg, ["train.resume=null", "train.overwrite=false"]).to_yaml()

    def _say_start(self) -> None:
        found = versions()
        threads, _ = in_force()
        self.log.info(
            f"ppvision {found['ppvision']}, paddle {found['paddle']}, {paddle.device.get_device()}, "
            f"{self.world} process(es), {threads} thread(s)"
        )
        self.log.info(f"config {self.cfg.path}, resolved in {self.folder / 'config.yml'}", screen=True)
        for line in self.cfg.to_yaml().splitlines():
            self.log.info(f"  {line}", screen=False)
        warmup = max(group.schedule.warmup_iters for group in self.trainer.groups.values())
        if warmup >= self.length.total:
            self.log.warn(
                f"{self.cfg.where('schedule.warmup_iters')}: schedule.warmup_iters {warmup} is not shorter than the "
                f"run ({self.length.total} updates), whose rate never reaches optimizer.lr"
            )
        count = sum(int(np.prod(p.shape)) for g in self.trainer.groups.values() for p in g.parameters.values())
        start = f", continuing at iter {self.trainer.step}" if self.trainer.step else ""
        self.log.info(
            f"{len(self.loader.dataset)} samples, {self.length.updates_per_epoch} updates an epoch, "
            f"{count:,} trained parameters{start}"
        )
        if self.cfg.train.threads not in (None, threads):
            self.log.warn(
                f"{self.cfg.where('train.threads')}: train.threads {self.cfg.train.threads} came too late, Paddle was "
                f"imported with {threads}; set OMP_NUM_THREADS={self.cfg.train.threads} before it is imported"
            )
        if self.cfg.train.amp != "O0" and paddle.device.get_device() == "cpu":
            self.log.info(f"train.amp {self.cfg.train.amp} changes nothing on CPU: auto-cast is inert there")

    @contextlib.contextmanager
    def _catching_signals(self) -> Iterator[None]:
        """SIGTERM means: finish this update, save, end well (a preempted machine)."""

        def note(number: int, frame: Any) -> None:
            self.trainer.stop_signalled = True  # the next update tells the other ranks

        before = signal.signal(signal.SIGTERM, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def versions() -> dict[str, str]:
    """Versions that a checkpoint records."""
    return {
        "ppvision": ppvision.__version__,
        "paddle": paddle.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
