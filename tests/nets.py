"""Functions as the networks that a task, or the evaluator, calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from paddle import nn

from ppvision.models.network import IMAGE, VALID, Input
from ppvision.predict.nets import checked


class Net:
    """A function as `Task.run` calls a network: by keyword, with raw inputs.

    Args:
        function: called with the given inputs in the order of `inputs`.
        mask: it also takes `valid`.
        inputs: what it takes, where that is not one picture.
    """

    def __init__(self, function: Callable[..., Any], mask: bool = False, inputs: Mapping[str, Input] | None = None):
        self.function = function
        self.inputs = dict(inputs or {"image": IMAGE, **({"valid": VALID} if mask else {})})

    def __call__(self, **given: Any) -> Any:
        checked("the function", self.inputs, given)
        return self.function(*(given[name] for name in self.inputs if name in given))


class Function(nn.Layer):
    """A function of a normalised picture as a layer, which is what evaluation and export are given."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)
