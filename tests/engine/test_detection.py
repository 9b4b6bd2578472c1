"""Detectors through the whole suite: shapes on files, Group DETR with denoising, resumed, evaluated; and four
photographs learnt by heart.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from ppvision.data.samples.fetch import fetch
from ppvision.data.samples.synthetic.coco import write_shapes
from ppvision.engine import checkpoint, evaluate, train
from ppvision.weights import read

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """Twelve pictures of shapes, three updates per epoch."""
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder / "data", 12, 5)
    spec = {
        "model": {"type": "dino_debug", "num_classes": 4},
        "method": {"type": "group_detr", "groups": 3, "denoising": 8},
        "data": {
            "type": "coco",
            "root": str(folder / "data"),
            "workers": 0,
            "train": {
                "split": "train",
                "transforms": [{"type": "RandomFlip"}, {"type": "RandomSizeCrop", "min": 40, "max": 64}],
            },
            "val": {"split": "val"},
        },
        "optimizer": {"type": "adamw", "lr": 1.0e-3},
        "schedule": {"type": "step", "milestones": [0.75]},
        "train": {"epochs": 4, "batch_size": 2, "accumulate": 2, "save_interval": 2, "ema": 0.9, "clip_norm": 0.1},
        "eval": {"metrics": ["coco"], "best": {"name": "mAP"}, "interval": 2},
        "log": {"interval": 1},
    }
    path = folder / "recipe.yml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


def losses(run: Path) -> list[dict]:
    """Loss terms of every update, without times."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    timing = ("time", "batch_cost", "reader_cost", "ips", "eta", "memory")
    return [{k: v for k, v in x.items() if not k.startswith(timing)} for x in lines if x["kind"] == "train"]


@pytest.fixture(scope="module")
def run(recipe) -> Path:
    folder = recipe.parent / "whole"
    train(recipe, [f"train.save_dir={folder}"])
    return folder


def test_two_epochs_resumed_for_two_more_equal_four(recipe, run, monkeypatch):
    from ppvision.engine.trainer import Trainer

    halves, update = recipe.parent / "halves", Trainer.update

    def interrupted(self, batches):
        logs = update(self, batches)
        self.stop_signalled = self.step == 6
        return logs

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", interrupted)
        train(recipe, [f"train.save_dir={halves}"])
    assert not (halves / "iter_12").exists()
    train(recipe, [f"train.save_dir={halves}", "train.resume=auto"])
    for name in ("model.pdparams", "method.pdparams", "optimizer.pdopt"):
        a, b = (read(folder / "iter_12" / name) for folder in (run, halves))
        assert a.keys() == b.keys() and len(a) > 50
        for key, value in a.items():
            np.testing.assert_array_equal(value, b[key], err_msg=f"{name} {key}")
    assert losses(run) == losses(halves) and len(losses(run)) == 12


def test_terms_are_logged_by_name(run):
    expected = {f"{a}/{b}" for a in ("main", "aux", "enc", "dn", "dn_aux") for b in ("cls", "l1", "giou")}
    for line in losses(run):
        assert expected <= set(line["parts"])
        assert sum(line["parts"][k] for k in expected) == pytest.approx(line["loss"], rel=1e-3)


def test_groups_stay_out_of_the_model_file(recipe, run):
    model, method = read(run / "latest/model.pdparams"), read(run / "latest/method.pdparams")
    extra = {k.split(".")[0] for k in method if not k.startswith("model.")}
    assert extra == {"groups", "denoising"}
    assert {k.removeprefix("model.") for k in method if k.startswith("model.")} == set(model)
    metrics = evaluate(recipe, ["model.num_classes=4"], weights=str(run / "latest"))
    assert 0 <= metrics["mAP"] <= 1


def test_a_run_begins_with_all_groups_of_another(recipe, run, tmp_path, capsys):
    """`model.weights` may be the Method's file: the queries of the other groups go on, too."""
    train(
        recipe,
        [
            f"train.save_dir={tmp_path / 'run'}",
            f"model.weights={run / 'latest/method.pdparams'}",
            "train.epochs=null",
            "train.iters=1",
            "optimizer.lr=1.0e-12",
            "eval.enabled=false",
        ],
    )
    before, after = read(run / "latest/method.pdparams"), read(tmp_path / "run/latest/method.pdparams")
    key = next(k for k in before if k.startswith("groups.1.") and before[k].ndim == 2)
    np.testing.assert_allclose(after[key], before[key], atol=1e-6)
    np.testing.assert_allclose(after["denoising.2.weight"], before["denoising.2.weight"], atol=1e-6)


@pytest.mark.slow
def test_dino_debug_learns_four_bears(tmp_path):
    """AP50 of at least 0.95 and AP of at least 0.6 on four photographs, within a thousand updates."""
    data = fetch("bear_coco", root=tmp_path / "bear_coco")
    metrics = train(
        ROOT / "configs/dino/dino_bear_mini.yml", [f"data.root={data}", f"train.save_dir={tmp_path / 'run'}"]
    )
    assert metrics["AP50"] >= 0.95 and metrics["mAP"] >= 0.6
    assert checkpoint.newest(tmp_path / "run").state["step"] <= 1000
