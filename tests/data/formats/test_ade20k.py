from __future__ import annotations

import numpy as np
import pytest

from ppvision.data.formats.ade20k import Ade20k


@pytest.fixture
def root(tmp_path, write):
    values = np.arange(151, dtype=np.uint8).reshape(1, 151)
    for split in ("training", "validation"):
        for i in (2, 1):
            write(tmp_path / f"images/{split}/ADE_{i}.jpg", np.zeros((1, 151, 3), np.uint8))
            write(tmp_path / f"annotations/{split}/ADE_{i}.png", values)
    return tmp_path


def test_labels_are_shifted(root):
    data = Ade20k(str(root), "validation")
    assert data[0]["label"].ravel().tolist() == [255, *range(150)]
    assert data.name(0).endswith("images/validation/ADE_1.jpg") and len(data) == 2
    assert Ade20k.splits(str(root)) == ["training", "validation"]
    assert len(Ade20k(str(root), "train")) == 2


def test_names():
    assert len(Ade20k.class_names) == len(set(Ade20k.class_names)) == len(Ade20k.palette) == 150
    known = {0: "wall", 12: "person", 20: "car", 43: "signboard", 80: "bus", 100: "poster", 127: "bicycle", 149: "flag"}
    assert {i: Ade20k.class_names[i] for i in known} == known


@pytest.mark.parametrize("value, dtype", [(151, np.uint8), (255, np.uint8), (256, np.uint16)])
def test_wrong_values_are_named(root, message, write, value, dtype):
    write(root / "annotations/training/ADE_1.png", np.full((1, 151), value, dtype))
    expected = (
        f"{root}: label 'annotations/training/ADE_1.png' has value {value}; "
        "0 (ignored) and 1..150 are allowed (num_classes is 150)"
    )
    assert message(lambda: Ade20k(str(root), "training")[0]) == expected


def test_missing(root, message):
    assert "no split 'trian'; did you mean 'train'?" in message(lambda: Ade20k(str(root), "trian"))
    (root / "annotations/training/ADE_1.png").unlink()
    expected = f"{root}: label 'annotations/training/ADE_1.png' does not exist"
    assert message(lambda: Ade20k(str(root), "training")[0]) == expected
    assert "has no folder 'images/training'" in message(lambda: Ade20k(str(root / "annotations"), "training"))
