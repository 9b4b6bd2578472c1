"""Which device computes, and how an array gets onto it."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import Tensor

from ppvision.errors import UserError, did_you_mean

DEVICES = ("cpu", "gpu")


def cuda_usable() -> bool:
    """Whether this Paddle is a CUDA build and sees a device."""
    return bool(paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0)


def choose_device(device: str | None) -> str:
    """ "cpu" or "gpu"; None means gpu where it is usable.

    Raises:
        UserError: unknown device, or gpu where there is none: Paddle itself would run on the CPU silently.
    """
    if device is None:
        return "gpu" if cuda_usable() else "cpu"
    device = device.lower()
    if device not in DEVICES:
        raise UserError(f"no device '{device}'{did_you_mean(device, DEVICES)} (devices: {', '.join(DEVICES)})")
    if device == "gpu" and not cuda_usable():
        built = paddle.device.is_compiled_with_cuda()
        why = "no CUDA device is visible" if built else "this Paddle is built without CUDA"
        raise UserError(f"device gpu: {why}; use --device cpu or install paddlepaddle-gpu from Paddle's package index")
    return device


def use_device(device: str) -> None:
    """Make `cpu`, `gpu` or `gpu:N` the device of everything that follows.

    On the CPU, transposes and slices become copies instead of views: Paddle 3.1 to 3.3 walk through a view element by
    element, which costs transformers a seventh to a third of an update and convolutional networks nothing.
    """
    paddle.set_device(device)
    paddle.set_flags({"FLAGS_use_stride_kernel": not device.startswith("cpu")})


def set_device(device: str | None) -> str:
    """Choose a device as `choose_device` does and make it the one of everything that follows; which it is."""
    chosen = choose_device(device)
    use_device(chosen)
    return chosen


def tensor_of(array: np.ndarray) -> Tensor:
    """A tensor with the array's content. Every constructor that takes an array leaks a Python list per call (Paddle
    3.3.1), a kilobyte per training step in all; filling an empty tensor does not."""
    if array.size == 0:
        return paddle.zeros(array.shape, dtype=str(array.dtype))
    tensor = paddle.empty(array.shape, dtype=str(array.dtype))
    tensor.set_value(array)
    return tensor
