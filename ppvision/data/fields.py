"""What the keys of a sample are: the one table that transforms, collate and the loader share.

A sample is a dict of numpy arrays. Its geometry lives in *continuous* pixel coordinates: pixel column `j` covers [j, j
+ 1), so an image is [0, W] x [0, H], its centre is (W / 2, H / 2) and a resize is a plain multiplication.

| key | form | moves as |
|---|---|---|
| `image`, `image_*` | uint8 [H,W,3] RGB | picture: interpolated, padded with 0 |
| `label`, `label_*` (two axes) | integer [H,W] | map: nearest pixel, padded with 255 |
| `label` (no axis) | int | stays |
| `boxes` with `classes`, `crowd` | float32 [n,4] xyxy, int64 [n], bool [n] | corners, clipped and dropped together |
| `areas` of boxes | float32 [n], of the outline | scaled; a crop leaves the share that it leaves of the box |
| `keypoints` | float32 [n,2] xy | points, never dropped |
| `points` | float32 [n,d], sensor coordinates | stays; concatenated by collate |
| `size`, `inner`, `geometry` | (h, w), (h, w), float64 [3,3] | see `start` |

A new kind of annotation is one more line here and, if it is geometric, one more in `transforms.warp_annotations`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

IGNORE = 255

# Ragged keys and the group whose offsets they share: rows of one group are kept or dropped together.
ROWS: dict[str, str] = {
    "boxes": "boxes",
    "classes": "boxes",
    "crowd": "boxes",
    "areas": "boxes",
    "keypoints": "keypoints",
    "points": "points",
}


def is_picture(key: str) -> bool:
    """Whether `key` names an image, to be interpolated; `image_id` is a number."""
    return key == "image" or (key.startswith("image_") and key != "image_id")


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
    """The annotations of a sample as read: everything except its pictures, points and name."""
    return {k: v for k, v in sample.items() if not is_picture(k) and k not in ("points", "name")}
