"""Batches of pictures with objects, as collate gives them, on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle


def batch_of(counts: Sequence[int] = (2, 0, 3), seed: int = 0, classes: int = 3, side: int = 64) -> dict[str, Any]:
    """uint8 pictures with so many objects each; the last object of a picture with four or more is a crowd."""
    rng = np.random.default_rng(seed)
    total = sum(counts)
    low = rng.uniform(2, side / 2, (total, 2))
    crowd = np.zeros(total, bool)
    for stop, count in zip(np.cumsum(counts), counts):
        if count > 3:
            crowd[stop - 1] = True
    arrays = {
        "image": rng.integers(0, 256, (len(counts), side, side, 3)).astype("uint8"),
        "valid": np.ones((len(counts), side, side), bool),
        "inner": np.full((len(counts), 2), side, "int32"),
        "boxes": np.concatenate([low, low + rng.uniform(6, side / 2 - 2, (total, 2))], 1).astype("float32"),
        "classes": rng.integers(0, classes, total),
        "crowd": crowd,
        "boxes_offsets": np.array([0, *np.cumsum(counts)], "int64"),
    }
    tensors = {k: paddle.to_tensor(v) if v.size else paddle.zeros(v.shape, str(v.dtype)) for k, v in arrays.items()}
    return {**tensors, "name": [f"{i}.png" for i in range(len(counts))]}


def part(batch: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    """The pictures from `start` to `stop`."""
    first, last = (int(batch["boxes_offsets"][i].item()) for i in (start, stop))
    out = {k: batch[k][start:stop] for k in ("image", "valid", "inner", "name")}
    rows = {
        k: batch[k][first:last] if last > first else paddle.zeros([0, *batch[k].shape[1:]], batch[k].dtype)
        for k in ("boxes", "classes", "crowd")
    }
    return {**out, **rows, "boxes_offsets": batch["boxes_offsets"][start : stop + 1] - first}
