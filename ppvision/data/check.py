"""Read a data set whole and say what is wrong with it, before training does.

`check` reads every file with the code that training uses, so what it passes is what training accepts; beyond that it
looks at what training cannot see from one sample: pictures that are in two splits, labels without an image, classes
that never occur.

A *fault* is something to mend (the command exits with 1), a *note* something to know. To add a format: one function
`f(root, split, **options) -> Part` and a row in `FORMATS`. A `Part` says how many samples there are and how to
inspect one.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from ppvision.data import io
from ppvision.data.base import Dataset, SegmentationDataset, list_images
from ppvision.data.formats.ade20k import Ade20k
from ppvision.data.formats.cityscapes import Cityscapes
from ppvision.data.formats.coco import Coco, Index, annotation_fault, default_table, outline_fault
from ppvision.data.formats.idx import Idx
from ppvision.data.formats.imagefolder import ImageFolder
from ppvision.data.formats.images import Images
from ppvision.data.formats.list_file import ListFile
from ppvision.data.formats.seg_list import SegList
from ppvision.errors import UserError, did_you_mean

MODES = {"1", "L", "I;16", "I;16B", "I", "RGB", "P"}  # of Pillow: what training takes as it is, colour or grey


@dataclass
class Finding:
    """What one sample gave: `size` (height, width) of its image, `digest` of the image file's bytes, `histogram` of
    its classes."""

    size: tuple[int, int] | None = None
    digest: bytes | None = None
    histogram: np.ndarray | None = None
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Part:
    """One split as a format function describes it.

    Attributes:
        count: number of samples.
        inspect: reads sample `i` and never raises for what is on the disk.
        name: path of sample `i`'s image.
        class_names: of the histogram.
        unit: what the histogram counts.
        faults: found without reading a sample: in lists, folders or tables.
        notes: likewise.
        categories: the file that lists the classes, and (id, name) of each; all splits must have the same.
        source: which data this is; set by `check`.
    """

    count: int
    inspect: Callable[[int], Finding]
    name: Callable[[int], str]
    class_names: Sequence[str] = ()
    unit: str = ""
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    categories: tuple[str, list[tuple[int, str]]] | None = None
    source: tuple[Any, ...] = ()


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
        format: a key of `FORMATS`.
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
    _known(format)
    if not os.path.isdir(root):
        raise UserError(f"data root '{root}' is not a folder")
    names = FORMATS[format].splits(root)
    if not names:
        raise UserError(f"'{root}' holds no split of a data set in format '{format}'; is it another format?")
    return names


def _known(format: str) -> None:
    if format not in FORMATS:
        raise UserError(
            f"no data format '{format}'{did_you_mean(format, FORMATS)} (there are: {', '.join(sorted(FORMATS))})"
        )


def _check(jobs: Sequence[tuple[str, str, str, dict]], workers: int | None, progress: bool) -> CheckReport:
    started = time.monotonic()
    parts: dict[str, Part] = {}
    for format, root, split, options in jobs:
        _known(format)
        try:
            part = FORMATS[format].part(root, split, **options)
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


def look_at_image(path: str, data: bytes) -> tuple[tuple[int, int], list[str], list[str]]:
    """Size as a viewer shows it (EXIF applied), faults and notes of a picture's header.

    Raises:
        io.Unreadable: truncated, damaged or no image.
    """
    io.check_container(data)
    try:
        with Image.open(BytesIO(data)) as image:
            (width, height), mode = image.size, image.mode
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise io.Unreadable("cannot be decoded (damaged, or not an image)") from None
    turn = io.orientation(data)
    faults = [] if mode in MODES else [f"{path}: image has channels {mode}; RGB or grey is expected"]
    size = (width, height) if turn >= 5 else (height, width)
    return size, faults, [] if turn == 1 else [f"EXIF orientation {turn}"]


def read(path: str) -> bytes:
    """The bytes of a file; raises `io.Unreadable`."""
    return io.read_bytes(path)


def of_dataset(dataset: Dataset, unit: str) -> Part:
    """A part that reads samples as training does, through a dataset class."""
    k = dataset.num_classes
    maybe_unlabelled = getattr(dataset, "split", "") in ("test", "testing")

    def inspect(i: int) -> Finding:
        found, path = Finding(), dataset.name(i)
        try:
            data = read(path)
            found.digest = hashlib.blake2b(data, digest_size=16).digest()
            _, found.faults, turned = look_at_image(path, data)
        except io.Unreadable:
            turned = []  # the dataset says the same with the name of the list
        try:
            sample = dataset[i]
        except UserError as error:
            found.faults.append(str(error))
            return found
        found.size = sample["image"].shape[:2]
        label = sample.get("label")
        if isinstance(label, np.ndarray):
            found.histogram = np.bincount(label.ravel(), minlength=256)[:k]
            if not found.histogram.any() and not maybe_unlabelled:
                found.faults.append(f"{dataset.files(i)['label']}: empty annotation, every pixel is ignored")
            if turned:
                found.notes.append(
                    f"{path}: {turned[0]} is applied to the image but not to its label; look at the pair"
                )
        elif label is not None:
            found.histogram = np.bincount([label], minlength=k)
        return found

    return Part(len(dataset), inspect, dataset.name, list(dataset.class_names), unit)


def without_image(dataset: SegmentationDataset, folder: str, suffix: str) -> list[str]:
    """Faults for label files below `folder` that belong to no image of the data set."""
    wanted = set(dataset.labels)
    root = os.path.join(dataset.root, folder)
    names = sorted(os.path.join(d, f) for d, _, files in os.walk(root) for f in files if f.endswith(suffix))
    return [f"{path}: label has no image" for path in names if os.path.relpath(path, dataset.root) not in wanted]


def seg_list(root: str, split: str, **options: Any) -> Part:
    try:
        return of_dataset(SegList(root, split, **options), "pixels")
    except UserError as error:
        path = os.path.join(root, f"{split}.txt")
        # A malformed line is a fault of the data; a missing list or class count is one of the command.
        if str(error).startswith(f"{path}:"):
            return Part(
                0, lambda i: Finding(), str, faults=[f"{error} (the list cannot be read before this is mended)"]
            )
        raise


def list_file(root: str, split: str, **options: Any) -> Part:
    try:
        return of_dataset(ListFile(root, split, **options), "images")
    except UserError as error:
        if str(error).startswith(f"{os.path.join(root, split)}.txt:"):  # see `seg_list`
            return Part(
                0, lambda i: Finding(), str, faults=[f"{error} (the list cannot be read before this is mended)"]
            )
        raise


def idx(root: str, split: str, **options: Any) -> Part:
    """The pictures have no files of their own, so they are told apart by their pixels."""
    dataset = Idx(root, split, **options)

    def inspect(i: int) -> Finding:
        sample = dataset[i]
        digest = hashlib.blake2b(sample["image"].tobytes(), digest_size=16).digest()
        histogram = np.bincount([sample["label"]], minlength=dataset.num_classes)
        return Finding(sample["image"].shape[:2], digest, histogram)

    return Part(len(dataset), inspect, dataset.name, list(dataset.class_names), "images")


def cityscapes(root: str, split: str, **options: Any) -> Part:
    dataset = Cityscapes(root, split, **options)
    part = of_dataset(dataset, "pixels")
    part.faults += without_image(dataset, os.path.join("gtFine", split), f"_gtFine_{dataset.kind}.png")
    return part


def ade20k(root: str, split: str, **options: Any) -> Part:
    dataset = Ade20k(root, split, **options)
    part = of_dataset(dataset, "pixels")
    part.faults += without_image(dataset, os.path.join("annotations", dataset.split), ".png")
    return part


def imagefolder(root: str, split: str, **options: Any) -> Part:
    part = of_dataset(ImageFolder(root, split, **options), "images")
    for name in sorted(os.listdir(os.path.join(root, split))):
        folder = os.path.join(root, split, name)
        if os.path.isdir(folder) and not list_images(folder):
            part.notes.append(f"{folder}: class folder without images")
    return part


def images(root: str, split: str = "", **options: Any) -> Part:
    return of_dataset(Images(root, split, **options), "")


def coco(root: str, split: str, **options: Any) -> Part:
    """Boxes. The table is looked at whole, so that one bad entry does not hide the next."""
    relative = options.get("annotations") or default_table(split)
    table, folder = os.path.join(root, relative), options.get("images")
    folder = os.path.join(root, split if folder is None else folder)
    if not os.path.isfile(table):
        raise UserError(
            f"{table} does not exist; a coco data set is annotations/instances_{{split}}.json and {{split}}/"
        )
    faults: list[str] = []
    index = Index(table, faults.append)
    if options and not faults:
        Coco(root, split, **options)  # refuses options that do not fit the file
    dropped = options.get("bad_boxes") == "drop"
    rows = np.argsort(index.image_of, kind="stable")
    offsets = np.searchsorted(index.image_of[rows], np.arange(len(index.image_ids) + 1))
    empty = int((np.diff(offsets) == 0).sum())
    notes = [f"{split}: {empty} images have no annotation"] if empty else []
    faults += [f"{table}: {n} images are called '{name}'" for name, n in Counter(index.names).items() if n > 1 and name]
    names = list(index.category_names)
    faults += [f"{table}: {n} categories are called '{name}'" for name, n in Counter(names).items() if n > 1]

    def path_of(i: int) -> str:
        return os.path.join(folder, index.names[i])

    def inspect(i: int) -> Finding:
        name, declared, path = index.names[i], tuple(index.sizes[i].tolist()), path_of(i)
        own = rows[offsets[i] : offsets[i + 1]]
        found = Finding(histogram=np.bincount(index.category_of[own], minlength=len(names)))
        if not name:  # the entry cannot be used, which is a fault already
            return found
        try:
            data = read(path)
            found.digest = hashlib.blake2b(data, digest_size=16).digest()
            found.size, found.faults, turned = look_at_image(path, data)
            io.decode_image(data)
            if declared != found.size:
                h, w = found.size
                why = f" ({turned[0]} applied)" if turned and declared == (w, h) else ""
                found.faults.append(f"{path}: image is {h}x{w}{why} but {table} says {declared[0]}x{declared[1]}")
            elif turned:
                found.notes.append(f"{path}: {turned[0]} is applied to the image, not to its boxes; look at the pair")
        except io.Unreadable as error:
            found.faults.append(f"{path}: image {error}")
        if len(own):
            with open(table, "rb") as file:
                for start, length in index.spans[own].tolist():
                    file.seek(start)
                    entry = json.loads(file.read(length))
                    here = f"{table}: annotation {entry['id']} of '{name}'"
                    problem = annotation_fault(entry, found.size or declared)
                    if problem:
                        (found.notes if dropped else found.faults).append(f"{here}: {problem}")
                    elif entry.get("segmentation"):
                        found.notes += [f"{here}: {what}" for what in outline_fault(entry["segmentation"], declared)]
        return found

    part = Part(len(index.image_ids), inspect, path_of, names, "boxes", faults, notes)
    part.categories = (table, sorted(zip(index.category_ids.tolist(), names, strict=True)))
    return part


def _lists(root: str) -> list[str]:
    """Lists of pairs below `root`: text files with an image's name near their beginning, which a README has not."""

    def is_list(name: str) -> bool:
        with open(os.path.join(root, f"{name}.txt"), encoding="utf-8-sig", errors="surrogateescape") as file:
            return any(io.is_image(word.strip(",;")) for line in islice(file, 100) for word in line.split())

    return [name for name in SegList.splits(root) if is_list(name)]


@dataclass(frozen=True)
class Format:
    """How a format is checked: `splits(root)` names what is there, `part(root, split, **options)` describes one."""

    splits: Callable[[str], list[str]]
    part: Callable[..., Part]


FORMATS: dict[str, Format] = {
    "ade20k": Format(Ade20k.splits, ade20k),
    "cityscapes": Format(Cityscapes.splits, cityscapes),
    "coco": Format(Coco.splits, coco),
    "imagefolder": Format(ImageFolder.splits, imagefolder),
    "images": Format(Images.splits, images),
    "seg_list": Format(_lists, seg_list),
    "list_file": Format(ListFile.splits, list_file),
    "idx": Format(Idx.splits, idx),
}


def _span(span: tuple[int, int]) -> str:
    return str(span[0]) if span[0] == span[1] else f"{span[0]}..{span[1]}"


def _more(items: Sequence[str], limit: int, kind: str) -> list[str]:
    return [f"... and {len(items) - limit} more {kind}"] if len(items) > limit else []
