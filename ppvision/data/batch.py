"""From a collated batch of numpy arrays to what a network reads: tensors, normalised on the device, zero outside
`valid`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from ppvision.device import tensor_of


def to_device(batch: dict[str, Any]) -> dict[str, Any]:
    """Move every numeric array of a batch onto the current device; strings, lists and targets stay as they are."""
    return {k: tensor_of(v) if isinstance(v, np.ndarray) and v.dtype != object else v for k, v in batch.items()}


@functools.lru_cache(maxsize=16)
def _statistics(mean: tuple[float, ...], std: tuple[float, ...], device: str) -> tuple[Tensor, Tensor]:
    return paddle.to_tensor(mean, dtype="float32"), paddle.to_tensor(std, dtype="float32")


def normalise(batch: dict[str, Any], mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """A batch whose `image` is float32 [B,3,H,W], normalised with statistics on the 0..255 scale.

    Args:
        batch: `image` uint8 [B,H,W,3]; `valid` (optional) bool [B,H,W], False where collate padded.
        mean: per channel, RGB.
        std: per channel, RGB.

    Returns:
        A shallow copy; a float image (already normalised) is left alone.
    """
    image = batch["image"]
    if image.dtype != paddle.uint8:
        return batch
    mean_C, std_C = _statistics(tuple(mean), tuple(std), paddle.device.get_device())
    x_BCHW = ((image.astype("float32") - mean_C) / std_C).transpose([0, 3, 1, 2])
    if batch.get("valid") is not None:
        x_BCHW = x_BCHW * batch["valid"].unsqueeze(1).astype("float32")
    return {**batch, "image": x_BCHW}
