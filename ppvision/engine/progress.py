"""What a run says of its training: means of the terms since the last line and over an epoch, cost and time to go."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle

from ppvision.engine import distributed
from ppvision.engine.log import RunLog


@dataclass(frozen=True)
class Length:
    """A run in updates."""

    total: int
    updates_per_epoch: int
    save_interval: int
    eval_interval: int

    def epoch(self, step: int) -> int:
        """The epoch, from 1, that update number `step`, from 1, belongs to."""
        return (step - 1) // self.updates_per_epoch + 1


class Progress:
    """Collects the terms of the updates, and logs them when a line or an epoch is due.

    Args:
        length: of the run.
        interval: updates between two lines.
        images: pictures of an update on this rank.
    """

    def __init__(self, length: Length, interval: int, images: int):
        self.length = length
        self.interval = interval
        self.images = images
        self.pending: list[dict[str, float]] = []  # terms since the last line
        self.epoch_sums: dict[str, float] = {}
        self.epoch_counts: dict[str, int] = {}
        self.start(0)

    def start(self, step: int) -> None:
        """The clock starts at this step."""
        self.first = step
        self.started = time.perf_counter()
        self._reset_cost()

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Time spent waiting for data."""
        begin = time.perf_counter()
        yield
        self.read_seconds += time.perf_counter() - begin

    @contextlib.contextmanager
    def updating(self) -> Iterator[None]:
        """Time spent on an update."""
        begin = time.perf_counter()
        yield
        self.update_seconds += time.perf_counter() - begin
        self.updates += 1

    def collect(self, terms: Mapping[str, float]) -> None:
        """Take in the terms of an update; there are none when it was skipped."""
        if terms:
            self.pending.append(dict(terms))
        for key, value in terms.items():
            self.epoch_sums[key] = self.epoch_sums.get(key, 0.0) + value
            self.epoch_counts[key] = self.epoch_counts.get(key, 0) + 1

    def report(self, log: RunLog, step: int, lr: float) -> None:
        """Log what is due after update number `step`, which ran at the rate `lr`."""
        last = step == self.length.total
        if last or step % self.interval == 0:
            self._log_line(log, step, lr)
            self._reset_cost()
        if last or step % self.length.updates_per_epoch == 0:
            self._log_epoch(log, step)

    def state(self) -> dict[str, Any]:
        """Plain values for `state.json`; times are not among them."""
        return {"pending": self.pending, "epoch_sum": self.epoch_sums, "epoch_counts": self.epoch_counts}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state`. Up to 0.1.0 it held one `epoch_count` for all terms."""
        self.pending = state["pending"]
        self.epoch_sums = state["epoch_sum"]
        self.epoch_counts = state.get("epoch_counts") or dict.fromkeys(self.epoch_sums, state.get("epoch_count", 0))

    def _log_line(self, log: RunLog, step: int, lr: float) -> None:
        if not self.pending:  # every update since the last line was skipped, and each said so
            return
        # terms of lazy phases are in some of the updates only
        keys = dict.fromkeys(key for terms in self.pending for key in terms)
        means = {key: float(np.mean([terms[key] for terms in self.pending if key in terms])) for key in keys}
        norms = [value for key, value in means.items() if key.endswith("grad_norm")]
        parts = {key: value for key, value in means.items() if key != "loss" and not key.endswith("grad_norm")}
        seconds_per_update = (time.perf_counter() - self.started) / (step - self.first)
        eta = seconds_per_update * (self.length.total - step)
        epoch = self.length.epoch(step)
        log.train(step, epoch, means["loss"], parts, lr, max(norms, default=0.0), self._cost(), eta)
        self.pending = []

    def _log_epoch(self, log: RunLog, step: int) -> None:
        means = {key: total / self.epoch_counts[key] for key, total in self.epoch_sums.items()}
        means = {key: value for key, value in means.items() if not key.endswith("grad_norm")}
        if means:
            epochs = self.length.epoch(self.length.total)
            log.epoch(self.length.epoch(step), epochs, means.pop("loss"), means)
        self.epoch_sums = {}
        self.epoch_counts = {}

    def _cost(self) -> dict[str, float]:
        """Means over the updates since the last line."""
        seconds = self.read_seconds + self.update_seconds
        return {
            "batch_cost": seconds / self.updates,
            "reader_cost": self.read_seconds / self.updates,
            "ips": self.updates * self.images / seconds,
            **_memory(),
        }

    def _reset_cost(self) -> None:
        self.read_seconds = 0.0
        self.update_seconds = 0.0
        self.updates = 0


class BadSamples:
    """The samples that a loader could not read, on every rank (`data.skip_bad`): they stay counted in a continued run.

    Args:
        loader: of the training data; its `bad` holds what this rank has met.
    """

    def __init__(self, loader: Any):
        self.loader = loader

    def state(self) -> dict[str, Any]:
        """Indices by rank. Every rank must call it."""
        own = np.array([*self.loader.bad], np.int64)
        return {"bad": [part["bad"].tolist() for part in distributed.gather({"bad": own})]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state`; with another number of processes, which have other samples each, with none."""
        bad: Sequence[Sequence[int]] = state.get("bad", [])
        if len(bad) == distributed.world_size():
            self.loader.bad = dict.fromkeys(bad[distributed.rank()], "bad before this run was continued")


def _memory() -> dict[str, float]:
    if paddle.device.get_device() == "cpu":
        return {}
    megabyte = 1024 * 1024
    return {
        "max_mem_reserved": paddle.device.cuda.max_memory_reserved() / megabyte,
        "max_mem_allocated": paddle.device.cuda.max_memory_allocated() / megabyte,
    }
