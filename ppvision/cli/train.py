"""`ppvision train`."""

from __future__ import annotations

from collections.abc import Sequence

from ppvision.cli import recipe
from ppvision.cli.tables import TRAIN

ABOUT = (
    "Train a recipe. The run folder holds checkpoints, logs and the resolved recipe; --resume continues it bit for bit."
)


def main(argv: Sequence[str]) -> int:
    """Exit status of the command."""
    parsed = recipe.parse("train", ABOUT, TRAIN, argv)
    if parsed is None:
        return 0
    cfg = recipe.resolved(parsed)
    recipe.start_paddle(cfg)
    from ppvision.engine import train

    train(cfg)
    return 0
