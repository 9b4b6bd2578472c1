"""What the keys of a sample are: the one table that transforms, collate, the loader and what normalises share.

A sample is a dict of numpy arrays. Its geometry lives in *continuous* pixel coordinates: pixel column `j` covers [j, j
+ 1), so an image is [0, W] x [0, H], its centre is (W / 2, H / 2) and a resize is a plain multiplication.

| key | form | moves as |
|---|---|---|
| `image`, `image_*` | uint8 [H,W,3] RGB | picture: interpolated, padded with 0 |
| `crop_*` | uint8 [h,w,3] RGB | stays: a picture of a size of its own (a face, a reference) beside the image |
| `label`, `label_*` (two axes) | integer [H,W] | map: nearest pixel, padded with 255 |
| `label` (no axis) | int | stays |
| `boxes` with `classes`, `crowd` | float32 [n,4] xyxy, int64 [n], bool [n] | corners, clipped and dropped together |
| `areas` of boxes | float32 [n], of the outline | scaled; a crop leaves the share that it leaves of the box |
| `keypoints` | float32 [n,2] xy | points, never dropped |
| `points` | float32 [n,d], sensor coordinates | stays; concatenated by collate |
| `size`, `inner`, `geometry` | (h, w), (h, w), float64 [3,3] | see `start` |

A new kind of annotation is one more line in `FIELDS` and, if it is geometric, one more in
`transforms.image.warp_annotations`; a package that brings a data set of its own adds its lines when it is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

IGNORE = 255

Collate = Literal["canvas", "own", "rows", "record", "list", "stack"]


@dataclass(frozen=True)
class Field:
    """What one key of a sample is.

    Attributes:
        collate: how samples become a batch. "canvas": padded to the largest image of the batch; "own": padded to the
            largest of this key; "rows": concatenated, with offsets of its group; "record": int32 rows; "list": left as
            a list; "stack": along a new first axis.
        picture: RGB that is normalised before a network sees it.
        moves: a picture that geometry moves together with the image.
        group: of ragged rows, whose offsets they share; rows of one group are kept or dropped together.
        target: kept, as read, for the metrics.
    """

    collate: Collate = "stack"
    picture: bool = False
    moves: bool = False
    group: str = ""
    target: bool = True


PICTURE = Field("canvas", picture=True, moves=True, target=False)
CROP = Field("own", picture=True, target=False)
MAP = Field("canvas")
OTHER = Field()

# Key -> field; `word_*` stands for all keys that begin with the word and an underscore.
FIELDS: dict[str, Field] = {
    "image": PICTURE,
    "image_id": OTHER,
    "image_*": PICTURE,
    "crop_*": CROP,
    "boxes": Field("rows", group="boxes"),
    "classes": Field("rows", group="boxes"),
    "crowd": Field("rows", group="boxes"),
    "areas": Field("rows", group="boxes"),
    "keypoints": Field("rows", group="keypoints"),
    "points": Field("rows", group="points", target=False),
    "size": Field("record"),
    "inner": Field("record"),
    "name": Field("list", target=False),
    "target": Field("list"),
}


def field_of(key: str, value: Any = None) -> Field:
    """The field of `key`; `value` tells a map of class numbers from a single number."""
    if is_map(key, value):
        return MAP
    if key in FIELDS:
        return FIELDS[key]
    word, underscore, _ = key.partition("_")
    return FIELDS.get(f"{word}{underscore}*", OTHER)


def is_picture(key: str) -> bool:
    """Whether `key` names an image that geometry moves; `image_id` is a number."""
    return field_of(key).moves


def is_normalised(key: str) -> bool:
    """Whether `key` names a picture, which is normalised before a network sees it."""
    return field_of(key).picture


def is_map(key: str, value: Any) -> bool:
    """Whether `key` names a map of class numbers (a label of two axes), to be moved by nearest pixel."""
    return (key == "label" or key.startswith("label_")) and isinstance(value, np.ndarray) and value.ndim == 2


def start(sample: dict[str, Any]) -> dict[str, Any]:
    """The sample with the three records that geometry keeps, set where absent.

    Returns:
        A shallow copy with `size` (h, w of the image as read), `inner` (h, w of the image proper, without padding at
        the bottom and right) and `geometry` (float64 [3,3], coordinates as read -> current). A sample without image is
        only copied.
    """
    sample = dict(sample)
    if "image" in sample:
        height, width = sample["image"].shape[:2]
        sample.setdefault("size", (height, width))
        sample.setdefault("inner", (height, width))
        sample.setdefault("geometry", np.eye(3))
    return sample


def targets(sample: dict[str, Any]) -> dict[str, Any]:
    """The annotations of a sample as read: everything that is a target."""
    return {k: v for k, v in sample.items() if field_of(k, v).target}
