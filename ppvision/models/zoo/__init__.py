"""Names of networks: what builds each, what it takes, where its published weights and figures come from.

Listing names imports no Paddle; a network's module is imported when it is asked for. To add a family: its class, whose
`__init__` is the schema of a recipe's `model:`, a table `VARIANTS` beside it, its rows in the file of its task here.
"""

from __future__ import annotations

import fnmatch
import importlib
import inspect
import typing
from typing import TYPE_CHECKING, Any

from ppvision.errors import UserError, did_you_mean
from ppvision.models.inputs import Input
from ppvision.models.zoo import classification, detection, features, segmentation
from ppvision.models.zoo.entry import CLIP, HALF, IMAGENET, Entry

if TYPE_CHECKING:
    import numpy as np
    from paddle import Tensor, nn

__all__ = [
    "CLIP",
    "HALF",
    "IMAGENET",
    "ZOO",
    "Entry",
    "create_model",
    "deployables",
    "entry",
    "example_inputs",
    "list_models",
    "network_class",
    "signature",
]

ZOO: dict[str, Entry] = {
    **segmentation.ROWS,
    **classification.ROWS,
    **features.ROWS,
    **detection.ROWS,
}


def list_models(pattern: str = "*") -> list[str]:
    """Names that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(ZOO, pattern))


def entry(name: str) -> Entry:
    """The row of `name`.

    Raises:
        UserError: there is no such name; the nearest one is suggested.
    """
    if name not in ZOO:
        raise UserError(f"no model '{name}'{did_you_mean(name, ZOO)} (all names: ppvision models)")
    return ZOO[name]


def network_class(name: str) -> type[nn.Layer]:
    """The class that `create_model(name)` gives an instance of."""
    module, _, cls = entry(name).network.partition(":")
    return getattr(importlib.import_module(module), cls)


def _variant(name: str) -> dict[str, Any]:
    """The arguments of the class that make this name."""
    row = entry(name)
    return importlib.import_module(row.network.partition(":")[0]).VARIANTS[row.variant]


def signature(name: str) -> inspect.Signature:
    """Arguments `create_model(name, …)` takes: those of the network class, with the defaults of this variant and
    resolved types.
    """
    cls, variant = network_class(name), _variant(name)
    hints = typing.get_type_hints(cls.__init__)
    params = [
        p.replace(annotation=hints.get(p.name, p.annotation), default=variant.get(p.name, p.default))
        for p in list(inspect.signature(cls.__init__).parameters.values())[1:]
    ]
    return inspect.Signature(params)


def create_model(name: str, **kwargs: Any) -> nn.Layer:
    """Build the inference network `name`; `ppvision.create_model` also loads weights into it.

    Args:
        name: a name of `list_models()`.
        kwargs: arguments of the network class that differ from the variant's, such as `num_classes`.

    Raises:
        UserError: an unknown name or argument.
    """
    known = signature(name).parameters
    for key in kwargs:
        if key not in known:
            raise UserError(f"{name}: unknown argument '{key}'{did_you_mean(key, known)}")
    return network_class(name)(**{**_variant(name), **kwargs})


def example_inputs(
    name: str, batch: int = 1, size: tuple[int, int] | None = None, optional: bool = False, padding: int = 0
) -> dict[str, Tensor]:
    """Inputs by argument name, `net(**example_inputs(name))`: the same at every call.

    Pictures and vectors are standard normal, sizes those of the picture, points in the unit cube.

    Args:
        name: a name of the zoo.
        batch: number of samples.
        size: height and width; default: the entry's `example`.
        optional: make also what the network works without.
        padding: rows below and columns to the right that a mask says are no picture.
    """
    import numpy as np
    import paddle

    row = entry(name)
    rng = np.random.default_rng(0)
    sides = {"B": batch, **dict(zip("HW", size or row.example, strict=True))}
    arrays = {k: _example(v, sides, rng, padding) for k, v in row.inputs.items() if optional or not v.optional}
    return {key: paddle.to_tensor(array) for key, array in arrays.items()}


POINTS = 20  # rows of an example, for a free side that no picture has


def _example(given: Input, sides: dict[str, int], rng: np.random.Generator, padding: int) -> np.ndarray:
    """An array for one input."""
    import numpy as np

    shape = [side if isinstance(side, int) else sides.get(side, POINTS) for side in given.shape]
    if given.kind == "mask":
        mask = np.ones(shape, bool)
        mask[..., max(shape[-2] - padding, 0) :, :] = False
        mask[..., max(shape[-1] - padding, 0) :] = False
        return mask
    if given.kind == "size":
        return np.broadcast_to(np.asarray([sides["H"], sides["W"]]), shape).astype(given.dtype)
    if given.kind == "points":
        return rng.random(shape).astype(given.dtype)
    return rng.standard_normal(shape).astype(given.dtype)


def deployables(net: nn.Layer) -> dict[str, nn.Layer]:
    """What is evaluated, averaged and exported of a network: its own `deployables()`, else itself as "model"."""
    from ppvision.models.network import promises

    return promises(net).deployables()
