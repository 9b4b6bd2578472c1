"""Runs the steps of a plan and judges them: by exit status, by the files they must leave, by the loss they report."""

from __future__ import annotations

import fcntl
import glob
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from .plan import Plan, Step
from .recipe import TxtError

TIMEOUT = 1800  # seconds a step may take, unless TIPC_STEP_TIMEOUT says otherwise
GRACE = 10  # seconds between asking a process to end and ending it
NUMBER = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|nan|inf)"
LOSS = re.compile(rf"\bloss: ({NUMBER})")
IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
WORKER_LOG = Path("log/workerlog.0")


@dataclass
class Outcome:
    """What became of a step. `status`: passed, failed, timeout, interrupted or skipped."""

    step: Step
    status: str
    rc: int | None = None
    wall_s: float = 0.0
    cpu_s: float = 0.0
    reason: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    tail: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.status == "passed"

    @property
    def bad(self) -> bool:
        return self.status in ("failed", "timeout", "interrupted")


class Interrupted(KeyboardInterrupt):
    """Asked to stop by a signal."""


def step_timeout() -> float:
    """Seconds a step may take.

    Raises:
        TxtError: `TIPC_STEP_TIMEOUT` is no number.
    """
    text = os.environ.get("TIPC_STEP_TIMEOUT", "")
    try:
        seconds = float(text) if text else float(TIMEOUT)
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise TxtError(f"TIPC_STEP_TIMEOUT is a number of seconds, got '{text}'")
    return seconds


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: with the running command stopped and a summary left."""

    def stop(number: int, frame: Any) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGTERM, stop) if threading.current_thread() is threading.main_thread() else None
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def alone(folder: str) -> Iterator[None]:
    """Hold a run folder: two runs in one would take each other's files for their own.

    Raises:
        TxtError: another run is at work there.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise TxtError(f"{folder}: another run is at work there") from None
    finally:
        os.close(handle)


def run(plan: Plan, screen: TextIO | None = None) -> list[Outcome]:
    """Run all steps in order, the dependents of a failed one excepted. After an interruption the rest is skipped.

    Args:
        screen: where commands and their output are shown; default: standard output.
    """
    screen = screen or sys.stdout
    timeout = step_timeout()
    folder = Path(plan.folder)
    (folder / "steps").mkdir(parents=True, exist_ok=True)
    for stale in [*(folder / "steps").glob("*.txt"), folder / "summary.json", folder / "junit.xml"]:
        stale.unlink(missing_ok=True)
    with open(plan.status, "a", encoding="utf-8") as file:
        file.write(f"------------------------ {plan.mode} ------------------------\n")
    outcomes: list[Outcome] = []
    stopped = False
    for step in plan.steps:
        reason = "interrupted" if stopped else step.skip or _missing(step, outcomes)
        if reason:
            outcomes.append(Outcome(step, "skipped", reason=reason))
            print(f"[{step.number}/{len(plan.steps)}] {step.kind}: skipped ({reason})", file=screen, flush=True)
            continue
        print(f"[{step.number}/{len(plan.steps)}] {step.kind}: {step.command}", file=screen, flush=True)
        outcome = _run_step(plan, step, timeout, screen)
        outcomes.append(outcome)
        stopped = outcome.status == "interrupted"
        _say_status(plan, outcome, screen)
        if outcome.ok and step.kind == "train":
            _use_last_weights(plan, step)
    return outcomes


def _missing(step: Step, outcomes: Sequence[Outcome]) -> str | None:
    """Why the step makes no sense after what happened before it."""
    for number in step.needs:
        before = outcomes[number - 1]
        if not before.ok:
            return f"step {number} ({before.step.kind}) {'was ' * (before.status == 'skipped')}{before.status}"
    return None


