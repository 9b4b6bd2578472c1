"""What a network takes: one `Input` for each argument of `forward`. Importing this imports no Paddle."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["IMAGE", "VALID", "Input"]


@dataclass(frozen=True)
class Input:
    """One input of a network, by the name of `forward`'s argument.

    Attributes:
        shape: numbers, and letters for free sides: "B" the batch, "H" and "W" those of the picture, others their own.
        dtype: of the array that is handed over.
        kind: "image" (RGB, normalised before the network sees it), "mask" (bool, True = real pixel), "vector", "size"
            (height, width in pixels), "points" (ragged rows with offsets).
        optional: the network works without it.
    """

    shape: tuple[int | str, ...]
    dtype: str = "float32"
    kind: str = "image"
    optional: bool = False


IMAGE = Input(("B", 3, "H", "W"))
VALID = Input(("B", "H", "W"), "bool", "mask", optional=True)
