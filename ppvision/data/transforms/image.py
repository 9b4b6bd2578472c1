"""Transforms: dict in, dict out; the picture and every annotation move together. One code for train, eval and
deployment.

A transform is called with the sample and a `numpy.random.Generator`, its only randomness; it never writes into the
arrays it is given. Sizes are [height, width], coordinates continuous (see `fields`). Pictures stay uint8. Everything
that moves pixels keeps `inner` (the image proper, without padding) and `geometry` (coordinates as read -> current),
which evaluation uses to go back.

The segmentation recipe follows PaddleSeg 2.8 (`RandomScale` = ResizeStepScaling, `RandomCrop` = RandomPaddingCrop,
`ColorJitter` = RandomDistort), with these deviations:

- labels are resized to the nearest pixel *centre* (exact integer arithmetic). OpenCV's nearest mode takes the pixel to
  the upper left, which moves labels by up to half a pixel against the bilinearly resized image;
- pictures are uint8 throughout, so a border of 127.5 is 128;
- hue is in degrees. PaddleSeg adds its 18 to an 8-bit hue, which is 25.3 degrees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import cv2
import numpy as np

from ppvision.data.fields import IGNORE, field_of, is_map, is_picture, start
from ppvision.errors import UserError, blame, did_you_mean, require, within

Sample = dict[str, Any]

INTERPOLATIONS = {
    "nearest": cv2.INTER_NEAREST_EXACT,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
}
MAX_PIXELS = 1 << 28  # of one picture; a slip in a size must not take the machine's memory
MIN_BOX = 1.0  # pixels; a box of which a crop leaves less in height or width is dropped


class Compose:
    """Apply transforms in order.

    Sets `size`, `inner` and `geometry` where absent, so it also turns a bare image into a sample.
    """

    def __init__(self, transforms: Iterable[Callable[[Sample, np.random.Generator], Sample]] = ()):
        self.transforms = list(transforms)

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        """`rng` may be left out where nothing is random (evaluation, deployment)."""
        sample = start(sample)
        for transform in self.transforms:
            with blame(transform, "transforms", "it is called as transform(sample, rng) and gives the sample"):
                sample = transform(sample, rng)
        return sample

    def __repr__(self) -> str:
        return f"Compose({', '.join(type(t).__name__ for t in self.transforms)})"


def build_transforms(components: Iterable[Any] | None, where: Callable[[str], str] | None = None) -> Compose:
    """A `Compose` of the transforms a recipe lists.

    `components` are `ppvision.config.Component`s or mappings with `type`.
    """
    from ppvision.config import build

    return Compose(build("transform", c, where=where) for c in components or ())


# ---- geometry shared by the transforms


def warp_annotations(sample: Sample, matrix: np.ndarray) -> Sample:
    """Move what has coordinates (`geometry`, `boxes` and `areas`, `keypoints`) by a [3,3] that scales, mirrors and
    shifts."""
    sample["geometry"] = matrix @ sample["geometry"]
    scale, shift = np.array([matrix[0, 0], matrix[1, 1]]), matrix[:2, 2]
    if "boxes" in sample:
        a, b = (sample["boxes"][:, i : i + 2] * scale + shift for i in (0, 2))
        sample["boxes"] = np.concatenate([np.minimum(a, b), np.maximum(a, b)], axis=1).astype(np.float32)
    if "areas" in sample:
        sample["areas"] = (sample["areas"] * abs(scale[0] * scale[1])).astype(np.float32)
    if "keypoints" in sample:
        sample["keypoints"] = (sample["keypoints"] * scale + shift).astype(np.float32)
    return sample


def resize(sample: Sample, height: int, width: int, interpolation: str = "linear") -> Sample:
    """The sample at another size; maps by the nearest pixel centre."""
    sample, (h, w) = _whole(sample, "resize"), sample["image"].shape[:2]
    _affordable(sample, "resized", height, width)
    if (h, w) != (height, width):
        flag = INTERPOLATIONS[interpolation]
        for key, value in sample.items():
            if is_picture(key):
                sample[key] = cv2.resize(value, (width, height), interpolation=flag)
            elif is_map(key, value):
                sample[key] = nearest(value, height, width)
        warp_annotations(sample, np.diag([width / w, height / h, 1.0]))
    sample["inner"] = (height, width)
    return sample


def nearest(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """[H,W] -> [height,width]: the source pixel that holds each target pixel's centre, floor((i + 1/2) H / height)."""
    rows = (2 * np.arange(height) + 1) * array.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * array.shape[1] // (2 * width)
    return np.take(np.take(array, rows, axis=0), columns, axis=1)


