"""The one way a picture becomes what a network sees: in training, evaluation, the eager Predictor and every graph."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from paddle import Tensor, nn

from ppvision.nn.constant import Constant


class Normalise(nn.Layer):
    """[B,3,H,W], RGB on the 0..255 scale -> (x - mean) / std in float32, zero where nothing is picture.

    Args:
        mean: per channel, 0..255.
        std: likewise.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.mean = Constant(np.asarray(mean, np.float32).reshape(1, -1, 1, 1))
        self.std = Constant(np.asarray(std, np.float32).reshape(1, -1, 1, 1))

    def forward(self, image: Tensor, valid: Tensor | None = None) -> Tensor:
        """
        Args:
            image: uint8 or float32 [B,3,H,W].
            valid: bool [B,H,W], True where the picture is; None: everywhere.
        """
        x = (image.astype("float32") - self.mean()) / self.std()
        if valid is None:
            return x
        return x * valid.unsqueeze(1).astype("float32")


@functools.lru_cache(maxsize=16)
def normaliser_of(mean: tuple[float, ...], std: tuple[float, ...]) -> Normalise:
    """The layer of these statistics, made once."""
    return Normalise(mean, std)
