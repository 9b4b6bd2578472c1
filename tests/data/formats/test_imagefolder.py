from __future__ import annotations

import numpy as np
import pytest

from ppvision.data.formats.imagefolder import ImageFolder


@pytest.fixture
def root(tmp_path, write):
    for name in ("train/cat/1.png", "train/cat/2.jpg", "train/ape/1.png", "train/dog/x.webp", "val/dog/1.png"):
        write(tmp_path / name, np.zeros((4, 5, 3), np.uint8))
    (tmp_path / "train/cat/notes.txt").write_text("not an image")
    (tmp_path / "train/empty").mkdir()
    return tmp_path


def test_labels_and_names(root):
    data = ImageFolder(str(root), "train")
    assert data.class_names == ["ape", "cat", "dog", "empty"] and data.num_classes == 4
    assert [(data[i]["label"], data[i]["name"]) for i in range(4)] == [
        (0, f"{root}/train/ape/1.png"),
        (1, f"{root}/train/cat/1.png"),
        (1, f"{root}/train/cat/2.jpg"),
        (2, f"{root}/train/dog/x.webp"),
    ]
    assert ImageFolder.splits(str(root)) == ["train", "val"]


def test_a_class_missing_in_val_does_not_shift_the_others(root):
    assert ImageFolder(str(root), "val")[0]["label"] == 2
    (root / "labels.txt").write_text("dog\ncat\nempty\nape\n")
    assert ImageFolder(str(root), "val")[0]["label"] == 0


def test_messages(root, message, write):
    write(root / "val/dgo/1.png", np.zeros((4, 5, 3), np.uint8))
    expected = f"{root}/val/dgo: no class 'dgo' in {root}/train; did you mean 'dog'?"
    assert message(lambda: ImageFolder(str(root), "val")) == expected
    assert "has no folder 'test'; did you mean" not in message(lambda: ImageFolder(str(root), "zzz"))
    (root / "train/ape/1.png").write_bytes(b"x")
    expected = f"{root}: image 'train/ape/1.png' cannot be decoded (damaged, or not an image)"
    assert message(lambda: ImageFolder(str(root), "train")[0]) == expected
