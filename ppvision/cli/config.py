"""`ppvision config show|diff|validate`. Only `validate` imports Paddle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ppvision.cli import recipe
from ppvision.cli.parser import Flag, Parsed
from ppvision.cli.tables import COMMON, HELP, OPTS
from ppvision.config import Config, check
from ppvision.config.tree import leaves
from ppvision.errors import UserError, did_you_mean

ABOUT = (
    "show FILE: the resolved recipe. diff A B: leaves that differ. validate FILE...: resolve and check every name and "
    "argument, without building anything."
)
TABLE = [
    Flag("action", help="show, diff or validate"),
    Flag("files", [str], "recipes"),
    Flag("--config -c", help="the recipe, as in the other commands", metavar="FILE"),
    OPTS,
    Flag("--origins", bool, "show: the file and line of every value"),
    *[f for f in COMMON if f.name in ("device", "use_gpu")],
    HELP,
]


def main(argv: Sequence[str]) -> int:
    """Exit status of the command."""
    parsed = recipe.parse("config", ABOUT, TABLE, argv)
    if parsed is None:
        return 0
    actions = {"show": (show, 1), "diff": (diff, 2), "validate": (validate, None)}
    if parsed.action not in actions:
        near = did_you_mean(parsed.action or "", actions)
        raise UserError(f"config: unknown action '{parsed.action}'{near} (show, diff or validate)")
    files = [*([parsed.config] if parsed.config else []), *(parsed.files or [])]
    action, count = actions[parsed.action]
    if not files or (count and len(files) != count):
        raise UserError(
            f"config {parsed.action} takes {count or 'one or more'} file{'' if count == 1 else 's'}, got {len(files)}"
        )
    action(parsed, [recipe.resolved(parsed, path) for path in files])
    return 0


def show(parsed: Parsed, configs: Sequence[Config]) -> None:
    """Print the resolved recipe."""
    (cfg,) = configs
    if parsed.origins:
        for path, value in leaves(cfg.to_dict()).items():
            print(f"{path}: {brief(value)}  # {cfg.origins.get(path, 'default')}")
    else:
        print(cfg.to_yaml(), end="")


def diff(parsed: Parsed, configs: Sequence[Config]) -> None:
    """Print the leaves in which two recipes differ."""
    first, second = (leaves(cfg.to_dict()) for cfg in configs)
    for path in dict.fromkeys([*first, *second]):
        if path not in second:
            print(f"- {path}: {brief(first[path])}")
        elif path not in first:
            print(f"+ {path}: {brief(second[path])}")
        elif first[path] != second[path] or type(first[path]) is not type(second[path]):
            print(f"  {path}: {brief(first[path])} -> {brief(second[path])}")


def validate(parsed: Parsed, configs: Sequence[Config]) -> None:
    """Check recipes against the classes they name."""
    for cfg in configs:
        check(cfg)
        print(f"{cfg.path}: ok")


def brief(value: Any) -> str:
    """A leaf as YAML writes it."""
    return (
        {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else str(value)
    )
