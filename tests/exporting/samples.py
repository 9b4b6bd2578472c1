"""What the tests of prediction, export and deployment share: a recipe with data and weights, one export per process."""

from __future__ import annotations

import atexit
import functools
import json
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


class TinyDetector(nn.Layer):
    """A stem of two convolutions and queries that attend to all of it: exports in a moment, dynamic in every side."""

    def __init__(self, num_classes: int = CLASSES, num_queries: int = 12):
        super().__init__()
        self.num_classes = num_classes
        self.stem = nn.Sequential(nn.Conv2D(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2D(8, 16, 3, 2, 1), nn.ReLU())
        self.queries = nn.Embedding(num_queries, 16)
        self.head, self.box = nn.Linear(16, num_classes), nn.Linear(16, 4)

    def forward(self, image, valid=None):
        tokens = self.stem(image).flatten(2).transpose([0, 2, 1])
        queries = self.queries.weight.unsqueeze(0)
        share = nn.functional.softmax(paddle.matmul(queries * 8, tokens, transpose_y=True), axis=-1)
        decoded = paddle.matmul(share, tokens) + queries * 8
        return {"logits": self.head(decoded) * 8, "boxes": nn.functional.sigmoid(self.box(decoded) * 4)}


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


def write_detection_recipe(folder: Path, transforms=(), model=None, **sections) -> tuple[Path, Path]:
    """(recipe, weights) of a detector, with a COCO validation set of three pictures."""
    data = folder / "coco"
    paths = write_pictures(data / "val", SIZES[:3])
    (data / "annotations").mkdir(exist_ok=True)
    images, rows = [], []
    for i, (path, (height, width)) in enumerate(zip(paths, SIZES)):
        images.append({"id": i + 1, "file_name": path.name, "height": height, "width": width})
        row = {
            "id": i + 1,
            "image_id": i + 1,
            "category_id": 5 + i,
            "bbox": [4, 5, 20, 24],
            "area": 400.0,
            "iscrowd": 0,
        }
        rows.append({**row, "segmentation": [[4, 5, 24, 5, 24, 29, 4, 29]]})
    categories = [{"id": 5 + k, "name": name} for k, name in enumerate(("cat", "dog", "hen"))]
    content = {"images": images, "annotations": rows, "categories": categories}
    (data / "annotations/instances_val.json").write_text(json.dumps(content))
    recipe = {
        "model": {"type": model or "tests.exporting.samples.TinyDetector", "num_classes": CLASSES},
        "data": {
            "type": "coco",
            "root": str(data),
            "workers": 0,
            "val": {"split": "val", "transforms": [dict(t) for t in transforms]},
            **({} if model else {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}),
        },
        "eval": {"metrics": ["coco"], **({} if model else {"task": "detection"})},
        **sections,
    }
    path, weights = folder / "detector.yml", folder / "detector.pdparams"
    path.write_text(yaml.safe_dump(recipe))
    net = randomise(ppvision.create_model(model, num_classes=CLASSES) if model else TinyDetector())
    paddle.save(net.state_dict(), str(weights))
    return path, weights


@functools.cache
def exported_detector() -> tuple[Path, Path, Path]:
    """(recipe, weights, export folder) of the tiny detector: made once per process, never altered by a test."""
    folder = workspace() / "detector"
    folder.mkdir(exist_ok=True)
    recipe, weights = write_detection_recipe(folder, [{"type": "Resize", "short": 40}])
    ppvision.export(recipe, weights=weights, save_dir=folder / "export")
    return recipe, weights, folder / "export"


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
