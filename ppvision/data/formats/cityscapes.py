"""Cityscapes (Cordts et al., arXiv:1604.01685): `leftImg8bit/{split}/{city}/*_leftImg8bit.png` and
`gtFine/{split}/{city}/*_gtFine_labelIds.png`.

The 34 published label ids are mapped to the 19 evaluated classes; the others count nowhere (255). Names, colours and
the mapping are those of the data set's `labels.py`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ppvision.data.base import SegmentationDataset, list_images
from ppvision.data.index import PackedStrings
from ppvision.data.inspection import Part, part_of
from ppvision.errors import UserError

# (label id, name, colour) of the 19 evaluated classes in the order of their train ids.
CLASSES: tuple[tuple[int, str, tuple[int, int, int]], ...] = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)
NUM_IDS = 34

_IMAGE = "_leftImg8bit.png"
_INVALID = 254  # neither a class nor 255: makes the base class name the file


class Cityscapes(SegmentationDataset):
    """Fine annotations of Cityscapes.

    Args:
        root: folder that holds `leftImg8bit` and `gtFine`.
        split: train, val or test (published test labels are all ignored).
        labels: `labelIds` (34 ids, mapped here) or `labelTrainIds` (already mapped, as some conversions write).
    """

    class_names = [name for _, name, _ in CLASSES]
    palette = np.array([colour for _, _, colour in CLASSES], np.uint8)
    num_classes = len(CLASSES)

    def __init__(self, root: str, split: str, labels: str = "labelIds"):
        if labels not in ("labelIds", "labelTrainIds"):
            raise UserError(f"cityscapes: labels must be labelIds or labelTrainIds, not '{labels}'")
        self.kind = labels
        super().__init__(root, split)
        folder = self.folder("leftImg8bit", split)
        self.folder("gtFine", split)
        self.table = np.full(257, _INVALID, np.uint8)
        self.table[255] = self.ignore_index
        if labels == "labelIds":
            self.table[:NUM_IDS] = self.ignore_index
            self.table[[id for id, _, _ in CLASSES]] = np.arange(self.num_classes)
        else:
            self.table[: self.num_classes] = np.arange(self.num_classes)
        cities = sorted(e.name for e in os.scandir(folder) if e.is_dir())
        paths = (p for city in cities for p in list_images(os.path.join(folder, city), city) if p.endswith(_IMAGE))
        stems = PackedStrings(p.removesuffix(_IMAGE) for p in paths)
        self.images = PackedStrings(os.path.join("leftImg8bit", split, s + _IMAGE) for s in stems)
        self.labels = PackedStrings(os.path.join("gtFine", split, f"{s}_gtFine_{labels}.png") for s in stems)
        self.require_samples()

    def layout(self) -> str:
        label = f"gtFine/{self.split}/<city>/*_gtFine_{self.kind}.png"
        return f"leftImg8bit/{self.split}/<city>/*{_IMAGE} and {label} (Cityscapes)"

    @classmethod
    def splits(cls, root: str) -> list[str]:
        folder = os.path.join(root, "leftImg8bit")
        return sorted(e.name for e in os.scandir(folder) if e.is_dir()) if os.path.isdir(folder) else []

    @classmethod
    def part(cls, root: str, split: str, **options: Any) -> Part:
        dataset = cls(root, split, **options)
        part = part_of(dataset)
        part.faults += dataset.without_image(os.path.join("gtFine", split), f"_gtFine_{dataset.kind}.png")
        return part

    def allowed(self) -> str:
        top = NUM_IDS if self.kind == "labelIds" else self.num_classes
        return f"{self.kind} may hold 0..{top - 1} and 255 (num_classes is {self.num_classes})"


def write(root: str | os.PathLike, split: str, city: str, frame: str, image: np.ndarray, label_ids: np.ndarray) -> None:
    """Write one frame where the published ones are.

    Args:
        frame: the name between the city and the kind of file, such as `000000_000019`.
        image: uint8 [H,W,3] RGB.
        label_ids: uint8 [H,W], 0..33.
    """
    kinds = (("leftImg8bit", "leftImg8bit", image, 3), ("gtFine", "gtFine_labelIds", label_ids, 6))
    for folder, kind, picture, compress_level in kinds:
        path = Path(root, folder, split, city, f"{city}_{frame}_{kind}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path, compress_level=compress_level)
