"""What a data set promises, and what all segmentation formats share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NoReturn

import cv2
import numpy as np

from ppvision.data import io
from ppvision.data.fields import IGNORE
from ppvision.data.index import PackedStrings
from ppvision.data.inspection import Part, part_of
from ppvision.errors import UserError, did_you_mean


class Dataset:
    """Random access to samples on disk. A sub-class fills its index in `__init__` and keeps no object per sample.

    All that the suite asks a data set for beyond its samples stands here with a default: nobody probes for it. An
    object of another package becomes such a data set by `adapted`.

    Attributes:
        root: folder given by `data.root`.
        split: its part.
        num_classes: K; 0 where there are no classes, or nobody knows how many.
        class_names: one per class, empty where there are none.
        palette: uint8 [K,3] RGB, one colour per class.
        ignore_index: class number that counts nowhere, neither in a loss nor in a metric; None where every label
            counts.
        category_ids: class -> id in the published file, for results in the file's own terms; None where classes are
            numbered as published.
        groups: one number per sample; shuffled training batches are of one group each. None: any samples together.
        unit: what the histogram of `data check` counts: "pixels", "images", "boxes"; empty without classes.
    """

    root: str = ""
    split: str = ""
    num_classes: int = 0
    class_names: Sequence[str] = ()
    palette: np.ndarray = np.zeros((0, 3), np.uint8)
    ignore_index: int | None = None
    category_ids: Sequence[int] | None = None
    groups: np.ndarray | None = None
    unit: str = ""

    def __init__(self, root: str, split: str):
        self.root, self.split = os.fspath(root), split
        if not os.path.isdir(self.root):
            raise UserError(f"data.root '{self.root}' is not a folder; it should hold {self.layout()}")

    def layout(self) -> str:
        """What is looked for below `root`, for the message of a missing folder."""
        raise NotImplementedError

    @classmethod
    def splits(cls, root: str) -> list[str]:
        """Names of the splits found under `root`, for checking a data set whole."""
        raise NotImplementedError

    @classmethod
    def part(cls, root: str, split: str, **options: Any) -> Part:
        """One split as `ppvision.data.check` reads it; the default reads its samples as training does.

        Args:
            root: folder of the data set.
            split: one of `splits`.
            options: further arguments of the class.
        """
        return part_of(cls(root, split, **options))

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A dict of numpy arrays (see `fields`). Raises UserError, naming the file, when the sample cannot be used."""
        raise NotImplementedError

    def name(self, index: int) -> str:
        """Path of the sample's image, for messages; does not touch the disk."""
        raise NotImplementedError

    def files(self, index: int) -> dict[str, str]:
        """Paths of everything the sample is read from, by sample key."""
        return {"image": self.name(index)}

    def where(self, index: int) -> str:
        """Start of a message about the sample: the folder, or the list and line, that names it."""
        return self.root

    def fail(self, index: int, reason: str) -> NoReturn:
        """Refuse the sample."""
        raise UserError(f"{self.where(index)}: {reason}")

    def read_image(self, index: int, relative: str) -> np.ndarray:
        """uint8 [H,W,3] RGB of `relative` below the root; `fail`s when it cannot be used."""
        try:
            return io.decode_image(io.read_bytes(os.path.join(self.root, relative)))
        except io.Unreadable as error:
            self.fail(index, f"image '{relative}' {error}")

    def folder(self, *parts: str) -> str:
        """Path of a folder below the root.

        Raises:
            UserError: it does not exist; names `data.root`, the folder and what is there instead.
        """
        path = os.path.join(self.root, *parts)
        if not os.path.isdir(path):
            parent = os.path.dirname(path)
            there = sorted(os.listdir(parent)) if os.path.isdir(parent) else []
            hint = did_you_mean(parts[-1], there) or (f" (there is {', '.join(there[:5])})" if there else "")
            raise UserError(
                f"data.root '{self.root}' has no folder '{os.path.join(*parts)}'{hint}; it should hold {self.layout()}"
            )
        return path

    def require_samples(self) -> None:
        """Raise UserError when the index is empty."""
        if not len(self):
            raise UserError(
                f"data.root '{self.root}', split '{self.split}': no samples found; it should hold {self.layout()}"
            )


PROMISES = ("root", "split", "num_classes", "class_names", "palette", "ignore_index", "category_ids", "groups", "unit")


class _Adapted(Dataset):
    """A data set of another package: its samples, and what it says of itself in our words."""

    def __init__(self, foreign: Any):
        self.foreign, self.ignore_index = foreign, IGNORE
        for key in PROMISES:
            value = getattr(foreign, key, None)
            if value is not None:
                setattr(self, key, value)
        # Without names of its own a sample is known by its number.
        self._name = getattr(foreign, "name", None)

    def layout(self) -> str:
        return f"what {type(self.foreign).__module__}.{type(self.foreign).__qualname__} reads"

    def __len__(self) -> int:
        return len(self.foreign)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.foreign[index]

    def name(self, index: int) -> str:
        return str(self._name(index)) if callable(self._name) else f"sample {index}"

    def where(self, index: int) -> str:
        return self.name(index)


