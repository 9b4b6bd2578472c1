"""Repetitions side by side: one process a core, each with one thread, because Paddle on CPU keeps one core busy."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "FLAGS_paddle_num_threads")


def in_processes(function: Callable[..., Any], tasks: Sequence[tuple], processes: int | None = None) -> list[Any]:
    """`function(*task)` for every task, in their order.

    Args:
        function: of a module, with what it gives picklable; must depend on its arguments alone.
        tasks: arguments; a single task runs here.
        processes: null: one for every core.
    """
    processes = min(processes or os.cpu_count() or 1, len(tasks))
    if processes <= 1:
        return [function(*task) for task in tasks]
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))  # read by the processes when they start
    try:
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            return list(pool.map(function, *zip(*tasks)))
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
