"""`ppvision benchmark`: where the time of a recipe goes on this machine, on its own data, or what memory it takes."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ppvision.cli import recipe
from ppvision.cli.parser import Flag
from ppvision.cli.tables import COMMON, TRAIN
from ppvision.config import Config, load
from ppvision.errors import UserError

ABOUT = "Time loading, forward, update and inference of a recipe on its training data, or plan its memory."
TABLE = [
    *COMMON,
    *[
        f
        for f in TRAIN
        if f.name in ("threads", "batch_size", "num_workers", "precision", "amp", "amp_level", "to_static_training")
    ],
    Flag("--steps", int, "measured repetitions; default 10"),
    Flag("--warmup", int, "repetitions before; default 2"),
    Flag("--memory", [int], "instead of timing, compute what training on images of this size takes", metavar="H W"),
    Flag("--processes", int, "with --memory: so many share the optimizer's state where the recipe divides it"),
    Flag("--json", help="write the figures there", metavar="FILE"),
]


def main(argv: Sequence[str]) -> int:
    """Exit status of the command."""
    parsed = recipe.parse("benchmark", ABOUT, TABLE, argv)
    if parsed is None:
        return 0
    steps, warmup = (parsed.values.get(name, default) for name, default in (("steps", 10), ("warmup", 2)))
    if steps < 1 or warmup < 0:
        raise UserError(f"benchmark: --steps must be at least 1 and --warmup at least 0, got {steps} and {warmup}")
    cfg = recipe.resolved(parsed)
    recipe.start_paddle(cfg)
    if parsed.memory:
        result = plan(cfg, parsed.memory, parsed.values.get("processes", 1))
        print(f"{result['model']}, {result['micro_batch']} images of {result['size']} in a process, GiB")
        for name, size in result["gib"].items():
            print(f"{name:12}{size:12.3f}")
        return write(parsed.json, result)
    result = measure(cfg, steps, warmup)
    print(f"{result['model']}, batch {' x '.join(map(str, result['shape']))}, {result['device']}, {steps} repetitions")
    print(f"{'':12}{'median ms':>12}{'min ms':>12}{'images/s':>12}")
    for name, row in result["times"].items():
        print(f"{name:12}{row['median_ms']:12.2f}{row['min_ms']:12.2f}{row['images_per_s']:12.2f}")
    return write(parsed.json, result)


def write(path: str | None, result: dict[str, Any]) -> int:
    """Leave the figures in a file, if one is named; exit status."""
    if path:
        try:
            Path(path).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        except OSError as e:
            raise UserError(f"cannot write '{path}': {e.strerror}") from None
    return 0


def plan(cfg: Config, size: Sequence[int], processes: int) -> dict[str, Any]:
    """GiB that one process of this recipe takes; the data set is not needed and nothing is run.

    Args:
        cfg: the recipe.
        size: height and width of a padded batch.
        processes: how many share the optimizer's state under `train.shard_optimizer`.
    """
    from ppvision.config import build
    from ppvision.engine import memory

    if len(size) != 2 or min(size) < 1 or processes < 1:
        raise UserError(f"benchmark: --memory takes height and width, --processes at least 1, got {size}, {processes}")
    train = cfg.train
    method = build("method", cfg.method, model=build("model", cfg.model))
    found = memory.plan(
        method,
        size=(size[0], size[1]),
        batch_size=train.batch_size,
        optimizer=cfg.optimizer.type,
        amp=train.amp,
        ema=train.ema is not None,
        recompute=train.recompute,
        shard=processes if train.shard_optimizer else 1,
    )
    return {
        "config": cfg.path,
        "model": cfg.model.type,
        "size": f"{size[0]}x{size[1]}",
        "micro_batch": train.batch_size,
        "processes": processes,
        "gib": dict(found.rows()),
    }


def measure(cfg: Config, steps: int, warmup: int) -> dict[str, Any]:
    """Median and best time of each part; nothing is written and no earlier run is touched.

    Args:
        steps: measured repetitions. warmup: repetitions before them.
    """
    import paddle

    from ppvision.data.batch import to_device
    from ppvision.data.collate import rows_of
    from ppvision.device import set_device
    from ppvision.engine.build import build_parts
    from ppvision.predict import assemble
    from ppvision.predict.nets import EagerNet, on_device

    device = set_device(cfg.train.device)
    run = build_parts(load(cfg, ["eval.enabled=false"]))
    trainer, method, task = run.trainer, run.trainer.method, assemble.task(cfg, None)
    batches = run.loader.stream(0)
    arrays = next(batches)
    batch = to_device(arrays)

    def forward() -> None:
        method.begin(0, cfg.train.seed, 0)
        prepared = method.prepare(batch)
        phase = method.phases[0].name
        prepared["normaliser"] = method.normaliser(phase, prepared)
        sum(method.losses(phase, prepared).values()).item()  # waits for the device

    def inference() -> None:
        with trainer.evaluating() as nets:
            callables = {name: EagerNet(net, *assemble.statistics(cfg)) for name, net in nets.items()}
            outputs = task.run(callables, on_device(task.inputs(arrays)))
            next(iter(outputs.values())).numpy()

    parts: dict[str, Callable[[], Any]] = {
        "load": lambda: next(batches),
        "forward": forward,
        "update": lambda: trainer.update([batch] * cfg.train.accumulate),
        "inference": inference,
    }
    count, times = rows_of(arrays), {}
    for name, part in parts.items():
        images = count * (cfg.train.accumulate if name == "update" else 1)
        for _ in range(warmup):
            part()
        spent = [_seconds(part) for _ in range(steps)]
        middle = statistics.median(spent)
        times[name] = {"median_ms": 1e3 * middle, "min_ms": 1e3 * min(spent), "images_per_s": images / middle}
    return {
        "config": cfg.path,
        "model": cfg.model.type,
        "shape": list(next(array.shape for array in task.inputs(arrays).values())),
        "device": device,
        "machine": platform.machine(),
        "paddle": paddle.__version__,
        "amp": cfg.train.amp,
        "times": times,
    }


def _seconds(part: Callable[[], Any]) -> float:
    started = time.perf_counter()
    part()
    return time.perf_counter() - started
