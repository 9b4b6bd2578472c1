"""Every network of the zoo that is small enough for a test walks through the whole suite, on files: train, resume,
evaluate, export with parity, predict from the export, picture. A new family is covered by having a `*_debug` size and
a task known here."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

import ppvision
from ppvision.models import zoo
from ppvision.models.weights import read

sys.path.insert(0, str(Path(__file__).parent / "engine"))
from recipes import CLASSES, records, write_data


def segmentation(folder: Path) -> dict:
    """Sections of a recipe for a segmentation network."""
    data = write_data(folder / "data", train=6, val=3, size=(64, 96))
    return {
        "method": {"type": "supervised"},
        "data": {
            "type": "seg_list",
            "root": str(data),
            "workers": 0,
            "train": {
                "split": "train",
                "transforms": [{"type": "RandomFlip"}, {"type": "ColorJitter", "brightness": 0.2}],
            },
            "val": {"split": "val"},
        },
        "eval": {"metrics": ["mIoU"]},
    }


RECIPES = {"segmentation": segmentation}


def chain_models() -> list[str]:
    return [name for name in zoo.list_models("*_debug") if zoo.entry(name).task in RECIPES]


@pytest.mark.parametrize("name", chain_models())
def test_train_resume_evaluate_export_predict(name, tmp_path):
    entry = zoo.entry(name)
    spec = {
        "model": {"type": name, "num_classes": CLASSES},
        "optimizer": {"type": "adamw", "lr": 1.0e-3},
        "train": {"iters": 4, "batch_size": 2, "save_interval": 2, "ema": 0.9, "keep": 9},
        "export": {"formats": ["paddle", "onnx"]},
        **RECIPES[entry.task](tmp_path),
    }
    path, run, again = tmp_path / "recipe.yml", tmp_path / "run", tmp_path / "again"
    path.write_text(yaml.safe_dump(spec))

    figures = ppvision.train(path, [f"train.save_dir={run}"])
    ppvision.train(path, [f"train.save_dir={again}", "train.iters=2", "schedule.type=constant"])
    ppvision.train(path, [f"train.save_dir={again}", "train.resume=auto", "schedule.type=constant"])
    for file in ("model.pdparams", "method.pdparams", "optimizer.pdopt"):
        straight, resumed = read(run / "iter_4" / file), read(again / "iter_4" / file)
        assert set(straight) == set(resumed)
        for key, value in straight.items():
            np.testing.assert_array_equal(resumed[key], value, err_msg=f"{file} {key}")
    assert [r["loss"] for r in records(run) if r["kind"] == "train"][-1] > 0
    assert ppvision.evaluate(path, weights=str(run / "latest")) == figures

    exported = ppvision.export(path, weights=str(run / "best_model"), save_dir=str(tmp_path / "export"))
    assert {"model.json", "model.pdiparams", "model.onnx", "deploy.yaml", "parity.json"} <= {
        p.name for p in exported.iterdir()
    }
    photos = sorted((tmp_path / "data").glob("val?.png"))
    by_backend = {
        backend: ppvision.Predictor(str(exported), backend=backend)([str(p) for p in photos])
        for backend in ("paddle", "onnx")
    }
    eager = ppvision.Predictor(str(path), weights=str(run / "best_model"))([str(p) for p in photos])
    for i, photo in enumerate(photos):
        for results in by_backend.values():
            assert np.mean(results[i].labels == eager[i].labels) > 0.999
        by_backend["paddle"][i].save(tmp_path / "pictures", photo.stem)
        picture = cv2.imread(str(tmp_path / "pictures" / f"{photo.stem}.png"))
        assert picture is not None and picture.shape[:2] == (64, 96)
