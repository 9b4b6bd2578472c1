"""What a run says: lines on the screen, `train.log`, `log.jsonl`, pictures, VisualDL.

The line formats are the ones TIPC scripts parse (`[TRAIN] epoch: ...`, `[EVAL] ...`), so `loss: <fixed point>,`
occurs once in a line and never in exponent form. A progress bar on a terminal, plain lines elsewhere. Only rank 0
writes.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ppvision.engine import distributed
from ppvision.errors import UserError
from ppvision.predict.drawing import write_image


def fixed(value: float, digits: int = 4) -> str:
    """Fixed point with at least `digits` decimals and four significant figures; never an exponent."""
    if not math.isfinite(value):
        return str(value)
    needed = 0 if value == 0 else 3 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(max(digits, needed), 30)}f}"


def clock(seconds: float) -> str:
    """hh:mm:ss."""
    seconds = int(max(seconds, 0))
    return f"{seconds // 3600:02d}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"


def stamped(message: str) -> str:
    """A line with the time, as the Paddle suites write it."""
    return f"[{time.strftime('%Y/%m/%d %H:%M:%S')}] INFO: {message}"


def warn(line: str) -> None:
    """What is worth telling before a run has its log, once for all ranks."""
    if distributed.rank() == 0:
        print(f"warning: {line}", flush=True)


class RunLog:
    """Writes a run's lines and records.

    Args:
        run_dir: where `train.log`, `log.jsonl` and `vdl/` go.
        total: number of updates, for the bar.
        vdl: write VisualDL records too.
        vdl_dir: where, if not `<run_dir>/vdl`.
        quiet: say and write nothing (ranks above 0).
    """

    def __init__(
        self, run_dir: Path, total: int, *, vdl: bool = False, vdl_dir: str | None = None, quiet: bool = False
    ):
        self.run_dir = run_dir
        self.total = total
        self.quiet = quiet
        self._bar: Any = None
        self._writer: Any = None
        self._text = self._records = None
        if quiet:
            return
        self._text = (run_dir / "train.log").open("a", encoding="utf-8")
        self._records = (run_dir / "log.jsonl").open("a", encoding="utf-8")
        if vdl:
            self._writer = _visualdl(vdl_dir or str(run_dir / "vdl"))
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit="it", dynamic_ncols=True, leave=False)

    def info(self, message: str, screen: bool = True) -> None:
        """One line with the time, on the screen (unless told otherwise) and in `train.log`."""
        if self.quiet:
            return
        line = stamped(message)
        self._text.write(line + "\n")
        self._text.flush()
        if screen:
            if self._bar is not None:
                self._bar.write(line, file=sys.stdout)
            else:
                print(line, flush=True)

    def warn(self, line: str) -> None:
        """What is worth telling."""
        self.info(f"warning: {line}")

    def record(self, kind: str, step: int, **values: Any) -> None:
        """One line of `log.jsonl`; wall-clock figures belong under `time`."""
        if self.quiet:
            return
        self._records.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._records.flush()
        if self._writer is not None:
            for key, value in _scalars(kind, values):
                self._writer.add_scalar(tag=key, value=value, step=step)

    def advance(self, step: int, loss: float | None = None) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.n = step
            self._bar.set_postfix_str("" if loss is None else f"loss {fixed(loss)}", refresh=False)
            self._bar.refresh()

    def train(
        self,
        step: int,
        epoch: int,
        loss: float,
        parts: Mapping[str, float],
        lr: float,
        grad_norm: float,
        cost: Mapping[str, float],
        eta: float,
    ) -> None:
        """The `[TRAIN]` line, its `[LOSS]` line and their record. `cost`: batch_cost, reader_cost, ips, and memory on
        GPU.
        """
        memory = "".join(f", {k}: {v:.0f} MB" for k, v in cost.items() if k.startswith("max_mem"))
        self.info(
            f"[TRAIN] epoch: {epoch}, iter: {step}/{self.total}, loss: {fixed(loss)}, lr: {fixed(lr, 6)}, "
            f"batch_cost: {cost['batch_cost']:.4f}, reader_cost: {cost['reader_cost']:.5f}, "
            f"ips: {cost['ips']:.4f} samples/sec{memory} | ETA {clock(eta)}"
        )
        self.info(f"[LOSS] iter: {step}, " + " ".join(f"{k}={fixed(v)}" for k, v in sorted(parts.items())))
        self.record(
            "train", step, epoch=epoch, loss=loss, parts=dict(parts), lr=lr, grad_norm=grad_norm, time=dict(cost)
        )

    def epoch(self, epoch: int, epochs: int, loss: float, parts: Mapping[str, float]) -> None:
        """The per-epoch average, to `train.log` only: on the screen it would reach parsers of the `[TRAIN]` lines."""
        terms = "".join(f", {k}: {fixed(v, 5)}" for k, v in sorted(parts.items()))
        self.info(f"[Train][Epoch {epoch}/{epochs}][Avg]loss: {fixed(loss, 5)}{terms}", screen=False)

    def evaluation(self, step: int, images: int, metrics: Mapping[str, float], seconds: float) -> None:
        """The `[EVAL]` line, the deciding metric first, and its record."""
        self.info(f"[EVAL] #Images: {images} " + " ".join(f"{k}: {fixed(v)}" for k, v in metrics.items()))
        self.record("eval", step, metrics=dict(metrics), images=images, time={"seconds": seconds})

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """RGB uint8 [H,W,3] by name, to `pictures/iter_<step>/<name>.png` and VisualDL."""
        if self.quiet or not pictures:
            return
        folder = self.run_dir / "pictures" / f"iter_{step}"
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            write_image(folder / f"{name}.png", picture)
            if self._writer is not None:
                self._writer.add_image(tag=name, img=picture, step=step)

    def close(self) -> None:
        """Close bar and files."""
        for thing in (self._bar, self._text, self._records, self._writer):
            if thing is not None:
                thing.close()


def truncate(run_dir: Path, step: int) -> None:
    """Drop the records of `log.jsonl` after a step, torn last line included, so that a resumed run writes them once."""
    path = run_dir / "log.jsonl"
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            break
        if record["step"] <= step:
            kept.append(line + "\n")
    aside = path.with_suffix(".tmp")
    aside.write_text("".join(kept), encoding="utf-8")
    aside.replace(path)


def _scalars(kind: str, values: Mapping[str, Any]) -> list[tuple[str, float]]:
    flat = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat += [(f"{kind}/{k}", v) for k, v in value.items() if isinstance(v, (int, float))]
        elif isinstance(value, (int, float)):
            flat.append((f"{kind}/{key}", value))
    return flat


def _visualdl(folder: str) -> Any:
    try:
        from visualdl import LogWriter
    except ImportError as error:
        raise UserError(
            "log.vdl: VisualDL is not installed; pip install 'ppvision[vdl]' or set log.vdl: false"
        ) from error
    return LogWriter(logdir=folder)
