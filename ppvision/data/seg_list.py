"""seg_list: `{root}/{split}.txt`, each line an image and its label below the root, separated by blanks.

Class names come from `{root}/labels.txt` (one per line); without it `num_classes` is needed. Empty lines are skipped.
"""

from __future__ import annotations

import array
import glob
import os
from collections.abc import Iterator

import numpy as np

from ppvision.data.base import SegmentationDataset, read_class_names, voc_palette
from ppvision.data.index import PackedStrings
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
        self.separator = separator
        super().__init__(root, split)
        self.list = os.path.join(self.root, f"{split}.txt")
        if not os.path.isfile(self.list):
            found = self.splits(self.root)
            there = f"; lists found: {', '.join(found)}" if found else ""
            raise UserError(f"data.root '{self.root}' has no list '{split}.txt'{there}; it should hold {self.layout()}")
        names = os.path.join(self.root, "labels.txt")
        self.class_names = read_class_names(names) if os.path.isfile(names) else []
        if num_classes is None:
            if not self.class_names:
                raise UserError(
                    f"{self.root}: number of classes unknown: set num_classes, or write labels.txt (a name per line)"
                )
            num_classes = len(self.class_names)
        elif self.class_names and len(self.class_names) != num_classes:
            raise UserError(f"{names}: {len(self.class_names)} names but num_classes is {num_classes}")
        if not 1 <= num_classes <= self.ignore_index:
            raise UserError(f"{self.root}: num_classes must lie in 1..{self.ignore_index}, not {num_classes}")
        self.num_classes = num_classes
        self.class_names = self.class_names or [f"class {i}" for i in range(num_classes)]
        self.palette = voc_palette(num_classes)
        lines = array.array("i")
        self.images, self.labels = PackedStrings.columns(self._pairs(lines), 2)
        self._lines = np.array(lines, np.int32)
        self.require_samples()

    def layout(self) -> str:
        return f"{self.split}.txt with lines `image label`"

    @classmethod
    def splits(cls, root: str) -> list[str]:
        names = (os.path.splitext(os.path.basename(p))[0] for p in glob.glob(os.path.join(glob.escape(root), "*.txt")))
        return sorted(n for n in names if n != "labels")

    def where(self, index: int) -> str:
        return f"{self.list}:{self._lines[index]}"

    def _pairs(self, lines: array.array) -> Iterator[tuple[str, str]]:
        """(image, label) of every line that is not empty; its number is appended to `lines`."""
        with open(self.list, encoding="utf-8-sig", errors="surrogateescape") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                fields = [f.strip() for f in line.strip("\r\n").split(self.separator) if f.strip()]
                if len(fields) != 2:
                    by = "blanks" if self.separator is None else repr(self.separator)
                    raise UserError(
                        f"{self.list}:{number}: expected `image label` separated by {by}, got {len(fields)} field(s); "
                        "set separator if names hold blanks"
                    )
                lines.append(number)
                yield fields[0], fields[1]
