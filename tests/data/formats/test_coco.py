"""The COCO reader against pycocotools, and against files that are wrong in every way."""

from __future__ import annotations

import gc
import itertools
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as oracle
from pycocotools.coco import COCO

from ppvision.config import load
from ppvision.data import Loader, build_transforms
from ppvision.data.formats.coco import Coco
from ppvision.data.formats.coco_outlines import box_and_area
from ppvision.data.formats.coco_table import Index
from ppvision.errors import UserError

SIZES = [(20, 30), (33, 24), (25, 25), (18, 40)]
CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}, {"id": 90, "name": "toothbrush"}]


def polygon(x: float, y: float, w: float, h: float) -> list[float]:
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def runs(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8, order="F")
    mask[box[1] : box[3], box[0] : box[2]] = 1
    return mask


def compressed(mask: np.ndarray) -> dict:
    code = oracle.encode(np.asfortranarray(mask))
    return {"size": code["size"], "counts": code["counts"].decode()}


def uncompressed(mask: np.ndarray) -> dict:
    found = [(value, len(list(run))) for value, run in itertools.groupby(mask.T.ravel().tolist())]
    return {"size": list(mask.shape), "counts": [0] * found[0][0] + [length for _, length in found]}


def find(data: Coco, id: int) -> tuple[int, int]:
    """Which image, and which of its boxes, an annotation is."""
    for image in range(len(data)):
        for place, row in enumerate(data.boxes(image)[1]):
            if data.annotation(row)["id"] == id:
                return image, place
    raise AssertionError(id)


class Table(dict):
    """A COCO json that a test may alter before it is written."""

    root: Path

    def save(self, **dump) -> Path:
        path = self.root / "annotations" / "instances_train.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(self, **dump), encoding="utf-8")
        return path

    def read(self, **options) -> Coco:
        self.save()
        return Coco(self.root, "train", **options)


@pytest.fixture
def table(tmp_path, write) -> Table:
    """Four images of different sizes: polygons, both kinds of runs, a crowd region, an image without annotation."""
    rng = np.random.default_rng(0)
    for i, size in enumerate(SIZES):
        write(tmp_path / f"train/{i}.png", rng.integers(0, 256, (*size, 3), np.uint8))
    (h1, w1), crowd = SIZES[1], runs(33, 24, (2, 3, 20, 9))
    table = Table(
        images=[
            {"id": 100 - i, "file_name": f"{i}.png", "height": h, "width": w, "license": 1}
            for i, (h, w) in enumerate(SIZES)
        ],
        annotations=[
            {"id": 7, "image_id": 99, "category_id": 18, "iscrowd": 1, "bbox": [2, 3, 18, 6], "area": 108,
             "segmentation": uncompressed(crowd)},
            {"id": 9, "image_id": 100, "category_id": 3, "iscrowd": 0, "bbox": [1.5, 2.5, 10, 8], "area": 77.25,
             "segmentation": [polygon(1.5, 2.5, 10, 8)]},
            {"id": 8, "image_id": 99, "category_id": 90, "iscrowd": 0, "bbox": [0, 0, 5, 6], "area": 30,
             "segmentation": compressed(runs(h1, w1, (0, 0, 5, 6)))},
            {"id": 12, "image_id": 97, "category_id": 18, "iscrowd": 0, "bbox": [3, 4, 20, 10], "area": 60,
             "segmentation": [polygon(3, 4, 5, 6), polygon(18, 8, 5, 6)]},
            {"id": 11, "image_id": 100, "category_id": 18, "iscrowd": 0, "bbox": [20, 10, 9.25, 9.75], "area": 90,
             "segmentation": [[20, 10, 29.25, 10, 29.25, 19.75]]},
        ],
        categories=[dict(c) for c in CATEGORIES],
        info={"year": 2017, "nested": [[{}], "]}"]},
    )  # fmt: skip
    table.root = tmp_path
    return table


