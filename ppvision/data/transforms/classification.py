"""Augmentation of classification: RandAugment and random erasing.

Papers:   E. Cubuk et al., "RandAugment", arXiv:1909.13719; Z. Zhong et al., "Random Erasing", arXiv:1708.04896.
Checked:  the list of operations, their ranges and the meaning of `rand-m9-mstd0.5-inc1` are those of timm's
          `auto_augment`; single operations against Pillow in the tests.
Deviates: pictures are uint8, so the noise of erasing is drawn around ImageNet's mean and rounded to 0..255 (timm draws
          a standard normal after normalisation). Geometry is resampled by OpenCV, bilinearly, onto a fixed grey.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import cv2
import numpy as np

from ppvision.data.fields import is_map, is_picture
from ppvision.data.transforms.image import size_range
from ppvision.errors import UserError, require, within

__all__ = ["OPERATIONS", "RandAugment", "RandomErasing"]

Sample = dict[str, Any]
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet
GREY = (128, 128, 128)


def _lut(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    return cv2.LUT(image, np.clip(values, 0, 255).astype(np.uint8))


def autocontrast(image: np.ndarray) -> np.ndarray:
    """Every channel stretched to 0..255; a constant one stays."""
    tables = np.empty((256, 3), np.uint8)
    for channel in range(3):
        low, high = int(image[..., channel].min()), int(image[..., channel].max())
        scale = 255.0 / (high - low) if high > low else 1.0
        values = np.arange(256) * scale - (low * scale if high > low else 0)
        tables[:, channel] = np.clip(values, 0, 255).astype(np.uint8)
    return cv2.LUT(image, tables.reshape(1, 256, 3))


def equalize(image: np.ndarray) -> np.ndarray:
    """Histogram of every channel made flat, as Pillow does it."""
    tables = np.empty((256, 3), np.uint8)
    for channel in range(3):
        histogram = np.bincount(image[..., channel].ravel(), minlength=256)
        used = histogram[histogram > 0]
        step = (int(used.sum()) - int(used[-1])) // 255
        if len(used) <= 1 or not step:
            tables[:, channel] = np.arange(256)
        else:
            before = np.cumsum(histogram) - histogram
            tables[:, channel] = np.minimum((step // 2 + before) // step, 255)
    return cv2.LUT(image, tables.reshape(1, 256, 3))


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Keep so many of the upper bits."""
    return image & np.uint8(256 - (1 << (8 - bits)) if bits < 8 else 255) if bits > 0 else np.zeros_like(image)


def solarize(image: np.ndarray, threshold: float) -> np.ndarray:
    """Invert what is not below the threshold."""
    values = np.arange(256)
    return _lut(image, np.where(values < threshold, values, 255 - values))


def solarize_add(image: np.ndarray, amount: float) -> np.ndarray:
    """Brighten what is below 128."""
    values = np.arange(256)
    return _lut(image, np.where(values < 128, values + int(amount), values))


def blend(other: np.ndarray, image: np.ndarray, factor: float) -> np.ndarray:
    """other + factor (image - other), clipped: 1 is the image, above 1 exaggerates."""
    return np.clip(other + factor * (image.astype(np.float32) - other), 0, 255).astype(np.uint8)


def grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def color(image: np.ndarray, factor: float) -> np.ndarray:
    """Saturation."""
    return blend(grey(image)[..., None].astype(np.float32), image, factor)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """About the mean grey of the picture."""
    return blend(np.float32(int(grey(image).mean() + 0.5)), image, factor)


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    return blend(np.float32(0), image, factor)


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Against the picture smoothed by Pillow's 3x3 filter; the outermost pixels stay."""
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
    smooth = image.copy()
    if min(image.shape[:2]) > 2:
        inner = cv2.filter2D(image.astype(np.float32), -1, kernel)[1:-1, 1:-1]
        smooth[1:-1, 1:-1] = np.clip(inner + 0.5, 0, 255).astype(np.uint8)
    return blend(smooth.astype(np.float32), image, factor)


def rotation(height: int, width: int, degrees: float) -> np.ndarray:
    """[3,3] about the centre, anticlockwise as seen."""
    angle = math.radians(degrees)
    c, s, x, y = math.cos(angle), math.sin(angle), width / 2, height / 2
    return np.array([[c, s, x - c * x - s * y], [-s, c, y + s * x - c * y], [0, 0, 1]])


def _matrix(xy: float = 0.0, yx: float = 0.0, dx: float = 0.0, dy: float = 0.0) -> np.ndarray:
    return np.array([[1, xy, dx], [yx, 1, dy], [0, 0, 1]], float)


