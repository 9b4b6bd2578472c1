"""Weights and images that are functions of names and positions only: a table of numbers then pins a network down."""

from __future__ import annotations

import zlib

import numpy as np
import paddle
from paddle import nn

POINTS = ((0, 0, 0, 0), (0, 3, 17, 40), (1, 7, 64, 100), (1, 18, 127, 255))


def fill(net: nn.Layer) -> None:
    """Set every entry of the state dict from a generator seeded by its name."""
    for name, tensor in net.state_dict().items():
        a = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF).standard_normal(tensor.shape)
        if name.endswith("_variance"):
            value = 1 + 0.5 * np.abs(a)
        elif name.endswith("_mean"):
            value = 0.1 * a
        elif a.ndim == 4:
            value = a / np.sqrt(np.prod(a.shape[1:]))
        elif a.ndim == 1 and name.endswith(".weight"):
            value = 1 + 0.1 * a
        else:
            value = 0.1 * a
        tensor.set_value(value.astype("float32"))


def image() -> paddle.Tensor:
    """[2,3,128,256]."""
    b, ch, i, j = np.ix_(range(2), range(3), range(128), range(256))
    x = np.sin(0.05 * (ch + 1) * (i + 1) + 0.3 * b) + np.cos(0.03 * (j + 1) * (ch + 1))
    return paddle.to_tensor(x.astype("float32"))


def statistics(net: nn.Layer) -> list[float]:
    """Mean, standard deviation, minimum, maximum and four points of the logits in evaluation."""
    fill(net)
    net.eval()
    with paddle.no_grad():
        y = net(image()).numpy()
    return [float(v) for v in (y.mean(), y.std(), y.min(), y.max(), *(y[p] for p in POINTS))]
