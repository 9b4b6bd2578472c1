"""What the tests of prediction, export and deployment share: a recipe with data and weights, one export per process."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import numpy as np
import paddle
import yaml
from paddle import nn
from PIL import Image

import ppvision

CLASSES = 3
SIZES = ((48, 64), (48, 64), (37, 61), (64, 48), (48, 64))


class TinyNet(nn.Layer):
    """Two convolutions and a resize: exports in a moment, dynamic in every side."""

    def __init__(self, num_classes: int = CLASSES):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2D(3, 6, 3, 2, 1), nn.BatchNorm2D(6), nn.ReLU())
        self.head = nn.Conv2D(6, num_classes, 1)

    def forward(self, x):
        return nn.functional.interpolate(self.head(self.stem(x)), size=x.shape[2:], mode="bilinear")


def randomise(net: nn.Layer, seed: int = 0) -> nn.Layer:
    """Give every entry of the state dict seeded values under which activations stay of order one; evaluation mode."""
    rng = np.random.default_rng(seed)
    for name, value in net.state_dict().items():
        noise = rng.standard_normal(value.shape).astype(np.float32)
        if name.endswith("_variance"):
            array = 1 + 0.5 * np.abs(noise)
        elif len(value.shape) == 1 and name.endswith("weight"):
            array = 1 + 0.1 * noise
        elif len(value.shape) == 4:
            array = noise / np.sqrt(np.prod(value.shape[1:]))
        else:
            array = 0.1 * noise
        value.set_value(array.astype(np.float32))
    net.eval()
    return net


def pictures(sizes=SIZES, seed: int = 0) -> list[np.ndarray]:
    """RGB uint8 images with some structure."""
    rng = np.random.default_rng(seed)
    images = []
    for height, width in sizes:
        blocks = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3))
        image = np.kron(blocks, np.ones((8, 8, 1)))[:height, :width] + rng.integers(-20, 20, (height, width, 3))
        images.append(np.clip(image, 0, 255).astype(np.uint8))
    return images


def write_pictures(folder: Path, sizes=SIZES) -> list[Path]:
    """`p0.png` … with the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"p{i}.png" for i in range(len(sizes))]
    for path, image in zip(paths, pictures(sizes)):
        Image.fromarray(image).save(path)
    return paths


def write_recipe(folder: Path, transforms=(), **sections) -> tuple[Path, Path]:
    """(recipe, weights) of the smallest RTFormer, with a validation set of three labelled pictures."""
    data = folder / "data"
    paths = write_pictures(data, SIZES[:3])
    for path, (height, width) in zip(paths, SIZES):
        Image.fromarray(np.zeros((height, width), np.uint8)).save(path.with_name(f"{path.stem}_label.png"))
    (data / "val.txt").write_text("".join(f"{p.name} {p.stem}_label.png\n" for p in paths))
    (data / "labels.txt").write_text("ground\ngreen\nred\n")
    recipe = {
        "model": {"type": "rtformer_debug", "num_classes": CLASSES},
        "data": {
            "type": "seg_list",
            "root": str(data),
            "val": {"split": "val", "transforms": [dict(t) for t in transforms]},
        },
        **sections,
    }
    path, weights = folder / "debug.yml", folder / "debug.pdparams"
    path.write_text(yaml.safe_dump(recipe))
    net = randomise(ppvision.create_model("rtformer_debug", num_classes=CLASSES))
    paddle.save(net.state_dict(), str(weights))
    return path, weights


@functools.cache
def workspace() -> Path:
    """A folder that goes away with the process."""
    folder = Path(tempfile.mkdtemp(prefix="ppvision-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def exported() -> tuple[Path, Path, Path]:
    """(recipe, weights, export folder): made once per process, never altered by a test."""
    folder = workspace() / "debug"
    folder.mkdir(exist_ok=True)
    recipe, weights = write_recipe(folder, [{"type": "Resize", "short": 40}])
    ppvision.export(recipe, weights=weights, save_dir=folder / "export")
    return recipe, weights, folder / "export"
