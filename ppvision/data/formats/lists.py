"""What the formats that list their samples in `{root}/{split}.txt` share: the list, its lines, the class names, and
how they are checked and written.

Class names come from `{root}/labels.txt` (one per line); without it the number of classes must be given.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from ppvision.data.base import Dataset, read_class_names
from ppvision.data.inspection import Finding, Part, part_of
from ppvision.errors import UserError, require, within

NAMES = "labels.txt"
MAX_CLASSES = 100_000


def splits(root: str) -> list[str]:
    """Names of the lists below `root`, without `.txt`."""
    names = (os.path.splitext(name) for name in os.listdir(root))
    return sorted(stem for stem, suffix in names if suffix == ".txt" and stem != os.path.splitext(NAMES)[0])


def find_list(root: str, split: str, layout: str) -> str:
    """Path of the list of a split.

    Raises:
        UserError: there is none; names those found.
    """
    path = os.path.join(root, f"{split}.txt")
    if not os.path.isfile(path):
        found = splits(root)
        there = f"; lists found: {', '.join(found)}" if found else ""
        raise UserError(f"data.root '{root}' has no list '{split}.txt'{there}; it should hold {layout}")
    return path


def lines(path: str) -> Iterator[tuple[int, str]]:
    """(number from 1, text without the line end) of every line that is not blank."""
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line.strip("\r\n")


def check_separator(separator: str | None) -> None:
    """Refuse a separator that separates nothing."""
    require(separator is None or bool(separator), "separator", "must not be empty; null means any run of blanks")


def class_names(root: str, num_classes: int | None, default: str, limit: int = MAX_CLASSES) -> list[str]:
    """One name per class: those of `labels.txt`, or `default` with the class's number for `{}`.

    Raises:
        UserError: the number of classes is not known, not possible, or not that of the names.
    """
    path = os.path.join(root, NAMES)
    names = read_class_names(path) if os.path.isfile(path) else []
    if num_classes is None and not names:
        raise UserError(f"{root}: number of classes unknown: set num_classes, or write {NAMES} (a name per line)")
    if num_classes is not None and names and len(names) != num_classes:
        raise UserError(f"{path}: {len(names)} names but num_classes is {num_classes}")
    count = len(names) if num_classes is None else num_classes
    within(1, limit, num_classes=count)
    return names or [default.format(k) for k in range(count)]


def part(dataset: type[Dataset], root: str, split: str, **options: Any) -> Part:
    """How a listed split is checked: a malformed line is a fault of the data, while a missing list or number of classes
    is one of the command and raised.
    """
    try:
        return part_of(dataset(root, split, **options))
    except UserError as error:
        if not str(error).startswith(f"{os.path.join(root, split)}.txt:"):
            raise
        fault = f"{error} (the list cannot be read before this is mended)"
        return Part(0, lambda i: Finding(), str, faults=[fault])


def write(root: str | os.PathLike, split: str, rows: Iterable[tuple[Any, Any]]) -> None:
    """Write the list of a split: an image and what belongs to it (a label's path, a class number) on every line."""
    with open(os.path.join(root, f"{split}.txt"), "w", encoding="utf-8") as file:
        file.writelines(f"{image} {label}\n" for image, label in rows)


def write_names(root: str | os.PathLike, names: Iterable[str]) -> None:
    """Write the class names where every format that has some looks for them."""
    with open(os.path.join(root, NAMES), "w", encoding="utf-8") as file:
        file.writelines(f"{name}\n" for name in names)
