"""Which evaluation of a run was the best, and whether it is worth going on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ppvision.errors import UserError


class Best:
    """The best evaluation so far, and how many came after it without gain.

    Args:
        name: of the metric that decides; None: the first of an evaluation.
        mode: "max" or "min".
        patience: evaluations without gain after which a run stops early; none or 0: never.
        where: the place of `name` in the recipe, for messages.

    Attributes:
        found: `name`, `value`, `step` of the best evaluation and its `figures` (all its metrics), or none yet.
        without_gain: evaluations since.
    """

    def __init__(
        self, name: str | None = None, mode: str = "max", patience: int | None = None, where: str = "eval.best.name"
    ):
        self.name = name
        self.sign = 1 if mode == "max" else -1
        self.patience = patience
        self.where = where
        self.found: dict[str, Any] | None = None
        self.without_gain = 0

    @property
    def step(self) -> int | None:
        """Of the best evaluation."""
        return self.found["step"] if self.found else None

    @property
    def exhausted(self) -> bool:
        """Whether the run stops early."""
        return bool(self.patience) and self.without_gain >= self.patience

    def update(self, metrics: Mapping[str, float], step: int) -> bool:
        """Take an evaluation into account; True when it is the best so far.

        Raises:
            UserError: the deciding metric is not in it, such as the precision of small objects where there are none.
        """
        name = self.name or next(iter(metrics))
        if name not in metrics:
            raise UserError(f"{self.where}: the validation data give no '{name}', only {', '.join(metrics)}")
        value = metrics[name]
        if self.found is not None and not self.sign * value > self.sign * self.found["value"]:
            self.without_gain += 1
            return False
        self.found = {"name": name, "value": value, "step": step, "figures": dict(metrics)}
        self.without_gain = 0
        return True

    def forget(self) -> None:
        """The model is gone: the next evaluation is the best."""
        self.found = None

    def line(self) -> str:
        """What a run says after an evaluation; TIPC scripts parse it."""
        name, value, step = (self.found[key] for key in ("name", "value", "step"))
        return f"[EVAL] The model with the best validation {name} ({value:.4f}) was saved at iter {step}."

    def state(self) -> dict[str, Any]:
        """Plain values for `state.json`."""
        return {"best": self.found, "evals_without_gain": self.without_gain}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state`."""
        self.found = state["best"]
        self.without_gain = state["evals_without_gain"]
