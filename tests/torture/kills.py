"""SIGKILL at any moment of a training run: nothing unreadable, nothing lost, and the end bit for bit as if never
killed.

Rounds: a fresh run folder is trained with `--resume auto` and killed again and again (at start-up, in the middle of a
save, right after one, anywhere), then allowed to finish and compared with one run that nobody disturbed. The process
is killed alone or with its group of loader workers; either way no process may stay behind.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from outcome import ROOT, Outcome, Say, environment, kill_group, members
from recipes import recipe, records

from ppvision.engine import checkpoint
from ppvision.weights import read

ITERS, SAVE, EVALUATE, KEEP = 96, 4, 2, 3
PER_ROUND = 10
ORPHANS_LEAVE_IN = 120.0  # seconds; a loader worker looks for its parent every second, a busy machine lets it wait
LIFE_ENDS_IN = 300.0
# A life is killed at one of these moments, so many seconds after it at most.
MOMENTS = {"while starting": 3.0, "while saving": 0.06, "after a save": 0.01, "at any moment": 1.0}
SHARES = (0.15, 0.4, 0.15, 0.3)
METHODS = {
    "supervised": {},
    "adversarial": {
        "method": {"type": "adversary.AdversarialSegmentation", "adversarial": 0.2},
        "optimizer": {"type": "adam", "lr": 2.0e-3, "lr_mult": {}, "d": {"type": "adam", "lr": 1.0e-3}},
    },
}
ARRAYS = ("model.pdparams", "method.pdparams", "ema.pdparams", "optimizer.pdopt")


@dataclass
class Seen:
    """How far a run had come when it was last looked at."""

    step: int = 0
    best: float = float("-inf")


def write_recipe(folder: Path, method: str, iters: int = ITERS) -> Path:
    """The recipe of one of the two methods: tiny data, loader workers, many evaluations and checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    sections = {
        "train": {"iters": iters, "save_interval": SAVE, "keep": KEEP},
        "eval": {"interval": EVALUATE},
        "data": {"workers": 2},
    }
    path = recipe(folder, **sections)
    if METHODS[method]:
        import yaml

        spec = yaml.safe_load(path.read_text()) | METHODS[method]
        path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


class Life:
    """One process that trains `run`, from start to its end or ours.

    Attributes:
        all: lives whose process may still be there.
    """

    all: ClassVar[list[Life]] = []

    def __init__(self, path: Path, run: Path):
        self.run, self.log = run, run.with_name(f"{run.name}.out")
        temporary = run.with_name(f"{run.name}.tmp")
        temporary.mkdir(exist_ok=True)
        argv = [sys.executable, "-u", str(ROOT / "tools/train.py"), "-c", str(path), "--save_dir", str(run)]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [*argv, "--resume", "auto"],
                cwd=run.parent,
                env=environment(TMPDIR=str(temporary)),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        Life.all.append(self)
        self.steps = set(checkpoint.steps(run))

    def alive(self) -> bool:
        return self.process.poll() is None

    def wait_for(self, met) -> bool:
        """Wait until `met()`; False when the process ended before."""
        limit = time.monotonic() + LIFE_ENDS_IN
        while not met():
            if not self.alive():
                return False
            if time.monotonic() > limit:
                raise TimeoutError(f"{self.run}: nothing happened for {LIFE_ENDS_IN:.0f} s, see {self.log}")
            time.sleep(0.002)
        return True

    def training(self) -> bool:
        """Whether it has logged an iteration."""
        return b"[TRAIN]" in self.log.read_bytes()

    def saving(self) -> bool:
        """Whether a checkpoint is being written."""
        return any(self.run.glob(".writing_iter_*"))

    def saved(self, number: int) -> bool:
        """Whether this life has completed so many checkpoints."""
        return len(set(checkpoint.steps(self.run)) - self.steps) >= number

    def wait_for_moment(self, rng: np.random.Generator, end: int | None) -> str:
        """Wait for a random moment, or the save of iteration `end`; its name, or "" when the process ended first."""
        moment, number = str(rng.choice(list(MOMENTS), p=list(SHARES))), int(rng.integers(0, 3))
        moment = moment if end is None else "in the last save"
        met = {
            "while starting": lambda: True,
            "while saving": lambda: self.saved(number) and self.saving(),
            "after a save": lambda: self.saved(number + 1),
            "at any moment": self.training,
            "in the last save": lambda: any((self.run / f"{s}iter_{end}").is_dir() for s in ("", ".writing_")),
        }[moment]
        if not self.wait_for(met):
            return ""
        time.sleep(rng.uniform(0, MOMENTS.get(moment, 0.08)))
        return moment if self.alive() else ""

    def kill(self, with_workers: bool) -> int:
        """SIGKILL; the number of processes that had to be killed because they stayed behind."""
        if with_workers:
            kill_group(self.process.pid)
        else:
            self.process.kill()
        self.process.wait()
        limit = time.monotonic() + ORPHANS_LEAVE_IN
        while (left := members(self.process.pid)) and time.monotonic() < limit:
            time.sleep(0.05)
        kill_group(self.process.pid)
        if self in Life.all:
            Life.all.remove(self)
        return len(left)

    def tail(self) -> str:
        """Its last words, on one line."""
        return " | ".join(self.log.read_text(errors="replace").splitlines()[-3:])


