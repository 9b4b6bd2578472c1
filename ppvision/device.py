"""Which device computes, and how an array gets onto it."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import Tensor


def use_device(device: str) -> None:
    """Make `cpu`, `gpu` or `gpu:N` the device of everything that follows.

    On the CPU, transposes and slices become copies instead of views: Paddle 3.1 to 3.3 walk through a view element by
    element, which costs transformers a seventh to a third of an update and convolutional networks nothing.
    """
    paddle.set_device(device)
    paddle.set_flags({"FLAGS_use_stride_kernel": not device.startswith("cpu")})


def tensor_of(array: np.ndarray) -> Tensor:
    """A tensor with the array's content. Every constructor that takes an array leaks a Python list per call (Paddle
    3.3.1), a kilobyte per training step in all; filling an empty tensor does not."""
    if array.size == 0:
        return paddle.zeros(array.shape, dtype=str(array.dtype))
    tensor = paddle.empty(array.shape, dtype=str(array.dtype))
    tensor.set_value(array)
    return tensor
