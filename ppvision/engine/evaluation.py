"""Evaluation on its own, of weights that a run left or somebody gave."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppvision.config import Config, load
from ppvision.device import set_device
from ppvision.engine import distributed
from ppvision.engine.build import build_evaluator, load_method, load_model
from ppvision.engine.evaluator import Evaluator
from ppvision.engine.log import stamped
from ppvision.errors import UserError
from ppvision.models import zoo
from ppvision.predict.assemble import weights_of


def evaluate(
    config: str | Path | Config,
    overrides: Sequence[str] = (),
    weights: str | None = None,
    output: str | Path | None = None,
) -> dict[str, float]:
    """Metrics of a recipe's model on its validation data.

    Args:
        config: recipe.
        overrides: `key=value` strings.
        weights: file or folder; default by the rule of `predict.assemble`.
        output: folder that gets what the metrics write besides their values: detections, curves, pictures.

    Raises:
        UserError: recipe, data or weights are wrong; `output` cannot be written.
    """
    cfg = load(config, overrides)
    set_device(cfg.train.device)
    distributed.start()
    source = weights_of(cfg, weights)
    net = load_model(cfg, source)
    evaluator = build_evaluator(cfg, net)
    if evaluator.wants_losses:
        evaluator.attach(load_method(cfg, net, source))
    started = time.time()
    metrics = evaluator(zoo.deployables(net), progress=distributed.rank() == 0)
    if distributed.rank() == 0:
        images = len(evaluator.loader.dataset)
        line = f"[EVAL] #Images: {images} " + " ".join(f"{k}: {v:.4f}" for k, v in metrics.items())
        print(stamped(line), flush=True)
        for metric in evaluator.metrics:
            _print_table(metric.table())
        print(f"{images / (time.time() - started):.2f} images/s", flush=True)
        if output is not None:
            write_details(evaluator, Path(output))
    return metrics


def write_details(evaluator: Evaluator, folder: Path) -> None:
    """What the metrics of a finished evaluation can write; nothing where they have nothing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for metric in evaluator.metrics:
            metric.write(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from None


def _print_table(rows: list[dict[str, Any]]) -> None:
    if rows:
        head = list(rows[0])
        cells = [[f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
        widths = [max(len(h), *(len(c[i]) for c in cells)) for i, h in enumerate(head)]
        for line in [head, *cells]:
            print("  ".join(v.rjust(w) for v, w in zip(line, widths, strict=True)), flush=True)
