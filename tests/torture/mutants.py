"""Recipes, data sets and weights with one mistake each: every one must end in one line that names the key or file.

A mutant is made from a recipe that trains (which is run first, as a control), so that the mistake is the only thing
wrong with it. It passes only if the command ends with status 2 (1 where a run fails through no mistake in its call),
writes exactly one line on stderr with the word that leads to the mistake, shows no traceback, takes less than a
minute, and leaves nothing half-written; a mistake in the recipe must not even create the run folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cases import Case, Stock
from mistakes import FAMILIES
from outcome import ROOT, Outcome, Say, environment
from recipe_tables import TRAIN, VAL
from recipes import write_data

from ppvision.engine import checkpoint

LIMIT = 300  # seconds, after which a command is said to hang


class Hang(BaseException):
    """A command took longer than it may."""


@dataclass
class Ended:
    """How a command ended."""

    status: int | str
    stderr: str
    seconds: float


@contextlib.contextmanager
def captured(out: Path, err: Path) -> Iterator[None]:
    """Standard output and error of this process and of what it forks, C libraries included, in two files."""
    streams, kept = (sys.stdout, sys.stderr), [os.dup(1), os.dup(2)]
    for stream in streams:
        stream.flush()
    with out.open("wb") as o, err.open("wb") as e:
        os.dup2(o.fileno(), 1)
        os.dup2(e.fileno(), 2)
    try:
        with (
            open(1, "w", closefd=False, errors="backslashreplace") as sys.stdout,
            open(2, "w", closefd=False, errors="backslashreplace", buffering=1) as sys.stderr,
        ):
            yield
    finally:
        sys.stdout, sys.stderr = streams
        for number, copy_ in zip((1, 2), kept):
            os.dup2(copy_, number)
            os.close(copy_)


def in_process(argv: list[str], folder: Path) -> Ended:
    """The command as `ppvision.cli.main` in this process, with a time limit."""
    from ppvision.cli import main

    def alarm(number: int, frame: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, alarm)
    started = time.monotonic()
    try:
        with captured(folder / "out", folder / "err"):
            signal.setitimer(signal.ITIMER_REAL, LIMIT)
            try:
                status: int | str = main(argv)
            except SystemExit as error:
                status = error.code if isinstance(error.code, int) else 1
            except Hang:
                status = "hangs"
            except BaseException:
                traceback.print_exc()
                status = 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, before)
    return Ended(status, (folder / "err").read_text(errors="replace"), time.monotonic() - started)


def in_own_process(argv: list[str], folder: Path) -> Ended:
    """The command as a user runs it."""
    script = {"trian": ["-m", "ppvision", "trian"]}.get(argv[0], [str(ROOT / f"tools/{argv[0]}.py")])
    started = time.monotonic()
    try:
        run = subprocess.run(
            [sys.executable, *script, *argv[1:]],
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIMIT,
        )
        status, text = run.returncode, run.stderr.decode(errors="replace")
    except subprocess.TimeoutExpired as error:
        status, text = "hangs", (error.stderr or b"").decode(errors="replace")
    return Ended(status, text, time.monotonic() - started)


def digest(folder: Path) -> str:
    """Of the names and bytes of everything below a folder."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        total.update(f"{path.relative_to(folder)}\n".encode())
        if path.is_symlink():
            total.update(os.readlink(path).encode())
        elif path.is_file():
            total.update(path.read_bytes())
    return total.hexdigest()


def faults(case: Case, ended: Ended, guarded: str) -> list[str]:
    """What is wrong with the way a mutant ended."""
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    found = []
    if ended.status == "hangs":
        return [f"hangs for more than {LIMIT} s"]
    if ended.status == 0:
        return ["silently accepted"]
    if "Traceback" in ended.stderr:
        found.append(f"traceback, {lines[-1][:200]}")
    else:
        if ended.status not in case.statuses:
            found.append(f"status {ended.status} instead of {case.statuses[0]}")
        if len(lines) != 1:
            found.append(f"{len(lines)} lines on stderr instead of 1")
        words = [rf"(?<!\w){re.escape(w)}(?!\w)" for w in (*case.words, *case.lines())]
        if not any(re.search(w, ended.stderr) for w in words):
            found.append(f"does not name {' or '.join(case.words)}: {' / '.join(lines)[:200]}")
    if case.guarded is not None and digest(case.guarded) != guarded:
        found.append(f"changed {case.guarded.name}, which it could not use")
    if case.untouched and case.run.exists():
        found.append("opened the run folder before it knew")
    if case.run.is_dir():
        torn = [p.name for p in case.run.glob(".*")]
        torn += [why for s in checkpoint.steps(case.run) if (why := checkpoint.fault(case.run / f"iter_{s}"))]
        if torn:
            found.append(f"left half-written {', '.join(torn)}")
    return found


