"""Synthetic point clouds of three shapes, each a file of float32 rows: `<root>/<split>/<class><n>.bin`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ppvision.data.base import Dataset

SPREAD = np.array([[3.0, 0.5, 0.2], [0.4, 2.0, 0.9], [0.3, 0.3, 4.0]])  # metres, of each class along x, y, z


class CloudData(Dataset):
    """The class is the first letter of the file's name."""

    class_names = ["wide", "deep", "high"]
    palette = np.zeros((0, 3), np.uint8)
    num_classes = 3

    def __init__(self, root: str, split: str):
        super().__init__(root, split)
        self.paths = sorted(Path(self.folder(split)).glob("*.bin"))
        self.require_samples()

    def layout(self) -> str:
        """For messages."""
        return "train/*.bin and val/*.bin"

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """Path of the cloud."""
        return str(self.paths[index])

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.paths[index]
        points = np.fromfile(path, np.float32).reshape(-1, 3)
        return {"name": str(path), "points": points, "label": "wdh".index(path.name[0])}


def write(root: Path, train: int = 24, val: int = 9, seed: int = 0) -> Path:
    """Make the data set; returns its folder."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        (root / split).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            points = rng.normal((0.5, -0.3, 0.2), SPREAD[i % 3], [15 + 11 * (i % 4), 3]).astype(np.float32)
            points.tofile(root / split / f"{'wdh'[i % 3]}{i:03d}.bin")
    return root
