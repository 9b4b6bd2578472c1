"""A small real recipe on files: synthetic rectangles as PNG, RTFormer debug size with an auxiliary head."""

import json
from pathlib import Path

import cv2
import numpy as np
import yaml

from ppvision.engine import train

CLASSES = 3


def write_data(root: Path, train: int = 7, val: int = 3, size=(48, 64)) -> Path:
    """A `seg_list` folder of coloured rectangles on noise; class = colour."""
    rng = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("val", val)):
        lines = []
        for i in range(count):
            image = rng.integers(0, 60, (*size, 3)).astype("uint8")
            label = np.zeros(size, "uint8")
            for k in (1, 2):
                y, x = rng.integers(0, size[0] - 20), rng.integers(0, size[1] - 24)
                image[y : y + 20, x : x + 24, k] += 160
                label[y : y + 20, x : x + 24] = k
            cv2.imwrite(str(root / f"{split}{i}.png"), image)
            cv2.imwrite(str(root / f"{split}{i}_label.png"), label)
            lines.append(f"{split}{i}.png {split}{i}_label.png\n")
        (root / f"{split}.txt").write_text("".join(lines))
    (root / "labels.txt").write_text("ground\ngreen\nred\n")
    return root


def recipe(folder: Path, **sections) -> Path:
    """Write a recipe over `folder`/data; `sections` update its sections."""
    data = write_data(folder / "data")
    spec = {
        "model": {"type": "rtformer_debug", "num_classes": CLASSES},
        "method": {"type": "supervised", "aux": [{"level": "c3", "channels": 8, "weight": 0.4}]},
        "data": {
            "type": "seg_list",
            "root": str(data),
            "workers": 0,
            "train": {
                "split": "train",
                "transforms": [
                    {"type": "RandomScale", "min": 0.75, "max": 1.5, "step": 0.25},
                    {"type": "RandomCrop", "size": [32, 48]},
                    {"type": "RandomFlip"},
                    {"type": "ColorJitter", "brightness": 0.2},
                ],
            },
            "val": {"split": "val"},
        },
        "optimizer": {"type": "adamw", "lr": 2.0e-3, "lr_mult": {"aux.*": 10}},
        "schedule": {"type": "poly", "warmup_iters": 2},
        "train": {"iters": 8, "batch_size": 2, "save_interval": 4, "ema": 0.9, "clip_norm": 5.0, "seed": 3},
        "eval": {"metrics": ["mIoU"], "best": {"name": "mIoU"}},
        "log": {"interval": 3},
    }
    for name, values in sections.items():
        spec[name] = {**spec.get(name, {}), **values}
    path = folder / "recipe.yml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


def records(run: Path) -> list[dict]:
    """`log.jsonl` without wall-clock figures."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "time"} for line in lines]


def run_of(path: Path, folder: Path, *overrides: str) -> Path:
    """Train the recipe into a folder, which is given back."""
    train(path, [f"train.save_dir={folder}", *overrides])
    return folder
