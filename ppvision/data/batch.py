"""From a collated batch of numpy arrays to tensors on the current device."""

from __future__ import annotations

from typing import Any

import numpy as np

from ppvision.device import tensor_of


def to_device(batch: dict[str, Any]) -> dict[str, Any]:
    """Move every numeric array of a batch onto the current device; strings, lists and targets stay as they are."""
    return {k: tensor_of(v) if isinstance(v, np.ndarray) and v.dtype != object else v for k, v in batch.items()}
