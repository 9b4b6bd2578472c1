"""A component is `type:` plus the keyword arguments of a class: look the class up, check the arguments, build it.

The `__init__` of the class is the schema. A class may declare `components = {"loss": "loss", "teacher": "model"}`,
argument name -> kind: such an argument is a mapping with `type` (or a list of them), checked and built first. A part
that only the class itself can build is declared as `Deferred`: it is checked and handed over as a `Component`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from ppvision.config.tree import join
from ppvision.config.types import LISTS, Where, convert, fields, shown, unknown_key
from ppvision.errors import ArgumentError, UserError, brief, did_you_mean

TABLES = {  # kind -> module and attribute of its name table; importing these modules does not import Paddle
    "model": ("ppvision.models.zoo", "ZOO"),
    "method": ("ppvision.methods", "NAMES"),
    "loss": ("ppvision.losses", "NAMES"),
    "head": ("ppvision.nn", "HEADS"),
    "dataset": ("ppvision.data", "DATASETS"),
    "transform": ("ppvision.data", "TRANSFORMS"),
    "metric": ("ppvision.metrics", "NAMES"),
    "task": ("ppvision.predict", "TASKS"),
    "optimizer": ("ppvision.engine", "OPTIMIZERS"),
    "schedule": ("ppvision.engine", "SCHEDULES"),
}
WEIGHTS = ("ppvision.weights", "load_weights")  # named, not imported: configuration knows nothing of Paddle
RESERVED = {"model": ("weights",), "dataset": ("transforms",)}  # keys that are not arguments of the class


class Component(Mapping):
    """`type` and keyword arguments of something to build; as a mapping it is what the recipe says.

    Attributes:
        type: name in the table of its kind, or a dotted path; None when the recipe does not say.
        kwargs: what the class receives, without `type` and reserved keys.
        path: place in the recipe ("model", "data.train.transforms.0"); where: its origin, "configs/x.yml:3".
    """

    def __init__(self, spec: Mapping, path: str = "", where: Where | None = None, *, reserved: tuple[str, ...] = ()):
        self.path, self.where = path, where or (lambda path: path or "component")
        if not isinstance(spec, Mapping):
            raise UserError(f"{self.where(path)}: '{path}' must be a mapping with 'type', got {shown(spec)}")
        self.spec, self.type = dict(spec), spec.get("type")
        if not isinstance(self.type, (str, type(None))):
            raise UserError(
                f"{self.where(join(path, 'type'))}: '{join(path, 'type')}' must be a name, got {self.type!r}"
            )
        self.kwargs = {k: v for k, v in self.spec.items() if k != "type" and k not in reserved}

    @property
    def weights(self) -> str | None:
        """Starting weights of a model."""
        return self.spec.get("weights")

    @functools.cached_property
    def transforms(self) -> list[Component]:
        """Transforms of a data set."""
        path, items = join(self.path, "transforms"), self.spec.get("transforms") or []
        if not isinstance(items, list):
            raise UserError(f"{self.where(path)}: '{path}' must be a list of mappings with 'type', got {items!r}")
        return [Component(item, join(path, i), self.where) for i, item in enumerate(items)]

    def __getitem__(self, key: str) -> Any:
        return self.spec[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.spec)

    def __len__(self) -> int:
        return len(self.spec)

    def __repr__(self) -> str:
        return f"Component({self.path}: {self.spec})"


@dataclass(frozen=True)
class Deferred:
    """A part that a class builds itself, since only it knows some arguments: a head as wide as the feature it reads.

    Attributes:
        kind: of the part.
        given: arguments the class supplies.
        default: type of a part that names none.
        own: a TypedDict of the keys that the class reads and the part does not get.
    """

    kind: str
    given: tuple[str, ...] = ()
    default: str | None = None
    own: type | None = None

    def read(self, value: Any, path: str, where: Where | None = None) -> Component:
        """The checked part. Its `kwargs` are those of its class, `own` keys are read as of a mapping."""
        own = typing.get_type_hints(self.own) if self.own else {}
        part = Component(value, path, where, reserved=tuple(own))
        spec = {**({"type": self.default} if self.default else {}), **part.spec}
        if self.own is not None:
            spec |= fields(self.own, {k: v for k, v in spec.items() if k in own}, path, part.where)
            if missing := sorted(self.own.__required_keys__ - set(spec)):
                raise UserError(f"{part.where(path)}: '{join(path, missing[0])}' is missing")
        part = Component(spec, path, where, reserved=tuple(own))
        arguments(self.kind, part, self.given, make=False)
        return part


def resolve(kind: str, name: str) -> Callable[..., Any]:
    """What builds the component `name` of `kind`: a class or function, for a model of the zoo a call of `create_model`.

    Raises:
        UserError: no such name, with the nearest one; or a dotted path that cannot be imported.
    """
    module, attribute = TABLES[kind]
    if "." in name:
        return _attribute(*name.rpartition(".")[::2], kind, f"no {kind} '{name}'")
    table = getattr(importlib.import_module(module), attribute)
    if name not in table:
        raise UserError(f"no {kind} '{name}'{did_you_mean(name, table)}")
    if kind == "model":
        return functools.partial(importlib.import_module(module).create_model, name)
    target, _, attribute = table[name].partition(":")
    return getattr(importlib.import_module(target), attribute)


PROTOCOL = {  # what a class named by a dotted path must define to be of a kind
    "model": ("forward",),
    "head": ("forward",),
    "loss": ("forward",),
    "method": ("losses", "phases"),
    "dataset": ("__getitem__", "__len__"),
    "transform": ("__call__",),
    "metric": ("update", "compute"),
    "task": ("run", "results"),
    "optimizer": ("step",),
    "schedule": ("__call__",),
}


def _attribute(module: str, attribute: str, kind: str, origin: str) -> Any:
    """A class named by a dotted path written by the user, or a builder function of a network library.

    A recipe names components; it must not be a way to call anything that can be imported.
    """
    if module.partition(".")[0] in sys.stdlib_module_names:
        raise UserError(f"{origin}: '{module}' belongs to Python itself and holds no components")
    try:
        loaded = importlib.import_module(module)
    except (ImportError, ValueError) as e:
        raise UserError(f"{origin}: {e}") from None
    found = getattr(loaded, attribute, None)
    if not callable(found):
        names = [n for n, v in vars(loaded).items() if callable(v)]
        raise UserError(f"{origin}: module '{module}' has no '{attribute}'{did_you_mean(attribute, names)}")
    if inspect.isclass(found):
        lacking = [name for name in PROTOCOL[kind] if name not in dir(found)]
        if lacking:
            raise UserError(f"{origin}: a {kind} defines {', '.join(PROTOCOL[kind])}; '{attribute}' lacks {lacking[0]}")
    elif not (kind in ("model", "head", "loss") and inspect.isfunction(found)):
        raise UserError(f"{origin}: '{attribute}' is not a class")
    elif found.__module__.partition(".")[0] in sys.stdlib_module_names:
        raise UserError(f"{origin}: '{found.__module__}' belongs to Python itself and holds no components")
    return found


def schema(kind: str, factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Parameters by name with resolved annotations; one imported only for type checkers is empty."""
    if isinstance(factory, functools.partial):
        signature = importlib.import_module(TABLES[kind][0]).signature(factory.args[0])
        module = None
    else:
        signature = inspect.signature(factory)
        init = factory.__init__ if inspect.isclass(factory) else factory
        module = getattr(inspect.unwrap(init), "__globals__", None)
    result = {}
    for name, parameter in signature.parameters.items():
        hint = parameter.annotation
        if isinstance(hint, str):
            try:
                hint = typing.get_type_hints(SimpleNamespace(__annotations__={name: hint}), module or {}, {})[name]
            except (NameError, TypeError, AttributeError, SyntaxError):
                hint = parameter.empty
        result[name] = parameter.replace(annotation=hint)
    return result


