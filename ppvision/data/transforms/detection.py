"""Transforms of detection: DETR's sizes and crops, and a choice between two lists of transforms.

Paper:    N. Carion et al., "End-to-End Object Detection with Transformers", arXiv:2005.12872; the augmentation that its
          successors (DAB-DETR, Deformable DETR, DINO, Group DETR) share.
Checked:  sizes and windows against DETR's own rules in the tests; boxes against boxes drawn as pixels.
Deviates: sizes are those of evaluation: the longer side is rounded to the nearest pixel (DETR rounds it down) and never
          exceeds its limit (DETR rounds the shorter one first, so that it may, by a pixel or two); an image smaller
          than the smallest window is cropped no further (DETR fails); `areas` of cropped boxes keep the share of the
          outline's area that the crop leaves of the box (DETR takes the box's own area).

As in DETR a crop clips boxes to the window and drops those of which nothing is left, not by their centre: an object of
which one column is left keeps its box. A window without any object is an image without objects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np

from ppvision.data.transforms.image import Resize, _whole, crop
from ppvision.errors import at_least, require, within

Sample = dict[str, Any]
Transform = Callable[[Sample, np.random.Generator], Sample]


class RandomShortSide:
    """Resize so that the shorter side has one of the given lengths, proportions kept.

    Args:
        sizes: lengths of the shorter side, equally likely.
        max_size: the longer side may not exceed this (then the shorter one ends below its length); null for no limit.
        interpolation: of pictures: linear, cubic, area or nearest.
    """

    def __init__(self, sizes: list[int], max_size: Annotated[int, 1] | None = None, interpolation: str = "linear"):
        require(len(sizes) > 0, "sizes", "needs at least one length")
        at_least(1, sizes=sizes, max_size=max_size)
        self.choices = [Resize(short=size, max=max_size, interpolation=interpolation) for size in sizes]

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return self.choices[int(rng.integers(len(self.choices)))](sample)


class RandomSizeCrop:
    """Cut out a window of random height and width, drawn each for itself, at a random place.

    Boxes are clipped to the window and dropped where nothing is left of them.

    Args:
        min: smallest side of the window; a shorter side of the image stays whole.
        max: largest side.
    """

    def __init__(self, min: int = 384, max: int = 600):
        at_least(1, min=min, max=max)
        require(min <= max, "min", f"must not exceed max, got {min} and {max}")
        self.min, self.max = min, max

    def window(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Top, left, height, width."""
        h, w = (int(rng.integers(min(self.min, n), min(self.max, n) + 1)) for n in (height, width))
        return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        height, width = sample["image"].shape[:2]
        return crop(_whole(sample, "crop"), *self.window(height, width, rng), min_box=0)


class RandomChoice:
    """One of two lists of transforms: `a` with probability `p`, else `b`.

    Args:
        p: probability of `a`.
        a: transforms, each a mapping with `type`; may be empty.
        b: likewise.
    """

    components = {"a": "transform", "b": "transform"}

    def __init__(self, p: float = 0.5, a: list[Transform] = (), b: list[Transform] = ()):
        within(0, 1, p=p)
        for key, transforms in (("a", a), ("b", b)):
            fine = isinstance(transforms, (list, tuple)) and all(callable(t) for t in transforms)
            require(fine, key, f"must be a list of transforms, got {transforms}")
        self.p, self.a, self.b = p, list(a), list(b)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        for transform in self.a if rng.random() < self.p else self.b:
            sample = transform(sample, rng)
        return sample
