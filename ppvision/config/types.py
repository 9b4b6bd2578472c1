"""Values from YAML against type annotations: one checker for the typed sections and for the arguments of components."""

from __future__ import annotations

import collections.abc as abc
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, Union

from ppvision.config.tree import float_hint, join
from ppvision.errors import UserError, did_you_mean

Where = Callable[[str], str]
WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "text", type(None): "null"}
LISTS = (list, tuple, abc.Sequence, abc.Iterable, abc.Collection)
DICTS = (dict, abc.Mapping, abc.MutableMapping)


def describe(hint: Any) -> str:
    """`list[int] | None` -> "a list (an integer each) or null"."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        limits = f">= {args[1]}" if len(args) == 2 else f"from {args[1]} to {args[2]}"
        return f"{describe(args[0])} {limits}"
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin in (Union, types.UnionType):
        return " or ".join(describe(a) for a in args)
    if (origin or hint) in LISTS:
        fixed = origin is tuple and Ellipsis not in args
        count = f" of {len(args)}" if fixed else ""
        return f"a list{count}" + (f" ({describe(args[0])} each)" if args and args[0] is not Any else "")
    if (origin or hint) in DICTS or typing.is_typeddict(hint):
        return "a mapping"
    return WORDS.get(hint) or getattr(hint, "__name__", str(hint))


def shown(value: Any) -> str:
    """A value as a message shows it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = f"the text '{value}'" if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def unknown_key(path: str, names: Iterable[str], where: Where) -> UserError:
    """`x.yml:4: unknown key 'train.optimiser'; did you mean 'optimizer'?`"""
    return UserError(f"{where(path)}: unknown key '{path}'{did_you_mean(path.rpartition('.')[2], names)}")


def convert(value: Any, hint: Any, path: str, where: Where) -> Any:
    """`value` as `hint` wants it: a list may become a tuple and an integer a float; nothing else changes.

    Raises:
        UserError: naming place, key, what was expected and what was given. Annotations that YAML cannot express pass.
    """

    def wrong() -> UserError:
        trap = float_hint(value) if isinstance(value, str) else ""
        return UserError(f"{where(path)}: '{path}' must be {describe(hint)}, got {shown(value)}{trap}")

    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        options = [a for a in args if a is not type(None)]
        if isinstance(value, Mapping) and (keyed := [a for a in options if typing.is_typeddict(a)]):
            return convert(value, keyed[0], path, where)  # its own messages are the more exact ones
        for option in options:
            try:
                return convert(value, option, path, where)
            except UserError:
                continue
        raise wrong()
    if origin is Annotated:
        result = convert(value, args[0], path, where)
        if result < args[1] or (len(args) > 2 and result > args[2]):
            raise wrong()
        return result
    if origin is Literal:
        if not any(value == a and type(value) is type(a) for a in args):
            raise wrong()
        return value
    if typing.is_typeddict(hint):
        if not isinstance(value, Mapping):
            raise wrong()
        if missing := sorted(hint.__required_keys__ - set(value)):
            raise UserError(f"{where(path)}: '{join(path, missing[0])}' is missing")
        return fields(hint, value, path, where)
    kind = origin or hint
    if kind in LISTS:
        if not isinstance(value, (list, tuple)):
            raise wrong()
        if kind is tuple and args and Ellipsis not in args:
            if len(value) != len(args):
                raise wrong()
        else:
            args = (args[0] if args else Any,) * len(value)
        items = [convert(v, a, join(path, i), where) for i, (v, a) in enumerate(zip(value, args, strict=True))]
        return tuple(items) if kind is tuple else items
    if kind in DICTS:
        if not isinstance(value, Mapping):
            raise wrong()
        element = args[1] if len(args) == 2 else Any
        return {k: convert(v, element, join(path, k), where) for k, v in value.items()}
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            result = float(value)
        except OverflowError:
            raise wrong() from None
        if not math.isfinite(result):
            raise wrong()
        return result
    if hint in WORDS and type(value) is not hint:
        raise wrong()
    return value


def fields(cls: type, mapping: Mapping, path: str, where: Where, also: Iterable[str] = ()) -> dict[str, Any]:
    """Fields of a dataclass or TypedDict from a mapping: every key is known and every value of its type.

    Args:
        also: names outside of `cls` that are good suggestions for an unknown key.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    values = {}
    for key, value in mapping.items():
        if key not in hints:
            raise unknown_key(join(path, key), [*hints, *also], where)
        values[key] = convert(value, hints[key], join(path, key), where)
    return values
