"""The one grammar of all commands, driven by tables of flags.

`--k=v` and `--k v`; `-` and `_` are the same inside a name; a repeated flag is legal and the last one wins; no prefix
completion; a boolean may stand alone; a list ends at the next flag; `-o k=v ...` overrides the recipe; a value may
carry its own quotes. argparse cannot do half of it. Imports nothing heavy: `--help` is answered from here.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ppvision.config.tree import Override, parse_override
from ppvision.errors import UserError, did_you_mean

TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
NUMBER = re.compile(r"-\d*\.?\d+([eE][-+]?\d+)?")
KINDS = {int: "an integer", float: "a number"}


@dataclass(frozen=True)
class Flag:
    """One row of a verb's table.

    Attributes:
        names: spellings, the first one is the name; a word without dashes is a positional argument.
        kind: bool, int, float, str, or [int], [float], [str] for a list.
        help: one line; a row without is accepted but not listed.
        key: recipe key that receives the value.
        to: instead of `key`: (value, all values, recipe) -> {key: value}, for what takes more than a copy.
        opts: override keys of other suites (`-o Global.epochs=3`) that mean this flag.
        optional: value of the bare flag when the value may be left out.
        choices: the only values.
        refuse: why the flag is not supported and what to use instead.
        group: heading in the help.
    """

    names: str
    kind: Any = str
    help: str = ""
    key: str | None = None
    to: Callable[..., dict[str, Any]] | None = None
    opts: str = ""
    optional: Any = None
    choices: tuple[str, ...] = ()
    refuse: str | None = None
    group: str = ""
    required: bool = False
    metavar: str = ""

    @property
    def name(self) -> str:
        """Key among the parsed values."""
        return self.names.split()[0].lstrip("-").replace("-", "_")

    @property
    def spellings(self) -> list[str]:
        """All spellings, with underscores."""
        return [canonical(n) for n in self.names.split()]


@dataclass
class Parsed:
    """What a command line says.

    Attributes:
        values: by flag name. spellings: how each was spelled, for messages.
        overrides: together with the flags, in order of appearance.
    """

    values: dict[str, Any] = field(default_factory=dict)
    spellings: dict[str, str] = field(default_factory=dict)
    overrides: list[Override | Flag] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return self.values.get(name)


def canonical(flag: str) -> str:
    """`--do-eval` -> `--do_eval`."""
    body = flag.lstrip("-")
    return flag[: len(flag) - len(body)] + body.replace("-", "_")


def is_flag(token: str) -> bool:
    """Whether a word starts a flag; a negative number does not."""
    return token.startswith("-") and token != "-" and not NUMBER.fullmatch(token)


def unquoted(text: str) -> str:
    """A value without the quotes that a harness left around it."""
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"" else text


def value_of(kind: Any, text: str, spelling: str) -> Any:
    """The text of one value as `kind`.

    Raises:
        UserError: it is not of that kind.
    """
    text = unquoted(text)
    if kind is bool:
        if text.lower() not in TRUE + FALSE:
            raise UserError(f"{spelling} must be true or false, got '{text}'")
        return text.lower() in TRUE
    if isinstance(kind, list):
        return [value_of(kind[0], item, spelling) for item in re.split(r"[\s,]+", text.strip("[]() \t")) if item]
    try:
        return kind(text)
    except ValueError:
        raise UserError(f"{spelling} must be {KINDS[kind]}, got '{text}'") from None


def parse_args(verb: str, table: Sequence[Flag], argv: Sequence[str]) -> Parsed:
    """Read a command line by its table.

    Raises:
        UserError: unknown or refused flag, missing or wrong value, missing required flag.
    """
    flags = {spelling: flag for flag in table for spelling in flag.spellings if spelling.startswith("-")}
    positionals = [flag for flag in table if not flag.names.startswith("-")]
    opts = {key: flag for flag in table for key in flag.opts.split()}
    parsed, tokens = Parsed(), list(argv)

    def put(flag: Flag, value: Any, spelling: str) -> None:
        if flag.refuse:
            raise UserError(f"{spelling.split('=')[0]} is not supported: {flag.refuse}")
        for item in value if isinstance(value, list) else [value]:
            if flag.choices and item is not None and item not in flag.choices:
                raise UserError(
                    f"{spelling.split('=')[0].split()[0]} must be one of {', '.join(flag.choices)}, got '{item}'"
                )
        parsed.values[flag.name], parsed.spellings[flag.name] = value, spelling
        parsed.overrides.append(flag)

    def override(text: str, spelling: str) -> None:
        text = unquoted(text)
        key, _, value = text.partition("=")
        if flag := opts.get(key.strip()):
            if flag.refuse is None:
                value = value_of(flag.kind, value.strip(), f"{spelling} {text}:")
            put(flag, value, f"{spelling} {text}")
        else:
            parsed.overrides.append(parse_override(text, spelling))

    while tokens:
        token = tokens.pop(0)
        if not is_flag(token):
            if not positionals:
                raise UserError(f"{verb}: unexpected '{token}'; flags start with -- (ppvision {verb} --help)")
            flag = positionals[0]
            if isinstance(flag.kind, list):
                parsed.values.setdefault(flag.name, []).append(unquoted(token))
            else:
                put(positionals.pop(0), value_of(flag.kind, token, flag.name), flag.name)
            continue
        spelling, equals, text = token.partition("=")
        flag = flags.get(canonical(spelling))
        if flag is None:
            raise UserError(f"{verb}: unknown flag '{spelling}'{did_you_mean(canonical(spelling), flags)}")
        if flag.refuse:
            put(flag, None, spelling)
        if flag.kind == "overrides":
            items = [text] if equals else []
            while not equals and tokens and not is_flag(tokens[0]):
                items.append(tokens.pop(0))
            if not items:
                raise UserError(f"{spelling} expects key=value")
            for item in items:
                override(item, spelling)
        elif equals:
            put(flag, value_of(flag.kind, text, spelling), f"{spelling}={text}")
        elif flag.kind is bool:
            word = tokens.pop(0) if tokens and unquoted(tokens[0]).lower() in TRUE + FALSE else "true"
            put(flag, value_of(bool, word, spelling), f"{spelling} {word}")
        elif isinstance(flag.kind, list):
            items = []
            while tokens and not is_flag(tokens[0]):
                items.append(tokens.pop(0))
            if not items:
                raise UserError(f"{spelling} needs a value")
            put(
                flag,
                [v for item in items for v in value_of(flag.kind, item, spelling)],
                f"{spelling} {' '.join(items)}",
            )
        elif tokens and not is_flag(tokens[0]):
            text = tokens.pop(0)
            put(flag, value_of(flag.kind, text, spelling), f"{spelling} {text}")
        elif flag.optional is not None:
            put(flag, flag.optional, spelling)
        else:
            raise UserError(f"{spelling} needs a value")
    for flag in table:
        if flag.required and flag.name not in parsed.values:
            raise UserError(f"{verb}: {flag.names.split()[0]} is missing (ppvision {verb} --help)")
    return parsed


def recipe_overrides(parsed: Parsed, recipe: Any = None) -> list[Override]:
    """Everything the command line changes in the recipe, in its order, so that the last one wins.

    Args:
        recipe: the Config without these overrides, for flags whose meaning depends on it.
    """
    result = []
    for item in parsed.overrides:
        if isinstance(item, Override):
            result.append(item)
        elif item.key:
            result.append(Override(item.key, parsed.values[item.name], parsed.spellings[item.name]))
        elif item.to:
            changes = item.to(parsed.values[item.name], parsed, recipe)
            result += [Override(k, v, parsed.spellings[item.name]) for k, v in changes.items()]
    return result


def extras_of(parsed: Parsed) -> dict[str, Any]:
    """What `--extra name=value` says; a value is read as in a recipe.

    Raises:
        UserError: no `=`.
    """
    extras = {}
    for text in parsed.extra or ():
        name, equals, value = unquoted(text).partition("=")
        if not equals or not name:
            raise UserError(f"--extra {text}: expected name=value")
        extras[name] = parse_override(f"{name}={value}", "--extra").value
    return extras


def help_text(verb: str, about: str, table: Iterable[Flag]) -> str:
    """The `--help` of a verb from its table: groups, spellings, one line each."""
    table = [flag for flag in table if flag.help]
    words = [f"<{f.name}>" + ("..." if isinstance(f.kind, list) else "") for f in table if not f.names.startswith("-")]
    needed = [
        f"{f.names.split()[-1]} {f.metavar or f.name.upper()}" for f in table if f.required and f.names.startswith("-")
    ]
    lines = [" ".join(["usage: ppvision", verb, *words, *needed, "[flags]"]), "", textwrap.fill(about, 110)]
    last = ("machine", "other")
    for group in sorted(dict.fromkeys(flag.group for flag in table), key=lambda g: g in last and 1 + last.index(g)):
        lines += ["", f"{group or 'arguments'}:"]
        for flag in table:
            if flag.group != group:
                continue
            left = f"  {', '.join(flag.names.split())}{_value_name(flag)}"
            text = flag.help + (f" (-o {', '.join(flag.opts.split())})" if flag.opts else "")
            wrapped = textwrap.wrap(text, 84)
            lines += [left] if len(left) > 30 else [left.ljust(32) + wrapped.pop(0)]
            lines += [" " * 32 + line for line in wrapped]
    return "\n".join([*lines, ""])


def _value_name(flag: Flag) -> str:
    if not flag.names.startswith("-") or flag.kind is bool:
        return ""
    if flag.kind == "overrides":
        return " KEY=VALUE ..."
    kind = flag.kind[0] if isinstance(flag.kind, list) else flag.kind
    name = flag.metavar or "|".join(flag.choices) or {int: "N", float: "X"}.get(kind, flag.name.upper())
    name = f" {name}" + (" ..." if isinstance(flag.kind, list) else "")
    return f" [{name.strip()}]" if flag.optional is not None else name
