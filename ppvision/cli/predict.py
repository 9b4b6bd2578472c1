"""`ppvision predict`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ppvision.cli import recipe
from ppvision.cli.parser import Parsed, extras_of
from ppvision.cli.tables import PREDICT
from ppvision.errors import UserError

ABOUT = "Results and pictures for images. Default weights: best_model of the run folder."
INPUTS = ("image_path", "infer_img", "infer_dir", "infer_list")  # the first one given wins


def main(argv: Sequence[str]) -> int:
    """Exit status of the command."""
    parsed = recipe.parse("predict", ABOUT, PREDICT, argv)
    if parsed is None:
        return 0
    image_path = next((parsed.values[name] for name in INPUTS if parsed.values.get(name)), None)
    if image_path is None:
        raise UserError("predict: --image_path is missing (ppvision predict --help)")
    if not os.path.exists(image_path):
        raise UserError(f"predict: '{image_path}' does not exist")
    cfg = recipe.resolved(parsed)
    weights, options = recipe.weights_of(parsed), run_options(parsed)
    save_dir = parsed.save_dir or recipe.run_folder(cfg, "predictions")
    recipe.start_paddle(cfg)
    from ppvision.predict import run

    records = run(cfg, image_path, save_dir, weights=weights, device=cfg.train.device, **options)
    print(f"{len(records)} image{'s' if len(records) != 1 else ''} -> {save_dir}")
    return 0


def run_options(parsed: Parsed) -> dict[str, Any]:
    """Arguments of `ppvision.predict.run`: what the flags add to the recipe."""
    options: dict[str, Any] = {k: parsed.values[k] for k in ("batch_size", "draw_threshold") if k in parsed.values}
    options["extras"] = extras_of(parsed)
    if parsed.save_threshold is not None:
        options["threshold"] = parsed.save_threshold
    if parsed.custom_color:
        colours = parsed.custom_color
        if len(colours) % 3 or not all(0 <= c <= 255 for c in colours):
            raise UserError(
                f"--custom_color takes R G B of one class after the other, 0..255; got {len(colours)} numbers"
            )
        options["palette"] = [colours[i : i + 3] for i in range(0, len(colours), 3)]
    if parsed.visualize is not None:
        options["overlay"] = parsed.visualize
    if parsed.save_results is False:
        raise UserError(
            "--save_results false is not supported: results are always written; --visualize false omits the drawings"
        )
    return options
