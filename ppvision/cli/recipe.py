"""What the verbs with a recipe share: parse, help, resolve the recipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ppvision.cli.parser import Flag, Parsed, help_text, parse_args, recipe_overrides
from ppvision.cli.tables import find_weights
from ppvision.config import Config, Override, load
from ppvision.threads import choose_threads, import_paddle


def parse(verb: str, about: str, table: Sequence[Flag], argv: Sequence[str]) -> Parsed | None:
    """The parsed command line, or None after `--help` was answered."""
    if any(token in ("-h", "--help") for token in argv):
        sys.stdout.write(help_text(verb, about, table))
        return None
    return parse_args(verb, table, argv)


def resolved(parsed: Parsed, config: str | None = None) -> Config:
    """The recipe with everything the command line changes."""
    path = config or parsed.config
    plain = [o for o in parsed.overrides if isinstance(o, Override)]
    return load(path, recipe_overrides(parsed, load(path, plain)))


def start_paddle(cfg: Config) -> None:
    """Import Paddle with the threads of the recipe. Comes before anything else that imports it.

    Raises:
        ModuleNotFoundError: Paddle is not installed.
    """
    choose_threads(cfg.train.threads)
    import_paddle()


def run_folder(cfg: Config, *parts: str) -> str:
    """Default place of what a command writes, below the recipe's run folder; needs no Paddle."""
    return os.path.join(cfg.train.save_dir or os.path.join("output", cfg.name), *parts)


def weights_of(parsed: Parsed) -> str | None:
    """The weight file of --model_path; None leaves the choice to `predict.assemble`."""
    return find_weights(parsed.model_path) if parsed.model_path else None
