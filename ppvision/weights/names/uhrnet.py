"""U-HRNet's names in PaddleSeg: ours, and a `last_layer` that no forward uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppvision.weights.names.engine import Dialect, Names

if TYPE_CHECKING:
    from paddle import nn


def names(net: nn.Layer) -> Names:
    """An archive of the ImageNet backbone has no prefix `backbone.`: it gets one."""
    paddleseg = Dialect(of="PaddleSeg's U-HRNet", rules=(("{rest}", "{rest}"),))
    archive = Dialect(pattern=r"conv_layer1_1\._conv\.weight", rules=(("{rest}", "backbone.{rest}"),))
    return Names({"paddleseg": paddleseg, "archive": archive}, unused=r"backbone\.last_layer\..+")
