"""What a network may promise beyond `forward`: every optional part, with its default.

Trainer, exporter, memory planner and Methods ask these names of a network; one that inherits from `Network` has them
all. Networks of other packages, named by dotted path, have the defaults: `promises(net)` gives whichever applies.
"""

from __future__ import annotations

from dataclasses import dataclass

from paddle import nn


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


class Network(nn.Layer):
    """Base of all inference networks of the suite; each attribute and method below may be overridden.

    Attributes:
        num_classes: 0 where there are none.
    """

    num_classes: int = 0

    def inputs(self) -> dict[str, Input]:
        """What `forward` takes, by name, in its order."""
        return {"image": IMAGE}

    def deployables(self) -> dict[str, nn.Layer]:
        """What is evaluated, averaged and exported, by name."""
        return {"model": self}
