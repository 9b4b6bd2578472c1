"""images: any tree of pictures, without labels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from ppvision.data.base import Dataset, list_images
from ppvision.data.index import PackedStrings


class Images(Dataset):
    """Every image file below a folder, in sorted order; samples have `image` only. Links to folders are not followed.

    Args:
        root: top of the tree.
        split: sub-folder to stay in; empty takes the whole tree.
    """

    def __init__(self, root: str, split: str = ""):
        super().__init__(root, split)
        if split:
            self.folder(split)
        self.images = PackedStrings(self._walk(split))
        self.require_samples()

    def layout(self) -> str:
        return f"images, anywhere below{f' {self.split}' if self.split else ' it'}"

    @classmethod
    def splits(cls, root: str) -> list[str]:
        return [""]

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return os.path.join(self.root, self.images[index])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.read_image(index, self.images[index]), "name": self.name(index)}

    def _walk(self, below: str) -> Iterator[str]:
        folder = os.path.join(self.root, below)
        yield from list_images(folder, below)
        with os.scandir(folder) as entries:
            inside = sorted(e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith("."))
        for name in inside:
            yield from self._walk(os.path.join(below, name))
