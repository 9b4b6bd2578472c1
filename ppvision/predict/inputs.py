"""Which files are meant, and where their results go.

A file with a suffix that the task reads is one input; any other file is a list, one input per line in the first column,
relative to the list's folder; a folder is walked recursively, hidden files and folders skipped. No input at all is an
error.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from ppvision.data.io import IMAGE_SUFFIXES
from ppvision.errors import UserError


def find_inputs(source: str | os.PathLike[str], suffixes: Collection[str] = IMAGE_SUFFIXES) -> list[Path]:
    """Files that a task reads (`Task.suffixes`) of a file, list or folder, a folder's sorted by path.

    Raises:
        UserError: nothing there, or a listed file does not exist.
    """
    source = Path(source)
    if source.is_dir():
        found = sorted(
            Path(folder) / name
            for folder, folders, names in _walk(source)
            for name in names
            if not name.startswith(".") and Path(name).suffix.lower() in suffixes
        )
        if not found:
            raise UserError(f"{source}: no {_kind(suffixes)} in this folder (suffixes: {', '.join(sorted(suffixes))})")
        return found
    if not source.is_file():
        raise UserError(f"{source}: no such file or folder")
    if source.suffix.lower() in suffixes:
        return [source]
    return _read_list(source, suffixes)


def _kind(suffixes: Collection[str]) -> str:
    return "image" if set(suffixes) <= set(IMAGE_SUFFIXES) else "input"


def _walk(source: Path):
    for folder, folders, names in os.walk(source):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield folder, folders, names


def _read_list(path: Path, suffixes: Collection[str]) -> list[Path]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        known = ", ".join(sorted(suffixes))
        kind = _kind(suffixes)
        raise UserError(f"{path}: neither an {kind} ({known}) nor a text file with a list of {kind}s") from None
    found = []
    for number, line in enumerate(lines, start=1):
        line = line.strip()
        if not line:
            continue
        # A name with blanks is a column of its own only in a list of one column.
        image = next(
            (path.parent / c for c in (line, line.split("\t")[0], line.split()[0]) if (path.parent / c).is_file()), None
        )
        if image is None:
            raise UserError(f"{path}:{number}: image '{line.split()[0]}' does not exist in {path.parent}")
        found.append(image)
    if not found:
        raise UserError(f"{path}: the list is empty; each line names an image, relative to the list's folder")
    return found


def result_stems(images: Sequence[str | os.PathLike[str]]) -> list[str]:
    """A file stem for each image: its own, with parent folders in front (`city_0001`) where two images would share one,
    and a number where even that does not tell them apart."""
    paths = [Path(image) for image in images]
    stems = [path.stem for path in paths]
    for depth in range(2, max((len(path.parts) for path in paths), default=0) + 1):
        counts = Counter(stems)
        if max(counts.values()) == 1:
            return stems
        for i, path in enumerate(paths):
            if counts[stems[i]] > 1 and len(path.parts) >= depth:
                stems[i] = "_".join([*(part.strip(os.sep) for part in path.parts[-depth:-1]), path.stem])
    taken: set[str] = set()
    for i, stem in enumerate(stems):
        number = 1
        while stems[i] in taken:
            number += 1
            stems[i] = f"{stem}_{number}"
        taken.add(stems[i])
    return stems