def test_agrees_with_pycocotools(table):
    data, theirs = table.read(), COCO(str(table.save()))
    assert len(data) == 4 and data.category_ids == [3, 18, 90] and data.class_names == ["car", "dog", "toothbrush"]
    assert data.num_classes == 3 and data.palette.shape == (3, 3) and data.sizes.tolist() == [list(s) for s in SIZES]
    for i in range(len(data)):
        sample, masks = data[i], data.masks(i)
        entries = theirs.loadAnns(theirs.getAnnIds(imgIds=[sample["image_id"]]))
        xywh = np.array([e["bbox"] for e in entries]).reshape(-1, 4)
        assert np.allclose(sample["boxes"], np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1))
        assert [data.category_ids[c] for c in sample["classes"]] == [e["category_id"] for e in entries]
        assert sample["crowd"].tolist() == [bool(e["iscrowd"]) for e in entries]
        assert sample["areas"].tolist() == [e["area"] for e in entries]
        assert masks.shape == (len(entries), *SIZES[i])
        for mask, entry in zip(masks, entries):
            assert np.array_equal(mask, theirs.annToMask(entry)) and mask.any()
        assert Path(sample["name"]).name == f"{i}.png" and sample["image"].shape == (*SIZES[i], 3)
    assert [len(data[i]["boxes"]) for i in range(4)] == [2, 2, 0, 1]
    empty = data[2]
    assert empty["boxes"].shape == (0, 4) and data.masks(2).shape == (0, 25, 25)
    types = {k: v.dtype for k, v in empty.items() if isinstance(v, np.ndarray) and k != "image"}
    assert types == {"boxes": np.float32, "classes": np.int64, "crowd": bool, "areas": np.float32}


@pytest.mark.parametrize("which", range(5))
def test_box_and_area_come_from_the_outline_where_they_are_absent(table, which):
    entry, complete = table["annotations"][which], table.read()
    image, place = find(complete, entry["id"])
    before = complete[image]
    for key in ("bbox", "area"):
        del entry[key]
    data = table.read()
    after = data[image]
    assert np.allclose(after["boxes"], before["boxes"])
    pixels = data.masks(image)[place].sum()
    # The area of runs is their pixels; that of a polygon is the polygon's.
    exact = isinstance(entry["segmentation"], dict)
    assert after["areas"][place] == pytest.approx(pixels, abs=0 if exact else 12)
    expected = {9: 80.0, 11: 9.25 * 9.75 / 2, 12: 60.0}.get(entry["id"], pixels)
    assert after["areas"][place] == pytest.approx(expected)


def test_area_without_outline_is_the_box():
    assert box_and_area({"bbox": [1, 2, 3, 4]}) == ((1, 2, 4, 6), 12)
    assert box_and_area({"bbox": [1, 2, 3, 4], "segmentation": [[0, 0, 9, 0]]})[0] == (1, 2, 4, 6)


def test_boxes_are_clipped_as_detr_does(table):
    table["annotations"][1]["bbox"] = [-5, 12, 20, 30]
    assert table.read()[0]["boxes"][0].tolist() == [0, 12, 15, 20]
    assert table.read(clip=False)[0]["boxes"][0].tolist() == [-5, 12, 15, 42]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bbox": [1, 1, 0, 5]}, "has no area"),
        ({"bbox": [1, 1, 5, -2]}, "has no area"),
        ({"bbox": [math.nan, 1, 5, 5]}, "is not finite"),
        ({"bbox": [1, 1, math.inf, 5]}, "is not finite"),
        ({"bbox": [1, 1, 10**400, 5]}, "is not finite"),
        ({"bbox": [30, 1, 5, 5]}, "leaves the image (20x30)"),
        ({"bbox": [1, 1, 5]}, "is not four numbers"),
        ({"bbox": [1, 1, 5, None]}, "is not four numbers"),
        ({"bbox": [], "segmentation": []}, "empty annotation"),
        ({"bbox": None, "segmentation": None}, "empty annotation"),
        ({"bbox": None, "segmentation": [[1, 2, 3]]}, "not a polygon"),
        ({"bbox": None, "segmentation": {"size": [20, 30], "counts": [1, 2]}}, "run lengths"),
        ({"bbox": None, "segmentation": {"size": [20, 30], "counts": "zz!"}}, "cannot be decoded"),
        ({"bbox": None, "segmentation": {"size": [20, 30], "counts": [600]}}, "outline is empty"),
        ({"area": math.nan}, "area nan is not a number"),
        ({"area": -3}, "area -3 is not a number"),
    ],
)
def test_unusable_box(table, message, change, words):
    table["annotations"][1].update(change)
    data = table.read()
    text = message(lambda: data[0])
    assert words in text and "instances_train.json: annotation 9 of '0.png'" in text
    assert len(data[1]["boxes"]) == 2  # the others can be used
    dropped = table.read(bad_boxes="drop")
    assert dropped[0]["classes"].tolist() == [1] and len(dropped[0]["boxes"]) == len(dropped.masks(0)) == 1


