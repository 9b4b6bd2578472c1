"""Recording a range of training steps with `paddle.profiler`, as the `--profiler_options` of the Paddle suites ask
for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import paddle.profiler as paddle_profiler

from ppvision.config import Profiler


class StepProfiler:
    """Records the steps `batch_range[0]` up to `batch_range[1]`; a summary is printed and a trace written when they
    are over.

    Args:
        options: parsed option string.
    """

    def __init__(self, options: Profiler):
        self.options = options
        targets = {"CPU": [paddle_profiler.ProfilerTarget.CPU], "GPU": [paddle_profiler.ProfilerTarget.GPU]}.get(
            options.state
        )
        self._profiler: Any = paddle_profiler.Profiler(
            targets=targets,
            scheduler=options.batch_range,
            on_trace_ready=None if options.timer_only else self._export,
            timer_only=options.timer_only,
        )
        self._profiler.start()
        self._done = 0

    def step(self, num_samples: int) -> bool:
        """Count a training step; True when recording is over and the process shall end (`exit_on_finished`)."""
        if self._profiler is None:
            return False
        self._profiler.step(num_samples=num_samples)
        self._done += 1
        if self._done < self.options.batch_range[1]:
            return False
        print(self._profiler.step_info(unit="samples"), flush=True)
        self.close()
        return self.options.exit_on_finished

    def close(self) -> None:
        """Stop recording."""
        if self._profiler is None:
            return
        self._profiler.stop()
        if not self.options.timer_only:
            order = {"calls": "CPUTotal", "total": "CPUTotal", "max": "CPUMax", "min": "CPUMin", "ave": "CPUAvg"}[
                self.options.sorted_key
            ]
            self._profiler.summary(
                sorted_by=getattr(paddle_profiler.SortedKeys, order),
                op_detail=self.options.tracer_option != "Default",
                time_unit="ms",
            )
        self._profiler = None

    def _export(self, profiler: Any) -> None:
        path = Path(self.options.profile_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        profiler.export(str(path), format="json")
