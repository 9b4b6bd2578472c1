"""YAML files to one plain tree that remembers where every value came from: positions, `_base_`, merging, overrides.

A tree is made of dicts, lists and scalars. Beside it goes a dict of origins, "train.iters" -> "configs/x.yml:12", so
that every later complaint can name file and line. A file is one layer; all overrides of a command are one layer.
"""

from __future__ import annotations

import copy
import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import yaml

from ppvision.errors import UserError

Origins = dict[str, str]
EXPONENT = re.compile(
    r"([-+]?\d+)(\.\d*)?[eE]([-+]?)(\d+)"
)  # a number to everybody but YAML 1.1, unless it has dot and sign
MAX_NODES = 100_000  # nested aliases grow exponentially
UPSTREAM = {
    "architecture": "PaddleDetection",
    "_BASE_": "PaddleDetection",
    "Arch": "PaddleClas",
    "Global": "PaddleClas",
    "train_dataset": "PaddleSeg or Paddle3D",
}
EXCLUSIVE = {
    "iters": "epochs",
    "epochs": "iters",
}  # of `train`: a layer that sets one drops the other one of the layers below


class Override(NamedTuple):
    """One value set from outside the files; `origin` is what the user typed, for messages."""

    key: str
    value: Any
    origin: str


class FileLoader(yaml.SafeLoader):
    """Safe loader without dates: a recipe has no use for them, a data set version such as 2024-01-31 is text."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class ShellLoader(FileLoader):
    """For values typed on a command line, where everybody writes 4e-4 and nobody reads it with another YAML parser."""


ShellLoader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(EXPONENT.pattern + "$"), list("-+0123456789"))


def float_hint(text: str) -> str:
    """How to write a number that YAML 1.1 takes for text: `4e-4` -> `; write 4.0e-4`; empty for other text."""
    if match := EXPONENT.fullmatch(text):
        whole, fraction, sign, exponent = match.groups()
        return f"; write {whole}{fraction or '.0'}e{sign or '+'}{exponent}"
    return ""


def join(path: str, key: Any) -> str:
    """Dotted path of `key` below `path`."""
    return f"{path}.{key}" if path else str(key)


def walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every node below `value`, itself excluded, as (dotted path, node), parents first."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield join(path, key), child
        yield from walk(child, join(path, key))


def leaves(value: Any) -> dict[str, Any]:
    """Dotted path -> scalar (or empty container)."""
    return {p: v for p, v in walk(value) if not (isinstance(v, (dict, list)) and v)}


def parse(text: str, where: Callable[[int], str], shell: bool = False) -> tuple[Any, Origins]:
    """One YAML document as plain data with the origin of every node.

    Args:
        where: turns a 1-based line number into the origin shown to the user.
        shell: the text was typed on a command line (see `ShellLoader`).
    Raises:
        UserError: invalid YAML, a duplicate key, an unknown tag, an unquoted number that YAML 1.1 takes for text.
    """
    origins: Origins = {}

    def fail(node: yaml.Node, problem: str) -> UserError:
        return UserError(f"{where(node.start_mark.line + 1)}: {problem}")

    def scalar(node: yaml.ScalarNode, path: str) -> Any:
        try:
            value = loader.construct_object(node)
        except (ValueError, TypeError, KeyError, yaml.YAMLError):
            raise fail(node, f"cannot read '{node.value}' as {node.tag}") from None
        if not isinstance(value, (str, int, float, bool, type(None))):
            raise fail(node, f"values of type {node.tag} are not supported")
        if isinstance(value, str) and node.style is None and (hint := float_hint(value)):
            raise fail(node, f"'{path}': YAML reads {value} as text{hint} (or quote it if text is meant)")
        return value

    def mapping(node: yaml.MappingNode, path: str, parents: tuple) -> dict:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise fail(key, "a key must be a word or a number")
            if key.value in seen:
                raise fail(key, f"duplicate key '{join(path, key.value)}'")
            seen.add(key.value)
        try:
            loader.flatten_mapping(node)  # `<<: *anchor`
        except yaml.YAMLError as e:
            raise fail(node, str(getattr(e, "problem", e))) from None
        result = {}
        for key, child in node.value:
            name = scalar(key, path)
            if not isinstance(name, (str, int)) or isinstance(name, bool):
                name = key.value  # `on:` and `null:` are words here
            child_path = join(path, name)
            origins[child_path] = where(key.start_mark.line + 1)
            result[name] = plain(child, child_path, parents)
        return result

    def plain(node: yaml.Node, path: str, parents: tuple = ()) -> Any:
        if id(node) in parents:
            raise fail(node, f"'{path}' contains itself")
        if len(origins) > MAX_NODES:
            raise fail(node, f"more than {MAX_NODES} values")
        if isinstance(node, yaml.ScalarNode):
            return scalar(node, path)
        if node.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            raise fail(node, f"tag {node.tag} is not supported")
        parents = (*parents, id(node))
        if isinstance(node, yaml.MappingNode):
            return mapping(node, path, parents)
        items = []
        for i, child in enumerate(node.value):
            origins[join(path, i)] = where(child.start_mark.line + 1)
            items.append(plain(child, join(path, i), parents))
        return items

    try:
        loader = (ShellLoader if shell else FileLoader)(text)
        node = loader.get_single_node()
        if isinstance(node, yaml.MappingNode) and not shell:
            for key, _ in node.value:  # before anything else: upstream files also have tags and keys we do not read
                if isinstance(key.value, str) and key.value in UPSTREAM:
                    suite = UPSTREAM[key.value]
                    message = f"this is a {suite} file ('{key.value}:'), not a ppvision recipe; see docs/migration.md"
                    raise fail(key, message)
        return (None if node is None else plain(node, "")), origins
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        problem = getattr(e, "problem", None) or getattr(e, "reason", None) or e
        raise UserError(f"{where(mark.line + 1 if mark else 1)}: not valid YAML: {problem}") from None
    except RecursionError:
        raise UserError(f"{where(1)}: nested too deeply") from None


def merge(base: Any, child: Any, path: str = "") -> Any:
    """`child` over `base`: mappings merge key by key, everything else is replaced.

    A component whose `type` differs from the base's replaces it whole: arguments of one class mean nothing to another.
    `data` is a section, not a component: its `type` is only the default of `data.train` and `data.val`.
    """
    if not (isinstance(base, dict) and isinstance(child, dict)):
        return copy.deepcopy(child)
    if path != "data" and "type" in child and base.get("type", child["type"]) != child["type"]:
        return copy.deepcopy(child)
    result = dict(base)
    if path == "train":
        drop_excluded(result, child)
    for key, value in child.items():
        result[key] = merge(base.get(key), value, join(path, key))
    return result


def drop_excluded(train: dict, layer: dict) -> None:
    """A layer that counts iterations replaces a lower one that counts epochs, and the other way round."""
    for key, other in EXCLUSIVE.items():
        if layer.get(key) is not None and layer.get(other) is None:
            train.pop(other, None)


def prune(origins: Origins, tree: dict) -> Origins:
    """`origins` of what is still in `tree`."""
    paths = {path for path, _ in walk(tree)}
    return {path: origin for path, origin in origins.items() if path in paths}


def read(path: str, origin: str = "", parents: tuple[str, ...] = ()) -> tuple[dict, Origins]:
    """The file at `path` over its `_base_` files, which are relative to it; of several, the later ones win.

    Args:
        origin: who asked for the file, for messages; parents: files being read, to find cycles.
    """
    prefix = f"{origin}: " if origin else ""
    real = os.path.realpath(path)
    if real in parents:
        raise UserError(f"{prefix}'{path}' is its own _base_")
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        folder = os.path.dirname(path) or "."
        names = os.listdir(folder) if os.path.isdir(folder) else []
        near = difflib.get_close_matches(os.path.basename(path), names, 1, 0.7)  # a shared suffix alone is not near
        raise UserError(f"{prefix}no file '{path}'" + (f"; did you mean '{near[0]}'?" if near else "")) from None
    except UnicodeDecodeError:
        raise UserError(f"{prefix}'{path}' is not UTF-8 text") from None
    except (OSError, ValueError) as e:
        raise UserError(f"{prefix}cannot read '{path}': {getattr(e, 'strerror', None) or e}") from None
    tree, origins = parse(text, lambda line: f"{path}:{line}")
    if tree is None:
        raise UserError(f"{prefix}'{path}' is empty; a recipe is a mapping of sections (model:, data:, train: ...)")
    if not isinstance(tree, dict):
        raise UserError(f"{path}:1: a recipe is a mapping of sections (model:, data:, train: ...)")
    bases = tree.pop("_base_", None) or []
    bases = bases if isinstance(bases, list) else [bases]
    result, result_origins = {}, {}
    for base in bases:
        if not isinstance(base, str):
            raise UserError(f"{origins['_base_']}: '_base_' must be a file name or a list of file names, got {base!r}")
        below = os.path.normpath(os.path.join(os.path.dirname(path), base))
        base_tree, base_origins = read(below, origins["_base_"], (*parents, real))
        result, result_origins = merge(result, base_tree), {**result_origins, **base_origins}
    result = merge(result, tree)
    return result, prune({**result_origins, **origins}, result)


def parse_override(text: str, flag: str = "-o") -> Override:
    """`a.b=1` -> Override("a.b", 1, "-o a.b=1"); the value is YAML, nothing after `=` is null."""
    key, equals, value = str(text).partition("=")
    origin, key = f"{flag} {text}", key.strip()
    if not equals or not key or not all(key.split(".")):
        raise UserError(f"{flag} expects key=value, got '{text}'")
    return Override(key, parse(value, lambda line: origin, shell=True)[0], origin)


def apply(tree: dict, origins: Origins, overrides: Iterable[str | Override]) -> tuple[dict, Origins]:
    """A copy of the tree with one layer of overrides; a later one wins, a list is addressed by index.

    A mapping given as value merges like a file does; `model.type=x` alone sets the name and keeps the other arguments.
    """
    layer = [o if isinstance(o, Override) else parse_override(o) for o in overrides]
    tree, origins = copy.deepcopy(tree), dict(origins)
    if isinstance(tree.get("train"), dict):
        drop_excluded(
            tree["train"], {o.key.removeprefix("train."): o.value for o in layer if o.key.startswith("train.")}
        )
    for key, value, origin in layer:
        node, rest, done = tree, key.split("."), ""
        while True:
            if isinstance(node, dict):
                names = {str(name): name for name in node}  # a key may contain dots: `optimizer.lr_mult.spp.*`
                length = next((n for n in range(len(rest), 0, -1) if ".".join(rest[:n]) in names), 1)
                step, rest = ".".join(rest[:length]), rest[length:]
                step = names.get(step, step)
            elif isinstance(node, list):
                step, rest = int(rest[0]) if rest[0].isdecimal() else -1, rest[1:]
                if not 0 <= step < len(node):
                    raise UserError(f"{origin}: '{done}' has {len(node)} items, counted from 0")
            else:
                raise UserError(f"{origin}: '{done}' is a single value, it has no '{rest[0]}'")
            done = join(done, step)
            if not rest:
                break
            if isinstance(node, dict) and node.get(step) is None:
                node[step] = {}
                origins[done] = origin
            node = node[step]
        old = node.get(step) if isinstance(node, dict) else node[step]
        node[step] = merge(old, value, done)
        origins |= {done: origin} | {path: origin for path, _ in walk(value, done)}
    return tree, prune(origins, tree)
