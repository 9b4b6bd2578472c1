"""idx: the format of MNIST, Fashion-MNIST, KMNIST and EMNIST: gzipped or plain arrays of bytes.

`{root}/{train,t10k}-images-idx3-ubyte[.gz]` and `-labels-idx1-ubyte[.gz]`; the split `val` (or `test`) reads the `t10k`
files. Class names come from `{root}/labels.txt`, else they are numbers. All pictures are held in one array: 47 MB for
60,000 of 28x28, shared by the loader's workers.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from typing import Any

import numpy as np

from ppvision.data.base import Dataset, read_class_names, voc_palette
from ppvision.data.inspection import Finding, Part, digest
from ppvision.errors import UserError

__all__ = ["Idx", "decode"]

PARTS = {"train": "train", "val": "t10k", "test": "t10k"}


def decode(data: bytes) -> np.ndarray:
    """The array of an idx file of unsigned bytes; gzip is undone.

    Raises:
        ValueError: not such a file, or cut off.
    """
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"is a damaged gzip file ({error})") from None
    if len(data) < 4 or data[:3] != b"\0\0\x08" or len(data) < 4 + 4 * data[3]:
        raise ValueError("is not an idx file of unsigned bytes")
    shape = struct.unpack_from(f">{data[3]}I", data, 4)
    offset = 4 + 4 * data[3]
    if len(data) - offset != int(np.prod(shape, dtype=np.int64)):
        raise ValueError(f"is cut off: {len(data) - offset} bytes for an array of {list(shape)}")
    return np.frombuffer(data, np.uint8, offset=offset).reshape(shape)


class Idx(Dataset):
    """Grey pictures with a class each; samples have `image` [H,W,3] (grey repeated) and `label`.

    Args:
        root: folder of the files.
        split: `train`, or `val` (the same as `test`).
    """

    unit = "images"

    def __init__(self, root: str, split: str):
        super().__init__(root, split)
        if split not in PARTS:
            raise UserError(f"idx: no split '{split}' (there are: {', '.join(PARTS)})")
        self.images, self.labels = self._read("images", 3), self._read("labels", 1)
        if len(self.images) != len(self.labels):
            raise UserError(f"{self.root}: {len(self.images)} images but {len(self.labels)} labels in '{split}'")
        names = os.path.join(self.root, "labels.txt")
        count = int(self.labels.max()) + 1 if len(self.labels) else 0
        self.class_names = read_class_names(names) if os.path.isfile(names) else [str(k) for k in range(count)]
        if len(self.class_names) < count:
            raise UserError(f"{names}: {len(self.class_names)} names, but a label is {count - 1}")
        self.num_classes = len(self.class_names)
        self.palette = voc_palette(self.num_classes)
        self.require_samples()

    def layout(self) -> str:
        part = PARTS.get(self.split, self.split)
        return f"{part}-images-idx3-ubyte.gz and {part}-labels-idx1-ubyte.gz"

    @classmethod
    def splits(cls, root: str) -> list[str]:
        there = os.listdir(root)
        return [s for s in ("train", "val") if any(name.startswith(f"{PARTS[s]}-images-idx3") for name in there)]

    @classmethod
    def part(cls, root: str, split: str, **options: Any) -> Part:
        """The pictures have no files of their own, so they are told apart by their pixels."""
        dataset = cls(root, split, **options)

        def inspect(i: int) -> Finding:
            sample = dataset[i]
            histogram = np.bincount([sample["label"]], minlength=dataset.num_classes)
            return Finding(sample["image"].shape[:2], digest(sample["image"].tobytes()), histogram)

        return Part(len(dataset), inspect, dataset.name, list(dataset.class_names), dataset.unit)

    def _path(self, kind: str, axes: int) -> str:
        stem = os.path.join(self.root, f"{PARTS[self.split]}-{kind}-idx{axes}-ubyte")
        return f"{stem}.gz" if os.path.isfile(f"{stem}.gz") else stem

    def _read(self, kind: str, axes: int) -> np.ndarray:
        path = self._path(kind, axes)
        try:
            with open(path, "rb") as file:
                array = decode(file.read())
        except FileNotFoundError:
            raise UserError(f"{path}.gz is missing; data.root should hold {self.layout()}") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
        except ValueError as error:
            raise UserError(f"{path} {error}") from None
        if array.ndim != axes:
            raise UserError(f"{path} has {array.ndim} axes, {kind} have {axes}")
        return array

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        return f"{self._path('images', 3)}#{index}"

    def files(self, index: int) -> dict[str, str]:
        return {"image": self._path("images", 3), "label": self._path("labels", 1)}

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = np.repeat(self.images[index][:, :, None], 3, axis=2)
        return {"image": image, "label": int(self.labels[index]), "name": self.name(index)}
