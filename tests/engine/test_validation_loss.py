"""Pre-training without labels: the metric `loss` and the pictures of an evaluation, through whole runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from recipes import records

from ppvision.engine import evaluate, train
from ppvision.errors import UserError
from ppvision.weights import read

ROOT = Path(__file__).parents[2]


def unlabelled(folder: Path, **sections) -> Path:
    """A recipe over a tree of pictures without labels."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 5)):
        (folder / "data" / split).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, [24, 24, 3]).astype("u1")).save(folder / f"data/{split}/{i}.png")
    method = {"type": "cae_v2", "teacher": {"type": "clip_vit_debug"}, "num_masked": 9, "min_block": 3}
    spec = {
        "model": {"type": "cae_v2_debug"},
        "method": {**method, "regressor_depth": 1},
        "data": {
            "type": "images",
            "root": str(folder / "data"),
            "workers": 0,
            "train": {"split": "train"},
            "val": {"split": "val"},
        },
        "optimizer": {"type": "adamw", "lr": 1.0e-3},
        "schedule": {"type": "constant"},
        "train": {"iters": 4, "batch_size": 3, "save_interval": 2, "ema": 0.5},
        "eval": {"metrics": ["loss"], "best": {"name": "loss", "mode": "min"}, "batch_size": 2},
    }
    for name, values in sections.items():
        spec[name] = values if "type" in values else {**spec[name], **values}
    path = folder / "recipe.yml"
    path.write_text(yaml.safe_dump(spec))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("validation")
    path = unlabelled(folder)
    train(path, [f"train.save_dir={folder}/run", "log.vdl=true"])
    return path, folder / "run"


def test_the_loss_decides_and_can_be_had_again(run, capsys):
    path, folder = run
    losses = [r["metrics"]["loss"] for r in records(folder) if r["kind"] == "eval"]
    best = json.loads((folder / "latest/state.json").read_text())["best"]
    assert len(losses) == 2 and best["value"] == min(losses) and 0 < best["value"] < 2
    assert evaluate(path, weights=str(folder / "latest"))["loss"] == pytest.approx(losses[-1], rel=1e-6)
    # neither the batches nor what is beside an image in them matter
    for size in (1, 5):
        metrics = evaluate(path, [f"eval.batch_size={size}"], weights=str(folder / "latest/model.pdparams"))
        assert metrics["loss"] == pytest.approx(losses[-1], rel=1e-5)
    with pytest.raises(UserError, match="was trained with another teacher"):  # the one drawn from another seed
        evaluate(path, ["train.seed=1"], weights=str(folder / "latest"))


def test_the_averaged_encoder_is_judged(run):
    """With the raw weights the figure is another one: `model.pdparams` holds the average."""
    path, folder = run
    raw = {k.removeprefix("model."): v for k, v in read(folder / "latest/method.pdparams").items() if "model." in k}
    saved = read(folder / "latest/model.pdparams")
    assert any(not np.array_equal(raw[k], saved[k]) for k in saved)


def test_each_evaluation_leaves_pictures(run):
    from visualdl import LogReader

    _, folder = run
    for step in (2, 4):
        files = sorted(p.name for p in (folder / f"pictures/iter_{step}").iterdir())
        assert files == ["similarity_0.png", "similarity_1.png"]  # the first batch
    assert Image.open(folder / "pictures/iter_4/similarity_0.png").size == (5 * 224 + 16, 224)
    (log,) = (folder / "vdl").glob("*vdlrecords*")
    assert {"similarity_0", "similarity_1"} <= set(LogReader(file_path=str(log)).get_tags()["image"])


def test_starting_anew_removes_the_pictures(run, tmp_path):
    path = unlabelled(tmp_path)
    folder = tmp_path / "run"
    train(path, [f"train.save_dir={folder}", "train.iters=2"])
    assert (folder / "pictures/iter_2").is_dir()
    train(path, [f"train.save_dir={folder}", "train.iters=1", "eval.enabled=false"])
    assert not (folder / "pictures").exists()


def test_what_cannot_be_judged_is_refused_at_once(run, tmp_path):
    path, folder = run
    with pytest.raises(UserError, match="set eval.best.mode: min"):
        train(unlabelled(tmp_path, eval={"best": {"mode": "max"}}), [f"train.save_dir={tmp_path}/a"])
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone/model.pdparams").write_bytes((folder / "latest/model.pdparams").read_bytes())
    with pytest.raises(UserError, match=r"method\.pdparams is missing"):
        evaluate(path, weights=str(tmp_path / "alone"))
    with pytest.raises(UserError, match="LinearProbe has no validation loss"):
        classifier = {"type": "cae_v2_debug", "num_classes": 3, "pool": "cls"}
        path = unlabelled(tmp_path, model=classifier, method={"type": "linear_probe"})
        train(path, [f"train.save_dir={tmp_path}/b"])


def test_two_processes_find_the_same_figure(run, tmp_path):
    """Five images, so the ranks have shares of different size."""
    path, folder = run
    (tmp_path / "go.py").write_text(
        "import json, os, sys, ppvision\n"
        f"figures = ppvision.evaluate({str(path)!r}, weights={str(folder / 'latest')!r})\n"
        f"open({str(tmp_path)!r} + '/' + os.environ['PADDLE_TRAINER_ID'], 'w').write(json.dumps(figures))\n"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("PADDLE_")} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", "log", "go.py"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    alone = evaluate(path, weights=str(folder / "latest"))["loss"]
    for rank in "01":
        assert json.loads((tmp_path / rank).read_text())["loss"] == pytest.approx(alone, rel=1e-6)
