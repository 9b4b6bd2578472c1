"""What experiments share: their record, and the rules by which a verdict is reached. One module per system beside this
file, with `EXPERIMENTS: dict[str, Experiment]`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

PASS, FAIL, UNRESOLVED = "PASS", "FAIL", "UNRESOLVED"


@dataclass(frozen=True)
class Settings:
    """How an experiment is run. `seeds`: one repetition each; `quick`: shortened until the figures mean nothing;
    `data`: folder of the fetched data sets."""

    seeds: tuple[int, ...] = ()
    quick: bool = False
    data: Path = Path("data")


@dataclass(frozen=True)
class Outcome:
    """What came out: a verdict, why, and every figure by arm and seed."""

    verdict: str
    reason: str
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """A claim and the function that tests it.

    Attributes:
        claim: one sentence, with the numbers that decide.
        run: settings -> outcome.
        seeds: by default.
        caveats: what the result does not show.
    """

    claim: str
    run: Callable[[Settings], Outcome]
    seeds: tuple[int, ...] = (0, 1, 2)
    caveats: Sequence[str] = ()


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (null for one value) and the values."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": spread, "values": [float(v) for v in values]}


def difference(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Mean of a minus mean of b, and its standard error (infinite for a single value)."""
    if min(len(a), len(b)) < 2:
        return float(np.mean(a) - np.mean(b)), float("inf")
    return float(np.mean(a) - np.mean(b)), float(np.sqrt(np.var(a, ddof=1) / len(a) + np.var(b, ddof=1) / len(b)))


def exceeds(a: Sequence[float], b: Sequence[float], errors: float = 2.0) -> tuple[str, str]:
    """Verdict on "a is larger than b", and the words for it.

    PASS: the difference is above `errors` standard errors; FAIL: below minus as many; UNRESOLVED: between.
    """
    gap, error = difference(a, b)
    verdict = PASS if gap > errors * error else FAIL if gap < -errors * error else UNRESOLVED
    return verdict, f"{gap:+.4f} +- {error:.4f}"


def worst(verdicts: Sequence[str]) -> str:
    """FAIL if any fails, else UNRESOLVED if any is, else PASS."""
    return FAIL if FAIL in verdicts else UNRESOLVED if UNRESOLVED in verdicts else PASS
