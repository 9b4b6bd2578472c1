"""Learning rates as pure functions of the step, so that a resumed run needs no scheduler state.

Warm-up is linear from `warmup_start_lr` to the base rate over `warmup_iters` steps; the decay then spans the
remaining steps, as in PaddleSeg (`PolynomialDecay` over iters - warmup_iters behind `LinearWarmup`), whose published
recipes are written for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ppvision.errors import at_least, require


def _rate(name: str, value: float, lr: float) -> float:
    require(0 <= value <= lr, name, f"must lie between 0 and optimizer.lr ({lr:g}), got {value}")
    return value


class Schedule:
    """Rate at a step; subclasses define `decay(t)` for t in 0..1, the share of the steps after warm-up.

    Args:
        lr: base rate of the optimizer.
        total: number of updates of the run.
        warmup_iters: length of the warm-up in updates.
        warmup_start_lr: rate at step 0 of the warm-up.
    """

    def __init__(self, lr: float, total: int, *, warmup_iters: int = 0, warmup_start_lr: float = 0.0):
        at_least(0, lr=lr, warmup_iters=warmup_iters)
        at_least(1, total=total)
        self.lr = lr
        self.total = total
        self.warmup_iters = warmup_iters
        self.warmup_start_lr = _rate("warmup_start_lr", warmup_start_lr, lr)

    def __call__(self, step: int) -> float:
        """Rate of update number `step` (from 0)."""
        if step < self.warmup_iters:
            return self.warmup_start_lr + (self.lr - self.warmup_start_lr) * step / self.warmup_iters
        length = max(self.total - self.warmup_iters, 1)
        return self.decay(min((step - self.warmup_iters) / length, 1.0))

    def decay(self, t: float) -> float:
        """Rate after the share `t` of the steps that follow the warm-up."""
        return self.lr


class Constant(Schedule):
    """The base rate after warm-up."""


class Poly(Schedule):
    """(lr - end_lr) (1 - t)^power + end_lr."""

    def __init__(
        self,
        lr: float,
        total: int,
        *,
        power: float = 0.9,
        end_lr: float = 0.0,
        warmup_iters: int = 0,
        warmup_start_lr: float = 0.0,
    ):
        super().__init__(lr, total, warmup_iters=warmup_iters, warmup_start_lr=warmup_start_lr)
        at_least(0, power=power)
        self.power, self.end_lr = power, _rate("end_lr", end_lr, lr)

    def decay(self, t: float) -> float:
        return (self.lr - self.end_lr) * (1 - t) ** self.power + self.end_lr


class Cosine(Schedule):
    """Half a cosine from lr to end_lr."""

    def __init__(
        self, lr: float, total: int, *, end_lr: float = 0.0, warmup_iters: int = 0, warmup_start_lr: float = 0.0
    ):
        super().__init__(lr, total, warmup_iters=warmup_iters, warmup_start_lr=warmup_start_lr)
        self.end_lr = _rate("end_lr", end_lr, lr)

    def decay(self, t: float) -> float:
        return self.end_lr + (self.lr - self.end_lr) * 0.5 * (1 + math.cos(math.pi * t))


class Step(Schedule):
    """lr times `gamma` for each milestone passed. Milestones are steps, or shares of the run when all are below 1."""

    def __init__(
        self,
        lr: float,
        total: int,
        *,
        milestones: Sequence[float],
        gamma: float = 0.1,
        warmup_iters: int = 0,
        warmup_start_lr: float = 0.0,
    ):
        super().__init__(lr, total, warmup_iters=warmup_iters, warmup_start_lr=warmup_start_lr)
        shares = all(0 < m < 1 for m in milestones)
        fine = bool(milestones) and list(milestones) == sorted(set(milestones))
        fine = fine and (shares or all(1 <= m < math.inf for m in milestones))
        require(fine, "milestones", f"needs ascending steps, or shares of the run below 1, got {list(milestones)}")
        require(0 < gamma <= 1, "gamma", f"must be above 0 and at most 1, got {gamma}")
        self.milestones, self.gamma = [m * total if shares else m for m in milestones], gamma

    def __call__(self, step: int) -> float:
        if step < self.warmup_iters:
            return super().__call__(step)
        return self.lr * self.gamma ** sum(step >= m for m in self.milestones)
