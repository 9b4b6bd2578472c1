"""What a part of the torture hands back, and the small things that all parts share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
Say = Callable[[str], None]


@dataclass
class Outcome:
    """Honest figures of one part.

    Attributes:
        data: what was done, for the results table.
        model: which network.
        tried: how often; broken: one line for every promise that was broken.
        figures: further counts and measurements, name -> number.
        note: what a reader of the table must know besides.
    """

    data: str
    model: str
    tried: int = 0
    broken: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    note: str = ""

    def count(self, name: str, by: float = 1) -> None:
        """Add to a figure."""
        self.metrics[name] = self.metrics.get(name, 0) + by


def environment(**extra: str) -> dict[str, str]:
    """Environment of a child that trains: one thread, our folders importable."""
    paths = [str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in paths if p), **extra}


def members(group: int) -> list[int]:
    """Living processes of a process group (zombies are dead)."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                state, _, its_group = Path(entry.path, "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:  # it ended meanwhile
                continue
            if int(its_group) == group and state != "Z":
                found.append(int(entry.name))
    return found


def kill_group(group: int) -> None:
    """SIGKILL for every process of a group that is still there."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass
