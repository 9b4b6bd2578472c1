from __future__ import annotations

import numpy as np
import pytest

from ppvision.data.formats.cityscapes import CLASSES, Cityscapes
from ppvision.errors import UserError


@pytest.fixture
def root(tmp_path, write):
    ids = np.arange(34, dtype=np.uint8).reshape(2, 17)
    for split, city, number in (
        ("train", "bonn", 1),
        ("train", "aachen", 2),
        ("train", "aachen", 1),
        ("val", "ulm", 1),
    ):
        stem = f"{split}/{city}/{city}_00000{number}_000019"
        write(tmp_path / f"leftImg8bit/{stem}_leftImg8bit.png", np.full((2, 17, 3), number, np.uint8))
        write(tmp_path / f"gtFine/{stem}_gtFine_labelIds.png", ids)
        write(tmp_path / f"gtFine/{stem}_gtFine_labelTrainIds.png", np.where(ids < 19, ids, 255).astype(np.uint8))
        write(tmp_path / f"gtFine/{stem}_gtFine_color.png", np.zeros((2, 17, 3), np.uint8))
    return tmp_path


def test_ids_become_train_ids(root):
    data = Cityscapes(str(root), "train")
    label = data[0]["label"].ravel()
    expected = np.full(34, 255)
    # The published table: the label ids of train ids 0..18.
    expected[[7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]] = np.arange(19)
    assert label.tolist() == expected.tolist() and label.dtype == np.uint8


def test_order_names_and_splits(root):
    data = Cityscapes(str(root), "train")
    cities = [data.name(i).removeprefix(f"{root}/leftImg8bit/train/") for i in range(3)]
    assert [c.split("/")[0] for c in cities] == ["aachen", "aachen", "bonn"] and len(data) == 3
    assert data.files(2)["label"] == f"{root}/gtFine/train/bonn/bonn_000001_000019_gtFine_labelIds.png"
    assert data.num_classes == len(data.class_names) == len(data.palette) == len(CLASSES) == 19
    assert data.class_names[13] == "car" and data.palette[13].tolist() == [0, 0, 142]
    assert Cityscapes.splits(str(root)) == ["train", "val"]


def test_train_ids_on_demand(root):
    label = Cityscapes(str(root), "val", labels="labelTrainIds")[0]["label"].ravel()
    assert label.tolist() == [*range(19), *[255] * 15]
    with pytest.raises(UserError, match="labels must be labelIds or labelTrainIds, not 'ids'"):
        Cityscapes(str(root), "val", labels="ids")


@pytest.mark.parametrize("value, dtype", [(34, np.uint8), (254, np.uint8), (256, np.uint16), (511, np.uint16)])
def test_unknown_ids_are_named(root, message, write, value, dtype):
    relative = "gtFine/val/ulm/ulm_000001_000019_gtFine_labelIds.png"
    write(root / relative, np.full((2, 17), value, dtype))
    expected = f"{root}: label '{relative}' has value {value}; labelIds may hold 0..33 and 255 (num_classes is 19)"
    assert message(lambda: Cityscapes(str(root), "val")[0]) == expected


def test_missing_folders(root, message):
    layout = "leftImg8bit/{0}/<city>/*_leftImg8bit.png and gtFine/{0}/<city>/*_gtFine_labelIds.png (Cityscapes)"
    expected = f"data.root '{root}' has no folder 'leftImg8bit/vall'; did you mean 'val'?; it should hold "
    assert message(lambda: Cityscapes(str(root), "vall")) == expected + layout.format("vall")
    expected = f"data.root '{root}/x' is not a folder; it should hold {layout.format('val')}"
    assert message(lambda: Cityscapes(f"{root}/x", "val")) == expected
    (root / "leftImg8bit/test/ulm").mkdir(parents=True)
    (root / "gtFine/test").mkdir(parents=True)
    expected = f"data.root '{root}', split 'test': no samples found; it should hold {layout.format('test')}"
    assert message(lambda: Cityscapes(str(root), "test")) == expected