def test_chosen_categories(table, message):
    data = table.read(category_ids=[90, 3])
    assert data.class_names == ["toothbrush", "car"] and data.category_ids == [90, 3] and data.num_classes == 2
    assert [data[i]["classes"].tolist() for i in range(4)] == [[1], [0], [], []]
    assert "category_ids: 5 is none of them; the file has 3, 18, 90" in message(lambda: table.read(category_ids=[5]))
    for wrong in ([3, 3], []):
        assert "ids must be distinct" in message(lambda ids=wrong: table.read(category_ids=ids))


def test_empty_images_may_be_dropped(table):
    data = table.read(drop_empty=True)
    assert [Path(data.name(i)).name for i in range(len(data))] == ["0.png", "1.png", "3.png"]
    assert [data.image_id(i) for i in range(3)] == [100, 99, 97] and data[2]["image"].shape == (18, 40, 3)
    assert [len(data[i]["boxes"]) for i in range(3)] == [2, 2, 1] and data.masks(2).sum() > 50
    only = table.read(drop_empty=True, category_ids=[18])
    assert [Path(only.name(i)).name for i in range(len(only))] == ["0.png", "3.png"]  # 1.png has only a crowd of them


def test_size_that_is_not_the_files(table, message, tmp_path):
    table["images"][0]["width"] = 31
    data = table.read()
    assert "image '0.png' is 20x30 but is said to be 20x31" in message(lambda: data[0])
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    jpeg = cv2.imencode(".jpg", np.zeros((20, 30, 3), np.uint8))[1].tobytes()
    (tmp_path / "train/0.png").write_bytes(
        jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    )
    table["images"][0]["width"] = 30
    assert "is 30x20 after its EXIF orientation" in message(lambda: table.read()[0])


def test_missing_image_is_named(table, message, tmp_path):
    (tmp_path / "train/1.png").unlink()
    text = message(lambda: table.read()[1])
    assert "instances_train.json: image 'train/1.png' does not exist" in text


@pytest.mark.parametrize("ascii_only", [True, False])
def test_other_letters_do_not_move_the_annotations(table, write, tmp_path, ascii_only):
    name = "фото 1 – ü.png"
    (tmp_path / "train/0.png").rename(tmp_path / "train" / name)
    table["images"][0]["file_name"], table["categories"][0]["name"] = name, "梨"
    table["info"]["description"] = "ж" * 50
    path = table.save(ensure_ascii=ascii_only, indent=1)
    if not ascii_only:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # some editors begin a file so
    data = Coco(tmp_path, "train")
    assert Path(data[0]["name"]).name == name and data.class_names[1] == "梨"
    assert data.masks(0)[0].sum() == 80 and data.annotation(0)["id"] == 9


def test_paths_may_be_given(table, tmp_path):
    table.save().rename(tmp_path / "boxes.json")
    (tmp_path / "train").rename(tmp_path / "pictures")
    data = Coco(tmp_path, "whatever", annotations="boxes.json", images="pictures")
    assert data[0]["image"].shape == (20, 30, 3) and len(data[0]["boxes"]) == 2