def arguments(
    kind: str, component: Component, given: Container[str] | None, make: bool = True
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The factory of a component and its checked keyword arguments.

    Args:
        given: arguments the program supplies; None: not known, so that a missing argument is no mistake.
        make: build nested components, otherwise only check them.
    """
    supplied = given or ()
    where, path = component.where, component.path
    if component.type is None:
        raise UserError(f"{where(path)}: '{join(path, 'type')}' is missing")
    try:
        factory = resolve(kind, component.type)
    except UserError as e:
        raise UserError(f"{where(join(path, 'type'))}: {e}") from None
    parameters = schema(kind, factory)
    names = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    parts = getattr(factory, "components", {})

    def part(value: Any, place: str, kind: str | Deferred) -> Any:
        if isinstance(kind, Deferred):
            return kind.read(value, place, where)
        inner = Component(value, place, where, reserved=RESERVED.get(kind, ()))
        if not make:
            arguments(kind, inner, None, make)
            return value
        built = build(kind, inner)
        if inner.weights and kind == "model":  # a teacher; the trainer loads the recipe's own model itself
            module, attribute = WEIGHTS
            getattr(importlib.import_module(module), attribute)(built, inner.weights)
            built.weights_source = inner.weights
        return built

    kwargs = {}
    for key, value in component.kwargs.items():
        place = join(path, key)
        if key in supplied or not isinstance(key, str) or (key not in names and not open_ended):
            raise unknown_key(place, [n for n in names if n not in supplied], where)
        hint = parameters[key].annotation if key in parameters else inspect.Parameter.empty
        if key not in parts:
            kwargs[key] = value if hint is inspect.Parameter.empty else convert(value, hint, place, where)
            continue
        one, several, none = _forms(hint)
        if isinstance(value, list) and several:
            kwargs[key] = [part(item, join(place, i), parts[key]) for i, item in enumerate(value)]
        elif value is None and none:
            kwargs[key] = None
        elif isinstance(value, Mapping) and one:
            kwargs[key] = part(value, place, parts[key])
        else:
            expected = "a mapping with 'type'" if one else "a list of mappings"
            raise UserError(f"{where(place)}: '{place}' must be {expected}, got {shown(value)}")
    for name in names:
        absent = name not in kwargs and name not in supplied and parameters[name].default is inspect.Parameter.empty
        if absent and given is not None:
            raise UserError(f"{where(path)}: '{join(path, name)}' is missing, {component.type} needs it")
    return factory, kwargs


def _forms(hint: Any) -> tuple[bool, bool, bool]:
    """Whether an argument may be one part, a list of parts, null."""
    if hint in (inspect.Parameter.empty, Any):
        return True, True, True
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    lists = [o for o in options if (typing.get_origin(o) or o) in LISTS]
    return len(options) > len(lists) + (type(None) in options), bool(lists), type(None) in options


def build(kind: str, component: Component | Mapping, *, where: Where | None = None, **given: Any) -> Any:
    """The object a component describes.

    Args:
        kind: a key of `TABLES`.
        component: of a `Config`, or a mapping with `type`.
        where: origin of a path, for messages about a plain mapping; a Component knows its own.
        given: arguments the program supplies; a recipe cannot set these.
    Raises:
        UserError: unknown name, unknown or missing argument, wrong type or range; with file and line.
    """
    if not isinstance(component, Component):
        component = Component(component, kind, where, reserved=RESERVED.get(kind, ()))
    factory, kwargs = arguments(kind, component, given)
    try:
        return factory(**kwargs, **given)
    except ArgumentError as e:
        known = e.key.partition(".")[0] in schema(kind, factory)
        path = join(component.path, e.key) if known else component.path
        message = f"'{path}' {e.reason}" if known else f"{component.type}: {e}"
        raise UserError(f"{component.where(path)}: {message}") from e
    except UserError as e:
        origin = component.where(component.path)
        if type(e) is not UserError or str(e).startswith(origin.rpartition(":")[0] or origin):
            raise  # a failed run, or placed already
        raise UserError(f"{origin}: {e}") from e
    except Exception as e:
        # ValueError and the like are what a constructor says of its arguments; other exceptions of ours are bugs
        ours = "." not in component.type or component.type.startswith("ppvision.")
        if ours and not isinstance(e, (ValueError, ArithmeticError, AssertionError, MemoryError)):
            raise
        given_values = ", ".join(
            f"{k}={v!r}" for k, v in kwargs.items() if isinstance(v, (int, float, str, list, tuple))
        )
        reason = brief(e).removeprefix("ValueError: ").removeprefix("AssertionError: ")
        raise UserError(f"{component.where(component.path)}: {component.type}({given_values}): {reason}") from e