# name -> function of (image, strength 0..1, sign). Strengths are timm's levels over 10.
COLOURS: dict[str, Callable[[np.ndarray, float, int], np.ndarray]] = {
    "AutoContrast": lambda image, strength, sign: autocontrast(image),
    "Equalize": lambda image, strength, sign: equalize(image),
    "Invert": lambda image, strength, sign: 255 - image,
    "Posterize": lambda image, strength, sign: posterize(image, 4 - int(strength * 4)),
    "Solarize": lambda image, strength, sign: solarize(image, 256 - int(strength * 256)),
    "SolarizeAdd": lambda image, strength, sign: solarize_add(image, int(strength * 110)),
    "Color": lambda image, strength, sign: color(image, max(0.1, 1 + sign * 0.9 * strength)),
    "Contrast": lambda image, strength, sign: contrast(image, max(0.1, 1 + sign * 0.9 * strength)),
    "Brightness": lambda image, strength, sign: brightness(image, max(0.1, 1 + sign * 0.9 * strength)),
    "Sharpness": lambda image, strength, sign: sharpness(image, max(0.1, 1 + sign * 0.9 * strength)),
}
# name -> matrix [3,3] of (height, width, strength, sign), old coordinates -> new.
GEOMETRY: dict[str, Callable[[int, int, float, int], np.ndarray]] = {
    "Rotate": lambda h, w, strength, sign: rotation(h, w, sign * 30 * strength),
    "ShearX": lambda h, w, strength, sign: _matrix(xy=sign * 0.3 * strength),
    "ShearY": lambda h, w, strength, sign: _matrix(yx=sign * 0.3 * strength),
    "TranslateX": lambda h, w, strength, sign: _matrix(dx=sign * 0.45 * strength * w),
    "TranslateY": lambda h, w, strength, sign: _matrix(dy=sign * 0.45 * strength * h),
}
OPERATIONS = (*COLOURS, *GEOMETRY)


class RandAugment:
    """`num_ops` random operations of random strength, each applied with probability `p`.

    For whole-image labels: a sample with boxes, points or maps is refused. `geometry` is kept.

    Args:
        magnitude: mean strength, 0..10.
        num_ops: operations per image.
        std: deviation of the strength.
        p: probability of each.
        operations: names to choose from; default: all fifteen.
    """

    def __init__(
        self,
        magnitude: float = 9.0,
        num_ops: int = 2,
        std: float = 0.5,
        p: float = 0.5,
        operations: list[str] | None = None,
    ):
        within(0, 10, magnitude=magnitude, std=std)
        within(0, 100, num_ops=num_ops)
        within(0, 1, p=p)
        self.operations = tuple(OPERATIONS if operations is None else operations)
        require(bool(self.operations), "operations", f"names none (there are: {', '.join(OPERATIONS)})")
        for name in self.operations:
            known = f"has no operation '{name}' (there are: {', '.join(OPERATIONS)})"
            require(name in OPERATIONS, "operations", known)
        self.magnitude, self.num_ops, self.std, self.p = magnitude, num_ops, std, p

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        for key, value in sample.items():
            if key in ("boxes", "keypoints") or is_map(key, value):
                raise UserError(f"RandAugment is for whole images: it moves pixels and would leave '{key}' behind")
        sample = dict(sample)
        # The number of draws is fixed, so that one setting changed leaves the other draws alone.
        for which, applied, offset, turned in zip(
            rng.integers(len(self.operations), size=self.num_ops),
            rng.random(self.num_ops),
            rng.standard_normal(self.num_ops),
            rng.random(self.num_ops),
        ):
            if applied < self.p:
                strength = min(max(self.magnitude + self.std * float(offset), 0.0), 10.0) / 10
                sample = self.apply(sample, self.operations[which], strength, 1 if turned < 0.5 else -1)
        return sample

    @staticmethod
    def apply(sample: Sample, name: str, strength: float, sign: int) -> Sample:
        """One operation on all pictures of a sample. `strength`: 0..1."""
        sample = dict(sample)
        pictures = [key for key in sample if is_picture(key)]
        if name in COLOURS:
            for key in pictures:
                sample[key] = COLOURS[name](sample[key], strength, sign)
            return sample
        height, width = sample["image"].shape[:2]
        matrix = GEOMETRY[name](height, width, strength, sign)
        # Our coordinates have pixel centres at halves, OpenCV's at whole numbers.
        half = _matrix(dx=0.5, dy=0.5)
        centres = np.linalg.inv(half) @ matrix @ half
        for key in pictures:
            sample[key] = cv2.warpAffine(
                sample[key], centres[:2], (width, height), flags=cv2.INTER_LINEAR, borderValue=GREY
            )
        if "geometry" in sample:
            sample["geometry"] = matrix @ sample["geometry"]
        return sample


class RandomErasing:
    """A random rectangle of the image is replaced, with probability `p`.

    Args:
        p: probability.
        area: smallest and largest share of the image.
        ratio: smallest and largest height / width, drawn on a logarithmic scale.
        mode: "pixel" normal noise for every pixel, "color" one random colour, "constant" ImageNet's mean.
    """

    def __init__(
        self,
        p: float = 0.25,
        area: list[float] = (0.02, 1 / 3),
        ratio: list[float] = (0.3, 1 / 0.3),
        mode: Literal["pixel", "color", "constant"] = "pixel",
    ):
        within(0, 1, p=p)
        self.p, self.area, self.ratio, self.mode = p, size_range(area, "area", 1.0), size_range(ratio, "ratio"), mode

    def window(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int] | None:
        """Top, left, height, width; None after ten draws that do not fit."""
        for _ in range(10):
            size = height * width * rng.uniform(*self.area)
            ratio = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            h, w = round(math.sqrt(size * ratio)), round(math.sqrt(size / ratio))
            if 0 < h < height and 0 < w < width:
                return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
        return None

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.p:
            return sample
        image = sample["image"].copy()
        window = self.window(*image.shape[:2], rng)
        if window is None:
            return sample
        top, left, h, w = window
        shape = {"pixel": (h, w, 3), "color": (1, 1, 3), "constant": None}[self.mode]
        noise = 0.0 if shape is None else rng.standard_normal(shape) * STD
        image[top : top + h, left : left + w] = np.clip(np.rint(np.asarray(MEAN) + noise), 0, 255).astype(np.uint8)
        return {**sample, "image": image}