def test_missing_parts_are_named(table, message, tmp_path):
    assert "is not a folder; it should hold annotations/instances_train.json" in message(
        lambda: Coco("/nowhere", "train")
    )
    table.save()
    text = message(lambda: Coco(tmp_path, "trian"))
    assert "has no file 'annotations/instances_trian.json'; did you mean 'train'?" in text
    (tmp_path / "train").rename(tmp_path / "val")
    assert "has no folder 'train'" in message(lambda: Coco(tmp_path, "train"))
    with pytest.raises(UserError, match="bad_boxes must be raise or drop"):
        Coco(tmp_path, "train", bad_boxes="keep")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t["annotations"][1].update(image_id=5), "annotation 9: image_id 5 does not exist (dangling)"),
        (lambda t: t["annotations"][1].update(category_id=5), "annotation 9: category_id 5 does not exist"),
        (lambda t: t["annotations"][1].update(image_id=None), "annotation 9: image_id None does not exist"),
        (lambda t: t["annotations"][1].update(id=7), "annotation id 7 occurs twice"),
        (lambda t: t["annotations"][1].update(id="x"), "annotation number 1 has no id that is an integer"),
        (lambda t: t["annotations"][1].update(iscrowd=2), "annotation 9: iscrowd 2 is neither 0 nor 1"),
        (lambda t: t["annotations"].append(3), "annotation number 5 has no id"),
        (lambda t: t["images"][1].update(id=100), "image id 100 occurs twice"),
        (lambda t: t["images"][1].update(id=2**70), "image number 1 has no id that is an integer"),
        (lambda t: t["images"][1].update(file_name=None), "image 99 has no file_name"),
        (lambda t: t["images"][1].update(file_name="a\0b"), "image 99 has a file_name that no file can have"),
        (lambda t: t["images"][1].update(file_name="\ud800"), "image 99 has a file_name that no file can have"),
        (lambda t: t["images"][1].update(height=0), "image 99 ('1.png') has height 0, not a positive integer"),
        (lambda t: t["images"][1].update(width=True), "has width True, not a positive integer"),
        (lambda t: t["categories"][1].update(id=18), "category id 18 occurs twice"),
        (lambda t: t["categories"].clear(), "does not exist (dangling)"),
        (lambda t: t.pop("annotations"), "'annotations' is missing"),
        (lambda t: t.update(images={}), "has 'images' that is not a list but a dict"),
    ],
)
def test_table_that_is_wrong(table, message, change, words):
    change(table)
    text = message(table.read)
    assert words in text and "instances_train.json" in text


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", "{}", "nonsense", '{"images": [', '{"images": [{]}', '{"images": [1 2]}', '{"a" 1}',
     '{"a": 1,}', '{"images": [], "annotations": [], "categories": []', '{"images": [], "images": []}', "[" * 100_000,
     '{"images": [' + "[" * 100_000, '{"images": [], "annotations": [], "categories": []} x'],
)  # fmt: skip
def test_file_that_is_no_table(table, message, tmp_path, content):
    table.save().write_text(content)
    assert "instances_train.json" in message(lambda: Coco(tmp_path, "train"))


def test_truncated_anywhere(table, message, tmp_path):
    path = table.save()
    whole = path.read_bytes()
    for size in range(0, len(whole), 37):
        path.write_bytes(whole[:size])
        assert "instances_train.json" in message(lambda: Coco(tmp_path, "train"))


def test_all_faults_can_be_collected(table):
    table["annotations"][0]["image_id"] = 1
    table["annotations"][2]["category_id"] = 2
    table["images"][3]["height"] = "tall"
    faults: list[str] = []
    index = Index(str(table.save()), faults.append)
    assert len(faults) == 3 and index.annotation_ids.tolist() == [9, 12, 11]


def test_file_that_changes_while_in_use(table, message):
    data = table.read()
    Path(data.table).write_text("{}")
    assert "changed while in use" in message(lambda: data.masks(0))


