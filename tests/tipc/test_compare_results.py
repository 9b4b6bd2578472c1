"""Stored figures against results: equal, wrong, missing, by recipe and by folder of labels."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppvision.data.samples.make import make
from ppvision.predict.results import Boxes, Classes, Features, Mask

ROOT = Path(__file__).parents[2]
RESULTS = "python_infer_cpu_usemkldnn_True_threads_6_precision_fp32_batchsize_1_results"


def compare(tmp_path: Path, *words: str) -> tuple[int, str]:
    script = str(ROOT / "test_tipc/compare_results.py")
    command = [sys.executable, script, f"--metric_file={tmp_path}/stored_*.txt", f"--predict_dir={tmp_path}/*_results"]
    done = subprocess.run([*command, *words], cwd=tmp_path, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def save(folder: Path, results: dict[str, object]) -> None:
    """Results as `deploy/python/infer.py` leaves them; keys are the images."""
    records = []
    for image, result in results.items():
        files = result.save(folder, Path(image).stem)
        records.append({"image": image, "files": [f.name for f in files], **result.to_json()})
    (folder / "predictions.json").write_text(json.dumps(records))


@pytest.fixture
def labelled(tmp_path) -> list[str]:
    """Two label images of three classes, and a prediction that is right but for one row of the first."""
    (tmp_path / "gt").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        label = rng.integers(0, 3, (8, 8)).astype(np.uint8)
        Image.fromarray(label).save(tmp_path / "gt" / f"{name}.png")
        guess = label.copy()
        guess[0, :] = (guess[0, :] + (name == "a")) % 3
        Mask(name, guess).save(tmp_path / RESULTS, name)
    return ["--gt_dir", str(tmp_path / "gt"), "--num_classes", "3"]


def test_labels_in_a_folder(tmp_path, labelled):
    assert compare(tmp_path, *labelled, "--write")[0] == 0
    assert "Acc: 0.937500\n" in (tmp_path / "stored_fp32.txt").read_text()
    status, output = compare(tmp_path, *labelled)
    assert status == 0
    assert f"Assert allclose passed! The results of {RESULTS} and {tmp_path}/stored_fp32.txt are consistent!" in output


def test_a_wrong_result(tmp_path, labelled):
    compare(tmp_path, *labelled, "--write")
    Mask("b", np.zeros((8, 8), np.uint8)).save(tmp_path / RESULTS, "b")
    status, output = compare(tmp_path, *labelled)
    assert status == 1 and "mIoU: " in output and "allowed" in output
    assert f"The results of {RESULTS} and the results of {tmp_path}/stored_fp32.txt are inconsistent!" in output
    assert compare(tmp_path, *labelled, "--atol", "1")[0] == 0


@pytest.mark.parametrize(
    ("stored", "status", "words"),
    [
        ("Acc: 0.9375\nClass IoU: [0.1, 0.2]\n", 0, "passed"),
        ("Acc: 0.9365\n", 0, "passed"),  # within 1e-3 and 1e-3 of it
        ("Acc: 0.93\n", 1, "Acc: 0.937500, stored 0.930000, allowed 0.001930"),
        ("Acc: 0.9375\nRecall: 1\n", 1, "Recall: stored 1.000000, not measured"),
        ("Acc: nan\n", 1, "failed"),
        ("Acc 0.9\n", 2, "stored_fp32.txt:1: expected `name: value`"),
        ("", 2, "no figures"),
    ],
)
def test_stored_figures(stored, status, words, tmp_path, labelled):
    (tmp_path / "stored_fp32.txt").write_text(stored)
    found, output = compare(tmp_path, *labelled)
    assert (found, words in output) == (status, True), output


def test_nothing_to_compare_is_a_failure(tmp_path, labelled):
    assert compare(tmp_path, *labelled) == (
        1,
        f"error: no stored figures match {tmp_path}/stored_*.txt; look at this run's results, then --write them\n",
    )
    (tmp_path / "stored_int8.txt").write_text("Acc: 1\n")
    assert "no stored figures of precision fp32" in compare(tmp_path, *labelled)[1]
    (tmp_path / RESULTS).rename(tmp_path / "python_infer_results")
    status, output = compare(tmp_path, *labelled)
    assert status == 1 and "its name tells no precision" in output
    (tmp_path / "python_infer_results").rename(tmp_path / "away")
    assert compare(tmp_path, *labelled)[0] == 1
    assert compare(tmp_path)[0] == 2 and compare(tmp_path, "--gt_dir", "gt")[0] == 2


RECIPE = """\
model: {{type: {model}}}
data: {{type: {layout}, root: {root}, train: {{split: train}}, val: {{split: val}}}}
optimizer: {{type: adamw, lr: 1.0e-3}}
train: {{iters: 1}}
eval: {{metrics: [{metric}]}}
"""


def results_for(layout: str, images: list[str], seed: int = 0) -> dict[str, object]:
    rng = np.random.default_rng(seed)
    if layout == "cityscapes":
        return {p: Mask(p, rng.integers(0, 19, (112, 160)).astype(np.uint8)) for p in images}
    if layout == "imagefolder-cls":
        return {
            p: Classes(p, rng.dirichlet(np.ones(4)).astype(np.float32), ("car", "green", "person", "sign"))
            for p in images
        }
    if layout == "imagefolder-feat":
        return {p: Features(p, {"cls": rng.standard_normal(8), "tokens": rng.standard_normal((4, 8))}) for p in images}
    corners = rng.uniform(0, 50, (6, 2))
    boxes = np.hstack([corners, corners + 40]).astype(np.float32)
    return {p: Boxes(p, boxes, rng.random(6).astype(np.float32), rng.integers(0, 4, 6)) for p in images}


CASES = [
    ("cityscapes", "rtformer_debug", "mIoU", {"mIoU", "Acc", "Kappa", "Dice"}),
    ("imagefolder-cls", "maformer_debug", "top_k", {"top1", "true_score"}),
    ("imagefolder-feat", "cae_v2_debug", "knn", {"knn", "cls_length", "cls_cosine", "tokens_length", "tokens_cosine"}),
    ("coco", "dab_detr_debug", "coco", {"mAP", "best_score", "best_size"}),
]


@pytest.mark.parametrize(("layout", "model", "metric", "expected"), CASES, ids=[c[0] for c in CASES])
def test_every_task_by_its_recipe(layout, model, metric, expected, tmp_path):
    root = tmp_path / "data"
    make(layout.partition("-")[0], root, 4, 4, (112, 160))
    recipe = tmp_path / "x.yml"
    recipe.write_text(RECIPE.format(model=model, layout=layout.partition("-")[0], root=root, metric=metric))
    images = [str(root / line) for line in (root / "val.list").read_text().splitlines()]
    save(tmp_path / RESULTS, results_for(layout, images))
    words = ["--config", str(recipe)]
    status, output = compare(tmp_path, *words, "--write")
    assert status == 0, output
    lines = (tmp_path / "stored_fp32.txt").read_text().splitlines()
    assert expected <= {line.partition(":")[0] for line in lines}
    assert compare(tmp_path, *words)[0] == 0
    save(tmp_path / RESULTS, results_for(layout, images, seed=1))
    assert compare(tmp_path, *words)[0] == 1
    save(tmp_path / RESULTS, results_for(layout, images[1:]))
    status, output = compare(tmp_path, *words)
    assert status == 1 and f"no result for {Path(images[0]).name}" in output