def pad(sample: Sample, height: int, width: int, value: float = 0, ignore: int = IGNORE) -> Sample:
    """Extend at the bottom and right to at least `height` x `width`; `inner` is left to the caller."""
    sample, (h, w) = dict(sample), sample["image"].shape[:2]
    bottom, right = max(height - h, 0), max(width - w, 0)
    _affordable(sample, "padded", h + bottom, w + right)
    if bottom or right:
        for key, array in sample.items():
            if is_picture(key):
                fill = (int(np.rint(value)),) * 3
                sample[key] = cv2.copyMakeBorder(array, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=fill)
            elif is_map(key, array):
                sample[key] = np.pad(array, ((0, bottom), (0, right)), constant_values=ignore)
    return sample


def crop(sample: Sample, top: int, left: int, height: int, width: int, min_box: float = MIN_BOX) -> Sample:
    """Cut out a window that lies inside the image.

    Boxes are clipped to it, and dropped where nothing, or less than `min_box` pixels in height or width, is left.
    """
    sample = dict(sample)
    for key, value in sample.items():
        if is_picture(key) or is_map(key, value):
            sample[key] = value[top : top + height, left : left + width]
    warp_annotations(sample, np.array([[1.0, 0, -left], [0, 1, -top], [0, 0, 1]]))
    if "boxes" in sample:
        boxes = np.clip(sample["boxes"], 0, np.array([width, height, width, height], np.float32))
        sides, whole = boxes[:, 2:] - boxes[:, :2], sample["boxes"][:, 2:] - sample["boxes"][:, :2]
        kept = ((sides >= min_box) & (sides > 0)).all(1)
        sample["boxes"] = boxes
        if "areas" in sample:
            share = np.divide(sides, whole, out=np.zeros_like(sides), where=whole > 0).prod(1)
            sample["areas"] = sample["areas"] * share
        for key in sample:
            if field_of(key).group == "boxes":
                sample[key] = sample[key][kept]
    sample["inner"] = (height, width)
    return sample


def flip(sample: Sample, vertical: bool = False) -> Sample:
    """Mirror left to right, or top to bottom."""
    sample, (h, w) = _whole(sample, "flip"), sample["image"].shape[:2]
    for key, value in sample.items():
        if is_picture(key) or is_map(key, value):
            sample[key] = np.ascontiguousarray(value[::-1] if vertical else value[:, ::-1])
    matrix = np.array([[1.0, 0, 0], [0, -1, h], [0, 0, 1]] if vertical else [[-1.0, 0, w], [0, 1, 0], [0, 0, 1]])
    return warp_annotations(sample, matrix)


def _whole(sample: Sample, verb: str) -> Sample:
    """A shallow copy of a sample that is not padded yet."""
    if tuple(sample["inner"]) != sample["image"].shape[:2]:
        raise UserError(f"transforms: cannot {verb} a padded image; PadTo must come after every other change of size")
    return dict(sample)


def _affordable(sample: Sample, verb: str, height: int, width: int) -> None:
    h, w = sample["image"].shape[:2]
    if height * width > max(MAX_PIXELS, 4 * h * w):
        raise UserError(
            f"{sample.get('name') or 'image'}: {h}x{w} would be {verb} to {height}x{width}, more than {MAX_PIXELS:,} "
            "pixels; give Resize a max, or leave the image out"
        )


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else tuple(size)
    fine = len(pair) == 2 and all(isinstance(n, int) and n > 0 for n in pair)
    require(fine, "size", f"must be [height, width] of positive integers, not {size!r}")
    require(pair[0] * pair[1] <= MAX_PIXELS, "size", f"may have {MAX_PIXELS:,} pixels at most, not {size!r}")
    return pair


def size_range(values: Sequence[float], key: str, high: float = math.inf) -> tuple[float, float]:
    pair = tuple(values)
    fine = len(pair) == 2 and 0 < pair[0] <= pair[1] <= high and math.isfinite(pair[1])
    limit = f", above 0 and at most {high:g}" if math.isfinite(high) else ", above 0"
    require(fine, key, f"is [smallest, largest]{limit}, not {list(values)}")
    return pair


def _interpolation(name: str) -> str:
    near = did_you_mean(name, INTERPOLATIONS)
    require(name in INTERPOLATIONS, "interpolation", f"is one of {', '.join(INTERPOLATIONS)}, not '{name}'{near}")
    return name


def _probability(p: float) -> float:
    within(0, 1, p=p)
    return p