def test_nothing_is_kept_per_item(tmp_path):
    num, each = 3000, 8
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train").mkdir()
    content = {
        "images": [{"id": i, "file_name": f"{i:012d}.jpg", "height": 480, "width": 640} for i in range(num)],
        "annotations": [
            {"id": j, "image_id": j // each, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0,
             "segmentation": [[1, 2, 3, 4, 5, 6] * 10]}
            for j in range(num * each)
        ],
        "categories": [{"id": 1, "name": "a"}],
    }  # fmt: skip
    (tmp_path / "annotations/instances_train.json").write_text(json.dumps(content))
    del content
    gc.collect()
    before = len(gc.get_objects())
    data = Coco(tmp_path, "train")
    gc.collect()
    assert len(gc.get_objects()) - before < 300 and len(data) == num
    held = sum(v.nbytes for v in vars(data).values() if hasattr(v, "nbytes"))
    assert held < num * each * 45 + num * 50


def test_batches_of_a_recipe(table):
    transforms = build_transforms(
        [
            {"type": "RandomFlip"},
            {"type": "RandomChoice", "a": [{"type": "RandomShortSide", "sizes": [16, 24], "max_size": 40}],
             "b": [{"type": "RandomSizeCrop", "min": 8, "max": 20}]},
        ]
    )  # fmt: skip
    data = table.read()
    loader = Loader(data, transforms, batch_size=4, shuffle=True, keep_target=True)
    for _, batch in zip(range(8), loader.stream(), strict=False):
        counts, offsets = np.diff(batch["boxes_offsets"]), batch["boxes_offsets"]
        assert all(len(batch[k]) == offsets[-1] for k in ("boxes", "classes", "crowd", "areas"))
        assert batch["boxes"].dtype == batch["areas"].dtype == np.float32 and batch["crowd"].dtype == bool
        assert batch["image_id"].tolist() == [100 - i for i in batch["index"]]
        for row in range(4):
            height, width = batch["inner"][row]
            valid = np.zeros_like(batch["valid"][row])
            valid[:height, :width] = True
            assert np.array_equal(batch["valid"][row], valid) and not batch["image"][row][~valid].any()
            boxes = batch["boxes"][offsets[row] : offsets[row + 1]]
            assert (boxes >= 0).all() and (boxes <= [width, height, width, height]).all()
            assert (boxes[:, 2:] > boxes[:, :2]).all()
            raw, target = data[int(batch["index"][row])], batch["target"][row]
            assert set(target) == {"boxes", "classes", "crowd", "areas", "image_id"} and len(boxes) <= len(raw["boxes"])
            assert all(np.array_equal(target[k], raw[k]) for k in target)
        assert counts.max() <= 2


def test_groups_by_aspect(table):
    assert table.read().groups is None
    data = table.read(group_by_aspect=True)
    assert data.groups.tolist() == [1, 0, 1, 1] and data.groups.dtype == np.uint8
    assert table.read(group_by_aspect=True, drop_empty=True).groups.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("name", "shorts", "crops", "longest", "val"),
    [
        ("coco_detr", range(480, 801, 32), (400, 500, 600), 1333, (800, 1333)),
        ("coco_detr_vit_h", range(480, 1185, 32), (400, 500, 600, 700, 800, 900), 2000, (1184, 2000)),
    ],
)
def test_base_configs_are_the_published_augmentation(name, shorts, crops, longest, val):
    cfg = load(Path(__file__).parents[3] / f"configs/_base_/{name}.yml")
    flip, choice = build_transforms(cfg.data.train.transforms).transforms
    assert (flip.p, choice.p) == (0.5, 0.5)
    (direct,), (first, crop, second) = choice.a, choice.b
    for transform, sizes, limit in ((direct, shorts, longest), (first, crops, None), (second, shorts, longest)):
        assert [c.short for c in transform.choices] == list(sizes)
        assert {c.max for c in transform.choices} == {limit}
    assert (crop.min, crop.max) == (384, max(crops))
    (resize,) = build_transforms(cfg.data.val.transforms).transforms
    assert (resize.short, resize.max) == val
    assert cfg.data.type == "coco" and cfg.data.val.kwargs["clip"] is False
