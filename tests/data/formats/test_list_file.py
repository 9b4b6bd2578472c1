"""The list-file format."""

from __future__ import annotations

import numpy as np
import pytest

from ppvision.data.check import check
from ppvision.data.formats.list_file import ListFile
from ppvision.errors import UserError


@pytest.fixture
def root(tmp_path, write):
    rng = np.random.default_rng(0)
    for name in ("a/1.png", "a/2 b.png", "c.png"):
        write(tmp_path / name, rng.integers(0, 256, (6, 8, 3), np.uint8))
    (tmp_path / "train_list.txt").write_text("a/1.png 0\n\na/2 b.png 2\nc.png 1\n")
    (tmp_path / "labels.txt").write_text("cat\ndog\nowl\n")
    return tmp_path


def test_reads_lines_and_names(root):
    data = ListFile(str(root), "train_list")
    assert [data[i]["label"] for i in range(len(data))] == [0, 2, 1]
    assert data.class_names == ["cat", "dog", "owl"] and data.num_classes == 3
    assert data[1]["image"].shape == (6, 8, 3) and data.name(1) == str(root / "a/2 b.png")
    assert ListFile.splits(str(root)) == ["train_list"]
    assert data.where(1).endswith("train_list.txt:3")


def test_separator_and_number_of_classes(root):
    (root / "labels.txt").unlink()
    (root / "x.txt").write_text("a/2 b.png,4\n")
    data = ListFile(str(root), "x", num_classes=5, separator=",")
    assert data[0]["label"] == 4 and data.class_names == list("01234")


def test_label_maps(root):
    (root / "maps/a").mkdir(parents=True)
    (root / "x.txt").write_text("a/1.png 1\n")
    ids, scores = np.array([[[0, 2]], [[1, 0]]], np.uint16), np.ones((2, 1, 2), np.float16)
    np.savez(root / "maps/a/1.npz", ids=ids, scores=scores)
    sample = ListFile(str(root), "x", label_maps="maps")[0]
    assert sample["token_ids"].dtype == np.int32 and sample["token_scores"].dtype == np.float32
    np.testing.assert_array_equal(sample["token_ids"], ids)
    np.savez(root / "maps/a/1.npz", ids=ids + 2, scores=scores)
    with pytest.raises(UserError, match=r"x.txt:1: label map .* classes 0\.\.2"):
        ListFile(str(root), "x", label_maps="maps")[0]
    (root / "maps/a/1.npz").unlink()
    with pytest.raises(UserError, match=r"x.txt:1: label map .* cannot be read"):
        ListFile(str(root), "x", label_maps="maps")[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [("c.png", "x.txt:1: expected `image class_number`"), ("c.png cat", "expected"), ("c.png 3", "x.txt:1: class 3")],
)
def test_bad_lines_are_named(root, line, message):
    (root / "x.txt").write_text(line + "\n")
    with pytest.raises(UserError, match=message):
        ListFile(str(root), "x")
    assert any(message.split(":")[0] in fault for fault in check("list_file", root, "x").faults)


def test_mistakes_are_named(root):
    with pytest.raises(UserError, match="has no list 'val.txt'; lists found: train_list"):
        ListFile(str(root), "val")
    with pytest.raises(UserError, match="3 names but num_classes is 4"):
        ListFile(str(root), "train_list", num_classes=4)
    (root / "labels.txt").unlink()
    with pytest.raises(UserError, match="number of classes unknown"):
        ListFile(str(root), "train_list")


def test_check_counts_and_finds_a_missing_image(root):
    report = check("list_file", root)
    assert report.ok and report.splits["train_list"].classes == {"cat": 1, "dog": 1, "owl": 1}
    (root / "c.png").unlink()
    assert "train_list.txt:4: image 'c.png' does not exist" in check("list_file", root).faults[0]


def test_a_separator_or_folder_that_cannot_be(root):
    with pytest.raises(UserError, match="'separator' must not be empty"):
        ListFile(str(root), "train_list", separator="")
    with pytest.raises(UserError, match="'label_maps' is no folder below .*: 'maps'"):
        ListFile(str(root), "train_list", label_maps="maps")
    (root / "labels.txt").unlink()
    with pytest.raises(UserError, match="'num_classes' must be from 1 to 100000, got 1000000000"):
        ListFile(str(root), "train_list", num_classes=10**9)


@pytest.mark.parametrize("number", ["99999999999999999999", "\u0663", "-1", "1.0"])
def test_a_number_that_is_no_class(root, number):
    (root / "train_list.txt").write_text(f"c.png {number}\n")
    with pytest.raises(UserError, match="train_list.txt:1: "):
        ListFile(str(root), "train_list")


@pytest.mark.parametrize("kind", ["text", "zip", "npy", "empty"])
def test_a_label_map_that_is_none_is_one_line(root, kind):
    (root / "maps").mkdir()
    path = root / "maps/c.npz"
    if kind == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif kind == "empty":
        np.savez(path, ids=np.zeros((0, 2, 2)), scores=np.zeros((0, 2, 2)))
    else:
        path.write_bytes(b"PK\x03\x04 nothing" if kind == "zip" else b"text")
    with pytest.raises(UserError, match="train_list.txt:4: label map '.*c.npz'"):
        ListFile(str(root), "train_list", label_maps="maps")[2]
