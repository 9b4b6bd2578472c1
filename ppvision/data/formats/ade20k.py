"""ADE20K scene parsing (Zhou et al., CVPR 2017): `images/{training,validation}/*.jpg` and
`annotations/{training,validation}/*.png`.

Stored labels are 0 (other objects) and 1..150; here they become 255 (ignored) and 0..149. Class names are the first
name of each class in the benchmark's list; colours are those of Pascal VOC's formula.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ppvision.data.base import SegmentationDataset, list_images, voc_palette
from ppvision.data.index import PackedStrings
from ppvision.data.inspection import Part, part_of
from ppvision.errors import UserError, did_you_mean

CLASS_NAMES: tuple[str, ...] = tuple(
    name.strip()
    for name in """
    wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door,
    table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field,
    armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard,
    chest of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway,
    case, pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower,
    book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine,
    hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, television receiver, airplane,
    dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship,
    fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag,
    minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher,
    screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate,
    monitor, bulletin board, shower, radiator, glass, clock, flag
    """.split(",")
)
_INVALID = 254  # neither a class nor 255: makes the base class name the file
_FOLDERS = {"train": "training", "val": "validation"}


class Ade20k(SegmentationDataset):
    """The 150-class scene parsing benchmark.

    Args:
        root: folder that holds `images` and `annotations` (ADEChallengeData2016).
        split: training or validation; train and val mean the same.
    """

    class_names = list(CLASS_NAMES)
    num_classes = len(CLASS_NAMES)
    palette = voc_palette(num_classes)

    def __init__(self, root: str, split: str):
        split = _FOLDERS.get(split, split)
        super().__init__(root, split)
        if split not in _FOLDERS.values():
            raise UserError(
                f"ade20k: no split '{split}'{did_you_mean(split, [*_FOLDERS, *_FOLDERS.values()])} "
                "(there are training and validation)"
            )
        self.table = np.full(257, _INVALID, np.uint8)
        self.table[0] = self.ignore_index
        self.table[1 : self.num_classes + 1] = np.arange(self.num_classes)
        folder = self.folder("images", split)
        self.folder("annotations", split)
        names = list_images(folder)
        self.images = PackedStrings(os.path.join("images", split, n) for n in names)
        self.labels = PackedStrings(os.path.join("annotations", split, os.path.splitext(n)[0] + ".png") for n in names)
        self.require_samples()

    def layout(self) -> str:
        return f"images/{self.split}/*.jpg and annotations/{self.split}/*.png (ADEChallengeData2016)"

    @classmethod
    def splits(cls, root: str) -> list[str]:
        return [f for f in _FOLDERS.values() if os.path.isdir(os.path.join(root, "images", f))]

    @classmethod
    def part(cls, root: str, split: str, **options: Any) -> Part:
        dataset = cls(root, split, **options)
        part = part_of(dataset)
        part.faults += dataset.without_image(os.path.join("annotations", dataset.split), ".png")
        return part

    def allowed(self) -> str:
        return f"0 (ignored) and 1..{self.num_classes} are allowed (num_classes is {self.num_classes})"
