"""A small stack of linear layers, as detection heads use it."""

from __future__ import annotations

import paddle.nn.functional as F
from paddle import Tensor, nn

__all__ = ["Mlp"]


class Mlp(nn.Layer):
    """[...,dim_in] -> [...,dim_out]: `num_layers` linear layers, `layers.0` to `layers.{num_layers - 1}`, ReLU between.

    Args:
        dim_in: width of the input.
        hidden: width of what is between two layers.
        dim_out: width of the output.
        num_layers: at least 1.
    """

    def __init__(self, dim_in: int, hidden: int, dim_out: int, num_layers: int):
        super().__init__()
        dims = [dim_in, *[hidden] * (num_layers - 1), dim_out]
        self.layers = nn.LayerList(nn.Linear(a, b) for a, b in zip(dims, dims[1:]))

    def forward(self, x: Tensor) -> Tensor:
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i < last:
                x = F.relu(x)
        return x
