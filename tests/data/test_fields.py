"""What a key of a sample is: picture, map, ragged rows, target; and that transforms and collate go by it."""

from __future__ import annotations

import numpy as np
import pytest

from ppvision.data.collate import collate
from ppvision.data.fields import FIELDS, Field, field_of, is_map, is_normalised, is_picture, start, targets
from ppvision.data.transforms.image import CenterCrop, Compose, PadTo, RandomCrop, RandomFlip, Resize


@pytest.mark.parametrize(
    ("key", "collated", "picture", "moves", "target"),
    [
        ("image", "canvas", True, True, False),
        ("image_style", "canvas", True, True, False),
        ("crop_face", "own", True, False, False),
        ("image_id", "stack", False, False, True),
        ("boxes", "rows", False, False, True),
        ("points", "rows", False, False, False),
        ("size", "record", False, False, True),
        ("name", "list", False, False, False),
        ("crop", "stack", False, False, True),
        ("cropped_at", "stack", False, False, True),
        ("imagery", "stack", False, False, True),
        ("anything", "stack", False, False, True),
    ],
)
def test_what_a_key_is(key, collated, picture, moves, target):
    field = field_of(key)
    assert (field.collate, field.picture, field.moves, field.target) == (collated, picture, moves, target)
    assert is_normalised(key) == picture and is_picture(key) == moves


def test_a_label_is_a_map_by_its_axes():
    assert is_map("label", np.zeros((2, 3))) and is_map("label_edge", np.zeros((2, 3)))
    assert not is_map("label", 3) and not is_map("label", np.zeros(3)) and not is_map("labels", np.zeros((2, 3)))
    assert field_of("label", np.zeros((2, 3))).collate == "canvas" and field_of("label", 3).collate == "stack"


def test_targets_leave_out_what_a_network_sees():
    sample = start({"image": np.zeros((2, 3, 3)), "crop_face": np.zeros((1, 1, 3)), "points": np.zeros((4, 3))})
    kept = targets({**sample, "boxes": np.zeros((1, 4)), "label": np.zeros((2, 3)), "name": "a"})
    assert set(kept) == {"boxes", "label", "size", "inner", "geometry"}


def test_records_of_before_are_kept():
    """Collate starts samples again that transforms have changed: where they come from must not be forgotten."""
    moved = np.array([[0.5, 0, 1], [0, 2, 0], [0, 0, 1]])
    given = {"image": np.zeros((4, 6, 3), np.uint8), "size": (20, 30), "inner": (3, 5), "geometry": moved}
    again = start(given)
    assert (again["size"], again["inner"]) == ((20, 30), (3, 5)) and again["geometry"] is moved
    fresh = start({"image": given["image"]})
    assert (fresh["size"], fresh["inner"]) == ((4, 6), (4, 6)) and np.array_equal(fresh["geometry"], np.eye(3))
    assert set(start({"points": np.zeros((2, 3))})) == {"points"}


def test_rows_of_boxes_are_one_group():
    assert {field_of(key).group for key in ("boxes", "classes", "crowd", "areas")} == {"boxes"}
    rows = {"boxes": (4,), "classes": (), "crowd": (), "areas": (), "keypoints": (2,), "points": (3,)}
    lengths = {"boxes": (2, 1), "keypoints": (0, 3), "points": (5, 4)}
    samples = [
        {key: np.zeros((lengths[field_of(key).group][i], *shape)) for key, shape in rows.items()} for i in (0, 1)
    ]
    batch = collate(samples)
    found = {key: value.tolist() for key, value in batch.items() if key.endswith("_offsets")}
    assert found == {"boxes_offsets": [0, 2, 3], "keypoints_offsets": [0, 0, 3], "points_offsets": [0, 5, 9]}


def test_a_package_adds_its_keys(monkeypatch):
    monkeypatch.setitem(FIELDS, "lanes", Field("rows", group="lanes"))
    monkeypatch.setitem(FIELDS, "depth_*", Field("own"))
    batch = collate([{"lanes": np.ones((n, 2)), "depth_left": np.ones((n, 3, 3))} for n in (1, 2)])
    assert batch["lanes"].shape == (3, 2) and batch["lanes_offsets"].tolist() == [0, 1, 3]
    assert batch["depth_left"].shape == (2, 2, 3, 3)


@pytest.mark.parametrize(
    "transform",
    [
        Resize(size=[20, 30]),
        Resize(short=9),
        CenterCrop(size=[6, 8]),
        RandomCrop(size=[6, 8]),
        RandomFlip(1.0),
        PadTo(size=[40, 40]),
    ],
    ids=lambda t: type(t).__name__,
)
def test_a_picture_of_its_own_size_is_not_moved(transform):
    """A face beside the image stays as it is, while a second picture of the image's size goes with it."""
    rng = np.random.default_rng(0)
    image, face = (rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((12, 16), (5, 5)))
    sample = {"image": image, "image_style": image[:, :, ::-1].copy(), "crop_face": face}
    moved = Compose([transform])(dict(sample), np.random.default_rng(1))
    assert np.array_equal(moved["crop_face"], face) and not np.array_equal(moved["image"], image)
    assert np.array_equal(moved["image_style"], moved["image"][:, :, ::-1])


def test_a_picture_of_its_own_size_is_not_padded_to_the_image():
    rng = np.random.default_rng(0)
    samples = []
    for height, width, side in ((12, 16, 5), (10, 20, 5)):
        image, face = (rng.integers(1, 256, (*s, 3), dtype=np.uint8) for s in ((height, width), (side, side)))
        samples.append(start({"image": image, "crop_face": face, "crop_back": image[:side, : side + height - 9]}))
    batch = collate(samples)
    assert batch["image"].shape == (2, 12, 20, 3) and batch["valid"].shape == (2, 12, 20)
    assert batch["crop_face"].shape == (2, 5, 5, 3) and batch["crop_face"].all()
    assert batch["crop_back"].shape == (2, 5, 8, 3)  # its own largest, 5 x 8 and 5 x 6
    assert not batch["crop_back"][1, :, 6:].any() and batch["crop_back"][1, :, :6].all()


def test_a_larger_crop_does_not_enlarge_the_image():
    batch = collate([start({"image": np.ones((4, 6, 3), np.uint8), "crop_face": np.ones((9, 9, 3), np.uint8)})])
    assert batch["image"].shape == (1, 4, 6, 3) and batch["valid"].all() and batch["canvas"].tolist() == [[4, 6]]
