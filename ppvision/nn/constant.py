"""Numbers that belong to the code of a network, not to its weights."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import Tensor


class Constant:
    """An array as a tensor: `constant()`.

    In a static graph it becomes a constant of the graph, so that the parameters of an export are exactly those of the
    network; in eager mode the tensor is made once per device. Being no buffer it is no part of any state dict.

    Args:
        array: numbers; copied.
    """

    def __init__(self, array: np.ndarray):
        self.array = np.array(array)
        self._tensors: dict[str, Tensor] = {}

    def __call__(self) -> Tensor:
        """The tensor, on the current device or in the graph being built."""
        if not paddle.in_dynamic_mode():
            return paddle.to_tensor(self.array)
        device = paddle.device.get_device()
        if device not in self._tensors:
            self._tensors[device] = paddle.to_tensor(self.array)
        return self._tensors[device]