def _say_status(plan: Plan, outcome: Outcome, screen: TextIO) -> None:
    """The line that CI looks for, on the screen and in the status log."""
    words = "successfully" if outcome.ok else "failed"
    step = outcome.step
    line = f"\033[33m Run {words} with command - {plan.recipe.model_name} - {step.command} - {step.log or ''}  \033[0m"
    if not outcome.ok:
        print(f"{outcome.status}: {outcome.reason}", file=screen)
    print(line, file=screen, flush=True)
    with open(plan.status, "a", encoding="utf-8") as file:
        file.write(line + "\n")


def _run_step(plan: Plan, step: Step, timeout: float, screen: TextIO) -> Outcome:
    copy = Path(plan.folder) / "steps" / f"{step.number:02d}_{step.kind}.txt"
    started, clock, cpu = time.time(), time.monotonic(), _cpu()
    outcome = Outcome(step, "failed")
    try:
        _clean(step)
        sinks = [copy] + ([Path(step.log)] if step.log else [])
        if step.before is not None:
            step.before()
        outcome.rc, outcome.reason = _execute(step, sinks, step.timeout or timeout, screen if step.tee else None)
        if "paddle.distributed.launch" in step.argv and WORKER_LOG.is_file():
            for sink in sinks:
                with open(sink, "ab") as file:
                    file.write(WORKER_LOG.read_bytes())
    except OSError as error:
        outcome.reason = f"{error.filename or step.log}: {error.strerror or error}"
    except Interrupted:
        outcome.status, outcome.reason = "interrupted", "stopped by a signal"
    except KeyboardInterrupt:
        outcome.status, outcome.reason = "interrupted", "stopped from the keyboard"
    outcome.wall_s, outcome.cpu_s = time.monotonic() - clock, _cpu() - cpu
    lines = copy.read_text(encoding="utf-8", errors="replace").splitlines() if copy.is_file() else []
    if not step.tee and lines:
        print("\n".join(lines), file=screen, flush=True)
    outcome.tail, outcome.metrics = lines[-40:], metrics_of(step.kind, lines)
    if outcome.status == "interrupted":
        return outcome
    if outcome.reason.startswith("no end"):
        outcome.status = "timeout"
    elif outcome.rc == 0:
        outcome.reason = _fault(step, lines, started) or ""
        outcome.status = "failed" if outcome.reason else "passed"
    return outcome


def _cpu() -> float:
    """Seconds of CPU that ended child processes, and theirs, have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _execute(step: Step, sinks: Sequence[Path], timeout: float, screen: TextIO | None) -> tuple[int | None, str]:
    """Exit status of the command, and what is wrong about it. It runs in a session of its own, so that nothing it
    started outlives it."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    for key, value in step.environment.items():
        environment.pop(key, None)
        if value is not None:
            environment[key] = value
    argv = list(step.argv)
    if argv[0] == "python":  # the one that runs this, unless told otherwise; any other word is taken as it is
        argv[0] = os.environ.get("TIPC_PYTHON") or sys.executable
    files = [open(sink, "wb") for sink in sinks]
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        reader = threading.Thread(target=_copy, args=(process, files, screen), daemon=True)
        reader.start()
        try:
            rc, reason = process.wait(timeout), ""
        except subprocess.TimeoutExpired:
            _end(process)
            rc, reason = process.returncode, f"no end after {timeout:.0f} s: the process group was ended"
        finally:
            if process.poll() is None:
                _end(process)
            _signal(process.pid, signal.SIGKILL)  # what it left behind
            reader.join(GRACE)
    finally:
        for file in files:
            file.close()
    if rc and not reason:
        name = signal.Signals(-rc).name if rc < 0 and -rc in list(signal.Signals) else ""
        reason = f"ended by {name or -rc}" if rc < 0 else f"exit status {rc}"
    return rc, reason


def _copy(process: subprocess.Popen, files: Sequence[Any], screen: TextIO | None) -> None:
    for line in process.stdout:
        for file in files:
            file.write(line)
            file.flush()
        if screen is not None:
            print(line.decode("utf-8", "replace"), end="", file=screen, flush=True)


def _end(process: subprocess.Popen) -> None:
    _signal(process.pid, signal.SIGTERM)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        _signal(process.pid, signal.SIGKILL)
        process.wait()


