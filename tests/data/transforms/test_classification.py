"""RandAugment and random erasing: single operations against Pillow, and what must hold of all."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from ppvision.data.fields import start
from ppvision.data.transforms import classification as augment
from ppvision.data.transforms.classification import COLOURS, GEOMETRY, OPERATIONS, RandAugment, RandomErasing
from ppvision.errors import ArgumentError, UserError


def picture(size=(24, 32)) -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(30, 220, (size[0] // 4, size[1] // 4, 3))
    return (coarse.repeat(4, 0).repeat(4, 1) + rng.integers(-20, 20, (*size, 3))).astype(np.uint8)


EXACT = {
    "AutoContrast": lambda image: ImageOps.autocontrast(image),
    "Equalize": lambda image: ImageOps.equalize(image),
    "Invert": lambda image: ImageOps.invert(image),
    "Posterize": lambda image: ImageOps.posterize(image, 2),
    "Solarize": lambda image: ImageOps.solarize(image, 128),
    "Color": lambda image: ImageEnhance.Color(image).enhance(1.45),
    "Contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.45),
    "Brightness": lambda image: ImageEnhance.Brightness(image).enhance(1.45),
    "Sharpness": lambda image: ImageEnhance.Sharpness(image).enhance(1.45),
}


@pytest.mark.parametrize("name", EXACT)
def test_colours_equal_pillow(name):
    image = picture()
    ours = COLOURS[name](image, 0.5, 1).astype(int)
    theirs = np.asarray(EXACT[name](Image.fromarray(image))).astype(int)
    assert abs(ours - theirs).max() <= (2 if name in ("Color", "Contrast", "Sharpness") else 1)
    assert not np.array_equal(ours, image)


def test_solarize_add_brightens_the_dark_half_only():
    image = np.array([[[0, 100, 127], [128, 200, 255]]], np.uint8)
    np.testing.assert_array_equal(augment.solarize_add(image, 55), [[[55, 155, 182], [128, 200, 255]]])


@pytest.mark.parametrize("degrees", [-30.0, 15.0])
def test_rotation_equals_pillow(degrees):
    image = picture((48, 48))
    ours = RandAugment.apply(start({"image": image}), "Rotate", abs(degrees) / 30, 1 if degrees > 0 else -1)["image"]
    theirs = Image.fromarray(image).rotate(degrees, Image.Resampling.BILINEAR)
    inner = (slice(14, 34),) * 2
    assert abs(ours[inner].astype(int) - np.asarray(theirs)[inner]).mean() < 2


@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_says_where_the_pixels_went(name):
    """A bright spot is found where the matrix of the sample puts it."""
    image = np.zeros((64, 80, 3), np.uint8)
    image[26:30, 44:48] = 255
    moved = RandAugment.apply(start({"image": image}), name, 0.6, -1)
    bright = np.argwhere(moved["image"][..., 0] > 140) + 0.5
    place = moved["geometry"] @ [46, 28, 1]
    assert bright.mean(0)[::-1] == pytest.approx(place[:2], abs=0.75)
    assert place[:2] != pytest.approx([46, 28], abs=0.5)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (24, 32)])
def test_operations_keep_shape_and_type_and_leave_the_input(name, size):
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    kept = image.copy()
    for strength in (0.0, 0.95, 1.0):
        for sign in (-1, 1):
            y = RandAugment.apply(start({"image": image}), name, strength, sign)["image"]
            assert y.shape == image.shape and y.dtype == np.uint8
    np.testing.assert_array_equal(image, kept)


@pytest.mark.parametrize("value", [0, 77, 255])
def test_a_flat_picture_survives_equalisation(value):
    flat = np.full((5, 6, 3), value, np.uint8)
    np.testing.assert_array_equal(augment.equalize(flat), flat)
    np.testing.assert_array_equal(augment.autocontrast(flat), flat)


class TestRandAugment:
    def test_the_generator_decides_and_nothing_else(self):
        transform, sample = RandAugment(), start({"image": picture()})
        same = [transform(sample, np.random.default_rng(4))["image"] for _ in range(2)]
        np.testing.assert_array_equal(*same)
        different = {transform(sample, np.random.default_rng(i))["image"].tobytes() for i in range(12)}
        assert len(different) > 6

    def test_probability_and_number(self):
        sample, rng = start({"image": picture()}), np.random.default_rng(0)
        for transform in (RandAugment(p=0.0), RandAugment(num_ops=0)):
            assert transform(sample, rng)["image"] is sample["image"]
        inverted = RandAugment(p=1.0, num_ops=1, operations=["Invert"])(sample, rng)["image"]
        np.testing.assert_array_equal(inverted, 255 - sample["image"])

    def test_what_it_cannot_move_is_refused(self):
        for more in ({"boxes": np.zeros((0, 4))}, {"label": np.zeros((24, 32), np.uint8)}):
            with pytest.raises(UserError, match="for whole images"):
                RandAugment()(start({"image": picture(), **more}), np.random.default_rng(0))

    @pytest.mark.parametrize(
        "kwargs",
        [{"magnitude": 11}, {"p": 2}, {"std": -1}, {"num_ops": -1}, {"operations": ["Rotat"]}, {"operations": []}],
    )
    def test_mistakes_are_named(self, kwargs):
        with pytest.raises(ArgumentError) as caught:
            RandAugment(**kwargs)
        assert caught.value.key in kwargs


class TestRandomErasing:
    def test_erases_one_rectangle_of_admitted_area(self):
        image = np.zeros((40, 60, 3), np.uint8)
        for seed in range(30):
            y = RandomErasing(p=1.0, mode="constant")({"image": image}, np.random.default_rng(seed))["image"]
            changed = (y != 0).all(2)
            rows, columns = changed.any(1).sum(), changed.any(0).sum()
            assert changed.sum() == rows * columns
            assert 0.015 <= changed.mean() <= 0.36
            assert (y[changed] == [124, 116, 104]).all()
        assert not image.any()

    def test_modes_and_probability(self):
        image = np.zeros((40, 60, 3), np.uint8)
        erased = {
            mode: RandomErasing(p=1.0, mode=mode)({"image": image}, np.random.default_rng(5))["image"]
            for mode in ("pixel", "color", "constant")
        }
        colours = {mode: len(np.unique(y.reshape(-1, 3), axis=0)) for mode, y in erased.items()}
        assert colours["color"] == colours["constant"] == 2 and colours["pixel"] > 20
        hits = [RandomErasing(p=0.25)({"image": image}, np.random.default_rng(i))["image"].any() for i in range(200)]
        assert 0.15 < np.mean(hits) < 0.35

    def test_nothing_fits_into_a_pixel(self):
        image = np.zeros((1, 1, 3), np.uint8)
        assert RandomErasing(p=1.0)({"image": image}, np.random.default_rng(0))["image"] is image

    @pytest.mark.parametrize("kwargs", [{"p": 1.5}, {"area": [0.5, 0.1]}, {"area": [0.1, 2]}, {"ratio": [0, 1]}])
    def test_mistakes_are_named(self, kwargs):
        with pytest.raises(ArgumentError) as caught:
            RandomErasing(**kwargs)
        assert caught.value.key in kwargs
