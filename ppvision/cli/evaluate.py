"""`ppvision eval`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ppvision.cli import recipe
from ppvision.cli.tables import EVAL
from ppvision.errors import UserError

ABOUT = "Evaluate weights on the validation data of a recipe. Default weights: best_model of the run folder."


def main(argv: Sequence[str]) -> int:
    """Exit status of the command."""
    parsed = recipe.parse("eval", ABOUT, EVAL, argv)
    if parsed is None:
        return 0
    cfg = recipe.resolved(parsed)
    recipe.start_paddle(cfg)
    from ppvision.engine import evaluate
    from ppvision.predict.assemble import weights_of

    weights = weights_of(cfg, recipe.weights_of(parsed))
    metrics = evaluate(cfg, weights=weights, output=parsed.output_eval)
    if parsed.output_eval:
        write(parsed.output_eval, {"config": cfg.path, "weights": weights, "figures": metrics})
    return 0


def write(folder: str, content: Mapping[str, Any]) -> None:
    """`metrics.json` in a folder that may not exist yet."""
    path = os.path.join(folder, "metrics.json")
    try:
        os.makedirs(folder, exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
    except OSError as e:
        raise UserError(f"cannot write '{path}': {e.strerror}") from None
