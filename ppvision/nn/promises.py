"""What a layer may offer beyond `forward`: the base of the classes that say so, with a default for everything.

A layer of another package inherits from none of them. `promises(layer, kind)` is the one place that looks what such a
layer has; nobody else probes.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from paddle import nn

__all__ = ["Promises", "optional", "promises"]

Kind = TypeVar("Kind", bound="Promises")


class optional:
    """Decorates a method that only some layers offer; to ask for it of one that does not is an AttributeError."""

    def __init__(self, method: Callable[..., Any]):
        functools.update_wrapper(self, method)

    def __get__(self, layer: Any, cls: type | None = None) -> optional | NoReturn:
        if layer is None:
            return self
        raise AttributeError(f"{type(layer).__name__} offers no {self.__name__}()")


class Promises(nn.Layer):
    """Base of classes whose attributes and methods are optional for those who inherit: each has a default."""

    def offers(self, *names: str) -> bool:
        """Whether it has all of these itself, instead of the defaults."""
        root = [cls for cls in type(self).__mro__ if issubclass(cls, Promises)][-2]
        return all(
            name in self.__dict__ or getattr(type(self), name, None) is not getattr(root, name, None) for name in names
        )

    def __setattr__(self, name: str, value: Any) -> None:
        """A part (a sub-layer) with the name of a promise keeps it: otherwise the class's default would be found."""
        super().__setattr__(name, value)
        if (value is None or isinstance(value, nn.Layer)) and hasattr(type(self), name):
            self.__dict__[name] = value


class _Foreign:
    """A layer of another package as a `kind`: what it has itself, and the defaults."""

    def __init__(self, layer: nn.Layer, kind: type[Promises]):
        self._layer, self._kind = layer, kind

    def offers(self, *names: str) -> bool:
        return all(hasattr(self._layer, name) for name in names)

    def __getattr__(self, name: str) -> Any:
        default = inspect.getattr_static(self._kind, name)  # nothing but promises can be asked for
        if hasattr(self._layer, name):
            return getattr(self._layer, name)
        is_method = isinstance(default, (types.FunctionType, optional))
        return default.__get__(self._layer) if is_method else default


def promises(layer: nn.Layer, kind: type[Kind]) -> Kind:
    """The layer itself where it is a `kind`, else a view that gives its own answers and the defaults of `kind`."""
    return layer if isinstance(layer, kind) else _Foreign(layer, kind)
