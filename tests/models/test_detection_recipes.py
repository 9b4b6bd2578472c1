"""The published recipes of DAB-DETR and Deformable DETR, and the miniatures: complete, checked, with their numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppvision.config import check, load
from ppvision.models import zoo

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PUBLISHED = sorted([*CONFIGS.glob("dab_detr/*_50e.yml"), *CONFIGS.glob("deformable_detr/*_50e.yml")])
MINI = [
    *("dab_detr/dab_detr_shapes_mini", "dino/dino_bear_mini", "group_detr_v2/group_dino_shapes_mini"),
    *("retinanet/retinanet_shapes_mini", "kd_detr/kd_dino_retinanet_shapes_mini"),
]

# published AP on val2017, where a source was read first-hand
EXPECTED = {
    "dab_detr_r18_coco_50e": 36.2,
    "dab_detr_r50_coco_50e": 42.2,
    "dab_detr_r101_coco_50e": None,
    "deformable_detr_r18_coco_50e": None,
    "deformable_detr_r50_coco_50e": 44.5,
    "deformable_detr_r50_two_stage_coco_50e": 46.9,
    "deformable_detr_r101_coco_50e": None,
}


def test_every_published_recipe_is_here():
    assert {p.stem for p in PUBLISHED} == set(EXPECTED)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda p: p.stem)
def test_published_recipe(path):
    cfg = load(str(path))
    check(cfg)
    deformable = path.parent.name == "deformable_detr"
    assert (cfg.train.epochs, cfg.train.batch_size, cfg.train.clip_norm) == (50, 2, 0.1)
    assert cfg.optimizer.type == "adamw" and cfg.optimizer.kwargs["weight_decay"] == 1e-4
    assert cfg.optimizer.kwargs["lr"] == (2e-4 if deformable else 1e-4)
    assert cfg.optimizer.kwargs["lr_mult"]["backbone.*"] == 0.1
    assert ("*.sampling_offsets.*" in cfg.optimizer.kwargs["lr_mult"]) == deformable
    assert (cfg.schedule.type, cfg.schedule.kwargs["milestones"]) == ("step", [0.8])
    assert (cfg.model.kwargs["num_classes"], cfg.data.train.kwargs["split"]) == (80, "train2017")
    assert cfg.model.weights == zoo.entry(cfg.model.type.replace(path.parent.name + "_r", "resnet")).weights


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda p: p.stem)
def test_the_header_tells_the_story(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    text = " ".join(header)
    assert f"tools/train.py -c configs/{path.parent.name}/{path.name}" in text
    assert "Ours: not trained" in text and "arXiv:" in text and "Hours:" in text and "epochs" in text
    assert all(len(line) <= 150 for line in header)
    known = {value for value, _ in zoo.entry(load(str(path)).model.type).published.values()}
    expected = EXPECTED[path.stem]
    assert ("Published AP: n" in text and not known) if expected is None else expected in known
    assert expected is None or f"Published AP on val2017: {expected}" in text


@pytest.mark.parametrize("name", MINI)
def test_miniature(name):
    path = CONFIGS / f"{name}.yml"
    cfg = load(str(path))
    check(cfg)
    text = path.read_text()
    assert f"configs/{name}.yml" in text and "ppvision data fetch " in text and "No published figure.  Ours: " in text
    assert cfg.model.type.endswith("_debug") and cfg.data.root.startswith("data/")


@pytest.mark.parametrize("name", ["retinanet_r18_coco_12e", "retinanet_r50_coco_12e"])
def test_retinanet(name):
    path = CONFIGS / f"retinanet/{name}.yml"
    cfg, text = load(str(path)), path.read_text()
    check(cfg)
    assert (cfg.method.type, cfg.train.epochs, cfg.train.batch_size) == ("dense_detection", 12, 2)
    spec = cfg.optimizer.kwargs
    assert (cfg.optimizer.type, spec["lr"], spec["momentum"], spec["weight_decay"]) == ("momentum", 0.01, 0.9, 1e-4)
    assert cfg.model.weights == zoo.entry(cfg.model.type.replace("retinanet_r", "resnet")).weights
    assert f"configs/retinanet/{name}.yml" in text and "Ours: not trained" in text and "arXiv:" in text
    assert ("Published AP on val2017: 37.5 (PaddleDetection" if "r50" in name else "Published AP: none") in text


def test_a_convolutional_student_is_the_plain_recipe_with_a_teacher():
    from ppvision.models.retinanet import RetinaNet

    path = CONFIGS / "kd_detr/kd_dino_r50_retinanet_r50_coco_12e.yml"
    cfg, plain = load(str(path)), load(str(CONFIGS / "retinanet/retinanet_r50_coco_12e.yml"))
    check(cfg)
    assert cfg.method.type == "kd_dense" and cfg.method.kwargs["points"] == 300
    assert (cfg.model.type, cfg.method.kwargs["teacher"]["type"]) == ("retinanet_r50", "dino_r50")
    assert zoo.network_class(cfg.model.type) is RetinaNet
    ours, theirs = cfg.to_dict(), plain.to_dict()
    assert {k for k in ours if ours[k] != theirs[k]} <= {"method"}
    text = path.read_text()
    assert "Published AP: none for this pair" in text and "Faster R-CNN" in text and "+2.1" in text
