"""Every transform against an image that encodes where each of its pixels came from."""

from __future__ import annotations

import copy

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppvision.data.fields import start
from ppvision.data.transforms import image as T
from ppvision.errors import ArgumentError, UserError

CHAINS = {
    "flip": lambda: [T.RandomFlip()],
    "flip vertical": lambda: [T.RandomFlip(vertical=True)],
    "crop": lambda: [T.RandomCrop([30, 40])],
    "large crop": lambda: [T.RandomCrop([110, 130])],
    "scale": lambda: [T.RandomScale(0.5, 2.0, 0.25)],
    "resize": lambda: [T.Resize([77, 53])],
    "short": lambda: [T.Resize(short=60, max=90, multiple_of=8)],
    "centre": lambda: [T.CenterCrop([50, 300])],
    "resized crop": lambda: [T.RandomResizedCrop([48, 40], [0.3, 1.0])],
    "pad": lambda: [T.Resize(long=64), T.PadTo(multiple=32)],
    "recipe": lambda: [T.RandomScale(), T.RandomCrop([64, 96]), T.RandomFlip(), T.RandomFlip(vertical=True)],
}


def coded(height: int, width: int, rng: np.random.Generator) -> dict:
    """Red is twice the row, green twice the column; a label is its 4 x 4 block; one box is the whole image."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([2 * rows, 2 * columns, rows * 0], -1).astype(np.uint8)
    label = ((rows // 4) * 7 + (columns // 4) * 3) % 200
    corner = rng.uniform(0, [width - 8, height - 8], (6, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(2, 8, (6, 2))], 1).astype(np.float32)
    return {
        "image": image,
        "label": label.astype(np.uint8),
        "boxes": np.concatenate([boxes, [[0, 0, width, height]]]).astype(np.float32),
        "classes": np.arange(7),
        "crowd": np.arange(7) % 2 == 0,
        "keypoints": boxes[:, :2].copy(),
        "name": "coded",
    }


@pytest.mark.parametrize("chain", CHAINS)
@settings(max_examples=25)
@given(st.integers(24, 120), st.integers(24, 120), st.integers(0, 2**31))
def test_everything_moves_together(chain, height, width, seed):
    rng = np.random.default_rng(seed)
    before = coded(height, width, rng)
    untouched = copy.deepcopy(before)
    after = T.Compose(CHAINS[chain]())(before, rng)

    for key, value in untouched.items():  # nothing was written into what was given
        assert np.array_equal(before[key], value) and before.keys() == untouched.keys()
    (h, w), shape = after["inner"], after["image"].shape
    assert shape[:2] == after["label"].shape and h <= shape[0] and w <= shape[1]
    assert after["image"].dtype == after["label"].dtype == np.uint8 and after["size"] == (height, width)

    # Where each pixel centre of the result lay in the image as read.
    rows, columns = np.mgrid[:h, :w]
    x, y = (np.linalg.inv(after["geometry"]) @ [columns.ravel() + 0.5, rows.ravel() + 0.5, np.ones(h * w)])[:2]
    image, label = after["image"][:h, :w].reshape(-1, 3), after["label"][:h, :w].ravel()
    scale = np.abs(np.diag(after["geometry"])[:2]).min()
    margin = 0.5 + 1 / scale
    inside = (x > margin) & (x < width - margin) & (y > margin) & (y < height - margin)
    assert np.abs(image[inside, 0] / 2 - (y[inside] - 0.5)).max(initial=0) < 0.6
    assert np.abs(image[inside, 1] / 2 - (x[inside] - 0.5)).max(initial=0) < 0.6
    # Labels are exact, except where a centre falls on the border of two source pixels.
    exact = inside & (np.abs(x - np.rint(x)) > 1e-6) & (np.abs(y - np.rint(y)) > 1e-6)
    assert np.array_equal(label[exact], untouched["label"][y[exact].astype(int), x[exact].astype(int)])
    outside = (x < -1e-6) | (x > width + 1e-6) | (y < -1e-6) | (y > height + 1e-6)
    assert (label[outside] == 255).all()

    # Boxes and key points follow the same map; companions stay with their box.
    def forward(points):
        return (after["geometry"] @ [*points.T, np.ones(len(points))])[:2].T

    assert np.allclose(after["keypoints"], forward(untouched["keypoints"]), atol=1e-3)
    assert len(after["boxes"]) == len(after["classes"]) == len(after["crowd"])
    kept = after["classes"]
    assert np.array_equal(after["crowd"], untouched["crowd"][kept])
    corners = np.stack([forward(untouched["boxes"][:, i : i + 2]) for i in (0, 2)], 1)
    cut = any("Crop" in type(t).__name__ for t in CHAINS[chain]())
    expected = np.concatenate([corners.min(1), corners.max(1)], 1)
    if cut:
        low, high = (np.clip(expected[:, i : i + 2], 0, [w, h]) for i in (0, 2))
        expected = np.concatenate([low, high], 1)
    assert np.allclose(after["boxes"], expected[kept], atol=1e-2)
    assert (after["boxes"][:, 2:] > after["boxes"][:, :2]).all()
    gone = np.setdiff1d(np.arange(7), kept)
    if not cut:
        assert len(gone) == 0
    elif chain != "resized crop":  # there the box is judged before the resize
        assert ((expected[gone, 2:] - expected[gone, :2]).min(1) < T.MIN_BOX + 1e-3).all() if len(gone) else True


def sample(height: int = 20, width: int = 30, **more) -> dict:
    rng = np.random.default_rng(0)
    return start({"image": rng.integers(0, 256, (height, width, 3), np.uint8), **more})


class TestResize:
    @pytest.mark.parametrize(
        "kwargs, size, expected",
        [
            (dict(size=[512, 1024]), (100, 300), (512, 1024)),
            (dict(size=[512, 1024], keep_ratio=True), (100, 300), (341, 1024)),
            (dict(short=512, max=2048), (300, 400), (512, 683)),
            (dict(short=512, max=2048), (100, 1000), (205, 2048)),
            (dict(short=512, max=2048, multiple_of=32), (300, 400), (512, 704)),
            (dict(long=100), (50, 200), (25, 100)),
            (dict(long=10), (1, 1000), (1, 10)),
        ],
    )
    def test_target(self, kwargs, size, expected):
        assert T.Resize(**kwargs).target(*size) == expected

    @pytest.mark.parametrize(
        "kwargs, words",
        [
            ({}, "exactly one of size, short and long"),
            (dict(size=[1, 1], short=3), "exactly one"),
            (dict(long=3, max=4), "'max' goes with short"),
            (dict(size=[0, 3]), "positive integers"),
            (dict(size=[3]), "height, width"),
            (dict(long=3, interpolation="linar"), "did you mean 'linear'"),
        ],
    )
    def test_refusals(self, kwargs, words):
        with pytest.raises(UserError, match=words):
            T.Resize(**kwargs)

    def test_nearest_takes_pixel_centres(self):
        assert T.nearest(np.arange(4)[None], 1, 2).tolist() == [[1, 3]]
        assert T.nearest(np.arange(2)[None], 1, 6).tolist() == [[0, 0, 0, 1, 1, 1]]
        assert T.nearest(np.arange(3)[None], 1, 3).tolist() == [[0, 1, 2]]


class TestRandomScale:
    def test_draws_the_published_steps(self):
        transform = T.RandomScale(0.5, 2.0, 0.25)
        assert transform.factors.tolist() == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]
        rng = np.random.default_rng(0)
        heights = {transform(sample(40, 60), rng)["image"].shape[:2] for _ in range(100)}
        assert heights == {(20, 30), (30, 45), (40, 60), (50, 75), (60, 90), (70, 105), (80, 120)}

    def test_without_step_the_whole_interval(self):
        rng = np.random.default_rng(0)
        heights = {T.RandomScale(0.5, 2.0, 0)(sample(100, 10), rng)["image"].shape[0] for _ in range(50)}
        assert len(heights) > 30 and min(heights) >= 50 and max(heights) <= 200


class TestRandomCrop:
    def test_border_is_grey_ignored_and_valid(self):
        got = T.RandomCrop([30, 40])(sample(20, 30, label=np.ones((20, 30), np.uint8)), np.random.default_rng(0))
        assert (got["image"][20:] == 128).all() and (got["image"][:, 30:] == 128).all()
        assert (got["label"][20:] == 255).all() and (got["label"][:20, :30] == 1).all()
        assert got["inner"] == (30, 40)

    def test_reaches_every_corner(self):
        rng, seen = np.random.default_rng(0), set()
        for _ in range(200):
            seen.add(tuple(T.RandomCrop([19, 29])(sample(), rng)["geometry"][:2, 2]))
        assert seen == {(0, 0), (-1, 0), (0, -1), (-1, -1)}


def test_degenerate_boxes_go_with_their_companions():
    boxes = np.array([[0, 0, 5, 5], [9.5, 0, 20, 5], [12, 12, 18, 18]], np.float32)
    got = T.crop(sample(boxes=boxes, classes=np.arange(3), crowd=np.zeros(3, bool)), 0, 0, 10, 10)
    assert got["boxes"].tolist() == [[0, 0, 5, 5]] and got["classes"].tolist() == [0] and len(got["crowd"]) == 1


def test_flip_probability():
    rng = np.random.default_rng(0)
    assert all(T.RandomFlip(0)(sample(), rng)["geometry"][0, 0] == 1 for _ in range(20))
    assert all(T.RandomFlip(1)(sample(), rng)["geometry"][0, 0] == -1 for _ in range(20))
    with pytest.raises(UserError, match="'p' must be from 0 to 1, got 1.5"):
        T.RandomFlip(1.5)


class TestColorJitter:
    def test_only_colours_change_and_paired_pictures_alike(self):
        first = sample(label=np.ones((20, 30), np.uint8))
        first["image_teacher"] = first["image"].copy()
        got = T.ColorJitter(p=1)(first, np.random.default_rng(3))
        assert not np.array_equal(got["image"], first["image"]) and got["image"].dtype == np.uint8
        assert np.array_equal(got["image"], got["image_teacher"]) and got["label"] is first["label"]

    def test_without_strength_or_luck_nothing_happens(self):
        for transform in (T.ColorJitter(p=0), T.ColorJitter(0, 0, 0, 0, p=1)):
            assert np.array_equal(transform(sample(), np.random.default_rng(0))["image"], sample()["image"])

    def test_brightness_and_contrast_by_hand(self):
        image = np.array([[[0, 100, 200], [50, 50, 50]]], np.uint8)
        assert T._adjust_brightness(image, 0.5).tolist() == [[[0, 150, 255], [75, 75, 75]]]
        mean = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean()
        assert np.array_equal(T._adjust_contrast(image, -1.0), np.full_like(image, round(mean)))
        assert np.ptp(T._adjust_saturation(image, -1.0), axis=2).max() == 0

    def test_hue_is_in_degrees(self):
        red = np.full((2, 2, 3), (200, 0, 0), np.uint8)
        assert np.abs(T._adjust_hue(red, 120).astype(int) - (0, 200, 0)).max() <= 6
        assert np.abs(T._adjust_hue(red, -120).astype(int) - (0, 0, 200)).max() <= 6

    def test_limits_of_the_draw(self):
        grey = start({"image": np.full((4, 4, 3), 100, np.uint8)})
        rng = np.random.default_rng(0)
        values = [T.ColorJitter(0.4, 0, 0, 0, p=1)(grey, rng)["image"][0, 0, 0] for _ in range(300)]
        assert 60 <= min(values) < 64 and 136 < max(values) <= 140


class TestPadTo:
    def test_border_is_not_image(self):
        got = T.PadTo([24, 10], 16)(sample(20, 30, label=np.ones((20, 30), np.uint8)))
        assert got["image"].shape == (32, 32, 3) and got["inner"] == (20, 30)
        assert (got["image"][20:] == 0).all() and (got["label"][:, 30:] == 255).all()

    def test_must_come_last(self):
        for late in (T.Resize([8, 8]), T.RandomFlip(1), T.RandomCrop([4, 4]), T.CenterCrop([4, 4])):
            with pytest.raises(UserError, match="PadTo must come after"):
                T.Compose([T.PadTo(multiple=32), late])(sample(), np.random.default_rng(0))


class TestRandomResizedCrop:
    @settings(max_examples=50)
    @given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**31))
    def test_window_lies_inside(self, height, width, seed):
        transform = T.RandomResizedCrop([8, 8])
        top, left, h, w = transform.window(height, width, np.random.default_rng(seed))
        assert 0 <= top and top + h <= height and 0 <= left and left + w <= width and h > 0 and w > 0

    def test_area_and_ratio(self):
        rng, transform = np.random.default_rng(0), T.RandomResizedCrop([8, 8], [0.2, 0.5])
        for _ in range(100):
            _, _, h, w = transform.window(300, 300, rng)
            assert 0.19 < h * w / 90000 < 0.51 and 0.74 < w / h < 1.35


def test_compose_starts_a_bare_image():
    got = T.Compose([T.Resize([10, 10])])({"image": np.zeros((20, 40, 3), np.uint8)})
    assert got["size"] == (20, 40) and got["inner"] == (10, 10)
    assert np.array_equal(got["geometry"], np.diag([0.25, 0.5, 1]))


def test_every_listed_transform_builds_from_a_recipe():
    from ppvision.config import Component
    from ppvision.data import TRANSFORMS

    recipe = [
        {"type": "RandomScale", "min": 0.5, "max": 2, "step": 0.25},
        {"type": "RandomCrop", "size": [64, 128]},
        {"type": "RandomFlip"},
        {"type": "ColorJitter", "brightness": 0.4, "hue": 18},
        {"type": "Resize", "short": 512, "max": 2048},
        {"type": "CenterCrop", "size": [8, 8]},
        {"type": "RandomResizedCrop", "size": [8, 8], "scale": [0.2, 1.0]},
        {"type": "RandAugment"},
        {"type": "RandomErasing"},
        {"type": "RandomShortSide", "sizes": [480, 512], "max_size": 1333},
        {"type": "RandomSizeCrop", "min": 384, "max": 600},
        {"type": "RandomChoice", "a": [{"type": "RandomFlip"}]},
        {"type": "PadTo", "multiple": 32},
    ]
    assert {r["type"] for r in recipe} == set(TRANSFORMS)
    composed = T.build_transforms([Component(r, f"data.train.transforms.{i}") for i, r in enumerate(recipe)])
    assert [type(t).__name__ for t in composed.transforms] == [r["type"] for r in recipe]
    assert T.build_transforms(None).transforms == []
    with pytest.raises(UserError, match="unknown key .*szie'.*did you mean 'size'"):
        T.build_transforms([Component({"type": "RandomCrop", "szie": [1, 1]}, "t")])


@pytest.mark.parametrize(
    ("kind", "kwargs", "key"),
    [
        (T.Resize, {"size": [0, 4]}, "size"),
        (T.Resize, {"size": [1 << 20, 1 << 20]}, "size"),
        (T.Resize, {"short": 0}, "short"),
        (T.Resize, {"short": 1 << 40}, "short"),
        (T.Resize, {"long": 8, "keep_ratio": True}, "keep_ratio"),
        (T.Resize, {"size": [4, 4], "multiple_of": 0}, "multiple_of"),
        (T.Resize, {"size": [4, 4], "multiple_of": 1 << 30}, "multiple_of"),
        (T.Resize, {"size": [4, 4], "interpolation": "bilinear"}, "interpolation"),
        (T.RandomScale, {"min": 0.0}, "min"),
        (T.RandomScale, {"min": 2.0, "max": 1.0}, "min"),
        (T.RandomScale, {"max": 1e9}, "max"),
        (T.RandomScale, {"step": -0.1}, "step"),
        (T.RandomScale, {"step": 1e-9}, "step"),
        (T.RandomCrop, {"size": [4, 4, 4]}, "size"),
        (T.RandomCrop, {"size": [4, 4], "pad_value": 300}, "pad_value"),
        (T.RandomCrop, {"size": [4, 4], "ignore": 256}, "ignore"),
        (T.RandomFlip, {"p": float("nan")}, "p"),
        (T.ColorJitter, {"brightness": -0.1}, "brightness"),
        (T.ColorJitter, {"contrast": 50.0}, "contrast"),
        (T.ColorJitter, {"saturation": float("nan")}, "saturation"),
        (T.ColorJitter, {"hue": 400.0}, "hue"),
        (T.PadTo, {"size": [4, 4], "multiple": 0}, "multiple"),
        (T.PadTo, {"multiple": -16}, "multiple"),
        (T.PadTo, {"multiple": 1 << 40}, "multiple"),
        (T.PadTo, {"multiple": 16, "value": 256}, "value"),
        (T.RandomResizedCrop, {"size": [4, 4], "scale": [0.0, 1.0]}, "scale"),
        (T.RandomResizedCrop, {"size": [4, 4], "scale": [0.5, 2.0]}, "scale"),
        (T.RandomResizedCrop, {"size": [4, 4], "ratio": [2.0, 1.0]}, "ratio"),
        (T.RandomResizedCrop, {"size": [4, 4], "ratio": [1.0]}, "ratio"),
        (T.CenterCrop, {"size": [-1, 4]}, "size"),
    ],
)
def test_an_argument_that_cannot_be_is_named(kind, kwargs, key):
    with pytest.raises(ArgumentError) as caught:
        kind(**kwargs)
    assert caught.value.key == key


@pytest.mark.parametrize(
    "transform",
    [T.Resize(short=512), T.Resize(long=1 << 20), T.RandomScale(1000, 1000, 0), T.PadTo(size=[1, 1], multiple=16384)],
)
def test_a_slip_in_a_size_does_not_take_the_memory(transform):
    """A line of 10,000 pixels at 512 for its shorter side would have 2.6 billion."""
    image = np.zeros((1, 16385, 3), np.uint8)
    sample = start(
        {"image": np.repeat(image, 1 if isinstance(transform, (T.Resize, T.PadTo)) else 400, 0), "name": "x.png"}
    )
    if isinstance(transform, T.Resize) and transform.long:
        sample = start({"image": np.zeros((400, 400, 3), np.uint8), "name": "x.png"})
    with pytest.raises(
        UserError, match=r"x.png: \d+x\d+ would be (resized|padded) to \d+x\d+, more than 268,435,456 pixels"
    ):
        transform(sample, np.random.default_rng(0))
    assert T.Resize(short=512, max=2048)(start({"image": image}))["image"].shape == (1, 2048, 3)


def test_a_large_picture_may_still_be_padded():
    pretend = {"image": np.broadcast_to(np.uint8(0), (20_000, 20_000, 3)), "name": "x.png"}
    T._affordable(pretend, "padded", 20_016, 20_016)


def test_a_foreign_transform_that_cannot_be_called_is_one_line():
    class Theirs:
        def __call__(self, image):
            return image

    with pytest.raises(
        UserError, match=r"transforms: .*Theirs failed with TypeError: .*called as transform\(sample, rng"
    ):
        T.Compose([Theirs()])({"image": np.zeros((4, 4, 3), np.uint8)}, np.random.default_rng(0))
