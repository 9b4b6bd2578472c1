"""`ppvision export`."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ppvision.cli import recipe
from ppvision.cli.tables import EXPORT
from ppvision.errors import UserError

ABOUT = "Write what a server runs, and prove that it computes the same: the export fails past its tolerance."


def main(argv: Sequence[str]) -> int:
    """Exit status of the command."""
    parsed = recipe.parse("export", ABOUT, EXPORT, argv)
    if parsed is None:
        return 0
    if parsed.save_dir and parsed.output_dir:
        raise UserError("give --save_dir (used as it is) or --output_dir (the recipe's name is added), not both")
    if parsed.save_file and not parsed.save_file.endswith(".onnx"):
        raise UserError(f"{parsed.spellings['save_file']}: --save_file names the ONNX file, <folder>/<name>.onnx")
    cfg = recipe.resolved(parsed)
    weights = recipe.weights_of(parsed)
    folder = os.path.join(parsed.output_dir, cfg.name) if parsed.output_dir else parsed.save_dir
    formats = parsed.formats
    if parsed.save_file:
        folder, formats = folder or os.path.dirname(parsed.save_file) or ".", formats or ["paddle", "onnx"]
    from ppvision.exporting import export

    export(cfg, weights=weights, save_dir=folder or recipe.run_folder(cfg, "export"), formats=formats)
    return 0
