"""What `ppvision data check` finds in one split: the part of a data set it reads, and what one sample gave.

A format says by `Dataset.part` how it is read; most leave it at `part_of`, which reads samples as training does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ppvision.data import io
from ppvision.errors import UserError

MODES = {"1", "L", "I;16", "I;16B", "I", "RGB", "P"}  # of Pillow: what training takes as it is, colour or grey
UNLABELLED = ("test", "testing")  # splits whose labels may all be ignored


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
    """One split as a format describes it.

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


def digest(data: bytes) -> bytes:
    """By which two images are known to be the same."""
    return hashlib.blake2b(data, digest_size=16).digest()


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


class Inspected(Protocol):
    """What is asked of a data set here; `data.base.Dataset` has it."""

    split: str
    class_names: Sequence[str]
    num_classes: int
    unit: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def name(self, index: int) -> str: ...

    def files(self, index: int) -> dict[str, str]: ...


def part_of(dataset: Inspected) -> Part:
    """A part that reads samples as training does, through a dataset class."""
    k = dataset.num_classes
    maybe_unlabelled = dataset.split in UNLABELLED

    def inspect(i: int) -> Finding:
        found, path = Finding(), dataset.name(i)
        try:
            data = io.read_bytes(path)
            found.digest = digest(data)
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

    return Part(len(dataset), inspect, dataset.name, list(dataset.class_names), dataset.unit)
