"""DETR's transforms against DETR's own rules, and boxes against boxes drawn as pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ppvision.config import Component, build
from ppvision.data.transforms.detection import RandomChoice, RandomShortSide, RandomSizeCrop
from ppvision.data.transforms.image import Compose, RandomFlip, Resize
from ppvision.errors import UserError


def detr(p: float = 0.5) -> list:
    """The augmentation of DETR, about a tenth of its size."""
    short = RandomShortSide([48, 56, 64, 80], 133)
    return [RandomFlip(), RandomChoice(p, [short], [RandomShortSide([40, 50, 60]), RandomSizeCrop(38, 60), short])]


CHAINS = {
    "flip": lambda: [RandomFlip(1)],
    "short side": lambda: [RandomShortSide([40, 64, 100], 133)],
    "crop": lambda: [RandomSizeCrop(10, 50)],
    "whole image": lambda: [RandomSizeCrop(500, 600)],
    "resized": lambda: detr(1),
    "cropped": lambda: detr(0),
    "either": lambda: detr(),
}


def drawn(height: int, width: int, rng: np.random.Generator) -> dict:
    """Boxes of whole pixels that do not touch, each drawn into the label map with its own number (0 is background), and
    into the image in white."""
    label, boxes = np.zeros((height, width), np.uint8), []
    for top in range(0, height - 10, 12):
        for left in range(0, width - 10, 12):
            h, w = rng.integers(4, 11, 2)
            y, x = top + rng.integers(11 - h), left + rng.integers(11 - w)
            boxes.append([x, y, x + w, y + h])
            label[y : y + h, x : x + w] = len(boxes)
    boxes = np.array(boxes, np.float32)
    return {
        "image": np.repeat((label > 0).astype(np.uint8)[..., None] * 255, 3, 2),
        "label": label,
        "boxes": boxes,
        "classes": np.arange(1, len(boxes) + 1),
        "crowd": np.arange(1, len(boxes) + 1) % 3 == 0,
        "areas": (boxes[:, 2:] - boxes[:, :2]).prod(1),
    }


@pytest.mark.parametrize("chain", CHAINS)
@settings(max_examples=40)
@given(st.integers(24, 120), st.integers(24, 120), st.integers(0, 2**31))
@example(65, 108, 5748)  # "cropped": a window of 38x56 becomes 80x118, and 118 / 56 is more than 80 / 38
def test_a_box_moves_as_its_pixels_do(chain, height, width, seed):
    rng = np.random.default_rng(seed)
    before = drawn(height, width, rng)
    after = Compose(CHAINS[chain]())(before, rng)
    label, shape = after["label"], after["label"].shape
    assert shape == after["image"].shape[:2] == after["inner"]
    # A pixel belongs to a box by its centre, so every resize moves the drawn edge by half a pixel at most; the second
    # one of DETR's crops enlarges what the first left. The shorter side grows by 80 / 38 at most, but the longer one is
    # rounded to whole pixels, so from n >= 38 of them it grows by (80 / 38 n + 1/2) / n, which is at most 80.5 / 38.
    exact, twice = chain in ("flip", "crop", "whole image"), chain in ("cropped", "either")
    tolerance = 0 if exact else 0.5 * (1 + 80.5 / 38 * twice) + 1e-4
    lengths = {len(after[k]) for k in ("boxes", "classes", "crowd", "areas")}
    assert lengths == {len(after["classes"])}
    assert np.array_equal(after["crowd"], after["classes"] % 3 == 0)
    for box, number, area in zip(after["boxes"], after["classes"].tolist(), after["areas"]):
        rows, columns = np.flatnonzero((label == number).any(1)), np.flatnonzero((label == number).any(0))
        sides = box[2:] - box[:2]
        assert (sides > 0).all() and (box >= 0).all() and (box <= [shape[1], shape[0]] * 2).all()
        if not len(rows):  # a sliver that holds no centre of a pixel
            assert sides.min() < 2 * tolerance
            continue
        pixels = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert np.abs(box - pixels).max() <= tolerance
        # The box was filled, so its area is the box's.
        assert area == pytest.approx(sides.prod(), rel=1e-4)
        white = after["image"][rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert not exact or white.min() == 255
    gone = np.setdiff1d(before["classes"], after["classes"])
    assert not np.isin(label, gone).any()  # what is dropped has no pixel left
    if "crop" not in chain and chain != "either":
        assert len(gone) == 0


def detr_size(height: int, width: int, size: int, max_size: int | None) -> tuple[int, int]:
    """`get_size_with_aspect_ratio` of DETR's datasets/transforms.py, in its words."""
    if max_size is not None:
        low, high = float(min(width, height)), float(max(width, height))
        if high / low * size > max_size:
            size = int(round(max_size * low / high))
    if (width <= height and width == size) or (height <= width and height == size):
        return height, width
    if width < height:
        return int(size * height / width), size
    return size, int(size * width / height)


