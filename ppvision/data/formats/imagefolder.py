"""imagefolder: `{root}/{split}/{class}/file`, one folder per class.

The classes are those of `{root}/labels.txt` (one name per line, in order) or else the sorted folders of
`{root}/train`, so that a split in which a class is missing does not number the others anew.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ppvision.data.base import Dataset, list_images, read_class_names, voc_palette
from ppvision.data.index import PackedStrings
from ppvision.data.inspection import Part, part_of
from ppvision.errors import UserError, did_you_mean


class ImageFolder(Dataset):
    """Labelled images: samples have `image` and `label` (int). Empty class folders are allowed.

    Args:
        root: folder that holds the splits.
        split: sub-folder with one folder per class.
    """

    unit = "images"

    def __init__(self, root: str, split: str):
        super().__init__(root, split)
        folder, names = self.folder(split), os.path.join(self.root, "labels.txt")
        if os.path.isfile(names):
            self.class_names, source = read_class_names(names), names
        else:
            source = os.path.join(self.root, "train")
            source = source if os.path.isdir(source) else folder
            self.class_names = _folders(source)
        self.num_classes = len(self.class_names)
        self.palette = voc_palette(self.num_classes)
        number = {name: i for i, name in enumerate(self.class_names)}
        found = _folders(folder)
        for name in found:
            if name not in number:
                raise UserError(
                    f"{os.path.join(folder, name)}: no class '{name}' in {source}{did_you_mean(name, number)}"
                )
        counts: list[int] = []

        def paths():
            for name in found:
                files = list_images(os.path.join(folder, name), os.path.join(split, name))
                counts.append(len(files))
                yield from files

        self.images = PackedStrings(paths())
        self._labels = np.repeat(np.array([number[n] for n in found], np.int32), counts)
        self.require_samples()

    def layout(self) -> str:
        return f"{self.split}/<class>/<image>"

    @classmethod
    def splits(cls, root: str) -> list[str]:
        return [name for name in _folders(root) if _folders(os.path.join(root, name))]

    @classmethod
    def part(cls, root: str, split: str, **options: Any) -> Part:
        part = part_of(cls(root, split, **options))
        for name in sorted(os.listdir(os.path.join(root, split))):
            folder = os.path.join(root, split, name)
            if os.path.isdir(folder) and not list_images(folder):
                part.notes.append(f"{folder}: class folder without images")
        return part

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return os.path.join(self.root, self.images[index])

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.read_image(index, self.images[index])
        return {"image": image, "label": int(self._labels[index]), "name": self.name(index)}


def write(
    root: str | os.PathLike, split: str, name: str, stem: str, image: np.ndarray, compress_level: int = 3
) -> None:
    """Write one picture of class `name`: `{root}/{split}/{name}/{stem}.png`.

    Args:
        image: uint8 [H,W,3] RGB or [H,W] grey.
        compress_level: of PNG, 0..9.
    """
    folder = Path(root, split, name)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / f"{stem}.png", compress_level=compress_level)


def _folders(path: str) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
