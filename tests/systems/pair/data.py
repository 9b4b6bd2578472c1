"""Synthetic pictures of three coloured boards, a reference of one of the colours, and measurements at points.

    <root>/images/<n>.png  references/<n>.png  points/<n>.bin  labels/<n>.png  train.list  val.list

As a program it makes the data: `python tests/systems/pair/data.py --root DIR --train=20 --val=5`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from ppvision.data.base import Dataset
from ppvision.data.io import read_image
from ppvision.errors import UserError

COLOURS = np.array([[210, 60, 40], [50, 190, 70], [60, 90, 220]])
IMAGES = {"train": ((32, 48), (36, 44)), "val": ((40, 56), (33, 47))}  # sides, taken in turn
REFERENCES = {"train": ((20, 28),), "val": ((20, 28), (14, 18), (25, 15))}


class PairData(Dataset):
    """Random access to the files above."""

    class_names = ["other", "alike"]
    palette = np.array([[0, 0, 0], [255, 220, 0]], np.uint8)
    num_classes = 2

    def __init__(self, root: str, split: str):
        super().__init__(root, split)
        path = Path(root, f"{split}.list")
        if not path.is_file():
            raise UserError(f"{path} is missing")
        self.names = path.read_text(encoding="utf-8").split()
        self.require_samples()

    def layout(self) -> str:
        """For messages."""
        return "images/, references/, points/, labels/, train.list and val.list"

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """Path of the picture."""
        return os.path.join(self.root, self.names[index])

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = Path(self.name(index))
        folder = image.parents[1]
        return {
            "name": str(image),
            "image": read_image(str(image)),
            "crop_ref": read_image(str(folder / "references" / image.name)),
            "points": np.fromfile(folder / "points" / f"{image.stem}.bin", np.float32).reshape(-1, 3),
            "label": np.asarray(Image.open(folder / "labels" / image.name)),
        }


def write(root: Path, train: int, val: int, seed: int = 0) -> Path:
    """Make the data set; returns its folder."""
    rng = np.random.default_rng(seed)
    for folder in ("images", "references", "points", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("val", val)):
        names = [f"{split}{i:03d}" for i in range(count)]
        for i, name in enumerate(names):
            image, label, colour = _picture(IMAGES[split][i % 2], i, rng)
            sides = REFERENCES[split][i % len(REFERENCES[split])]
            Image.fromarray(image).save(root / "images" / f"{name}.png")
            Image.fromarray(_grain(np.broadcast_to(colour, (*sides, 3)), rng)).save(root / "references" / f"{name}.png")
            Image.fromarray(label).save(root / "labels" / f"{name}.png")
            _points(label, 24 + 7 * (i % 5), rng).tofile(root / "points" / f"{name}.bin")
        (root / f"{split}.list").write_text("".join(f"images/{name}.png\n" for name in names))
    return root


def _picture(size: tuple[int, int], index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three boards of unequal width on grey, from the left to the right in any order; where the chosen one is; its
    colour."""
    height, width = size
    image, label = np.full((height, width, 3), 120), np.zeros((height, width), np.uint8)
    order = rng.permutation(3)
    for place, (colour, share) in enumerate(zip(order, (0.35, 0.25, 0.2))):
        top, left = int(rng.integers(2, height // 3)), 2 + place * width // 3
        window = (slice(top, top + height // 2), slice(left, left + int(width * share)))
        image[window] = COLOURS[colour]
        if colour == index % 3:
            label[window] = 1
    return _grain(image, rng), label, COLOURS[index % 3]


def _grain(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.clip(picture + rng.normal(0, 12, picture.shape), 0, 255).astype(np.uint8)


def _points(label: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """float32 [n,3]: row and column as shares of the sides, and what was measured there."""
    rows, columns = rng.integers(0, label.shape[0], count), rng.integers(0, label.shape[1], count)
    places = (np.stack([rows, columns], 1) + 0.5) / label.shape
    return np.concatenate([places, label[rows, columns, None]], 1).astype(np.float32)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", required=True)
    parser.add_argument("--train", type=int, default=24)
    parser.add_argument("--val", type=int, default=6)
    args = parser.parse_args()
    write(Path(args.root), args.train, args.val)