def inspect(run: Path, seen: Seen, outcome: Outcome, what: str) -> Seen:
    """Look at a run folder as a kill left it; broken promises go to `outcome`."""
    for step in checkpoint.steps(run):
        folder = run / f"iter_{step}"
        outcome.count("checkpoints read")
        why = checkpoint.fault(folder)
        if not (folder / "config.yml").is_file():
            outcome.count("checkpoints without config.yml")
            outcome.broken.append(f"{what}: {folder.name} has no config.yml")
        if why is not None:
            outcome.count("unreadable")
            outcome.broken.append(f"{what}: {why}")
            continue
        for name in ARRAYS:
            try:
                read(folder / name)
            except Exception as error:
                outcome.count("unreadable")
                outcome.broken.append(f"{what}: {error}")
    try:
        newest = checkpoint.newest(run, warn=lambda line: None)
    except Exception as error:
        outcome.broken.append(f"{what}: {error}")
        return seen
    if newest is None:
        if seen.step:
            outcome.broken.append(f"{what}: had iter_{seen.step}, has no checkpoint")
        return seen
    now = Seen(newest.state["step"], (newest.state["best"] or {}).get("value", float("-inf")))
    if now.step < seen.step:
        outcome.broken.append(f"{what}: step went back from {seen.step} to {now.step}")
    if now.best < seen.best:
        outcome.count("lost best scores")
        outcome.broken.append(f"{what}: best score went back from {seen.best} to {now.best}")
    best = newest.state["best"]
    if best is not None and best["step"] not in checkpoint.steps(run):
        outcome.count("lost best scores")
        outcome.broken.append(f"{what}: the best checkpoint, iter_{best['step']}, is gone")
    for name in ("best_model", "latest"):
        link = run / name
        if link.is_symlink() and not link.exists():
            outcome.broken.append(f"{what}: {name} leads to {os.readlink(link)}, which is not there")
    return now


def differences(reference: Path, run: Path) -> list[str]:
    """In what a finished run differs from the reference; wall-clock figures do not count."""
    found = []
    names = [sorted(p.name for p in folder.iterdir()) for folder in (reference, run)]
    if names[0] != names[1]:
        found.append(f"files {sorted(set(names[0]) ^ set(names[1]))}")
    for name in ("best_model", "latest"):
        ends = [os.readlink(folder / name) for folder in (reference, run)]
        if ends[0] != ends[1]:
            found.append(f"{name} is {ends[1]}, not {ends[0]}")
    for step in checkpoint.steps(reference):
        a, b = reference / f"iter_{step}", run / f"iter_{step}"
        if not b.is_dir():
            continue
        for name in ARRAYS:
            mine, theirs = read(b / name), read(a / name)
            if mine.keys() != theirs.keys() or any(mine[k].tobytes() != theirs[k].tobytes() for k in mine):
                found.append(f"iter_{step}/{name}")
        if json.loads((a / "state.json").read_text()) != json.loads((b / "state.json").read_text()):
            found.append(f"iter_{step}/state.json")
    if records(reference) != records(run):
        found.append("log.jsonl")
    return found


