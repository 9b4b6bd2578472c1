"""`data check`: every kind of fault is found and names its file; clean data has none;
nothing on the disk makes it raise."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ppvision.data import DATASETS
from ppvision.data.check import check, check_config
from ppvision.data.formats.coco import Coco
from ppvision.data.formats.coco_outlines import box_fault
from ppvision.data.samples.fetch import fetch
from ppvision.data.samples.synthetic import street
from ppvision.errors import UserError


def picture(path, seed=0, size=(20, 30), mode="RGB", **save):
    """A noisy picture of (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng([seed, *path.name.encode()]).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(path, **save)
    return path


def mask(path, values=(0, 1), size=(20, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    label = np.resize(np.array(values, np.uint8), size)
    Image.fromarray(label).save(path)
    return path


def rotated(path, orientation=6, size=(20, 30)):
    """A JPEG of (height, width) stored pixels that a viewer turns."""
    exif = Image.Exif()
    exif[274] = orientation
    return picture(path, size=size, exif=exif)


@pytest.fixture
def pairs(tmp_path):
    """seg_list with three pairs in train and one in val."""
    for split, names in (("train", "abc"), ("val", "d")):
        for name in names:
            picture(tmp_path / "img" / f"{name}.png")
            mask(tmp_path / "lab" / f"{name}.png")
        (tmp_path / f"{split}.txt").write_text("".join(f"img/{n}.png lab/{n}.png\n" for n in names))
    (tmp_path / "labels.txt").write_text("ground\nthing\n")
    return tmp_path


@pytest.fixture
def boxes(tmp_path):
    """coco with two images and three boxes; `save` writes the table after a test has damaged it."""
    for name in ("a.jpg", "b.jpg"):
        picture(tmp_path / "train" / name)
    table = {
        "images": [{"id": i + 1, "file_name": n, "height": 20, "width": 30} for i, n in enumerate(("a.jpg", "b.jpg"))],
        "annotations": [
            {"id": 10, "image_id": 1, "category_id": 5, "bbox": [0, 0, 30, 20]},
            {"id": 11, "image_id": 1, "category_id": 7, "bbox": [3, 4, 5.5, 6]},
            {"id": 12, "image_id": 2, "category_id": 5, "bbox": [1, 2, 3, 4]},
        ],
        "categories": [{"id": 5, "name": "dog"}, {"id": 7, "name": "cat"}],
    }

    class Table(dict):
        """The table as a mapping, and `save`, which writes it and checks the data set."""

        def save(self):
            return save()

    def save():
        path = tmp_path / "annotations" / "instances_train.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(table))
        return check("coco", tmp_path)

    table = Table(table)
    save()
    return table


def only(report, *words):
    """The report holds exactly one fault, and it has all the words."""
    assert len(report.faults) == 1, report.faults
    assert all(word in report.faults[0] for word in words), report.faults[0]


class TestSegmentation:
    def test_clean(self, pairs):
        report = check("seg_list", pairs)
        assert report.ok and report.faults == [] and report.notes == []
        train = report.splits["train"]
        assert (train.count, train.height, train.width) == (3, (20, 20), (30, 30))
        assert train.classes == {"ground": 900, "thing": 900} and train.unit == "pixels"
        assert report.splits["val"].classes == {"ground": 300, "thing": 300}

    def test_size_range(self, pairs):
        picture(pairs / "img" / "b.png", size=(50, 12))
        mask(pairs / "lab" / "b.png", size=(50, 12))
        train = check("seg_list", pairs).splits["train"]
        assert (train.height, train.width) == ((20, 50), (12, 30))

    def test_only_one_split(self, pairs):
        assert list(check("seg_list", pairs, "val").splits) == ["val"]

    def test_truncated_image(self, pairs):
        path = pairs / "img" / "b.png"
        path.write_bytes(path.read_bytes()[:-40])
        only(check("seg_list", pairs), "img/b.png", "truncated")

    def test_unreadable_label(self, pairs):
        (pairs / "lab" / "c.png").write_bytes(b"")
        only(check("seg_list", pairs), "lab/c.png", "empty")

    def test_missing_files(self, pairs):
        (pairs / "img" / "a.png").unlink()
        (pairs / "lab" / "d.png").unlink()
        report = check("seg_list", pairs)
        assert len(report.faults) == 2
        assert "img/a.png" in report.faults[0] and "lab/d.png" in report.faults[1]
        assert all("does not exist" in fault for fault in report.faults)

    def test_mask_size(self, pairs):
        mask(pairs / "lab" / "b.png", size=(20, 29))
        only(check("seg_list", pairs), "lab/b.png", "20x29", "20x30")

    def test_label_range(self, pairs):
        mask(pairs / "lab" / "b.png", values=(0, 1, 2, 255))
        only(check("seg_list", pairs), "lab/b.png", "value 2", "0..1")

    def test_image_rotated_by_exif(self, pairs):
        rotated(pairs / "img" / "b.jpg")
        (pairs / "val.txt").write_text("img/b.jpg lab/b.png\n")
        only(check("seg_list", pairs), "img/b.jpg", "lab/b.png", "EXIF", "30x20")

    def test_half_turn_by_exif_is_a_note(self, pairs):
        """Sizes agree, so only eyes can tell whether the label was drawn on the turned picture."""
        rotated(pairs / "img" / "b.jpg", orientation=3)
        (pairs / "val.txt").write_text("img/b.jpg lab/b.png\n")
        report = check("seg_list", pairs)
        assert report.ok and "img/b.jpg: EXIF orientation 3" in report.notes[0]

    def test_empty_annotation(self, pairs):
        mask(pairs / "lab" / "b.png", values=(255,))
        only(check("seg_list", pairs), "lab/b.png", "empty annotation")

    @pytest.mark.parametrize("mode", ["RGBA", "LA"])
    def test_channels_of_an_image(self, pairs, mode):
        picture(pairs / "img" / "b.png", mode=mode)
        only(check("seg_list", pairs), "img/b.png", f"channels {mode}")

    def test_cmyk(self, pairs):
        picture(pairs / "img" / "b.jpg", mode="CMYK")
        (pairs / "val.txt").write_text("img/b.jpg lab/b.png\n")
        only(check("seg_list", pairs), "img/b.jpg", "channels CMYK")

    def test_grey_image_is_no_fault(self, pairs):
        picture(pairs / "img" / "b.png", mode="L")
        assert check("seg_list", pairs).ok

    def test_coloured_label(self, pairs):
        picture(pairs / "lab" / "b.png")
        only(check("seg_list", pairs), "lab/b.png", "colour")

    def test_leakage(self, pairs):
        (pairs / "img" / "d.png").write_bytes((pairs / "img" / "b.png").read_bytes())
        only(check("seg_list", pairs), "img/d.png", "img/b.png", "leakage", "'train'", "'val'")

    def test_same_path_in_two_splits_is_leakage_too(self, pairs):
        (pairs / "val.txt").write_text("img/a.png lab/a.png\n")
        only(check("seg_list", pairs), "img/a.png", "leakage")

    def test_twice_in_one_split_is_a_note(self, pairs):
        (pairs / "img" / "c.png").write_bytes((pairs / "img" / "b.png").read_bytes())
        report = check("seg_list", pairs)
        assert report.ok and "train: 1 images occur twice" in report.notes[0]

    def test_class_that_never_occurs_is_a_note(self, pairs):
        (pairs / "labels.txt").write_text("ground\nthing\nunicorn\n")
        report = check("seg_list", pairs)
        assert report.ok and report.notes == [
            "train: 1 classes never occur: unicorn",
            "val: 1 classes never occur: unicorn",
        ]

    def test_malformed_line(self, pairs):
        (pairs / "val.txt").write_text("img/d.png\n")
        only(check("seg_list", pairs), "val.txt:1", "expected `image label`")

    def test_text_that_is_no_list_is_not_a_split(self, pairs):
        (pairs / "README.txt").write_text("Photos of things, CC0.\n")
        assert sorted(check("seg_list", pairs).splits) == ["train", "val"]

    def test_cityscapes(self, tmp_path):
        street.write(tmp_path, 2, 1, (112, 224), min_thickness=8)
        report = check("cityscapes", tmp_path)
        assert report.ok and report.splits["train"].count == 2
        total = sum(report.splits["val"].classes.values())
        assert 0.8 * 112 * 224 < total <= 112 * 224
        labels = tmp_path / "gtFine" / "train" / "synthetic"
        name = "synthetic_000001_000000_gtFine_labelIds.png"
        mask(labels / name, values=(7, 34), size=(112, 224))
        mask(labels / "synthetic_000009_000000_gtFine_labelIds.png")
        faults = check("cityscapes", tmp_path).faults
        assert len(faults) == 2
        assert "000009" in faults[0] and "has no image" in faults[0]
        assert name in faults[1] and "value 34" in faults[1]

    def test_ade20k(self, tmp_path):
        for name in ("a", "b"):
            picture(tmp_path / "images" / "training" / f"{name}.jpg")
            mask(tmp_path / "annotations" / "training" / f"{name}.png", values=(0, 1, 150))
        report = check("ade20k", tmp_path)
        assert report.ok and report.splits["training"].classes["flag"] == 400
        mask(tmp_path / "annotations" / "training" / "b.png", values=(151,))
        only(check("ade20k", tmp_path), "b.png", "151")


class TestClassification:
    def test_clean_and_broken(self, tmp_path):
        for split in ("train", "val"):
            for name in ("cat", "dog"):
                picture(tmp_path / split / name / f"{split}{name}.png")
        (tmp_path / "train" / "emu").mkdir()
        report = check("imagefolder", tmp_path)
        assert report.ok and report.splits["train"].classes == {"cat": 1, "dog": 1, "emu": 0}
        assert any("emu: class folder without images" in note for note in report.notes)
        (tmp_path / "val" / "dog" / "valdog.png").write_bytes(b"<!DOCTYPE html>")
        only(check("imagefolder", tmp_path), "valdog.png", "HTML")

    def test_images(self, tmp_path):
        picture(tmp_path / "deep" / "a.png")
        path = picture(tmp_path / "b.jpg")
        assert check("images", tmp_path).ok
        path.write_bytes(path.read_bytes()[:200])
        only(check("images", tmp_path), "b.jpg", "truncated")


class TestBoxes:
    def test_clean(self, boxes):
        report = boxes.save()
        assert report.ok and report.splits["train"].classes == {"dog": 2, "cat": 1}

    @pytest.mark.parametrize(
        ("box", "words"),
        [
            ([10, 10, 21, 5], "leaves the image (20x30)"),
            ([-3, 0, 5, 5], "leaves the image"),
            ([1, 1, 0, 5], "no area"),
            ([1, 1, 5, -2], "no area"),
            ([1, math.nan, 5, 5], "not finite"),
            ([1, 1, math.inf, 5], "not finite"),
            ([1, 1, 5], "not four numbers"),
            (["1", 1, 5, 5], "not four numbers"),
            ([], "empty annotation"),
            (None, "empty annotation"),
        ],
    )
    def test_bad_box(self, boxes, box, words):
        boxes["annotations"][1]["bbox"] = box
        only(boxes.save(), "instances_train.json", "annotation 11", "a.jpg", words)

    def test_rounding_is_no_fault(self):
        assert box_fault([-0.4, 0, 30.8, 20.3], (20, 30)) is None
        assert box_fault([-0.6, 0, 5, 5], (20, 30))

    @pytest.mark.parametrize("key", ["image_id", "category_id"])
    def test_dangling(self, boxes, key):
        boxes["annotations"][2][key] = 99
        only(boxes.save(), "annotation 12", f"{key} 99", "dangling")

    def test_declared_size(self, boxes):
        boxes["images"][1]["width"] = 31
        only(boxes.save(), "train/b.jpg", "20x30", "20x31")

    def test_rotated_by_exif(self, boxes, tmp_path):
        rotated(tmp_path / "train" / "b.jpg")
        report = boxes.save()
        assert "EXIF orientation 6" in report.faults[0] and "b.jpg: image is 30x20" in report.faults[0]

    def test_missing_image(self, boxes, tmp_path):
        (tmp_path / "train" / "b.jpg").unlink()
        only(boxes.save(), "train/b.jpg", "does not exist")

    def test_repeated_ids_and_names(self, boxes):
        boxes["images"][1].update(id=1, file_name="a.jpg")
        faults = boxes.save().faults
        assert any("image id 1 occurs twice" in f for f in faults)
        assert any("image_id 2 does not exist" in f for f in faults)

    def test_image_without_annotation_is_a_note(self, boxes):
        del boxes["annotations"][2]
        report = boxes.save()
        assert report.ok and report.notes == ["train: 1 images have no annotation"]

    @pytest.mark.parametrize(
        "content", ["", "[1, 2", "[]", "3", '{"images": 3, "annotations": [4], "categories": [[]]}', '{"images": [{}]}']
    )
    def test_not_a_table(self, tmp_path, content):
        (tmp_path / "annotations").mkdir()
        (tmp_path / "annotations" / "instances_train.json").write_text(content or "{")
        report = check("coco", tmp_path)
        assert not report.ok and all("instances_train.json" in fault for fault in report.faults)

    @pytest.mark.parametrize("value", [None, "x", [], {}, 1.5, True])
    @pytest.mark.parametrize(
        "where", ["images.id", "images.file_name", "images.height", "annotations.image_id", "annotations.category_id"]
    )
    def test_wrong_types_are_faults(self, boxes, where, value):
        part, key = where.split(".")
        boxes[part][0][key] = value
        report = boxes.save()
        # True equals 1, the id that was there.
        assert not report.ok or (key in ("id", "image_id") and value is True)

    def test_outline_instead_of_a_box(self, boxes):
        first, second, third = boxes["annotations"]
        for entry, outline in (
            (first, [[0, 0, 29, 0, 29, 19]]),
            (second, {"size": [20, 30], "counts": [45, 10, 545]}),
            (third, [[1, 2, 31, 2, 31, 10]]),
        ):
            del entry["bbox"]
            entry["segmentation"] = outline
        only(boxes.save(), "annotation 12 of 'b.jpg'", "leaves the image")
        third["segmentation"] = {"size": [20, 30], "counts": [45, 10]}
        only(boxes.save(), "annotation 12 of 'b.jpg'", "run lengths")

    def test_outline_that_nothing_depends_on_is_a_note(self, boxes):
        boxes["annotations"][0]["segmentation"] = [[1, 2, 3]]
        boxes["annotations"][1]["segmentation"] = {"size": [20, 31], "counts": [620]}
        report = boxes.save()
        assert report.ok and len(report.notes) == 2
        assert "annotation 10 of 'a.jpg'" in report.notes[0] and "outline is of 20x31 pixels" in report.notes[1]

    def test_flags_and_areas(self, boxes):
        boxes["annotations"][0]["area"] = math.nan
        boxes["annotations"][1]["iscrowd"] = 3
        first, second = sorted(boxes.save().faults)
        assert "annotation 10 of 'a.jpg': area nan" in first and "annotation 11: iscrowd 3" in second

    def test_turned_image_of_the_right_size_is_a_note(self, boxes, tmp_path):
        rotated(tmp_path / "train" / "b.jpg", orientation=3)
        report = boxes.save()
        assert report.ok and len(report.notes) == 1
        assert "b.jpg: EXIF orientation 3 is applied to the image, not to its boxes" in report.notes[0]

    def test_splits_must_not_share_images_and_must_share_classes(self, boxes, tmp_path):
        boxes["categories"][0]["name"] = "hound"
        (tmp_path / "val").mkdir()
        (tmp_path / "val" / "c.jpg").write_bytes((tmp_path / "train" / "a.jpg").read_bytes())
        val = dict(boxes, images=[dict(boxes["images"][0], file_name="c.jpg")], annotations=[])
        val["categories"] = [{"id": 5, "name": "dog"}, {"id": 7, "name": "cat"}]
        (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(val))
        first, second = boxes.save().faults
        assert "instances_val.json: categories differ from those of" in first and "5 'dog'" in first
        assert "val/c.jpg: same bytes as" in second and "leakage" in second

    def test_two_categories_of_one_name(self, boxes):
        boxes["categories"][0]["name"] = "cat"
        only(boxes.save(), "instances_train.json", "2 categories are called 'cat'")

    def test_options_of_the_data_set(self, boxes, tmp_path):
        boxes["annotations"][1]["bbox"] = [1, 1, 0, 5]
        boxes.save()
        assert not check("coco", tmp_path, "train", clip=False).ok
        report = check("coco", tmp_path, "train", bad_boxes="drop")
        assert report.ok and "annotation 11 of 'a.jpg'" in report.notes[0]  # training leaves it out
        with pytest.raises(UserError, match="category_ids: 6 is none of them"):
            check("coco", tmp_path, "train", category_ids=[6])
        with pytest.raises(UserError, match="'coco'.*nonsense"):
            check("coco", tmp_path, "train", nonsense=1)

    def test_recipe_that_reads_one_split_in_two_ways(self, boxes, tmp_path):
        from types import SimpleNamespace as Plain

        train, val = (Plain(type=None, kwargs={"split": "train", "clip": clip}) for clip in (True, False))
        report = check_config(Plain(data=Plain(type="coco", root=str(tmp_path), train=train, val=val)))
        assert report.ok and len(report.splits) == 2

    def test_what_passes_is_what_training_reads(self, boxes, tmp_path):
        assert boxes.save().ok
        data = Coco(tmp_path, "train")
        assert [len(data[i]["boxes"]) for i in range(2)] == [2, 1]
        boxes["annotations"][0]["bbox"] = [1, 1, 0, 5]
        assert not boxes.save().ok
        with pytest.raises(UserError, match="annotation 10"):
            Coco(tmp_path, "train")[0]

    def test_no_such_split(self, boxes, tmp_path):
        with pytest.raises(UserError, match="instances_test.json does not exist"):
            check("coco", tmp_path, "test")


@pytest.mark.network
class TestSamples:
    @pytest.fixture
    def folder(self, tmp_path):
        return lambda name: fetch(name, root=tmp_path)

    def test_bear_is_clean(self, folder):
        root = folder("bear")
        assert check("seg_list", root).faults == [] and check("coco", root / "coco").faults == []

    def test_fruit_is_rejected_with_file_names(self, folder):
        root = folder("fruit")
        faults = check("coco", root).faults
        for name in ("train/image/2.jpeg", "train/image/4.jpeg", "val/image/3.jpeg"):
            assert any(name in fault and "1008x756" in fault for fault in faults)
        assert sum("leaves the image" in fault for fault in faults) == 7
        for split, wrong in (("train", ("image/2.jpeg", "image/4.jpeg")), ("val", ("image/3.jpeg",))):
            data = Coco(root, split)  # and training stops at the first
            for i, name in enumerate(wrong):
                with pytest.raises(UserError, match=f"{split}.json: image '{name}' is .* but is said to be 1008x756"):
                    data[i]
        only(check("seg_list", root), "train.txt:2", "Annotations/3.png", "colour")

    def test_digits_and_photos(self, folder):
        assert check("imagefolder", folder("digits")).faults == []
        assert check("images", folder("photos")).faults == []


class TestReport:
    def test_first_twenty_faults_are_shown_and_all_are_written(self, pairs):
        names = [f"n{i:02d}" for i in range(30)]
        (pairs / "train.txt").write_text("".join(f"img/{n}.png lab/{n}.png\n" for n in names))
        report = check("seg_list", pairs, "train")
        lines = report.lines()
        shown = [line for line in lines if line.startswith("fault: ")]
        assert len(shown) == 20 and [n in line for n, line in zip(names, shown, strict=False)] == [True] * 20
        assert "... and 10 more faults" in lines and "30 faults" in lines[-1]
        assert len(json.loads(report.to_json())["faults"]) == 30

    def test_json(self, pairs):
        content = json.loads(check("seg_list", pairs).to_json())
        assert content["ok"] is True and content["format"] == "seg_list" and content["num_faults"] == 0
        assert content["splits"]["train"]["classes"] == {"ground": 900, "thing": 900}
        assert content["splits"]["train"]["height"] == [20, 20]

    def test_any_number_of_workers_gives_the_same(self, pairs):
        (pairs / "img" / "b.png").unlink()
        (pairs / "lab" / "c.png").unlink()
        one, many = (check("seg_list", pairs, workers=n) for n in (1, 8))
        assert one.faults == many.faults and one.splits == many.splits

    def test_more_samples_than_are_in_flight(self, tmp_path):
        for i in range(300):
            picture(tmp_path / f"{i:03d}.png", size=(4, 4 + i % 3))
        assert check("images", tmp_path).splits[""].count == 300

    def test_recipe(self, pairs):
        from types import SimpleNamespace as Plain

        def part(**kwargs):
            return Plain(type=None, kwargs=kwargs)

        data = Plain(type="seg_list", root=str(pairs), train=part(split="train", transforms=[]), val=part(split="val"))
        report = check_config(Plain(data=data))
        assert report.ok and list(report.splits) == ["train", "val"]
        data.val = part(split="train", transforms=[{"type": "Resize"}])  # evaluates on what it trains on: read once
        assert list(check_config(Plain(data=data)).splits) == ["train"]
        with pytest.raises(UserError, match="names no data"):
            check_config(Plain(data=Plain(type="seg_list", root="x", train=None, val=None)))


class TestUsage:
    def test_unknown_format(self, tmp_path):
        with pytest.raises(UserError, match="no data format 'seglist'; did you mean 'seg_list'"):
            check("seglist", tmp_path)

    @pytest.mark.parametrize("format", sorted(DATASETS))
    def test_missing_root(self, format):
        with pytest.raises(UserError, match="'/nowhere' is not a folder"):
            check(format, "/nowhere")

    @pytest.mark.parametrize("format", sorted(DATASETS))
    def test_empty_root(self, format, tmp_path):
        with pytest.raises(UserError):
            check(format, tmp_path)

    def test_unknown_option(self, pairs):
        with pytest.raises(UserError, match="seg_list.*nonsense"):
            check("seg_list", pairs, nonsense=3)

    def test_missing_split(self, pairs):
        with pytest.raises(UserError, match="has no list 'test.txt'"):
            check("seg_list", pairs, "test")

    @pytest.mark.parametrize(("damage", "status"), [(False, 0), (True, 1)])
    def test_exit_status(self, pairs, damage, status, tmp_path):
        if damage:
            (pairs / "lab" / "a.png").unlink()
        command = [sys.executable, "-m", "ppvision", "data", "check", "--format", "seg_list", "--root", str(pairs)]
        out = pairs / "report.json"
        done = subprocess.run([*command, "--json", str(out)], capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        assert json.loads(out.read_text())["ok"] is not damage
        assert ("lab/a.png" in done.stdout + done.stderr) is damage
