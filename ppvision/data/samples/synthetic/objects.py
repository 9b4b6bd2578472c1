"""Synthetic classification data in the layout of ImageNet: objects cut out of synthetic street scenes.

`{root}/{train,val}/{class}/{number}.png`. A picture is a square around one visible object of `street.render`, with
what stands around it, resized: its class is the label the renderer gave that object's pixels.

Checked:   by `ppvision data check --format imagefolder`; the centre object against the scene's label map.
Deviates:  from ImageNet in having four classes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from ppvision.data.formats import imagefolder
from ppvision.data.samples.synthetic import street
from ppvision.errors import UserError

CLASSES = {"car": "car", "person": "person", "sign": "traffic sign", "green": "vegetation"}  # folder -> label
SCENE = (160, 320)  # height and width of the scenes that objects are cut from
THICKNESS = 8
LEAST = 120  # pixels an object must show
MARGIN = 1.3  # side of the square in multiples of the object's longer side


def cut(image: np.ndarray, labels: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Every object of a scene that is visible enough.

    Args:
        image: uint8 [H,W,3] RGB.
        labels: uint8 [H,W], ids of Cityscapes.

    Yields:
        class name, and a square view of `image`, uint8 [s,s,3]; at the border the square is moved inside.
    """
    height, width = labels.shape
    for name, label in CLASSES.items():
        mask = (labels == street.CLASSES[label]).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        for left, top, w, h, area in stats[1:].tolist():
            side = min(round(max(w, h) * MARGIN), height, width)
            if area < LEAST:
                continue
            x = min(max(left + (w - side) // 2, 0), width - side)
            y = min(max(top + (h - side) // 2, 0), height - side)
            yield name, image[y : y + side, x : x + side]


def pictures(seed: int, split: int, count: int, size: tuple[int, int]) -> Iterator[tuple[str, np.ndarray]]:
    """The first `count` pictures of a split, the classes in turn; picture i depends on (seed, split, i) only.

    Yields:
        class name, uint8 [H,W,3] RGB of `size` (height, width).
    """
    waiting: dict[str, list[np.ndarray]] = {name: [] for name in CLASSES}
    scene = 0
    for i in range(count):
        name = list(CLASSES)[i % len(CLASSES)]
        while not waiting[name]:
            rng = np.random.default_rng([seed, split, scene])
            scene += 1
            for found, picture in cut(*street.render(rng, SCENE, THICKNESS)):
                waiting[found].append(picture)
        yield name, cv2.resize(waiting[name].pop(0), size[::-1], interpolation=cv2.INTER_AREA)


def write(
    root: str | os.PathLike, num_train: int, num_val: int, size: tuple[int, int] = (64, 64), seed: int = 0
) -> Path:
    """Write `num_train` + `num_val` pictures under `root`; files that exist are overwritten.

    Returns:
        `root`.
    """
    if min(size) < 1:
        raise UserError(f"pictures of {size[0]}x{size[1]} pixels cannot be drawn")
    root = Path(root)
    for split, (folder, count) in enumerate((("train", num_train), ("val", num_val))):
        for name in CLASSES:  # a class without pictures is still a class
            (root / folder / name).mkdir(parents=True, exist_ok=True)
        for i, (name, picture) in enumerate(pictures(seed, split, count, size)):
            imagefolder.write(root, folder, name, f"{i:06d}", picture)
    return root
