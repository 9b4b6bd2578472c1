"""seg_list: `{root}/{split}.txt`, each line an image and its label below the root, separated by blanks.

Class names come from `{root}/labels.txt` (one per line); without it `num_classes` is needed. Empty lines are skipped.
"""

from __future__ import annotations

import array
import os
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from ppvision.data import io
from ppvision.data.base import SegmentationDataset, voc_palette
from ppvision.data.formats import lists
from ppvision.data.index import PackedStrings
from ppvision.data.inspection import Part
from ppvision.errors import UserError


class SegList(SegmentationDataset):
    """Segmentation from a text file of pairs.

    Args:
        root: folder of the list; paths in it are relative to here.
        split: name of the list without `.txt`.
        num_classes: at most 255; by default the number of names in `labels.txt`.
        separator: between image and label; by default any run of blanks, so names with blanks need e.g. a tab or a
            comma here.
    """

    def __init__(self, root: str, split: str, num_classes: int | None = None, separator: str | None = None):
        lists.check_separator(separator)
        self.separator = separator
        super().__init__(root, split)
        self.list = lists.find_list(self.root, split, self.layout())
        self.class_names = lists.class_names(self.root, num_classes, "class {}", limit=self.ignore_index)
        self.num_classes = len(self.class_names)
        self.palette = voc_palette(self.num_classes)
        numbers = array.array("i")
        self.images, self.labels = PackedStrings.columns(self._pairs(numbers), 2)
        self._lines = np.array(numbers, np.int32)
        self.require_samples()

    def layout(self) -> str:
        return f"{self.split}.txt with lines `image label`"

    @classmethod
    def splits(cls, root: str) -> list[str]:
        """Lists of pairs below `root`: text files with an image's name near their beginning, which a README has not."""

        def is_list(name: str) -> bool:
            with open(os.path.join(root, f"{name}.txt"), encoding="utf-8-sig", errors="surrogateescape") as file:
                return any(io.is_image(word.strip(",;")) for line in islice(file, 100) for word in line.split())

        return [name for name in lists.splits(root) if is_list(name)]

    @classmethod
    def part(cls, root: str, split: str, **options: Any) -> Part:
        return lists.part(cls, root, split, **options)

    def where(self, index: int) -> str:
        return f"{self.list}:{self._lines[index]}"

    def _pairs(self, numbers: array.array) -> Iterator[tuple[str, str]]:
        """(image, label) of every line that is not empty; its number is appended to `numbers`."""
        for number, line in lists.lines(self.list):
            fields = [f.strip() for f in line.split(self.separator) if f.strip()]
            if len(fields) != 2:
                by = "blanks" if self.separator is None else repr(self.separator)
                raise UserError(
                    f"{self.list}:{number}: expected `image label` separated by {by}, got {len(fields)} field(s); "
                    "set separator if names hold blanks"
                )
            numbers.append(number)
            yield fields[0], fields[1]
