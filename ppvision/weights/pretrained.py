"""A network of the zoo together with its weights."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ppvision.errors import UserError
from ppvision.models import zoo
from ppvision.weights.load import load_weights

if TYPE_CHECKING:
    from paddle import nn


def create_model(name: str, pretrained: bool | str | os.PathLike | dict | None = None, **kwargs: Any) -> nn.Layer:
    """Build the inference network `name`.

    Args:
        name: a name of `list_models()`.
        pretrained: True for the published weights of this name, or a weight file, a URL (`URL#sha256`) or a dict of
            arrays to start from, loaded by name with nothing missing or left over. For anything less strict build the
            network first and call `load_weights(net, path, strict=False)`.
        kwargs: arguments of the network class that differ from the variant's, such as `num_classes`.

    Raises:
        UserError: an unknown name or argument, or weights that do not fit.
    """
    if isinstance(pretrained, bool):
        published = zoo.entry(name).weights
        if pretrained and published is None:
            raise UserError(f"{name}: no weights are published for this name; give the path or URL of a weight file")
        pretrained = published if pretrained else None
    net = zoo.create_model(name, **kwargs)
    if pretrained is not None:
        load_weights(net, pretrained)
    return net
