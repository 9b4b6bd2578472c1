"""A mutant in the making: what all start from, the change that is made, and the words that must be said."""

from __future__ import annotations

import contextlib
import copy
import inspect
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from recipe_tables import NAME, SPEC

from ppvision.config import tree


@dataclass
class Stock:
    """What all mutants start from: a data set, a trained run, weights of another network."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def spec(self) -> dict[str, Any]:
        spec = copy.deepcopy(SPEC)
        spec["data"]["root"] = str(self.data)
        return spec


@dataclass
class Case:
    """One mutant in the making.

    Attributes:
        folder: its own; spec: the recipe, to be changed in place, or `text` instead of it.
        flags: added to the command line; verb: the command, without `-c` if `bare`.
        words: of which the message must contain one; what: the mistake in words; path: the key that is wrong, if there
            is one: its line in the recipe, or that of what it belongs to, names it too.
        statuses: exit statuses that are right; untouched: the run folder may not appear.
        guarded: a folder in which no byte may change.
    """

    stock: Stock
    folder: Path
    rng: np.random.Generator
    spec: dict[str, Any]
    text: str | bytes | None = None
    verb: tuple[str, ...] = ("train",)
    flags: list[str] = field(default_factory=list)
    bare: bool = False
    words: tuple[str, ...] = ()
    what: str = ""
    path: str = ""
    statuses: tuple[int, ...] = (2,)
    untouched: bool = True
    guarded: Path | None = None

    @property
    def recipe(self) -> Path:
        return self.folder / NAME

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def pick(self, items: Any) -> Any:
        items = list(items)
        return items[int(self.rng.integers(len(items)))]

    def copy_data(self) -> Path:
        """A data set of its own; `data.workers` is drawn, for a mistake must look the same from a worker."""
        root = self.folder / "data"
        shutil.copytree(self.stock.data, root)
        self.spec["data"]["root"] = str(root)
        self.spec["data"]["workers"] = self.pick([0, 0, 2])
        self.untouched = False
        return root

    def lines(self) -> tuple[str, ...]:
        """Where the wrong key stands, "recipe.yml:12", and where what it belongs to does."""
        if not self.path or self.text is not None:
            return ()
        origins = tree.read(str(self.recipe))[1]
        parts = self.path.split(".")
        found = [origins.get(".".join(parts[:n])) for n in range(len(parts), 0, -1)]
        return tuple(Path(origin).name for origin in found if origin)

    def argv(self) -> list[str]:
        """The command line; writes the recipe."""
        text = yaml.safe_dump(self.spec, sort_keys=False) if self.text is None else self.text
        self.recipe.write_bytes(text if isinstance(text, bytes) else text.encode())
        where = [] if self.bare else [str(self.recipe)] if self.verb[0] == "config" else ["-c", str(self.recipe)]
        save = ["--save_dir", str(self.run)] if self.verb[0] == "train" and not self.bare else []
        return [*self.verb, *where, *save, *self.flags]


def at(tree: Any, path: str) -> Any:
    """The node at a dotted path."""
    for part in path.split("."):
        tree = tree[int(part)] if isinstance(tree, list) else tree[part]
    return tree


def put(tree: Any, path: str, value: Any) -> None:
    """Set the node at a dotted path."""
    above, _, last = path.rpartition(".")
    node = at(tree, above) if above else tree
    node[int(last) if isinstance(node, list) else last] = value


def remove(tree: Any, path: str) -> None:
    """Delete the key at a dotted path."""
    above, _, last = path.rpartition(".")
    del (at(tree, above) if above else tree)[last]


def key_of(path: str) -> str:
    """The last part of a path that is not a list index."""
    return next(part for part in reversed(path.split(".")) if not part.isdecimal())


def key_paths(tree: Any, path: str = "") -> Iterator[str]:
    """Every key of a recipe whose name is fixed (patterns of `lr_mult` are not)."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        here = f"{path}.{key}" if path else str(key)
        if isinstance(tree, dict) and key_of(path or "x") != "lr_mult":
            yield here
        yield from key_paths(value, here)


@cache
def known_names() -> frozenset[str]:
    """Every key that means something anywhere in a recipe: a typo may not hit one."""
    import dataclasses

    from ppvision.config import schema
    from ppvision.config.component import TABLES, resolve
    from ppvision.config.recipe import ORDER

    names = {*ORDER, "type", "weights", "transforms", "_base_"}
    for section in (schema.Data, schema.Train, schema.Eval, schema.Export, schema.Log):
        names |= {f.name for f in dataclasses.fields(section)}
    names |= {*schema.Best.__annotations__, *schema.Slide.__annotations__}
    kinds = {"method", "loss", "head", "dataset", "transform", "metric", "optimizer", "schedule"}
    for kind in kinds & set(TABLES):
        module, attribute = TABLES[kind]
        for name in getattr(__import__(module, fromlist=[attribute]), attribute):
            with contextlib.suppress(ImportError, AttributeError):  # a name whose optional package is not installed
                names |= set(inspect.signature(resolve(kind, name)).parameters)
    from ppvision.models import zoo

    return frozenset(names | set(zoo.signature("rtformer_debug").parameters))


def typo(rng: np.random.Generator, word: str) -> str:
    """A slip of the finger: a letter dropped, doubled, exchanged with its neighbour or replaced."""
    while True:
        i, how = int(rng.integers(len(word))), int(rng.integers(4))
        letter = "abcdefghijklmnopqrstuvwxyz"[int(rng.integers(26))]
        slipped = [
            word[:i] + word[i + 1 :],
            word[:i] + word[i] + word[i:],
            word[:i] + word[i + 1 : i + 2] + word[i] + word[i + 2 :],
            word[:i] + letter + word[i + 1 :],
        ][how]
        if slipped not in known_names() and slipped and slipped[0].isalpha():
            return slipped