def adapted(dataset: Any) -> Dataset:
    """`dataset` with all promises of `Dataset`: itself if it is one, else wrapped.

    A class named by its dotted path needs `len()` and `[i] -> dict` only (`image` uint8 [H,W,3] and its targets, see
    `fields`); `name(i)` and the attributes of `Dataset` are taken over where it has them under the same names. One that
    says nothing of ignored labels is taken to mark them as the suite does (255).
    """
    return dataset if isinstance(dataset, Dataset) else _Adapted(dataset)


class SegmentationDataset(Dataset):
    """Images with a map of class numbers each. Sub-classes set `images` and `labels` (paths below the root).

    Attributes:
        ignore_index: value of pixels that count nowhere.
        images: packed image paths.
        labels: packed label paths, as many.
        table: uint8 [257], class of every stored value, the last entry being that of all values above 255; None when
            values are classes already. An entry that is neither a class nor `ignore_index` marks a value that may not
            occur.
    """

    ignore_index: int = IGNORE
    unit = "pixels"
    images: PackedStrings
    labels: PackedStrings
    table: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return os.path.join(self.root, self.images[index])

    def files(self, index: int) -> dict[str, str]:
        return {"image": self.name(index), "label": os.path.join(self.root, self.labels[index])}

    def decode(self, mask: np.ndarray) -> np.ndarray:
        """Stored values (uint8 or uint16 [H,W]) -> classes [H,W] by `table`."""
        if self.table is None:
            return mask
        return cv2.LUT(mask, self.table[:256]) if mask.dtype == np.uint8 else self.table[np.minimum(mask, 256)]

    def __getitem__(self, index: int) -> dict[str, Any]:
        image_path, label_path = self.images[index], self.labels[index]
        image = self.read_image(index, image_path)
        try:
            mask = io.decode_mask(io.read_bytes(os.path.join(self.root, label_path)))
        except io.Unreadable as error:
            self.fail(index, f"label '{label_path}' {error}")
        if mask.shape != image.shape[:2]:
            (h, w), (height, width) = mask.shape, image.shape[:2]
            turned = " after its EXIF orientation" if (w, h) == (height, width) and self._is_turned(index) else ""
            self.fail(index, f"label '{label_path}' is {h}x{w} but image '{image_path}' is {height}x{width}{turned}")
        label = self.decode(mask)
        wrong = (label >= self.num_classes) & (label != self.ignore_index)
        if wrong.any():
            value = mask[wrong].flat[0]
            self.fail(index, f"label '{label_path}' has value {value}; {self.allowed()}")
        return {"image": image, "label": label.astype(np.uint8, copy=False), "name": self.name(index)}

    def allowed(self) -> str:
        """Which stored values are admitted, for the message about one that is not."""
        top = self.num_classes - 1
        return f"num_classes is {self.num_classes}, so 0..{top} and {self.ignore_index} (ignored) are allowed"

    def without_image(self, folder: str, suffix: str) -> list[str]:
        """Faults, for `part`: label files below `folder` that belong to no image of the data set."""
        labels = set(self.labels)
        top = os.path.join(self.root, folder)
        paths = sorted(os.path.join(d, f) for d, _, files in os.walk(top) for f in files if f.endswith(suffix))
        return [f"{path}: label has no image" for path in paths if os.path.relpath(path, self.root) not in labels]

    def _is_turned(self, index: int) -> bool:
        return io.orientation(io.read_bytes(self.name(index))) >= 5


def voc_palette(num_classes: int) -> np.ndarray:
    """uint8 [num_classes,3]: Pascal VOC's colour map, which spreads the bits of the class number over R, G and B."""
    colours = np.zeros((num_classes, 3), np.uint8)
    for k in range(num_classes):
        rest = k
        for bit in range(7, -1, -1):
            for channel in range(3):
                colours[k, channel] |= ((rest >> channel) & 1) << bit
            rest >>= 3
    return colours


def read_class_names(path: str) -> list[str]:
    """One class name per line; empty lines are left out.

    Raises:
        UserError: unreadable, or a name twice.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            names = [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read class names ({error})") from None
    seen: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if name in seen:
            raise UserError(f"{path}: class '{name}' stands there twice (entries {seen[name]} and {number})")
        seen[name] = number
    return names


def list_images(folder: str, below: str = "") -> list[str]:
    """Sorted image file names of one folder (not of its sub-folders), each joined to `below`."""
    with os.scandir(folder) as entries:
        return sorted(os.path.join(below, e.name) for e in entries if io.is_image(e.name) and not e.is_dir())
