"""What a network takes: one `Input` for each argument of `forward`. Importing this imports no Paddle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

__all__ = ["IMAGE", "VALID", "Input", "example_of", "fixed_batch", "graph_name"]


@dataclass(frozen=True)
class Input:
    """One input of a network, by the name of `forward`'s argument.

    Attributes:
        shape: numbers, and letters for free sides: "B" the batch, "B+1" one more, "H" and "W" those of the picture,
            others their own.
        dtype: of the array that is handed over.
        kind: "image" (RGB, normalised before the network sees it), "mask" (bool, True = real pixel), "vector", "size"
            (height, width in pixels), "points" (rows of all samples one after the other), "offsets" (integers [B+1],
            where the rows of each sample begin, and where the last one ends).
        optional: the network works without it.
    """

    shape: tuple[int | str, ...]
    dtype: str = "float32"
    kind: str = "image"
    optional: bool = False


IMAGE = Input(("B", 3, "H", "W"))
VALID = Input(("B", "H", "W"), "bool", "mask", optional=True)


def graph_name(name: str) -> str:
    """The name that an input has in an exported graph: the picture is `x`, as upstream's servers call it."""
    return "x" if name == "image" else name


def fixed_batch(inputs: Mapping[str, Input]) -> int | None:
    """How many samples a graph takes, by the inputs that have one row for each; None where that is free."""
    per_sample = [spec.shape[0] for spec in inputs.values() if spec.kind in ("image", "mask", "vector")]
    offsets = [spec.shape[0] for spec in inputs.values() if spec.kind == "offsets"]
    sides = [side for side in per_sample if isinstance(side, int)]
    sides += [side - 1 for side in offsets if isinstance(side, int)]
    return max(sides, default=None)


def example_of(
    inputs: Mapping[str, Input], batch: int, size: tuple[int, int], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """An array for every input that is no picture: a mask that is True, the given size, normal numbers, 16 rows of
    points for each sample and offsets that divide them unequally. Free sides with letters of their own are 16 long."""
    import numpy as np

    free = {"B": batch, "B+1": batch + 1, "H": size[0], "W": size[1]}
    arrays = {}
    for name, spec in inputs.items():
        shape = [free.get(side, 16) if isinstance(side, str) else side for side in spec.shape]
        if spec.kind == "points" and isinstance(spec.shape[0], str):
            shape[0] = 16 * batch
        if spec.kind == "mask":
            arrays[name] = np.ones(shape, spec.dtype)
        elif spec.kind == "size":
            arrays[name] = np.broadcast_to(np.asarray(size, spec.dtype), shape).copy()
        elif spec.kind == "offsets":
            arrays[name] = (16 * batch * np.linspace(0, 1, batch + 1) ** 2).astype(spec.dtype)
        elif spec.kind != "image":
            arrays[name] = rng.normal(size=shape).astype(spec.dtype)
    return arrays