def finish(life: Life, outcome: Outcome, what: str) -> bool:
    """Let a life run to its end; False (and a broken promise) unless it ends well."""
    try:
        status = life.process.wait(LIFE_ENDS_IN)
    except subprocess.TimeoutExpired:
        status = "none: it hangs"
    left = life.kill(with_workers=True)
    outcome.count("orphan processes", left)
    if status != 0:
        outcome.broken.append(f"{what}: ended with status {status}: {life.tail()}")
    return status == 0


def round_of(
    path: Path, reference: Path, run: Path, kills: int, rng: np.random.Generator, outcome: Outcome, say: Say
) -> int:
    """One run killed at most `kills` times, the last time in its last save, then finished and compared; the number of
    kills.
    """
    seen, done = Seen(), 0
    while done < kills:
        life = Life(path, run)
        moment = life.wait_for_moment(rng, checkpoint.steps(reference)[-1] if done == kills - 1 else None)
        if not moment:
            break
        left = life.kill(with_workers=rng.random() < 0.7)
        done += 1
        what = f"{run.name}, kill {done} ({moment})"
        outcome.count("orphan processes", left)
        if left:
            outcome.broken.append(f"{what}: {left} processes stayed behind")
        outcome.count(f"kills {moment}")
        outcome.count("kills inside a save", int(life.saving()))
        seen = inspect(run, seen, outcome, what)
        say(f"{what}: newest iter_{seen.step}, best {seen.best:.4f}")
    else:
        life = Life(path, run)
    if finish(life, outcome, f"{run.name}, last life"):
        inspect(run, seen, outcome, f"{run.name}, finished")
        found = differences(reference, run)
        outcome.count("runs compared bit for bit")
        leftovers = [p.name for p in (*run.glob(".*"), *run.with_name(f"{run.name}.tmp").iterdir())]
        outcome.count("leftover files", len(leftovers))
        if leftovers:
            outcome.broken.append(f"{run.name}: left behind {', '.join(leftovers[:5])}")
        if found:
            outcome.count("runs that differ")
            outcome.broken.append(f"{run.name}: differs from the undisturbed run in {'; '.join(found)}")
        say(f"{run.name}: finished after {done} kills, {'DIFFERS' if found else 'equal bit for bit'}")
    return done


def torment(method: str, kills: int, seed: list[int], folder: Path, iters: int, outcome: Outcome, say: Say) -> None:
    """An undisturbed run of a method, then rounds until there were so many kills."""
    rng, path = np.random.default_rng(seed), write_recipe(folder / method, method, iters)
    reference = folder / method / "reference"
    started = time.monotonic()
    if not finish(Life(path, reference), outcome, f"{method}, undisturbed"):
        return
    say(f"{method}: undisturbed run of {iters} iterations, {time.monotonic() - started:.0f} s")
    done = number = 0
    while done < kills:
        number += 1
        name = folder / method / f"{method}_{number}"
        got = round_of(path, reference, name, min(PER_ROUND, kills - done), rng, outcome, say)
        done += got
        if not got and number > kills:
            outcome.broken.append(f"{method}: runs end before they can be killed")
            break
    outcome.tried += done


def run(
    count: int, seed: int, folder: Path, say: Say, methods: tuple[str, ...] = tuple(METHODS), iters: int = ITERS
) -> Outcome:
    """`count` kills, shared evenly by the methods."""
    outcome = Outcome(
        f"SIGKILL in training, {' and '.join(methods)}: unreadable checkpoint, lost step or score, run that differs",
        "rtformer_debug",
    )
    zero = (
        "unreadable",
        "checkpoints without config.yml",
        "lost best scores",
        "runs that differ",
        "orphan processes",
        "leftover files",
    )
    outcome.metrics = dict.fromkeys(zero, 0)
    shm = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    try:
        for i, method in enumerate(methods):
            torment(method, count // len(methods) + (i < count % len(methods)), [seed, i], folder, iters, outcome, say)
    finally:  # interrupted: the run of this moment does not know that nobody watches it any more
        for life in Life.all:
            kill_group(life.process.pid)
    left = sorted(set(os.listdir("/dev/shm")) - shm) if os.path.isdir("/dev/shm") else []
    outcome.count("leftovers in /dev/shm", len(left))
    return outcome
