"""Sizes that no network can have are refused before anything is built, with the key of the recipe."""

from __future__ import annotations

import pytest

from ppvision.config import build
from ppvision.errors import UserError
from ppvision.models import zoo

NAN = float("nan")
WRONG = {
    "rtformer_debug": {
        "num_classes": [0, -3],
        "base_channels": [0, -8],
        "head_channels": [0],
        "spp_channels": [0],
        "cross_size": [0, -1],
        "drop": [1.0, 1.5, -0.1],
        "drop_path": [1.0, -0.1],
        "num_heads": [0, 7, -8],
        "layer_nums": [[0, 1, 1], [2, -1, 2]],
        "bn_momentum": [1.5, -0.1],
        "in_channels": [0, 1, 4],
    },
    "uhrnet_debug": {
        "num_classes": [0, -3],
        "width": [0, 3, -2],
        "blocks": [0],
        "stem_blocks": [0],
        "modules": [[1] * 7 + [0]],
        "init": ["zeros"],
    },
    "maformer_debug": {
        "num_classes": [-1],
        "width": [0, 20, -16],
        "depths": [[0, 1, 1, 1], [], [1] * 9],
        "head_dim": [0, 5, -8],
        "windows": [[4, 4], [4, 4, 4, 0]],
        "image_size": [0, -64, 1],
        "gld_side": [0],
        "fused_stages": [-1, 9],
        "mlp_ratio": [0.0, -4.0],
        "drop_path": [1.0, -0.1],
        "stem": [[0, 4, 2], [7, 3, 2], [7, 4, -1]],
    },
    "upernet_maformer_debug": {
        "num_classes": [0],
        "channels": [0, -16],
        "bins": [[], [0], [1, -2]],
        "image_size": [0],
        "fused_stages": [9],
        "drop_path": [1.0],
    },
    "cae_v2_debug": {
        "num_classes": [-1],
        "image_size": [0, 25, -24],
        "patch_size": [0, -4],
        "dim": [0, -32],
        "depth": [0, -1],
        "num_heads": [0, 5],
        "layer_scale": [-0.1],
        "drop_path": [1.0, -0.1],
    },
    "upernet_cae_v2_debug": {
        "num_classes": [0],
        "channels": [0],
        "bins": [[0]],
        "image_size": [0, 63],
        "drop_path": [1.0],
    },
    "clip_vit_debug": {
        "image_size": [0, 3],
        "patch_size": [0, 25],
        "dim": [0, -64],
        "depth": [0],
        "num_heads": [0, 5],
        "out_dim": [0],
    },
}
CASES = [(name, key, value) for name, keys in WRONG.items() for key, values in keys.items() for value in values]


@pytest.mark.parametrize(("name", "key", "value"), CASES, ids=lambda v: str(v))
def test_a_size_that_cannot_be_names_its_key(name, key, value):
    with pytest.raises(UserError) as caught:
        build("model", {"type": name, key: value}, where=lambda path: f"x.yml:7 ({path})")
    text = str(caught.value)
    # of two sizes that do not fit each other either may be named, and the other is shown
    assert text.startswith("x.yml:7 (model.") and "'model." in text and key.split("_")[0] in text


@pytest.mark.parametrize("name", sorted(WRONG))
def test_every_argument_that_is_a_number_is_tried(name):
    numbers = {k for k, p in zoo.signature(name).parameters.items() if p.annotation in (int, float)}
    assert numbers <= set(WRONG[name])


@pytest.mark.parametrize("name", ["rtformer_debug", "maformer_debug"])
def test_not_a_number_is_no_number(name):
    with pytest.raises(UserError, match="'drop_path' must be"):
        zoo.create_model(name, drop_path=NAN)


def test_published_sizes_pass():
    assert zoo.create_model("rtformer_debug", drop_path=0.0, bn_momentum=1.0, num_classes=1).num_classes == 1
    assert zoo.create_model("cae_v2_debug", num_classes=0).num_classes == 0
