"""RTFormer's names in PaddleSeg: ours, and an auxiliary head beside the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppvision.weights.names.engine import Dialect, Names

if TYPE_CHECKING:
    from paddle import nn


def names(net: nn.Layer) -> Names:
    """The auxiliary head becomes the first one of method `supervised`."""
    paddleseg = Dialect(
        of="PaddleSeg's RTFormer",
        pattern=r"seghead_extra\..+",
        rules=(("{rest}", "{rest}"),),
        training=(("seghead_extra.{rest}", "aux.0.{rest}"),),
    )
    return Names({"paddleseg": paddleseg})