def _round(value: float) -> int:
    return max(1, int(value + 0.5))


# ---- the transforms a recipe can name


class Resize:
    """Resize to a size, or by the length of a side. Exactly one of `size`, `short`, `long` is given.

    Args:
        size: [height, width]; with `keep_ratio` the largest image of unchanged proportions that fits into it.
        short: length of the shorter side after resizing, proportions kept.
        max: with `short`: the longer side may not exceed this (then the shorter side ends below `short`).
        long: length of the longer side after resizing, proportions kept.
        keep_ratio: only with `size`.
        multiple_of: then round both sides up to a multiple of this (changes the proportions slightly).
        interpolation: of pictures: linear, cubic, area or nearest. Labels always take the nearest pixel.
    """

    def __init__(
        self,
        size: list[int] | None = None,
        short: int | None = None,
        max: int | None = None,
        long: int | None = None,
        keep_ratio: bool = False,
        multiple_of: int = 1,
        interpolation: str = "linear",
    ):
        if sum(v is not None for v in (size, short, long)) != 1:
            raise UserError("Resize needs exactly one of size, short and long")
        require(max is None or short is not None, "max", "goes with short")
        require(not keep_ratio or size is not None, "keep_ratio", "goes with size (short and long always keep it)")
        within(1, MAX_PIXELS, short=short, max=max, long=long)
        within(1, 1 << 14, multiple_of=multiple_of)
        self.size = None if size is None else _pair(size)
        self.short, self.max, self.long = short, max, long
        self.keep_ratio, self.multiple_of, self.interpolation = keep_ratio, multiple_of, _interpolation(interpolation)

    def target(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that an image of the given size gets."""
        if self.size and not self.keep_ratio:
            out = self.size
        else:
            if self.size:
                scale = min(self.size[0] / height, self.size[1] / width)
            elif self.long:
                scale = self.long / max(height, width)
            else:
                scale = self.short / min(height, width)
                if self.max:
                    scale = min(scale, self.max / max(height, width))
            out = (_round(height * scale), _round(width * scale))
        return tuple(math.ceil(n / self.multiple_of) * self.multiple_of for n in out)

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        return resize(sample, *self.target(*sample["image"].shape[:2]), self.interpolation)


class RandomScale:
    """Resize by a random factor, proportions kept.

    Args:
        min: smallest factor.
        max: largest factor.
        step: distance of the equally likely factors min, min + step, ..., max; 0 draws from the whole interval.
    """

    def __init__(self, min: float = 0.5, max: float = 2.0, step: float = 0.25):
        within(0, 1000, min=min, max=max, step=step)
        require(0 < min <= max, "min", f"must be above 0 and at most max, got min {min}, max {max}")
        require(not step or (max - min) / step < 1e4, "step", f"is too fine for {min} to {max}, got {step}")
        self.min, self.max = min, max
        self.factors = np.linspace(min, max, int((max - min) / step + 0.5) + 1) if step else None

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        factor = rng.uniform(self.min, self.max) if self.factors is None else rng.choice(self.factors)
        height, width = sample["image"].shape[:2]
        return resize(sample, _round(height * factor), _round(width * factor))


class RandomCrop:
    """A random window; an image smaller than it is first extended at the bottom and right.

    The border is input like any other (the published recipes train on it): it counts as valid and `inner` becomes the
    window.

    Args:
        size: [height, width].
        pad_value: of the border in pictures, 0..255, rounded to an integer.
        ignore: of the border in labels.
    """

    def __init__(self, size: list[int], pad_value: float = 127.5, ignore: int = IGNORE):
        within(0, 255, pad_value=pad_value, ignore=ignore)
        self.size, self.pad_value, self.ignore = _pair(size), pad_value, ignore

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        sample = pad(_whole(sample, "crop"), *self.size, self.pad_value, self.ignore)
        (height, width), shape = self.size, sample["image"].shape
        top, left = rng.integers(shape[0] - height + 1), rng.integers(shape[1] - width + 1)
        return crop(sample, int(top), int(left), height, width)


class RandomFlip:
    """Mirror with probability `p`: left to right, or top to bottom when `vertical`."""

    def __init__(self, p: float = 0.5, vertical: bool = False):
        self.p, self.vertical = _probability(p), vertical

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return flip(sample, self.vertical) if rng.random() < self.p else sample


class ColorJitter:
    """Brightness, contrast, saturation and hue, each with probability `p`, in random order; alike on all pictures of a
    sample.

    Args:
        brightness: factor drawn from 1 - b .. 1 + b.
        contrast: likewise, about the mean grey of the picture.
        saturation: likewise, about the picture's own grey.
        hue: rotation drawn from -h .. h degrees.
        p: probability of each of the four.
    """

    def __init__(
        self, brightness: float = 0.4, contrast: float = 0.4, saturation: float = 0.4, hue: float = 18.0, p: float = 0.5
    ):
        within(0, 1, brightness=brightness, contrast=contrast, saturation=saturation)
        within(0, 180, hue=hue)
        self.strength, self.p = (brightness, contrast, saturation, hue), _probability(p)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        sample = dict(sample)
        # The number of draws is fixed, so that one strength set to 0 leaves the others' draws alone.
        order, applied, amount = rng.permutation(4), rng.random(4), rng.uniform(-1, 1, 4)
        for i in order:
            if applied[i] >= self.p or self.strength[i] == 0:
                continue
            value = float(amount[i] * self.strength[i])
            for key in [k for k in sample if is_picture(k)]:
                sample[key] = _ADJUST[i](sample[key], value)
        return sample


def _adjust_brightness(image: np.ndarray, amount: float) -> np.ndarray:
    return cv2.LUT(image, _table(np.arange(256) * (1 + amount)))


def _adjust_contrast(image: np.ndarray, amount: float) -> np.ndarray:
    mean = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean()
    return cv2.LUT(image, _table(mean + (np.arange(256) - mean) * (1 + amount)))


def _adjust_saturation(image: np.ndarray, amount: float) -> np.ndarray:
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, 1 + amount, grey, -amount, 0)


def _adjust_hue(image: np.ndarray, degrees: float) -> np.ndarray:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)  # hue 0..255 for the full circle
    hsv[..., 0] = cv2.LUT(hsv[..., 0], ((np.arange(256) + round(degrees * 256 / 360)) % 256).astype(np.uint8))
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def _table(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


_ADJUST = (_adjust_brightness, _adjust_contrast, _adjust_saturation, _adjust_hue)


class PadTo:
    """Extend at the bottom and right without counting the border as image (`inner` stays); the last geometric
    transform.

    Args:
        size: at least this [height, width].
        multiple: then up to a multiple of this.
        value: of the border in pictures; networks see zero there after normalisation whatever it is.
    """

    def __init__(self, size: list[int] | None = None, multiple: int = 1, value: float = 0.0):
        if size is None and multiple == 1:
            raise UserError("PadTo needs size or multiple (2 or more)")
        within(1, 1 << 14, multiple=multiple)
        within(0, 255, value=value)
        self.size, self.multiple, self.value = (1, 1) if size is None else _pair(size), multiple, value

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        sides = (max(a, b) for a, b in zip(self.size, sample["image"].shape))
        return pad(sample, *(math.ceil(n / self.multiple) * self.multiple for n in sides), self.value)


class RandomResizedCrop:
    """A window of random area and proportions, resized (Szegedy et al., arXiv:1409.4842; the form common since
    torchvision).

    Args:
        size: [height, width] of the result.
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest width / height, drawn on a logarithmic scale.
        interpolation: of pictures: linear, cubic, area or nearest.
    """

    def __init__(
        self,
        size: list[int],
        scale: list[float] = (0.08, 1.0),
        ratio: list[float] = (3 / 4, 4 / 3),
        interpolation: str = "linear",
    ):
        self.size, self.scale, self.ratio = _pair(size), size_range(scale, "scale", 1.0), size_range(ratio, "ratio")
        self.interpolation = _interpolation(interpolation)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        window = self.window(*sample["image"].shape[:2], rng)
        return resize(crop(_whole(sample, "crop"), *window), *self.size, self.interpolation)

    def window(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Top, left, height, width.

        After ten draws that do not fit, the largest centred window of admitted proportions.
        """
        for _ in range(10):
            area = height * width * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            h, w = _round(math.sqrt(area / ratio)), _round(math.sqrt(area * ratio))
            if h <= height and w <= width:
                return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        h, w = min(height, _round(width / ratio)), min(width, _round(height * ratio))
        return (height - h) // 2, (width - w) // 2, h, w


class CenterCrop:
    """The window of `size` [height, width] at the centre; a side that is shorter than it stays as it is."""

    def __init__(self, size: list[int]):
        self.size = _pair(size)

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        height, width = sample["image"].shape[:2]
        h, w = min(height, self.size[0]), min(width, self.size[1])
        return crop(_whole(sample, "crop"), (height - h) // 2, (width - w) // 2, h, w)
