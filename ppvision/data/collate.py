"""A list of samples -> one batch of numpy arrays: pictures padded at the bottom and right, ragged rows concatenated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ppvision.data.fields import IGNORE, field_of, is_picture, start


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Batch samples that have been through a `Compose` (or `fields.start`).

    Args:
        samples: at least one; all with the same keys.

    Returns:
        `image` (and `image_*`) uint8 [B,H,W,3], padded with 0; `crop_*` [B,h,w,3], each key to a size of its own;
        `valid` bool [B,H,W], True on each sample's `inner` area; `canvas` int32 [B,2], each image's size before it was
        padded to the batch; `label` [B,H,W] padded with 255, or int64 [B]; `size` and `inner` int32 [B,2]; `geometry`
        float64 [B,3,3]; `index` int64 [B]; `name` list[str]; `boxes`, `classes`, `crowd`, `areas` concatenated with
        `boxes_offsets` int64 [B+1] (likewise `keypoints`, `points`); `target` list[dict]. Any other key is stacked,
        numbers as one array, arrays along a new first axis.

    Raises:
        ValueError: samples differ in keys, or an array that should be stacked differs in shape; the sample is named.
    """
    samples = [start(s) for s in samples]
    keys = samples[0].keys()
    for sample in samples[1:]:
        if sample.keys() != keys:
            differing = ", ".join(sorted(keys ^ sample.keys()))
            raise ValueError(
                f"{_name(sample)}: keys differ from those of '{_name(samples[0])}' in the same batch: {differing}"
            )
    batch: dict[str, Any] = {}
    if "image" in keys:
        pictures = [k for k in keys if is_picture(k)]
        height = max(s[k].shape[0] for s in samples for k in pictures)
        width = max(s[k].shape[1] for s in samples for k in pictures)
        batch["canvas"] = np.array([s["image"].shape[:2] for s in samples], np.int32)
        batch["valid"] = np.zeros((len(samples), height, width), bool)
        for i, sample in enumerate(samples):
            (h, w), shape = sample["inner"], sample["image"].shape
            if h > shape[0] or w > shape[1]:
                raise ValueError(
                    f"{_name(sample)}: inner area {h}x{w} is larger than the image {shape[0]}x{shape[1]}: "
                    "a transform changed the image without keeping 'inner'"
                )
            batch["valid"][i, :h, :w] = True
    for key in keys:
        values = [s[key] for s in samples]
        field = field_of(key, values[0])
        if field.collate == "canvas":
            batch[key] = _pad(values, height, width, 0 if field.picture else IGNORE)
        elif field.collate == "own":
            sides = [max(v.shape[axis] for v in values) for axis in (0, 1)]
            batch[key] = _pad(values, *sides, 0)
        elif field.collate == "rows":
            batch[key] = np.concatenate(values)
            if key == field.group:
                batch[f"{key}_offsets"] = np.cumsum([0, *(len(v) for v in values)], dtype=np.int64)
        elif field.collate == "record":
            batch[key] = np.asarray(values, np.int32)
        elif field.collate == "list" or isinstance(values[0], (str, dict)):
            batch[key] = values
        else:
            batch[key] = _stack(key, values, samples)
    return batch


def _pad(arrays: list[np.ndarray], height: int, width: int, value: int) -> np.ndarray:
    out = np.full((len(arrays), height, width, *arrays[0].shape[2:]), value, arrays[0].dtype)
    for row, array in zip(out, arrays):
        row[: array.shape[0], : array.shape[1]] = array
    return out


def _stack(key: str, values: list[Any], samples: Sequence[dict[str, Any]]) -> np.ndarray:
    arrays = [np.asarray(v) for v in values]
    for array, sample in zip(arrays, samples):
        if array.shape != arrays[0].shape:
            raise ValueError(
                f"{_name(sample)}: '{key}' has shape {array.shape}, the first of the batch {arrays[0].shape}; "
                "a ragged key needs a line in ppvision.data.fields.FIELDS"
            )
    out = np.stack(arrays)
    return out.astype(np.int64) if out.dtype.kind in "iu" and out.ndim == 1 else out


def _name(sample: dict[str, Any]) -> str:
    return str(sample.get("name", sample.get("index", "sample")))


def rows_of(batch: dict[str, Any]) -> int:
    """How many samples a batch has, whatever they are made of."""
    for key, value in batch.items():
        if key.endswith("_offsets"):
            return len(value) - 1
        if field_of(key).collate != "rows":
            return len(value)
    raise ValueError("an empty batch")


def select(batch: dict[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """The batch of the samples `rows`, in that order; ragged rows are cut by their offsets."""
    part: dict[str, Any] = {}
    for key, value in batch.items():
        field = field_of(key.removesuffix("_offsets"))
        if key.endswith("_offsets"):
            part[key] = np.cumsum([0, *(value[i + 1] - value[i] for i in rows)], dtype=np.int64)
        elif field.collate == "rows":
            offsets = batch[f"{field.group}_offsets"]
            part[key] = np.concatenate([value[offsets[i] : offsets[i + 1]] for i in rows])
        else:
            part[key] = [value[i] for i in rows] if isinstance(value, list) else value[list(rows)]
    return part
