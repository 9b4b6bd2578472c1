"""Synthetic COCO data: what is annotated is what is seen, by independent means."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as oracle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ppvision.data.check import check
from ppvision.data.formats.coco import Coco
from ppvision.data.samples.fetch import fetch
from ppvision.data.samples.synthetic import coco as synthetic
from ppvision.data.samples.synthetic.coco import (
    CutOut,
    Sources,
    annotations,
    compose,
    cut,
    runs,
    shapes,
    visible,
    write,
)
from ppvision.errors import UserError

SIZE = (120, 160)


@pytest.fixture(scope="module")
def sources() -> Sources:
    """Plain discs and squares of one colour each, blue where they end, on grey photographs; enough to know every
    pixel."""
    rows, columns = np.mgrid[:60, :60] + 0.5
    disc = (rows - 30) ** 2 + (columns - 30) ** 2 < 29**2
    square = np.zeros((42, 44), bool)
    square[1:-1, 2:-2] = True
    red, green = np.array([230, 30, 30]), np.array([30, 230, 30])
    items = [
        CutOut(np.where(mask[..., None], colour, (30, 30, 230)).astype(np.uint8), mask, label)
        for label, (mask, colour) in enumerate(((disc, red), (square, green)))
    ]
    photos = [np.full((200, 300, 3), 120, np.uint8)]
    return Sources(((4, "disc"), (9, "square")), {"train": items, "val": items}, {"train": photos, "val": photos})


def scene(seed: int, sources: Sources, **options):
    return compose(np.random.default_rng(seed), SIZE, sources.cutouts["train"], sources.photos["train"], **options)


@pytest.mark.parametrize("crowd", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(6))
def test_what_is_annotated_is_in_front(sources, seed, crowd):
    made = scene(seed, sources, crowd=crowd)
    frontmost = np.full(SIZE, -1)
    for y in range(SIZE[0]):  # slowly, pixel by pixel
        for x in range(SIZE[1]):
            there = [i for i, layer in enumerate(made.layers) if layer.mask[y, x]]
            frontmost[y, x] = max(there, default=-1)
    assert made.visible.shape == (len(made.layers), *SIZE)
    for i, mask in enumerate(made.visible):
        assert np.array_equal(mask, frontmost == i)
    assert sum(layer.crowd for layer in made.layers) == crowd
    # Away from edges, the picture shows the object's colour inside an outline and nowhere else.
    image, edge = made.image.astype(int), np.zeros(SIZE, bool)
    for layer in made.layers:
        mask, ring = layer.mask.astype(np.uint8), np.ones((5, 5), np.uint8)
        edge |= cv2.dilate(mask, ring) != cv2.erode(mask, ring, borderValue=1)
    assert edge.mean() < 0.5
    is_disc, is_square = image[..., 0] - image[..., 1] > 60, image[..., 1] - image[..., 0] > 60
    for label, seen in ((0, is_disc), (1, is_square)):
        masks = [m for m, layer in zip(made.visible, made.layers) if layer.label == label]
        claimed = np.logical_or.reduce(masks) if masks else np.zeros(SIZE, bool)
        assert np.array_equal(claimed[~edge], seen[~edge])


def test_what_is_mostly_hidden_is_taken_out(sources):
    covered, kept = 0, 0
    for seed in range(40):
        made = scene(seed, sources, objects=(8, 8), crowd=0)
        for layer, mask in zip(made.layers, made.visible):
            assert mask.sum() >= max(0.15 * layer.whole, 12)
            covered += mask.sum() < 0.9 * layer.mask.sum()
        kept += len(made.layers)
    assert covered > 40 and 40 * 7 < kept < 40 * 8 - 4


def test_boxes_and_areas_are_those_of_the_runs(sources):
    made = scene(1, sources, crowd=1.0)
    entries = annotations(made, [4, 9])
    assert len(entries) == len(made.layers) and {e["category_id"] for e in entries} <= {4, 9}
    for entry, mask in zip(entries, made.visible[::-1]):
        code = oracle.frPyObjects(entry["segmentation"], *SIZE)
        assert np.array_equal(oracle.decode(code), mask)
        assert entry["bbox"] == oracle.toBbox(code).tolist() and entry["area"] == oracle.area(code) > 0
    assert [e["iscrowd"] for e in entries].count(1) == 1


@pytest.mark.parametrize("mask", [np.zeros((3, 4)), np.ones((3, 4)), np.eye(5), np.eye(4)[::-1]])
def test_runs(mask):
    code = runs(mask.astype(bool))
    assert np.array_equal(oracle.decode(oracle.frPyObjects(code, *mask.shape)), mask)


def test_sizes_are_balanced(sources):
    sides = [
        np.sqrt(mask.sum() / (SIZE[0] * SIZE[1] / (480 * 640)))
        for seed in range(120)
        for made in [scene(seed, sources, crowd=0)]
        for mask in made.visible
    ]
    share = np.histogram(sides, [0, 32, 96, 1e9])[0] / len(sides)
    assert share.min() > 0.26 and len(sides) > 500


def test_cut_takes_the_inside_of_an_outline():
    photo = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    item = cut(photo, np.array([[5, 4], [25, 4], [25, 20], [5, 20]]), 2)
    assert item.label == 2 and item.mask.all() and item.image.shape == (15, 19, 3)
    assert np.array_equal(item.image, photo[5:20, 6:25])
    with pytest.raises(ValueError, match="no pixel"):
        cut(photo, np.array([[100, 100], [110, 100], [110, 110]]), 0)


def test_visible_of_nothing():
    assert visible([], (3, 4)).shape == (0, 3, 4)


def folder(root) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_folder_is_coco_and_a_function_of_the_seed(sources, tmp_path):
    write(tmp_path / "a", 6, 2, sources, sizes=[(96, 128), (128, 96)], seed=3)
    report = check("coco", tmp_path / "a")
    assert report.ok and list(report.splits) == ["train", "val"] and report.splits["train"].count == 6
    assert report.splits["train"].height == (96, 128)
    write(tmp_path / "b", 6, 2, sources, sizes=[(96, 128), (128, 96)], seed=3)
    assert folder(tmp_path / "a") == folder(tmp_path / "b")
    write(tmp_path / "c", 3, 2, sources, sizes=[(96, 128), (128, 96)], seed=3)
    both = {k: v for k, v in folder(tmp_path / "c").items() if not k.endswith("train.json")}
    assert both.items() <= folder(tmp_path / "a").items()  # a smaller set is the beginning of a larger one
    write(tmp_path / "d", 6, 2, sources, sizes=[(96, 128), (128, 96)], seed=4)
    assert not set(folder(tmp_path / "d").values()) & set(folder(tmp_path / "a").values())
    assert all("synthetic" in name for name in folder(tmp_path / "a") if not name.startswith("annotations"))
    data = Coco(tmp_path / "a", "train")
    assert data.category_ids == [4, 9] and data.class_names == ["disc", "square"]
    for i in range(len(data)):
        sample, masks = data[i], data.masks(i)
        assert sample["areas"].tolist() == masks.sum((1, 2)).tolist()
    with pytest.raises(UserError, match="no cut-outs or no photographs to make split 'val'"):
        write(tmp_path / "e", 1, 1, Sources(sources.categories, {"train": sources.cutouts["train"]}, sources.photos))


def test_ground_truth_as_prediction_is_perfect(sources, tmp_path, capsys):
    write(tmp_path, 0, 8, sources, crowd=0.5)
    truth = COCO(str(tmp_path / "annotations/instances_val.json"))
    found = [
        {k: e[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for e in truth.dataset["annotations"]
        if not e["iscrowd"]
    ]
    assert any(e["iscrowd"] for e in truth.dataset["annotations"])
    evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


class TestShapes:
    def test_are_what_was_asked_for(self):
        labels, counts, sides = [], [], []
        for seed in range(200):
            made = shapes(np.random.default_rng(seed))
            assert made.image.shape == (64, 64, 3) and made.image.dtype == np.uint8 and 1 <= len(made.layers) <= 6
            counts.append(len(made.layers))
            for layer in made.layers:
                rows, columns = np.flatnonzero(layer.mask.any(1)), np.flatnonzero(layer.mask.any(0))
                sides.append(max(np.ptp(rows), np.ptp(columns)) + 1)
                labels.append(layer.label)
        assert set(labels) == {0, 1, 2, 3} and max(counts) == 6 and min(counts) == 1
        # Turned by 20 degrees a shape may reach 1.28 times its size.
        assert min(sides) >= 7 and max(sides) <= 28 * 1.28 + 1 and np.percentile(sides, 90) > 22

    def test_outlines_are_where_the_picture_changes(self):
        for seed in range(20):
            made = shapes(np.random.default_rng(seed))
            blurred = made.image.astype(float)
            ground = ~made.visible.any(0)
            for mask in made.visible:
                if mask.sum() > 60:
                    gap = abs(np.median(blurred[mask], 0) - np.median(blurred[ground], 0)).max()
                    assert gap > 25

    def test_class_is_the_form(self):
        full = {}
        for seed in range(150):
            for layer in shapes(np.random.default_rng(seed)).layers:
                rows, columns = np.flatnonzero(layer.mask.any(1)), np.flatnonzero(layer.mask.any(0))
                box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
                full.setdefault(layer.label, []).append(layer.mask.sum() / box)
        share = [np.mean(full[k]) for k in range(4)]  # of the box around it
        assert share[0] == pytest.approx(np.pi / 4, abs=0.04) and share[1] > 0.68
        assert 0.4 < share[2] < 0.55 and 0.38 < share[3] < 0.55

    def test_folder(self, tmp_path):
        synthetic.write_shapes(tmp_path, 5, 3, seed=1)
        assert check("coco", tmp_path).ok and len(list((tmp_path / "val").glob("synthetic_*.png"))) == 3
        assert Coco(tmp_path, "train").class_names == ["disc", "square", "triangle", "cross"]
        synthetic.write_shapes(tmp_path / "large", 1, 1, (96, 200))
        assert Coco(tmp_path / "large", "val")[0]["image"].shape == (96, 200, 3)
        with pytest.raises(UserError, match="at least 32x32, not 16x64"):
            synthetic.write_shapes(tmp_path, 1, 1, (16, 64))


@pytest.mark.network
def test_sources_from_real_photographs(tmp_path):
    """The cut-outs as fetched, and a few scenes of them (the whole set takes half a minute)."""
    from ppvision.data.samples.fetch import SAMPLES
    from ppvision.data.samples.layouts import scene_sources
    from ppvision.data.samples.packages import PACKAGES, Archive, obtain

    names = SAMPLES["synthetic_coco"].packages
    files = {name: Archive(obtain(PACKAGES[name]), PACKAGES[name], tmp_path) for name in names}
    found = scene_sources(files)
    assert [name for _, name in found.categories] == ["bear", "apple", "pear", "coin"]
    counts = {s: np.bincount([c.label for c in found.cutouts[s]]).tolist() for s in ("train", "val")}
    assert counts == {"train": [6, 2, 4, 16], "val": [4, 1, 2, 8]}
    for item in (*found.cutouts["train"], *found.cutouts["val"]):
        assert item.mask.shape == item.image.shape[:2] and 0.3 < item.mask.mean() < 0.95
        inside = item.image[item.mask].astype(int)
        red, green, blue = np.median(inside, 0)
        if item.label == 1:
            assert red > green + 60  # apples are red
        elif item.label == 2:
            assert red > blue + 30 and green > blue + 20  # pears are yellow: on white paper before they were cut out
        elif item.label == 3:
            assert np.ptp(inside, 1).max() == 0  # coins are grey
    pixels = [{p.tobytes() for p in found.photos[s]} for s in ("train", "val")]
    assert len(pixels[0]) == 9 and len(pixels[1]) == 4 and not pixels[0] & pixels[1]
    write(tmp_path / "set", 4, 2, found)
    assert check("coco", tmp_path / "set").ok


@pytest.mark.network
def test_bear_photos_as_coco(tmp_path):
    root = fetch("bear_coco", root=tmp_path)
    data = Coco(root, "train")
    assert [len(data[i]["boxes"]) for i in range(4)] == [1, 2, 3, 4] and data.class_names == ["bear"]
    polygons = json.loads((root / "annotations/instances_train.json").read_text())["annotations"]
    for i in range(4):
        sample, masks = data[i], data.masks(i)
        assert sample["image"].shape == (1008, 756, 3)
        for box, area, mask in zip(sample["boxes"], sample["areas"], masks):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert np.abs(box - [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).max() <= 1
            assert area == pytest.approx(mask.sum(), rel=0.02)
    assert len(polygons) == 10 and check("coco", root).ok
