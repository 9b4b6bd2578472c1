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

from ppvision.data.fields import IGNORE, ROWS, is_map, is_picture, start
from ppvision.errors import UserError, did_you_mean

Sample = dict[str, Any]

INTERPOLATIONS = {
    "nearest": cv2.INTER_NEAREST_EXACT,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
}
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
    """Move what has coordinates (`geometry`, `boxes`, `keypoints`) by a [3,3] that scales, mirrors and shifts."""
    sample["geometry"] = matrix @ sample["geometry"]
    scale, shift = np.array([matrix[0, 0], matrix[1, 1]]), matrix[:2, 2]
    if "boxes" in sample:
        a, b = (sample["boxes"][:, i : i + 2] * scale + shift for i in (0, 2))
        sample["boxes"] = np.concatenate([np.minimum(a, b), np.maximum(a, b)], axis=1).astype(np.float32)
    if "keypoints" in sample:
        sample["keypoints"] = (sample["keypoints"] * scale + shift).astype(np.float32)
    return sample


def resize(sample: Sample, height: int, width: int, interpolation: str = "linear") -> Sample:
    """The sample at another size; maps by the nearest pixel centre."""
    sample, (h, w) = _whole(sample, "resize"), sample["image"].shape[:2]
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
    if bottom or right:
        for key, array in sample.items():
            if is_picture(key):
                fill = (int(np.rint(value)),) * 3
                sample[key] = cv2.copyMakeBorder(array, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=fill)
            elif is_map(key, array):
                sample[key] = np.pad(array, ((0, bottom), (0, right)), constant_values=ignore)
    return sample


def crop(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """Cut out a window that lies inside the image.

    Boxes are clipped to it, and dropped where less than a pixel is left.
    """
    sample = dict(sample)
    for key, value in sample.items():
        if is_picture(key) or is_map(key, value):
            sample[key] = value[top : top + height, left : left + width]
    warp_annotations(sample, np.array([[1.0, 0, -left], [0, 1, -top], [0, 0, 1]]))
    if "boxes" in sample:
        boxes = np.clip(sample["boxes"], 0, np.array([width, height, width, height], np.float32))
        kept = ((boxes[:, 2:] - boxes[:, :2]) >= MIN_BOX).all(1)
        sample["boxes"] = boxes
        for key, group in ROWS.items():
            if group == "boxes" and key in sample:
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


def _pair(size: int | Sequence[int], name: str) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(n, int) and n > 0 for n in pair):
        raise UserError(f"{name} must be [height, width] of positive integers, not {size!r}")
    return pair


def _interpolation(name: str) -> str:
    if name not in INTERPOLATIONS:
        raise UserError(
            f"no interpolation '{name}'{did_you_mean(name, INTERPOLATIONS)} (one of {', '.join(INTERPOLATIONS)})"
        )
    return name


def _probability(p: float) -> float:
    if not 0 <= p <= 1:
        raise UserError(f"p must lie in 0..1, not {p}")
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
        if max is not None and short is None:
            raise UserError("Resize: max goes with short")
        if keep_ratio and size is None:
            raise UserError("Resize: keep_ratio goes with size (short and long always keep it)")
        for name, value in (("short", short), ("max", max), ("long", long), ("multiple_of", multiple_of)):
            if value is not None and value < 1:
                raise UserError(f"Resize: {name} must be at least 1, not {value}")
        self.size = None if size is None else _pair(size, "Resize.size")
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
        if not 0 < min <= max or step < 0:
            raise UserError(f"RandomScale needs 0 < min <= max and step >= 0, not min {min}, max {max}, step {step}")
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
        if not 0 <= pad_value <= 255 or not 0 <= ignore <= 255:
            raise UserError(f"RandomCrop: pad_value and ignore must lie in 0..255, not {pad_value} and {ignore}")
        self.size, self.pad_value, self.ignore = _pair(size, "RandomCrop.size"), pad_value, ignore

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
        given = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        for name, value in given.items():
            if value < 0 or (name == "hue" and value > 180):
                limit = "0 to 180 degrees" if name == "hue" else "at least 0"
                raise UserError(f"ColorJitter: {name} must be {limit}, got {value}")
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
        if size is None and multiple < 2:
            raise UserError("PadTo needs size or multiple (2 or more)")
        self.size, self.multiple, self.value = (1, 1) if size is None else _pair(size, "PadTo.size"), multiple, value

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        wanted = (max(a, b) for a, b in zip(self.size, sample["image"].shape))
        return pad(sample, *(math.ceil(n / self.multiple) * self.multiple for n in wanted), self.value)


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
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1 or len(ratio) != 2 or not 0 < ratio[0] <= ratio[1]:
            raise UserError(f"RandomResizedCrop: scale and ratio are [smallest, largest], not {scale} and {ratio}")
        self.size, self.scale, self.ratio = _pair(size, "RandomResizedCrop.size"), tuple(scale), tuple(ratio)
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
        self.size = _pair(size, "CenterCrop.size")

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        height, width = sample["image"].shape[:2]
        h, w = min(height, self.size[0]), min(width, self.size[1])
        return crop(_whole(sample, "crop"), (height - h) // 2, (width - w) // 2, h, w)