def prepare(folder: Path, outcome: Outcome) -> Stock:
    """Data, and the control: the recipe without a mistake trains, in this process and in its own."""
    stock = Stock(folder / "stock")
    write_data(stock.data, TRAIN, VAL)
    control = Case(stock, stock.folder, np.random.default_rng(0), stock.spec(), flags=["--overwrite"])
    for call in (in_process, in_own_process):
        ended = call(control.argv(), stock.folder)
        if ended.status != 0:
            outcome.broken.append(f"control, {call.__name__}: status {ended.status}, {ended.stderr[-300:]!r}")
    import paddle

    from ppvision.models import zoo

    paddle.save(zoo.create_model("uhrnet_debug").state_dict(), str(stock.folder / "other.pdparams"))
    return stock


def schedule(count: int) -> list[tuple[str, Callable[[Case], None]]]:
    """Which maker makes which mutant: families by their shares, the makers of a family in turn."""
    shares = sum(share for share, _ in FAMILIES.values())
    counts = {name: count * share // shares for name, (share, _) in FAMILIES.items()}
    counts["recipe"] += count - sum(counts.values())
    return [(name, FAMILIES[name][1][i % len(FAMILIES[name][1])]) for name, n in counts.items() for i in range(n)]


def make(stock: Stock, maker: Callable[[Case], None], folder: Path, seed: list[int]) -> Case:
    """The mutant of a maker and a seed, in a fresh folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    case = Case(stock, folder, np.random.default_rng(seed), stock.spec())
    maker(case)
    return case


def check(case: Case, call: Callable[[list[str], Path], Ended]) -> tuple[list[str], Ended]:
    """Run a mutant."""
    argv, guarded = case.argv(), digest(case.guarded) if case.guarded is not None else ""
    ended = call(argv, case.folder)
    return faults(case, ended, guarded), ended


def run(count: int, seed: int, folder: Path, say: Say, own_processes: int = 10) -> Outcome:
    """`count` different mutants in this process, every n-th of them in a process of its own as well."""
    outcome = Outcome("recipes, data sets and weights with one mistake each: anything but one line that names it", "")
    outcome.model = "rtformer_debug"
    zero = ("met as promised", "silently accepted", "tracebacks", "hangs", "in their own process")
    outcome.metrics = dict.fromkeys(zero, 0)
    stock = prepare(folder, outcome)
    seen: set[str] = set()
    longest, jobs = 0.0, schedule(count)
    every = max(len(jobs) // own_processes, 1) if own_processes else len(jobs) + 1
    for i, (family, maker) in enumerate(jobs):
        others = FAMILIES[family][1]
        for attempt in range(200):  # a maker that has run out of mistakes gives way to the others
            maker = maker if attempt < 20 else others[attempt % len(others)]
            case = make(stock, maker, folder / f"mutant_{i}", [seed, i, attempt])
            if f"{maker.__name__} {case.what}" not in seen:
                break
        seen.add(f"{maker.__name__} {case.what}")
        calls = [in_process]
        if i % every == every - 1:
            calls.append(in_own_process)
            outcome.count("in their own process")
        broken = len(outcome.broken)
        for call in calls:
            if call is in_own_process:
                case = make(stock, maker, folder / f"mutant_{i}", [seed, i, attempt])
            found, ended = check(case, call)
            longest = max(longest, ended.seconds)
            for fault in found:
                outcome.broken.append(f"{family}, {maker.__name__}, {case.what} ({call.__name__}): {fault}")
                say(outcome.broken[-1])
            outcome.count("silently accepted", int(ended.status == 0))
            outcome.count("tracebacks", int("Traceback" in ended.stderr))
            outcome.count("hangs", int(ended.status == "hangs"))
        outcome.tried += 1
        outcome.count(f"{family} mutants")
        if broken == len(outcome.broken):
            shutil.rmtree(case.folder)
            outcome.count("met as promised")
        if (i + 1) % 20 == 0:
            say(f"{i + 1} mutants, {len(outcome.broken)} broken promises")
    outcome.count("different mutants", len(seen))
    outcome.metrics["longest seconds"] = round(longest, 1)
    return outcome
