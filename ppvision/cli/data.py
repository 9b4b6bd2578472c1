"""`ppvision data fetch|make|check`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ppvision.cli import recipe
from ppvision.cli.parser import Flag, Parsed
from ppvision.cli.tables import HELP, OPTS
from ppvision.errors import UserError, did_you_mean

ABOUT = (
    "fetch NAME: sample data from packages of the Python and Debian registries (without a name: the list). "
    "make LAYOUT --root DIR: a synthetic data set in that layout. "
    "check -c CONFIG, or --format F --root DIR: read a data set whole; exit status 1 when it has faults."
)
TABLE = [
    Flag("action", help="fetch, make or check"),
    Flag("names", [str], "fetch: names of sample data; make: the layout, such as cityscapes"),
    Flag(
        "--root",
        help="fetch: where data sets are written, default data; make, check: the data set itself",
        metavar="DIR",
    ),
    Flag("--cache", help="fetch: where packages are kept", metavar="DIR"),
    Flag("--config -c", help="check: the data of a recipe", metavar="FILE"),
    OPTS,
    Flag("--format", help="check: layout of the data set", metavar="NAME"),
    Flag("--split", help="check: only this split; default: all that are there"),
    Flag("--json", help="check: write the findings there", metavar="FILE"),
    Flag("--workers --num_workers", int, "check: processes"),
    Flag("--train", int, "make: samples to train on; default 20"),
    Flag("--val", int, "make: samples to validate on; default 5"),
    Flag("--size", [int], "make: height and width of the pictures; default 128 256", metavar="H W"),
    Flag("--seed", int, "make: seed; default 0"),
    HELP,
]


def main(argv: Sequence[str]) -> int:
    """Exit status of the command."""
    parsed = recipe.parse("data", ABOUT, TABLE, argv)
    if parsed is None:
        return 0
    actions = {"fetch": fetch, "make": make, "check": check}
    if parsed.action not in actions:
        near = did_you_mean(parsed.action or "", actions)
        raise UserError(f"data: unknown action '{parsed.action}'{near} (fetch, make or check)")
    return actions[parsed.action](parsed)


def fetch(parsed: Parsed) -> int:
    """Fetch sample data sets, or list them."""
    from ppvision.data.samples import fetch as samples

    if not parsed.names:
        print("\n".join(samples.describe()))
    for name in parsed.names or ():
        print(samples.fetch(name, cache=parsed.cache, root=parsed.root))
    return 0


def make(parsed: Parsed) -> int:
    """Write a synthetic data set, unless it is there."""
    if len(parsed.names or ()) != 1 or not parsed.root:
        raise UserError("data make takes LAYOUT --root DIR")
    if parsed.size is not None and len(parsed.size) != 2:
        raise UserError(f"{parsed.spellings['size']}: --size takes H W")
    from ppvision.data.samples.make import make as write

    given = {"num_train": parsed.train, "num_val": parsed.val, "size": parsed.size, "seed": parsed.seed}
    given = {key: value for key, value in given.items() if value is not None}
    written = write(parsed.names[0], parsed.root, **given)
    print(f"{parsed.root}: {'written' if written else 'already there'}")
    return 0


def check(parsed: Parsed) -> int:
    """Read a data set whole and say what is wrong with it."""
    if bool(parsed.config) == bool(parsed.format):
        raise UserError("data check takes -c CONFIG, or --format F --root DIR")
    if parsed.config and (parsed.root or parsed.split):
        raise UserError("data check -c: change the recipe instead, -o data.root=DIR data.val.split=S")
    if parsed.format and not parsed.root:
        raise UserError("data check: --root is missing")
    if parsed.workers is not None and parsed.workers < 1:
        raise UserError(f"{parsed.spellings['workers']}: at least one worker is needed")
    cfg = recipe.resolved(parsed) if parsed.config else None
    from ppvision.data import check as checks

    options = {"workers": parsed.workers, "progress": sys.stderr.isatty()}
    if cfg is not None:
        report = checks.check_config(cfg, **options)
    else:
        report = checks.check(parsed.format, parsed.root, parsed.split, **options)
    print("\n".join(report.lines()))
    if parsed.json:
        try:
            Path(parsed.json).write_text(report.to_json(), encoding="utf-8")
        except OSError as e:
            raise UserError(f"cannot write '{parsed.json}': {e.strerror}") from None
    return 0 if report.ok else 1