def _signal(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        pass


def _clean(step: Step) -> None:
    """Remove what the step must make, so that leftovers of an earlier run cannot pass for it."""
    for alternatives in step.makes:
        for path in _files(alternatives):
            if path.parent.is_symlink():  # best_model
                path.parent.unlink()
            elif path.is_file():
                path.unlink()
    if step.results:
        folder = Path(step.results)
        if folder.is_dir():
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _fault(step: Step, lines: Sequence[str], started: float) -> str | None:
    """What is wrong with a step that ended with status 0."""
    for alternatives in step.makes:
        if not any(_is_fresh(path, started) for path in _files(alternatives)):
            return f"status 0, but it left no {alternatives.replace('|', ' or ')}"
    if step.results:
        folder = Path(step.results)
        names = [p.name for p in folder.iterdir() if _is_fresh(p, started)] if folder.is_dir() else []
        for stem in image_stems(step.images):
            if not any(stem in name for name in names):
                return f"status 0, but {step.results} holds no result for {stem}"
    if step.kind == "train":
        losses = [float(match[1]) for line in lines if "[TRAIN]" in line and (match := LOSS.search(line))]
        if losses and not math.isfinite(losses[-1]):
            return f"status 0, but the last loss is {losses[-1]}"
    return None


def _files(alternatives: str) -> list[Path]:
    """Paths that `Step.makes` names; of one with `*` those that exist."""
    found = [sorted(glob.glob(path)) if "*" in path else [path] for path in alternatives.split("|")]
    return [Path(path) for paths in found for path in paths]


def _is_fresh(path: Path, started: float) -> bool:
    """A file that is not empty and not older than the step; file systems may round times down to whole seconds."""
    return path.is_file() and path.stat().st_size > 0 and path.stat().st_mtime >= math.floor(started) - 1


def image_stems(source: str | None) -> list[str]:
    """Stems of the images that a path stands for: one image, a folder of them, or a list of them."""
    if not source:
        return []
    path = Path(source)
    if path.is_dir():
        return sorted(p.stem for p in path.rglob("*") if p.suffix.lower() in IMAGES)
    if path.suffix.lower() in IMAGES or not path.is_file():
        return [path.stem]
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Path(line if (path.parent / line).is_file() else line.split()[0]).stem for line in lines if line.strip()]


def _use_last_weights(plan: Plan, step: Step) -> None:
    """A recipe without evaluation leaves no best_model: what follows takes the last step's weights."""
    for alternatives in step.makes:
        first, _, other = alternatives.partition("|")
        if other and not Path(first).is_file():
            for later in plan.steps[step.number :]:
                if step.number in later.needs:
                    later.argv = [word.replace(first, other) for word in later.argv]


def metrics_of(kind: str, lines: Sequence[str]) -> dict[str, float]:
    """Metrics of a step's output: last loss and mean speed of a training, an evaluation's metrics, times per image."""
    found: dict[str, float] = {}
    if kind in ("train", "benchmark"):
        train = [line for line in lines if "[TRAIN]" in line]
        for line in train:
            if match := LOSS.search(line):
                found["loss"] = float(match[1])
        speeds = [float(m[1]) for line in train if (m := re.search(rf"\bips: ({NUMBER})", line))]
        if speeds[1:] or speeds:
            found["ips"] = sum(speeds[1:] or speeds) / len(speeds[1:] or speeds)
    if kind in ("train", "eval"):
        for line in lines:
            if match := re.search(r"\[EVAL\] #Images: \d+ (.*)", line):
                pairs = re.findall(rf"([\w@.]+): ({NUMBER})", match[1])
                found.update({name: float(value) for name, value in pairs})
    if kind == "infer":
        for line in lines:
            if "inference_time(ms)" in line:
                found.update({f"{k}_ms": float(v) for k, v in re.findall(rf"(\w+)_time\(ms\): ({NUMBER})", line)})
    return {key: value for key, value in found.items() if math.isfinite(value)}
