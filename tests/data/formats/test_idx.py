"""The idx format of MNIST and its like."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

from ppvision.data.check import check
from ppvision.data.formats.idx import Idx, decode
from ppvision.errors import UserError


def encode(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("t10k", 4)):
        images = rng.integers(0, 256, (count, 5, 7), np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(encode(images)))
        labels = (np.arange(count) % 3).astype(np.uint8)
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(encode(labels))  # plain is accepted as well
    return tmp_path


def test_reads_pictures_and_labels(root):
    data = Idx(str(root), "train")
    images = decode((root / "train-images-idx3-ubyte.gz").read_bytes())
    assert len(data) == 6 and data.class_names == ["0", "1", "2"] and data.num_classes == 3
    sample = data[4]
    assert sample["label"] == 1 and sample["image"].shape == (5, 7, 3) and sample["image"].dtype == np.uint8
    for channel in range(3):
        np.testing.assert_array_equal(sample["image"][..., channel], images[4])
    assert len(Idx(str(root), "val")) == len(Idx(str(root), "test")) == 4
    assert Idx.splits(str(root)) == ["train", "val"]


def test_names_come_from_a_file(root):
    (root / "labels.txt").write_text("a\nb\nc\nd\n")
    assert Idx(str(root), "train").class_names == list("abcd")
    (root / "labels.txt").write_text("a\n")
    with pytest.raises(UserError, match="1 names, but a label is 2"):
        Idx(str(root), "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x1f\x8b damaged", "damaged gzip"),
        (b"<html>", "is not an idx file"),
        (encode(np.zeros((6, 5, 7), np.uint8))[:-1], "is cut off"),
        (encode(np.zeros((5, 5, 7), np.uint8)), "5 images but 6 labels"),
        (encode(np.zeros(6, np.uint8)), "has 1 axes"),
    ],
)
def test_faults_are_named(root, content, message):
    (root / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(UserError, match=message):
        Idx(str(root), "train")


def test_missing_files_and_splits(root):
    with pytest.raises(UserError, match="no split 'dev'"):
        Idx(str(root), "dev")
    (root / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match="t10k-labels-idx1-ubyte.gz is missing"):
        Idx(str(root), "val")


def test_check_reads_it_whole(root):
    report = check("idx", root)
    assert report.ok and report.splits["train"].classes == {"0": 2, "1": 2, "2": 2}
    (root / "t10k-images-idx3-ubyte.gz").write_bytes((root / "train-images-idx3-ubyte.gz").read_bytes())
    (root / "t10k-labels-idx1-ubyte").write_bytes((root / "train-labels-idx1-ubyte").read_bytes())
    assert "share an image (leakage)" in check("idx", root).faults[0]
