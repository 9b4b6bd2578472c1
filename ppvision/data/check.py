"""Read a data set whole and say what is wrong with it, before training does.

`check` reads every file with the code that training uses, so what it passes is what training accepts; beyond that it
looks at what training cannot see from one sample: pictures that are in two splits, labels without an image, classes
that never occur.

A *fault* is something to mend (the command exits with 1), a *note* something to know. A format is a row of `DATASETS`;
its class says by `splits` what is there and by `part` how one split is read (`ppvision.data.base.Dataset`).
"""

from __future__ import annotations

import importlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppvision.data import DATASETS
from ppvision.data.base import Dataset
from ppvision.data.inspection import Finding, Part
from ppvision.errors import UserError, did_you_mean


@dataclass
class SplitReport:
    """Figures of one split. `height` and `width` are (smallest, largest), None when nothing could be read."""

    count: int
    height: tuple[int, int] | None
    width: tuple[int, int] | None
    unit: str
    classes: dict[str, int]


@dataclass
class CheckReport:
    """Result of `check`. `faults` holds all of them, in the order of the samples; each names its file."""

    format: str
    root: str
    splits: dict[str, SplitReport]
    faults: list[str]
    notes: list[str]
    seconds: float

    @property
    def ok(self) -> bool:
        return not self.faults

    def to_json(self) -> str:
        """The report as JSON, all faults included."""
        content = {
            "format": self.format,
            "root": self.root,
            "ok": self.ok,
            "splits": {name or "all": vars(split) for name, split in self.splits.items()},
            "num_faults": len(self.faults),
            "faults": self.faults,
            "notes": self.notes,
            "seconds": round(self.seconds, 3),
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def lines(self, limit: int = 20) -> list[str]:
        """The report for a person: figures, notes, and the first `limit` faults."""
        out = [f"{self.root} ({self.format})"]
        for name, split in self.splits.items():
            size = ""
            if split.height and split.width:
                size = f", height {_span(split.height)}, width {_span(split.width)}"
            out.append(f"{name or 'all'}: {split.count} samples{size}")
            total = sum(split.classes.values())
            shown = [(k, v) for k, v in split.classes.items() if v]
            if shown:
                out.append(f"  {split.unit} of each class:")
                wide = max(len(k) for k, _ in shown)
                out += [f"    {k:{wide}}  {v:>12}  {100 * v / total:6.2f} %" for k, v in shown]
        out += [f"note: {note}" for note in self.notes[:limit]]
        out += _more(self.notes, limit, "notes")
        out += [f"fault: {fault}" for fault in self.faults[:limit]]
        out += _more(self.faults, limit, "faults")
        num = sum(split.count for split in self.splits.values())
        verdict = "no faults" if self.ok else f"{len(self.faults)} fault{'s' * (len(self.faults) > 1)}"
        return [*out, f"{num} samples read in {self.seconds:.1f} s: {verdict}"]


def check(
    format: str,
    root: str | os.PathLike,
    split: str | None = None,
    *,
    workers: int | None = None,
    progress: bool = False,
    **options: Any,
) -> CheckReport:
    """Read every sample of a data set.

    Args:
        format: a key of `ppvision.data.DATASETS`.
        root: its folder.
        split: one split; None reads all that are found, and looks for images that are in two of them.
        workers: reading threads; default: two more than processors, at most 16.
        progress: show a bar on standard error.
        options: further arguments of the format's dataset class (`num_classes`, `labels`, ...).

    Returns:
        The report; what is wrong on the disk is in it and is never raised.

    Raises:
        UserError: no such format, folder or split: nothing could be looked at.
    """
    root = os.fspath(root)
    names = find_splits(format, root) if split is None else [split]
    return _check([(format, root, name, options) for name in names], workers, progress)


def check_config(config: Any, *, workers: int | None = None, progress: bool = False) -> CheckReport:
    """`check` what a recipe trains and evaluates on: `data.train` and `data.val`, each with its own keys.

    Args:
        config: a loaded `ppvision.config.Config`.
        workers: see `check`.
        progress: see `check`.

    Raises:
        UserError: see `check`; or the recipe names no data.
    """
    jobs: list[tuple[str, str, str, dict]] = []
    for section in ("train", "val"):
        component = getattr(config.data, section)
        if component is None:
            continue
        options = dict(component.kwargs)
        options.pop("transforms", None)
        format = component.type or config.data.type
        root, split = options.pop("root", None) or config.data.root, options.pop("split", section)
        if not format or not root:
            raise UserError(f"data.{section}: 'type' and 'root' are needed, here or in data")
        job = (format, os.fspath(root), split, options)
        if job not in jobs:
            jobs.append(job)
    if not jobs:
        raise UserError("the recipe names no data to check: data.train and data.val are missing")
    return _check(jobs, workers, progress)


def find_splits(format: str, root: str) -> list[str]:
    """Names of the splits below `root`.

    Raises:
        UserError: no such format or folder, or no split in it.
    """
    dataset = dataset_class(format)
    if not os.path.isdir(root):
        raise UserError(f"data root '{root}' is not a folder")
    names = dataset.splits(root)
    if not names:
        raise UserError(f"'{root}' holds no split of a data set in format '{format}'; is it another format?")
    return names


def dataset_class(format: str) -> type[Dataset]:
    """The class that reads a format.

    Raises:
        UserError: there is none of that name.
    """
    if format not in DATASETS:
        raise UserError(
            f"no data format '{format}'{did_you_mean(format, DATASETS)} (there are: {', '.join(sorted(DATASETS))})"
        )
    module, _, name = DATASETS[format].partition(":")
    return getattr(importlib.import_module(module), name)


def _check(jobs: Sequence[tuple[str, str, str, dict]], workers: int | None, progress: bool) -> CheckReport:
    started = time.monotonic()
    parts: dict[str, Part] = {}
    for format, root, split, options in jobs:
        dataset = dataset_class(format)
        try:
            part = dataset.part(root, split, **options)
        except TypeError as error:  # an option the format does not have
            raise UserError(f"data format '{format}': {error}") from None
        # The same split read twice with other options (clipped for training, not for evaluation) is no leakage.
        part.source = (format, root, split, options.get("annotations"), options.get("images"))
        parts[split if split not in parts else f"{root}: {split}"] = part
    kinds, roots = (list(dict.fromkeys(job[i] for job in jobs)) for i in (0, 1))
    report = CheckReport(", ".join(kinds), ", ".join(roots), {}, [], [], 0.0)
    seen: dict[bytes, tuple[Any, str, str]] = {}  # digest -> source, split and path of the first image with these bytes
    listed = [part.categories for part in parts.values() if part.categories]
    for where, categories in listed[1:]:
        differing = sorted(set(categories) ^ set(listed[0][1]))
        if differing:
            id, name = differing[0]
            report.faults.append(f"{where}: categories differ from those of {listed[0][0]}, e.g. {id} '{name}'")
    from tqdm import tqdm

    with (
        ThreadPoolExecutor(workers or min(16, (os.cpu_count() or 1) + 2)) as pool,
        tqdm(total=sum(p.count for p in parts.values()), unit="sample", disable=not progress, leave=False) as bar,
    ):
        for name, part in parts.items():
            report.faults += part.faults
            report.notes += part.notes
            report.splits[name] = _read(name, part, pool, bar, report, seen)
    report.seconds = time.monotonic() - started
    return report


def _read(name: str, part: Part, pool: ThreadPoolExecutor, bar: Any, report: CheckReport, seen: dict) -> SplitReport:
    """Inspect one split, adding to `report` and `seen`."""
    sizes: list[tuple[int, int]] = []
    histogram = np.zeros(len(part.class_names), np.int64)
    twice, leaked = [], []
    for i, found in enumerate(_in_order(pool, part.inspect, part.count)):
        bar.update()
        report.faults += found.faults
        report.notes += found.notes
        if found.size:
            sizes.append(found.size)
        if found.histogram is not None:
            histogram += found.histogram
        if found.digest:
            path = part.name(i)
            source, other, first = seen.setdefault(found.digest, (part.source, name, path))
            if source != part.source:
                shared = f"so splits '{other}' and '{name}' share an image (leakage)"
                leaked.append(f"{path}: same bytes as {first}, {shared}")
            elif first != path:
                twice.append((path, first))
    report.faults += leaked
    if twice:
        report.notes.append(f"{name or 'all'}: {len(twice)} images occur twice, e.g. {twice[0][0]} = {twice[0][1]}")
    missing = [c for c, n in zip(part.class_names, histogram.tolist(), strict=True) if n == 0]
    if missing and part.count:
        report.notes.append(
            f"{name or 'all'}: {len(missing)} classes never occur: {', '.join(missing[:10])}"
            + ", ..." * (len(missing) > 10)
        )
    spans = [(int(min(side)), int(max(side))) for side in zip(*sizes, strict=True)] or [None, None]
    classes = dict(zip(part.class_names, histogram.tolist(), strict=True))
    return SplitReport(part.count, spans[0], spans[1], part.unit, classes)


def _in_order(pool: ThreadPoolExecutor, inspect: Callable[[int], Finding], count: int) -> Iterator[Finding]:
    """Findings of 0..count-1; only a window of them is in flight, so that a million samples need no million futures."""
    window: deque = deque()
    for i in range(count):
        window.append(pool.submit(inspect, i))
        if len(window) >= 256:
            yield window.popleft().result()
    while window:
        yield window.popleft().result()


def _span(span: tuple[int, int]) -> str:
    return str(span[0]) if span[0] == span[1] else f"{span[0]}..{span[1]}"


def _more(items: Sequence[str], limit: int, kind: str) -> list[str]:
    return [f"... and {len(items) - limit} more {kind}"] if len(items) > limit else []
