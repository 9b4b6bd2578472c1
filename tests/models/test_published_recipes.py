"""The published recipes: complete, checked, and with the numbers of the papers' implementations."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppvision.config import check, load
from ppvision.models import zoo

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RECIPES = sorted([*CONFIGS.glob("rtformer/*_*k.yml"), *CONFIGS.glob("uhrnet/fcn_*.yml")])

# iterations, batch per process, rate, decay, classes, crop
EXPECTED = {
    "rtformer_slim_cityscapes_1024x512_120k": (120_000, 3, 4e-4, 0.0125, 19, [512, 1024]),
    "rtformer_base_cityscapes_1024x512_120k": (120_000, 3, 4e-4, 0.0125, 19, [512, 1024]),
    "rtformer_slim_ade20k_512x512_160k": (160_000, 4, 1e-4, 0.05, 150, [512, 512]),
    "rtformer_base_ade20k_512x512_160k": (160_000, 4, 1e-4, 0.05, 150, [512, 512]),
    "fcn_uhrnet_w18_small_cityscapes_1024x512_80k": (80_000, 2, 0.01, 5e-4, 19, [512, 1024]),
    "fcn_uhrnet_w18_small_cityscapes_1024x512_120k_bs3": (120_000, 3, 0.01, 5e-4, 19, [512, 1024]),
    "fcn_uhrnet_w18_cityscapes_1024x512_80k": (80_000, 2, 0.01, 5e-4, 19, [512, 1024]),
    "fcn_uhrnet_w48_cityscapes_1024x512_80k": (80_000, 2, 0.01, 5e-4, 19, [512, 1024]),
    "fcn_uhrnet_w48_cityscapes_1024x512_120k_bs3": (120_000, 3, 0.01, 5e-4, 19, [512, 1024]),
}


def test_every_published_recipe_is_here():
    assert {p.stem for p in RECIPES} == set(EXPECTED)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_recipe(path):
    cfg = load(str(path))
    check(cfg)
    crop = next(t for t in cfg.data.train.transforms if t.type == "RandomCrop").kwargs["size"]
    optimizer = cfg.optimizer.kwargs
    measured = (cfg.train.iters, cfg.train.batch_size, optimizer["lr"], optimizer["weight_decay"])
    assert (*measured, cfg.model.kwargs["num_classes"], crop) == EXPECTED[path.stem]
    rtformer = path.parent.name == "rtformer"
    assert cfg.optimizer.type == ("adamw" if rtformer else "momentum")
    assert cfg.schedule.kwargs["power"] == (1.0 if rtformer else 0.9)
    assert bool(cfg.method.kwargs.get("aux")) == rtformer
    assert ("lr_mult" in optimizer) == rtformer


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_the_header_tells_the_story(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    text = " ".join(header)
    assert f"tools/train.py -c configs/{path.parent.name}/{path.name}" in text
    assert "ours: not trained" in text
    assert "arXiv:" in text and "epochs" in text and "Hours:" in text
    assert all(len(line) <= 150 for line in header)
    cfg = load(str(path))
    if "_w18_cityscapes" in path.stem:
        assert "unpublished" in text
    elif cfg.data.type == "cityscapes" and "_80k" not in path.stem:  # the zoo quotes the 120k figures
        for value, _ in (v for k, v in zoo.entry(cfg.model.type).published.items() if k.startswith("cityscapes")):
            assert f"{value:.2f}" in text
    elif cfg.data.type == "ade20k":
        for value, _ in (v for k, v in zoo.entry(cfg.model.type).published.items() if k.startswith("ade20k")):
            assert f"{value:.2f}" in text


def test_ade_layout_of_slim():
    kwargs = load(str(CONFIGS / "rtformer/rtformer_slim_ade20k_512x512_160k.yml")).model.kwargs
    assert (kwargs["cross_size"], kwargs["use_injection"], kwargs["drop_path"]) == (8, [True, False], 0.1)
