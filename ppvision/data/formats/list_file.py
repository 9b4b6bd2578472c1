"""list_file: `{root}/{split}.txt`, each line an image and its class number, as ImageNet's lists are (PaddleClas:
`train_list.txt`, `val_list.txt`; the split is then `train_list`).

Class names come from `{root}/labels.txt` (one per line); without it `num_classes` is needed. Empty lines are skipped.
"""

from __future__ import annotations

import array
import os
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from ppvision.data.base import Dataset, voc_palette
from ppvision.data.formats import lists
from ppvision.data.index import PackedStrings
from ppvision.data.inspection import Part
from ppvision.errors import UserError, require

__all__ = ["ListFile"]


class ListFile(Dataset):
    """Labelled images from a text file: samples have `image` and `label` (int).

    Args:
        root: folder of the list; paths in it are relative to here.
        split: name of the list without `.txt`.
        num_classes: by default the number of names in `labels.txt`.
        separator: between image and class; by default any run of blanks. The class is what follows the last one, so
            names with blanks are no obstacle.
        label_maps: folder below the root with one `.npz` per image, at the image's path: `ids` and `scores` [n,h,w],
            the n best classes of a stronger network and their scores at each place of the image, for token labelling.
    """

    unit = "images"

    def __init__(
        self,
        root: str,
        split: str,
        num_classes: int | None = None,
        separator: str | None = None,
        label_maps: str | None = None,
    ):
        super().__init__(root, split)
        lists.check_separator(separator)
        self.separator, self.label_maps = separator, label_maps
        there = label_maps is None or os.path.isdir(os.path.join(self.root, label_maps))
        require(there, "label_maps", f"is no folder below {self.root}: '{label_maps}'")
        self.list = lists.find_list(self.root, split, self.layout())
        self.class_names = lists.class_names(self.root, num_classes, "{}")
        self.num_classes = len(self.class_names)
        self.palette = voc_palette(self.num_classes)
        labels, numbers = array.array("i"), array.array("i")
        self.images = PackedStrings(self._images(labels, numbers))
        self._labels, self._lines = np.array(labels, np.int32), np.array(numbers, np.int32)
        self.require_samples()

    def layout(self) -> str:
        return f"{self.split}.txt with lines `image class_number`"

    @classmethod
    def splits(cls, root: str) -> list[str]:
        return lists.splits(root)

    @classmethod
    def part(cls, root: str, split: str, **options: Any) -> Part:
        return lists.part(cls, root, split, **options)

    def where(self, index: int) -> str:
        return f"{self.list}:{self._lines[index]}"

    def _images(self, labels: array.array, numbers: array.array) -> Iterator[str]:
        """Path of every line that is not empty; its class and number are appended."""
        for number, line in lists.lines(self.list):
            fields = [field.strip() for field in line.strip().rsplit(self.separator, 1)]
            if len(fields) != 2 or not fields[0] or not (fields[1].isascii() and fields[1].isdecimal()):
                raise UserError(f"{self.list}:{number}: expected `image class_number`, got '{line.strip()[:80]}'")
            label = int(fields[1]) if len(fields[1]) < 10 else self.num_classes
            if label >= self.num_classes:
                raise UserError(f"{self.list}:{number}: class {fields[1]:.20}, but num_classes is {self.num_classes}")
            labels.append(label)
            numbers.append(number)
            yield fields[0]

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return os.path.join(self.root, self.images[index])

    def files(self, index: int) -> dict[str, str]:
        found = {"image": self.name(index)}
        return found | {"label_map": self._map_path(index)} if self.label_maps else found

    def _map_path(self, index: int) -> str:
        return os.path.join(self.root, self.label_maps, os.path.splitext(self.images[index])[0] + ".npz")

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.read_image(index, self.images[index])
        sample = {"image": image, "label": int(self._labels[index]), "name": self.name(index)}
        return sample | self._token_labels(index) if self.label_maps else sample

    def _token_labels(self, index: int) -> dict[str, np.ndarray]:
        path = self._map_path(index)
        try:
            with np.load(path) as arrays:
                ids, scores = arrays["ids"].astype(np.int32), arrays["scores"].astype(np.float32)
        except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            self.fail(index, f"label map '{path}' cannot be read ({error})")
        if ids.ndim != 3 or not ids.size or ids.shape != scores.shape or ids.min() < 0 or ids.max() >= self.num_classes:
            self.fail(index, f"label map '{path}': ids and scores are [n,h,w] with classes 0..{self.num_classes - 1}")
        return {"token_ids": ids, "token_scores": scores}
