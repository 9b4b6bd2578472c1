"""A classifier through the whole suite on real pictures: 32 handwritten digits learnt by heart, resumed, exported,
predicted.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

import ppvision
from ppvision.data.samples.fetch import fetch
from ppvision.errors import UserError
from ppvision.weights import read

CLASSES = 8
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """Four pictures each of eight digits, as imagefolder and as list."""
    folder = tmp_path_factory.mktemp("digits")
    digits, root = fetch("digits", root=folder / "fetched"), folder / "data"
    lines = []
    for digit in range(CLASSES):
        (root / "train" / f"digit {digit}").mkdir(parents=True)
        for file in sorted((digits / "train" / str(digit)).iterdir())[:4]:
            shutil.copy(file, root / "train" / f"digit {digit}" / file.name)
            lines.append(f"train/digit {digit}/{file.name} {digit}\n")
    (root / "list.txt").write_text("".join(lines))
    (root / "labels.txt").write_text("".join(f"digit {digit}\n" for digit in range(CLASSES)))
    resize = {"type": "Resize", "size": [32, 32], "interpolation": "cubic"}
    spec = {
        "model": {"type": "maformer_debug", "num_classes": CLASSES, "image_size": 32, "drop_path": 0.0},
        "method": {"type": "classification", "label_smoothing": 0.1},
        "data": {
            "type": "imagefolder",
            "root": str(root),
            "workers": 0,
            "train": {"split": "train", "transforms": [resize, {"type": "RandomErasing", "p": 0.1}]},
            "val": {"split": "train", "transforms": [resize]},
        },
        "optimizer": {"type": "adamw", "lr": 3.0e-3, "weight_decay": 0.0, "no_decay": ["1d", "*.rel_bias"]},
        "schedule": {"type": "cosine", "warmup_iters": 5},
        "train": {"iters": 60, "batch_size": 16, "save_interval": 60, "clip_norm": 5.0},
        "eval": {"metrics": ["top_k"], "batch_size": 32},
        "export": {"input_shape": [-1, 3, 32, 32]},
    }
    path = folder / "recipe.yml"
    path.write_text(yaml.safe_dump(spec))
    return path


@pytest.fixture(scope="module")
def run(recipe) -> Path:
    folder = recipe.parent / "run"
    metrics = ppvision.train(recipe, [f"train.save_dir={folder}"])
    assert metrics["top1"] == 1.0
    return folder


def test_export_and_prediction_name_the_digits(recipe, run):
    exported = ppvision.export(recipe, weights=str(run / "best_model"), save_dir=str(recipe.parent / "export"))
    assert {"model.json", "model.onnx", "deploy.yaml", "parity.json"} <= {p.name for p in exported.iterdir()}
    files = sorted((recipe.parent / "data/train").glob("*/*.png"))
    for backend in ("paddle", "onnx"):
        results = ppvision.Predictor(str(exported), backend=backend)([str(f) for f in files])
        assert [r.class_names[int(np.argmax(r.scores))] for r in results] == [f.parent.name for f in files]
    picture = cv2.imread(str(files[0]))
    results[0].save(recipe.parent / "pictures", "first", cv2.resize(picture, (128, 128)))
    assert list((recipe.parent / "pictures").glob("first*"))


def test_a_list_reads_the_same_pictures(recipe, run):
    overrides = ["data.type=list_file", "data.val.split=list"]
    assert ppvision.evaluate(recipe, overrides, weights=str(run / "best_model"))["top1"] == 1.0


@pytest.mark.parametrize("method", ["classification", "token_labelling"])
def test_mixing_and_augmentation_resume_bit_by_bit(recipe, method, tmp_path):
    root = recipe.parent / "data"
    for i in range(4 * CLASSES):
        line = (root / "list.txt").read_text().splitlines()[i].rsplit(" ", 1)
        path = (root / "maps" / line[0]).with_suffix(".npz")
        path.parent.mkdir(parents=True, exist_ok=True)
        ids = np.stack([np.full((3, 3), int(line[1])), np.full((3, 3), (int(line[1]) + 1) % CLASSES)])
        np.savez(path, ids=ids.astype(np.uint16), scores=np.array([3.0, 1.0], np.float16).repeat(9).reshape(2, 3, 3))
    options = {
        "classification": ["method={type: classification, mixup: 0.8, cutmix: 1.0, label_smoothing: 0.1}"],
        "token_labelling": ["method={type: token_labelling}", "data.train.label_maps=maps"],
    }[method]
    transforms = "[{type: RandomResizedCrop, size: [32, 32]}, {type: RandomFlip}, {type: RandAugment}]"
    common = [
        *options,
        "data.type=list_file",
        "data.train.split=list",
        "data.val.split=list",
        f"data.train.transforms={transforms}",
        "model.drop_path=0.1",
        "eval.enabled=false",
        "schedule.type=constant",
        "train.save_interval=2",
    ]
    for name, lengths in (("whole", (4,)), ("parts", (2, 4))):
        for i, iters in enumerate(lengths):
            resume = ["train.resume=auto"] if i else []
            ppvision.train(recipe, [*common, f"train.iters={iters}", f"train.save_dir={tmp_path / name}", *resume])
    for file in ("model.pdparams", "method.pdparams", "optimizer.pdopt"):
        whole, parts = (read(tmp_path / name / "iter_4" / file) for name in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert not [k for k in whole if not np.array_equal(whole[k], parts[k])]
    exported = read(tmp_path / "whole" / "iter_4" / "model.pdparams")
    assert not [k for k in exported if k.startswith("token_head")]


def test_fashion_mnist_in_short(tmp_path):
    """The miniature recipe on 60,000 real garments, for 400 of its updates, which is less than half an epoch."""
    try:
        folder = fetch("fashion_mnist", root=tmp_path)
    except UserError as error:
        pytest.skip(f"Debian's registry cannot be reached from everywhere: {error}")
    metrics = ppvision.train(
        ROOT / "configs/maformer/maformer_fashion_mini.yml",
        [
            *(f"train.save_dir={tmp_path / 'run'}", f"data.root={folder / 'idx'}", "train.seed=0"),
            *("train.epochs=null", "train.iters=400", "train.save_interval=400", "eval.interval=400"),
            *("train.ema=null", "schedule.warmup_iters=40"),
        ],
    )
    assert metrics["top1"] > 0.80