@given(st.integers(30, 2000), st.integers(30, 2000), st.sampled_from([400, 480, 800]), st.sampled_from([None, 1333]))
def test_sizes_are_those_of_detr(height, width, size, max_size):
    ours = RandomShortSide([size], max_size).choices[0].target(height, width)
    theirs = detr_size(height, width, size, max_size)
    assert abs(min(ours) - min(theirs)) <= 1 and (max_size is None or max(ours) <= max_size)
    if min(theirs) == size:  # the limit of the longer side does not count
        assert min(ours) == size and abs(max(ours) - max(theirs)) <= 1
    else:
        assert max(ours) == max_size


def test_every_size_is_drawn_alike():
    rng, transform = np.random.default_rng(0), RandomShortSide([30, 40, 50])
    image = {"image": np.zeros((60, 90, 3), np.uint8)}
    drawn = [Compose([transform])(image, rng)["image"].shape for _ in range(300)]
    assert {s[:2] for s in drawn} == {(30, 45), (40, 60), (50, 75)}
    assert all(70 < sum(s[0] == n for s in drawn) < 130 for n in (30, 40, 50))


class TestRandomSizeCrop:
    @settings(max_examples=50)
    @given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**31))
    def test_window_is_detrs(self, height, width, seed):
        top, left, h, w = RandomSizeCrop(20, 60).window(height, width, np.random.default_rng(seed))
        for start, side, whole in ((top, h, height), (left, w, width)):
            assert 0 <= start and start + side <= whole
            assert min(20, whole) <= side <= min(60, whole)

    def test_reaches_its_limits(self):
        rng, transform = np.random.default_rng(0), RandomSizeCrop(3, 6)
        windows = {transform.window(8, 5, rng) for _ in range(2000)}
        assert {w[2] for w in windows} == {3, 4, 5, 6} and {w[3] for w in windows} == {3, 4, 5}
        assert {w[:2] for w in windows if w[2:] == (3, 3)} == {(t, l) for t in range(6) for l in range(3)}  # noqa: E741

    def test_an_object_keeps_its_box_while_anything_of_it_is_left(self):
        crop, chosen = RandomSizeCrop(10, 10), []
        sample = {
            "image": np.zeros((10, 20, 3), np.uint8),
            "boxes": np.array([[0, 0, 8, 8]], np.float32),
            "classes": np.array([0]),
            "areas": np.array([32], np.float32),
        }
        for seed in range(60):
            got = Compose([crop])(sample, np.random.default_rng(seed))
            left = -int(got["geometry"][0, 2])
            chosen.append(left)
            assert got["boxes"].tolist() == ([[0, 0, 8 - left, 8]] if left < 8 else [])
            assert got["areas"].tolist() == ([32 * (8 - left) / 8] if left < 8 else [])
        assert {7, 8} <= set(chosen)

    def test_must_come_before_padding(self):
        from ppvision.data.transforms.image import PadTo

        with pytest.raises(UserError, match="cannot crop a padded image"):
            Compose([PadTo([32, 32]), RandomSizeCrop(3, 6)])(
                {"image": np.zeros((8, 8, 3), np.uint8)}, np.random.default_rng(0)
            )


class TestRandomChoice:
    def test_probability(self):
        sample, rng = {"image": np.zeros((8, 8, 3), np.uint8)}, np.random.default_rng(0)

        def share(p: float) -> float:
            chain = Compose([RandomChoice(p, [Resize([4, 4])], [Resize([6, 6])])])
            return np.mean([chain(sample, rng)["image"].shape[0] == 4 for _ in range(400)])

        assert share(0) == 0 and share(1) == 1 and 0.2 < share(0.25) < 0.3

    def test_may_be_nested_and_empty(self):
        inner = RandomChoice(1, [Resize([4, 4])])
        got = Compose([RandomChoice(0, [], [inner, RandomFlip(1)])])(
            {"image": np.zeros((8, 8, 3), np.uint8)}, np.random.default_rng(0)
        )
        assert got["image"].shape == (4, 4, 3) and got["geometry"][0, 0] == -0.5

    def test_from_a_recipe(self):
        part = {"type": "RandomChoice", "p": 0.3, "a": [{"type": "RandomFlip"}], "b": [{"type": "RandomSizeCrop"}]}
        built = build("transform", Component(part, "t"))
        assert isinstance(built.a[0], RandomFlip) and isinstance(built.b[0], RandomSizeCrop) and built.p == 0.3
        part["b"][0]["mni"] = 3
        with pytest.raises(UserError, match=r"unknown key 't.b.0.mni'; did you mean 'min'"):
            build("transform", Component(part, "t"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RandomShortSide([]), "sizes.*needs at least one"),
        (lambda: RandomShortSide([0]), "sizes.*at least 1"),
        (lambda: RandomShortSide([3], max_size=0), "max_size.*at least 1"),
        (lambda: RandomShortSide([3], interpolation="linar"), "interpolation.*did you mean 'linear'"),
        (lambda: RandomSizeCrop(0, 3), "min.*at least 1"),
        (lambda: RandomSizeCrop(4, 3), "must not exceed max"),
        (lambda: RandomChoice(1.5), "p.*from 0 to 1"),
        (lambda: RandomChoice(math.nan), "p.*from 0 to 1"),
        (lambda: RandomChoice(0.5, [3]), "a.*must be a list of transforms"),
        (lambda: RandomChoice(0.5, [], RandomFlip()), "b.*must be a list of transforms"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(UserError, match=words):
        make()
