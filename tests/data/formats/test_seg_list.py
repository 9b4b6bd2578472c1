from __future__ import annotations

import os

import cv2
import numpy as np
import pytest

from ppvision.data.formats.seg_list import SegList
from ppvision.errors import UserError


def test_reads_what_was_written(seg_root):
    data = SegList(str(seg_root), "train")
    sample = data[3]
    assert len(data) == 13 and data.num_classes == 5 and data.class_names[1] == "sky" and len(data.palette) == 5
    assert np.array_equal(sample["image"], cv2.imread(str(seg_root / "a/3.png"))[..., ::-1])
    assert np.array_equal(sample["label"], cv2.imread(str(seg_root / "b/3.png"), cv2.IMREAD_UNCHANGED))
    assert sample["label"].dtype == np.uint8 and sample["name"] == data.name(3) == str(seg_root / "a/3.png")
    assert data.files(3) == {"image": str(seg_root / "a/3.png"), "label": str(seg_root / "b/3.png")}
    assert SegList.splits(str(seg_root)) == ["train"]


def test_lists_of_other_systems(seg_root):
    (seg_root / "val.txt").write_bytes("\ufeffa/0.png\tb/0.png \r\n\r\na/1.png   b/1.png\r\n".encode())
    assert len(SegList(str(seg_root), "val")) == 2
    os.rename(seg_root / "a/2.png", seg_root / "a/my photo.png")
    (seg_root / "val.txt").write_text("a/my photo.png, b/2.png\n")
    assert SegList(str(seg_root), "val", separator=",")[0]["name"].endswith("my photo.png")


class TestMessages:
    """Whole lines: they are what a person reads."""

    def line(self, root, number, lines=None):
        (root / "train.txt").write_text("\n" * (number - 1) + (lines or "a/7.png b/7.png") + "\n")
        return f"{root}/train.txt:{number}: "

    def test_size(self, seg_root, message, write):
        write(seg_root / "a/7.png", np.zeros((512, 1024, 3), np.uint8))
        write(seg_root / "b/7.png", np.zeros((1024, 2048), np.uint8))
        where = self.line(seg_root, 112)
        expected = where + "label 'b/7.png' is 1024x2048 but image 'a/7.png' is 512x1024"
        assert message(lambda: SegList(str(seg_root), "train")[0]) == expected

    def test_size_by_exif(self, seg_root, message, write):
        from PIL import Image

        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (30, 20)).save(seg_root / "a/7.jpg", exif=exif)
        write(seg_root / "b/7.png", np.zeros((20, 30), np.uint8))
        where = self.line(seg_root, 1, "a/7.jpg b/7.png")
        expected = where + "label 'b/7.png' is 20x30 but image 'a/7.jpg' is 30x20 after its EXIF orientation"
        assert message(lambda: SegList(str(seg_root), "train")[0]) == expected

    @pytest.mark.parametrize("value, dtype", [(5, np.uint8), (254, np.uint8), (300, np.uint16)])
    def test_range(self, seg_root, message, write, value, dtype):
        label = np.zeros((41, 26), dtype)
        label[3, 4] = value
        write(seg_root / "b/7.png", label)
        where = self.line(seg_root, 3)
        expected = where + f"label 'b/7.png' has value {value}; num_classes is 5, so 0..4 and 255 (ignored) are allowed"
        assert message(lambda: SegList(str(seg_root), "train")[0]) == expected

    def test_missing_and_damaged(self, seg_root, message, write):
        where = self.line(seg_root, 2)
        data = SegList(str(seg_root), "train")
        content = (seg_root / "b/7.png").read_bytes()
        (seg_root / "b/7.png").write_bytes(content[:-40])
        assert message(lambda: data[0]) == where + "label 'b/7.png' is truncated (PNG without end)"
        (seg_root / "b/7.png").unlink()
        assert message(lambda: data[0]) == where + "label 'b/7.png' does not exist"
        (seg_root / "a/7.png").write_bytes(b"")
        assert message(lambda: data[0]) == where + "image 'a/7.png' is empty (0 bytes)"

    def test_fields(self, seg_root, message, write):
        where = self.line(seg_root, 5, "a/7.png")
        expected = (
            where + "expected `image label` separated by blanks, got 1 field(s); set separator if names hold blanks"
        )
        assert message(lambda: SegList(str(seg_root), "train")) == expected

    def test_nothing_there(self, seg_root, message, tmp_path):
        layout = "it should hold train.txt with lines `image label`"
        assert (
            message(lambda: SegList(f"{tmp_path}/no", "train"))
            == f"data.root '{tmp_path}/no' is not a folder; {layout}"
        )
        expected = f"data.root '{seg_root}' has no list 'vla.txt'; lists found: train; {layout.replace('train', 'vla')}"
        assert message(lambda: SegList(str(seg_root), "vla")) == expected
        (seg_root / "train.txt").write_text("\n\n")
        expected = f"data.root '{seg_root}', split 'train': no samples found; {layout}"
        assert message(lambda: SegList(str(seg_root), "train")) == expected

    def test_classes(self, seg_root, message, write):
        expected = f"{seg_root}/labels.txt: 5 names but num_classes is 4"
        assert message(lambda: SegList(str(seg_root), "train", num_classes=4)) == expected
        (seg_root / "labels.txt").unlink()
        assert SegList(str(seg_root), "train", num_classes=5).class_names[4] == "class 4"
        with pytest.raises(UserError, match="number of classes unknown: set num_classes, or write labels.txt"):
            SegList(str(seg_root), "train")
        with pytest.raises(UserError, match="'num_classes' must be from 1 to 255, got 256"):
            SegList(str(seg_root), "train", num_classes=256)
