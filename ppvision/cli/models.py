"""`ppvision models`: names of the zoo. Only `--params` and `--macs` import Paddle, to build and count."""

from __future__ import annotations

from collections.abc import Sequence

from ppvision.cli import recipe
from ppvision.cli.parser import Flag
from ppvision.cli.tables import HELP
from ppvision.errors import UserError, did_you_mean

ABOUT = "List the models whose name matches a shell pattern."
TABLE = [
    Flag("pattern", help="default: *"),
    Flag("--task", help="only models of this task"),
    Flag("--params", bool, "count the parameters (builds the networks)"),
    Flag("--macs", bool, "count parameters, multiply-adds and activations of one image (traces the networks)"),
    Flag("--size", [int], "of that image; default: the model's own", metavar="H W"),
    HELP,
]


def main(argv: Sequence[str]) -> int:
    """Exit status of the command."""
    parsed = recipe.parse("models", ABOUT, TABLE, argv)
    if parsed is None:
        return 0
    from ppvision.models import zoo

    tasks = {entry.task for entry in zoo.ZOO.values()}
    if parsed.task and parsed.task not in tasks:
        raise UserError(
            f"no task '{parsed.task}'{did_you_mean(parsed.task, tasks)} (tasks: {', '.join(sorted(tasks))})"
        )
    names = [n for n in zoo.list_models(parsed.pattern or "*") if parsed.task in (None, zoo.ZOO[n].task)]
    if not names:
        raise UserError(f"no model matches '{parsed.pattern}'{did_you_mean(parsed.pattern or '', zoo.ZOO)}")
    if parsed.size and not parsed.macs:
        raise UserError("--size goes with --macs")
    if parsed.size and len(parsed.size) != 2:
        raise UserError(f"--size takes height and width, not {parsed.size}")
    width = max(map(len, names)) + 2
    for name in names:
        line = name.ljust(width) + zoo.ZOO[name].task
        if parsed.macs:
            print(line.ljust(width + 16) + cost(name, tuple(parsed.size) if parsed.size else None), flush=True)
            continue
        print(line.ljust(width + 16) + f"{parameters(name) / 1e6:9.3f} M" if parsed.params else line, flush=True)
    return 0


def cost(name: str, size: tuple[int, int] | None = None) -> str:
    """Parameters, multiply-adds and activations of a model, as text."""
    from ppvision.models import zoo
    from ppvision.models.profile import profile_model

    found, (height, width) = profile_model(name, size), size or zoo.entry(name).example
    counts = f"{found.params / 1e6:9.3f} M params {found.macs / 1e9:9.3f} G MACs"
    line = f"{counts} {found.activations / 1e6:9.3f} M activations"
    return f"{line}  {height}x{width}"


def parameters(name: str) -> int:
    """Trainable parameters of a model: without batch-norm statistics, which Paddle lists among them."""
    from ppvision.models import zoo

    return sum(int(p.size) for p in zoo.create_model(name).parameters() if p.trainable)
