"""UperNet on any backbone: a bare backbone's file (a classifier's weights, say) fits below `backbone.`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppvision.weights.names.engine import Names

if TYPE_CHECKING:
    from paddle import nn


def names(net: nn.Layer) -> Names:
    """No names of others: the heads of other suites are built otherwise."""
    return Names(backbone="backbone", whole=r"(backbone|decode_head)\..+")
