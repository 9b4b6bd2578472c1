"""What the packages' files become: pictures and labels that belong together."""

import json
from pathlib import Path

import pytest

from ppvision.data.samples.fetch import fetch


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The samples, from the usual cache where it has them, else from the registries."""
    return fetch("samples", root=tmp_path_factory.mktemp("samples"))


@pytest.mark.network
class TestRealPackages:
    def test_bear(self, root):
        from ppvision.data.formats.seg_list import SegList

        train, val = SegList(root / "bear", "train"), SegList(root / "bear", "val")
        assert train.class_names == ["background", "bear"] and (len(train), len(val)) == (3, 1)
        for sample in [train[0], train[1], train[2], val[0]]:
            assert sample["image"].shape == (1008, 756, 3)
            assert 0.03 < (sample["label"] == 1).mean() < 0.10 and sample["label"].max() == 1

    def test_bear_boxes_fit_the_masks(self, root):
        from ppvision.data.formats.seg_list import SegList

        for split, count in (("train", 6), ("val", 4)):
            content = json.loads((root / "bear/coco/annotations" / f"instances_{split}.json").read_text())
            assert len(content["annotations"]) == count
            pairs = SegList(root / "bear", split)
            labels = {Path(pairs.name(i)).name: pairs[i]["label"] for i in range(len(pairs))}
            names = {image["id"]: image["file_name"] for image in content["images"]}
            for entry in content["annotations"]:
                x, y, w, h = (round(v) for v in entry["bbox"])
                inside = labels[names[entry["image_id"]]][y : y + h, x : x + w].mean()
                assert 0.4 < inside < 0.95
                assert 0.4 * w * h < entry["area"] < 0.95 * w * h

    def test_digits(self, root):
        from ppvision.data.formats.imagefolder import ImageFolder

        train, val = ImageFolder(root / "digits", "train"), ImageFolder(root / "digits", "val")
        assert len(train) + len(val) == 1797 and train.class_names == list("0123456789")
        assert train[0]["image"].shape == (8, 8, 3) and max(train[i]["image"].max() for i in range(5)) == 255

    def test_photos(self, root):
        from ppvision.data.formats.images import Images

        found = Images(root / "photos")
        assert len(found) == 14 and all(found[i]["image"].size for i in range(14))
        note = (root / "photos" / "LICENSE").read_text()
        assert all(Path(found.name(i)).name in note for i in range(14))
