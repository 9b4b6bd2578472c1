from __future__ import annotations

import numpy as np
import pytest

from ppvision.data import DATASETS, Loader
from ppvision.data.base import Dataset, adapted, read_class_names, voc_palette
from ppvision.data.check import dataset_class
from ppvision.errors import UserError


def test_voc_palette_begins_as_published():
    palette = voc_palette(256)
    assert palette[:5].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert palette[15].tolist() == [192, 128, 128] and palette[20].tolist() == [0, 64, 128]
    assert len(np.unique(palette, axis=0)) == 256


def test_class_names(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffroad\r\n\r\ntraffic light\r\n".encode())
    assert read_class_names(str(path)) == ["road", "traffic light"]
    path.write_text("road\nsky\nroad\n")
    with pytest.raises(UserError, match=r"labels.txt: class 'road' stands there twice \(entries 1 and 3\)"):
        read_class_names(str(path))


class Foreign:
    """A data set of another package: samples and length, and whatever else it happens to have."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"image": np.full((2, 4, 3), index, np.uint8), "label": index}


class TestAdapted:
    def test_a_data_set_of_ours_is_itself(self, tmp_path):
        data = Dataset(str(tmp_path), "train")
        assert adapted(data) is data
        assert (data.num_classes, list(data.class_names), data.palette.shape) == (0, [], (0, 3))
        assert (data.ignore_index, data.category_ids, data.groups, data.unit) == (None, None, None, "")

    def test_what_a_foreign_one_says_is_taken_over(self):
        class Named(Foreign):
            def name(self, index):
                return f"/pictures/{index}.png"

        palette = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
        data = adapted(
            Named(num_classes=2, class_names=["a", "b"], palette=palette, ignore_index=7, category_ids=[9, 4])
        )
        assert isinstance(data, Dataset) and len(data) == 4 and data[2]["label"] == 2
        assert (data.num_classes, data.class_names, data.ignore_index, data.category_ids) == (2, ["a", "b"], 7, [9, 4])
        assert data.palette is palette and data.name(1) == "/pictures/1.png" and data.groups is None
        with pytest.raises(UserError, match="/pictures/1.png: image is black"):
            data.fail(1, "image is black")

    def test_what_it_does_not_say_has_the_defaults(self):
        data = adapted(Foreign(class_names=None))
        assert (data.num_classes, list(data.class_names), data.ignore_index) == (0, [], 255)
        assert data.name(2) == "sample 2" and data.files(2) == {"image": "sample 2"} and data.split == ""

    def test_the_loader_adapts(self):
        loader = Loader(Foreign(groups=np.array([0, 1, 0, 1])), None, batch_size=2, shuffle=True)
        assert isinstance(loader.dataset, Dataset)
        batches = [sorted(next(loader.stream(k))["index"].tolist()) for k in range(12)]
        assert {tuple(batch) for batch in batches} == {(0, 2), (1, 3)}  # one group each


def test_every_format_says_what_it_counts():
    counted = {"pixels": {"ade20k", "cityscapes", "seg_list"}, "images": {"imagefolder", "list_file", "idx"}}
    counted |= {"boxes": {"coco"}, "": {"images"}}
    assert {dataset_class(name).unit for name in DATASETS} == set(counted)
    assert all(dataset_class(name).unit == unit for unit, names in counted.items() for name in names)
