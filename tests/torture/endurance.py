"""Twenty thousand steps with evaluation and checkpoint every 500: memory, open files and threads stay what they were.

The run is a process of its own, started as a user starts it. It logs every 100 steps; at each of these lines, which
stands between two updates, its resident memory, open files, threads and child processes are read from /proc.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from outcome import ROOT, Outcome, Say, environment, kill_group
from recipes import recipe

EVERY, SAVE, REFERENCE = 100, 500, 1000
ALLOWED = 0.05  # growth of resident memory from step REFERENCE to the end
STALL = 300.0  # seconds without a line after which the run is given up
POINTS = 40  # of the memory curve that are kept
LINE = re.compile(rb"\[TRAIN\] epoch: \d+, iter: (\d+)/")


@dataclass(frozen=True)
class Sample:
    """What a run occupied at a step: resident memory (its own, its loader workers'), files, threads, children."""

    step: int
    rss: int
    workers_rss: int
    files: int
    threads: int
    children: int


def memory(pid: int) -> tuple[int, int]:
    """Resident bytes and threads of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return int(fields["VmRSS"].split()[0]) << 10, int(fields["Threads"])


def children(pid: int) -> list[int]:
    """Child processes of all threads of a process."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += [int(p) for p in (task / "children").read_text().split()]
        except OSError:  # the thread ended
            continue
    return found


def sample(pid: int, step: int) -> Sample:
    """Look at a running process."""
    rss, threads = memory(pid)
    workers, below = 0, children(pid)
    for child in below:
        try:
            workers += memory(child)[0]
        except (OSError, KeyError):  # it ended
            continue
    return Sample(step, rss, workers, len(list(Path(f"/proc/{pid}/fd").iterdir())), threads, len(below))


def watch(path: Path, run: Path, say: Say, steps: int) -> tuple[list[Sample], int | str, str]:
    """Train and sample; the samples, the exit status, the last words."""
    argv = [sys.executable, "-u", str(ROOT / "tools/train.py"), "-c", str(path), "--save_dir", str(run)]
    log, seen, samples = run.with_name("out"), 0, []
    with log.open("wb") as out:
        process = subprocess.Popen(
            argv,
            cwd=run.parent,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    progress = time.monotonic()
    try:
        with log.open("rb") as lines:
            rest = b""
            while process.poll() is None:
                if time.monotonic() - progress > STALL:
                    return samples, "stalled", ""
                new = lines.read()
                if not new:
                    time.sleep(0.005)
                    continue
                progress = time.monotonic()
                *whole, rest = (rest + new).split(b"\n")
                found = [int(m[1]) for line in whole if (m := LINE.search(line))]
                if found and found[-1] > seen:
                    seen = found[-1]
                    try:
                        samples.append(sample(process.pid, seen))
                    except (OSError, KeyError):  # it ended this moment
                        break
                    if seen % max(steps // 20, 1) == 0:
                        say(f"step {seen}: {samples[-1].rss / 2**20:.1f} MB, {samples[-1].files} files")
        status = process.wait(STALL)
    finally:
        kill_group(process.pid)
    return samples, status, " | ".join(log.read_text(errors="replace").splitlines()[-3:])


def run(
    count: int,
    seed: int,
    folder: Path,
    say: Say,
    reference: int = REFERENCE,
    every: int = EVERY,
    save: int = SAVE,
    allowed: float = ALLOWED,
) -> Outcome:
    """`count` steps."""
    outcome = Outcome(f"memory, open files and threads over a run, evaluation and checkpoint every {save} steps", "")
    outcome.model = "rtformer_debug"
    folder.mkdir(parents=True, exist_ok=True)
    path = recipe(
        folder,
        train={"iters": count, "save_interval": save, "keep": 3, "seed": seed},
        data={"workers": 1},
        log={"interval": every},
    )
    started = time.monotonic()
    samples, status, words = watch(path, folder / "run", say, count)
    seconds = time.monotonic() - started
    outcome.tried = samples[-1].step if samples else 0
    if status != 0:
        outcome.broken.append(f"ended with status {status}: {words}")
    late = [s for s in samples if s.step >= reference]
    if len(late) < 2:
        outcome.broken.append(f"only {len(samples)} samples")
        return outcome
    first, last = late[0], late[-1]
    growth = last.rss / first.rss - 1
    outcome.metrics = {
        "evaluations and checkpoints": count // save,
        f"RSS MB at step {first.step}": round(first.rss / 2**20, 1),
        f"RSS MB at step {last.step}": round(last.rss / 2**20, 1),
        "growth in percent": round(100 * growth, 2),
        "largest RSS MB": round(max(s.rss for s in samples) / 2**20, 1),
        "steps per second": round(last.step / seconds, 1),
        "loader worker's RSS MB at the start": round(first.workers_rss / 2**20, 1),
        "loader worker's RSS MB at the end": round(last.workers_rss / 2**20, 1),
    }
    if growth > allowed:
        outcome.broken.append(f"resident memory grew by {100 * growth:.1f} % from step {first.step} to {last.step}")
    third = max(len(late) // 3, 1)
    for name in ("files", "threads", "children"):
        # a look that comes late falls into an evaluation, which opens more; what leaks is there at every look
        start, end = (min(getattr(s, name) for s in part) for part in (late[:third], late[-third:]))
        outcome.metrics |= {f"{name} from step {first.step} on": start, f"{name} at the end": end}
        if start != end:
            outcome.broken.append(f"number of {name} changed: {start} to {end}")
    stride = max(len(samples) // POINTS, 1)
    for point in samples[stride - 1 :: stride]:
        outcome.metrics[f"RSS MB, step {point.step}"] = round(point.rss / 2**20, 1)
    return outcome
