"""The engine that turns the names of foreign weight files into ours and ours into theirs, by the tables of this folder.

A table is a list of rules, pairs of templates: `("transformer.input_proj.{rest}", "neck.{rest}")`. A placeholder of one
letter stands for a number, `{qkv}` for one of three projections that are one packed matrix here, any other for whatever
is there. `{i+1}`, `{i*2}` and `{i@a}` spell a number one higher, twice as high and as a letter; `{p:a|b}` says by a
regular expression what may stand there. The first rule that fits is taken, in both directions.

What else files differ in is said by `Dialect` and `Names`: torch's layout of matrices and its names of batch-norm
statistics, parts of a Method, several names of one parameter, classes of other data sets, bare feature extractors.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ppvision.errors import UserError
from ppvision.weights.names.classes import COCO_CLASSES, COCO_IDS, NUM_OBJECTS365

if TYPE_CHECKING:
    from paddle import nn

__all__ = ["Converted", "Dialect", "Names", "Rules", "State", "below", "convert", "statistics", "write"]

Rules = tuple[tuple[str, str], ...]
State = dict[str, np.ndarray]

_TOKEN = re.compile(r"\{(?P<name>\w+)(?:(?P<operator>[+*@])(?P<operand>\w+))?(?::(?P<pattern>[^{}]+))?\}")
_PACKED = r"(.*\.)?in_proj_weight"  # three matrices side by side, no `nn.Linear` of its own
_STATISTICS = (("._mean", ".running_mean"), ("._variance", ".running_var"))
_CLASSES = {91: COCO_IDS, NUM_OBJECTS365: COCO_CLASSES}  # number of classes -> which of them are COCO's 80


@dataclass(frozen=True)
class Dialect:
    """How the files of one project spell the weights of a family.

    Attributes:
        of: what it is, for messages: "a DINO of PaddleDetection".
        pattern: regular expression; a file with a name that fits it is of this dialect. Empty: written only.
        rules: (their name, our name). A name that none fits is read as it is, and cannot be written.
        training: likewise for what a file holds of the Method; tried first.
        reads: further rules that are read and never written, tried before `rules`.
        also: further names of what `rules` name: written as well; read, they must say the same.
        ignored: regular expression of their names that serve nothing here.
        closed: the family as messages call it, where a name that no rule fits is refused.
        torch: matrices lie [out,in], batch-norm statistics are called `running_mean` and `running_var`.
        straight: regular expression of our names of matrices that lie [in,out] all the same.
        flat: regular expression of our names whose leading axes of length one are missing there.
        padded: tables of classes end with a row for padding.
        hint: what to do where names that are one here say different things.
    """

    of: str = ""
    pattern: str = ""
    rules: Rules = ()
    training: Rules = ()
    reads: Rules = ()
    also: Rules = ()
    ignored: str = ""
    closed: str = ""
    torch: bool = False
    straight: str = ""
    flat: str = ""
    padded: bool = False
    hint: str = ""


@dataclass(frozen=True)
class Names:
    """What is known of the weight names of one network.

    Attributes:
        dialects: by name, in the order in which a file is asked for them.
        own: how files of this suite are read that none of those tells.
        unused: regular expression of our names that this network does without, though its relatives have them.
        layout: regular expression of matrices that are higher than wide exactly where they lie as torch's do.
        matrices: regular expression of the Method's matrices, which are turned as the network's are.
        backbone: path of the feature extractor in the network: a file without a name that fits `whole` goes there.
        whole: regular expression of names that only a file of the whole network has.
        heads: regular expression of our class heads.
        tables: regular expression of our tables with a row for each class.
        num_classes: of the network: heads and tables get that many where it is known which.
        cells: answers per class of a head.
        finish: what is left to do, called with the network's state in our names and layout, which it changes; returns
            names that serve nothing.
    """

    dialects: Mapping[str, Dialect] = field(default_factory=dict)
    own: Dialect = field(default_factory=Dialect)
    unused: str = ""
    layout: str = r".*\.in_proj_weight|.*mlp\.fc1\.weight"
    matrices: str = ""
    backbone: str = ""
    whole: str = ""
    heads: str = ""
    tables: str = ""
    num_classes: int = 0
    cells: int = 1
    finish: Callable[[State], list[str]] | None = None

    def dialect_of(self, state: Mapping[str, Any]) -> Dialect:
        """The dialect of a file."""
        for dialect in self.dialects.values():
            if any(_fits(dialect.pattern, name) for name in state):
                return dialect
        return self.own


@dataclass
class Converted:
    """A foreign file in our words.

    Attributes:
        network: state of the network.
        training_only: parts of the Method, under its names.
        ignored: names that serve nothing.
    """

    network: State = field(default_factory=dict)
    training_only: State = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)


def below(prefix: str, rules: Rules, ours: str = "") -> Rules:
    """`rules` for a part that others call `prefix` and we `ours`."""
    return tuple((prefix + a, ours + b) for a, b in rules)


def convert(net: nn.Layer, names: Names, state: Mapping[str, np.ndarray], torch: bool = False) -> Converted:
    """A weight file of any known dialect for `net`.

    Args:
        net: the network.
        names: what is known of its names.
        state: the file.
        torch: the file is torch's.

    Raises:
        UserError: a name has no place, a packed matrix is incomplete, or names that are one here differ.
    """
    dialect = names.dialect_of(state)
    torch = torch or dialect.torch or _lies_as_torch(names.layout, state)
    result = _renamed(dialect, state, torch)
    for name in [k for k in result.network if _fits(names.unused, k)]:
        del result.network[name]
        result.ignored.append(name)
    if dialect.flat:
        own = net.state_dict()
        for name in [k for k in result.network if _fits(dialect.flat, k) and k in own]:
            value = result.network[name]
            result.network[name] = value.reshape([1] * (own[name].ndim - value.ndim) + list(value.shape))
    if torch:
        _turn(result.network, linear_weights(net), dialect.straight)
        _turn(result.training_only, set(), "", names.matrices)
    for part in (result.network, result.training_only):
        part.update({k: _of_classes(names, k, v) for k, v in part.items()})
    if names.finish is not None:
        result.ignored += names.finish(result.network)
    return result


def statistics(state: Mapping[str, np.ndarray], torch: bool = False) -> tuple[State, list[str], bool]:
    """Batch-norm statistics of a torch file under Paddle's names.

    Args:
        state: the file.
        torch: it is known to be torch's; otherwise those names tell it.

    Returns:
        the file, names that serve nothing (`num_batches_tracked`), and whether it is torch's.
    """
    if not torch and not any(k.endswith(".running_mean") for k in state):
        return dict(state), [], False
    if state and all(k.startswith("module.") for k in state):
        state = {k.removeprefix("module."): v for k, v in state.items()}
    ignored = [k for k in state if k.endswith("num_batches_tracked")]
    found: State = {}
    for name, value in state.items():
        if not name.endswith("num_batches_tracked"):
            for ours, theirs in _STATISTICS:
                name = name.replace(theirs, ours)
            found[name] = value
    return found, ignored, True


def write(
    net: nn.Layer, names: Names, dialect: Dialect, network: Mapping[str, np.ndarray], method: Mapping[str, np.ndarray]
) -> State:
    """The inverse of `convert`.

    Args:
        net: the network.
        names: what is known of its names.
        dialect: one of `names.dialects`.
        network: its state.
        method: parts of the Method, under its names.

    Raises:
        UserError: a name that files of this dialect do not have.
    """
    linear = linear_weights(net)
    out: State = {}
    for part, rules, also in ((network, dialect.rules, dialect.also), (method, dialect.training, ())):
        for name, value in part.items():
            found = _translate_back(name, rules)[:1] + _translate_back(name, also)
            if not found:
                raise UserError(f"'{name}' is no part of {dialect.of}")
            matrix = name in linear or _fits(_PACKED, name) if part is network else _fits(names.matrices, name)
            if dialect.torch and matrix and value.ndim == 2 and not _fits(dialect.straight, name):
                value = value.T
            if _fits(dialect.flat, name):
                value = value.reshape(value.shape[next(i for i, n in enumerate(value.shape) if n > 1) :])
            if dialect.padded and _fits(names.tables, name):
                value = np.concatenate([value, np.zeros_like(value[:1])])
            for theirs in found:
                out.update(_written(theirs, np.asarray(value), dialect.torch))
    return out


def linear_weights(net: nn.Layer) -> set[str]:
    """Names of the matrices of a network's linear layers: [in,out] in Paddle, [out,in] in torch."""
    from paddle import nn

    return {f"{n}.weight".lstrip(".") for n, m in net.named_sublayers(include_self=True) if isinstance(m, nn.Linear)}


def _renamed(dialect: Dialect, state: Mapping[str, np.ndarray], torch: bool) -> Converted:
    """Names in ours, three projections in one matrix; values as they are."""
    result = Converted()
    parts: dict[str, dict[str, np.ndarray]] = {}
    late: list[tuple[str, str]] = []
    rules = (*dialect.reads, *dialect.rules)
    for name, value in state.items():
        if _fits(dialect.ignored, name):
            result.ignored.append(name)
        elif found := _translate(name, dialect.training):
            result.training_only[found[0]] = value
        elif found := _translate(name, dialect.also):
            late.append((name, found[0]))  # after what it repeats
        elif found := _translate(name, rules):
            ours, projection = found
            if projection:
                parts.setdefault(ours, {})[projection] = value
            else:
                _put(dialect, result, name, ours, value)
        elif dialect.closed:
            raise UserError(f"'{name}' has no place in {dialect.closed}")
        else:
            _put(dialect, result, name, name, value)
    for name, ours in late:
        _put(dialect, result, name, ours, state[name])
    for name, three in parts.items():
        if missing := sorted(set("qkv") - set(three)):
            raise UserError(f"'{name}': the file has no projection of {', '.join(missing)}")
        result.network[name] = np.concatenate([three[part] for part in "qkv"], axis=0 if torch else -1)
    return result


def _put(dialect: Dialect, result: Converted, name: str, ours: str, value: np.ndarray) -> None:
    """One parameter, which a file may hold under several names."""
    if ours not in result.network:
        result.network[ours] = value
    elif np.array_equal(result.network[ours], value):
        result.ignored.append(name)
    else:
        raise UserError(f"'{name}' differs from '{ours}', which are one here{dialect.hint}")


def _turn(state: State, linear: set[str], straight: str, pattern: str = _PACKED) -> None:
    """Matrices from [out,in] to [in,out], in place."""
    for name, value in state.items():
        if (name in linear or _fits(pattern, name)) and value.ndim == 2 and not _fits(straight, name):
            state[name] = value.T


def _written(name: str, value: np.ndarray, torch: bool) -> State:
    """A value under their name, or its three parts under their names."""
    if torch:
        for ours, theirs in _STATISTICS:
            name = name.replace(ours, theirs)
        value = np.ascontiguousarray(value).reshape(value.shape)
    if "{qkv}" not in name:
        return {name: value}
    parts = np.split(value, 3, axis=0 if torch else -1)
    return {name.replace("{qkv}", part): np.ascontiguousarray(rows) for part, rows in zip("qkv", parts)}


def _of_classes(names: Names, name: str, value: np.ndarray) -> np.ndarray:
    """A head or table with the network's classes."""
    table = _fits(names.tables, name)
    if not table and not _fits(names.heads, name):
        return value
    axis = 1 if value.ndim == 2 and not table else 0
    count, rest = divmod(value.shape[axis], names.cells)
    chosen = _CLASSES.get(count) or (_CLASSES.get(count - 1) if table else None)  # a table may have a row for padding
    if chosen and not rest and names.num_classes == len(chosen):
        shape = value.shape
        cells = value.reshape([*shape[:axis], names.cells, count, *shape[axis + 1 :]]).take(chosen, axis + 1)
        return cells.reshape([*shape[:axis], names.cells * len(chosen), *shape[axis + 1 :]])
    return value[: names.num_classes] if table and count == names.num_classes + 1 else value


def _lies_as_torch(layout: str, state: Mapping[str, Any]) -> bool:
    return any(v.ndim == 2 and v.shape[0] > v.shape[1] for k, v in state.items() if _fits(layout, k))


def _fits(pattern: str, name: str) -> bool:
    return bool(pattern) and re.fullmatch(pattern, name) is not None


def _translate(name: str, rules: Rules) -> tuple[str, str] | None:
    """Our name, and which projection of a packed matrix it is, if it is one."""
    for theirs, ours in rules:
        left, right = _compiled(theirs, ours)
        if (values := left.read(name)) is not None and (found := right.write(values)) is not None:
            return found, "" if "qkv" in right.names else values.get("qkv", "")
    return None


def _translate_back(name: str, rules: Rules) -> list[str]:
    """Their names, of every rule that fits."""
    found: list[str] = []
    for theirs, ours in rules:
        left, right = _compiled(theirs, ours)
        values = right.read(name)
        written = None if values is None else left.write({"qkv": "{qkv}", **values})
        if written is not None:
            found.append(written)
    return found


@functools.cache
def _compiled(theirs: str, ours: str) -> tuple[_Template, _Template]:
    patterns = {m["name"]: m["pattern"] for text in (theirs, ours) for m in _TOKEN.finditer(text) if m["pattern"]}
    return _Template(theirs, patterns), _Template(ours, patterns)


class _Template:
    """One side of a rule: reads a name into the values of its placeholders, and writes a name from them."""

    def __init__(self, text: str, patterns: Mapping[str, str]):
        self.pieces: list[str | re.Match[str]] = []
        self.patterns, self.names = patterns, set()
        expression, end = "", 0
        for token in _TOKEN.finditer(text):
            literal, name = text[end : token.start()], token["name"]
            expression += re.escape(literal)
            expression += f"(?P={name})" if name in self.names else f"(?P<{name}>{self._pattern(token)})"
            self.pieces += [literal, token]
            self.names.add(name)
            end = token.end()
        self.pieces.append(text[end:])
        self.expression = re.compile(expression + re.escape(text[end:]))
        self.tokens = {p["name"]: p for p in self.pieces if not isinstance(p, str)}

    def _pattern(self, token: re.Match[str]) -> str:
        if token["operator"]:
            return "[a-z]" if token["operator"] == "@" else r"\d+"
        name = token["name"]
        return self.patterns.get(name) or ("[qkv]" if name == "qkv" else r"\d+" if len(name) == 1 else ".+")

    def read(self, name: str) -> dict[str, str] | None:
        """Values of the placeholders; None where the name does not fit."""
        match = self.expression.fullmatch(name)
        if match is None:
            return None
        values = {key: _number(self.tokens[key], raw) for key, raw in match.groupdict().items()}
        right = all(v is not None and re.fullmatch(self.patterns.get(k, ".+"), v) for k, v in values.items())
        return values if right else None

    def write(self, values: Mapping[str, str]) -> str | None:
        """The name; None where a number cannot be spelled so."""
        written = [p if isinstance(p, str) else _spelled(p, values[p["name"]]) for p in self.pieces]
        return None if None in written else "".join(written)


def _number(token: re.Match[str], raw: str) -> str | None:
    """What a placeholder stands for; None where it cannot be."""
    operator, operand = token["operator"], token["operand"]
    if not operator:
        return raw
    if operator == "@":
        number = ord(raw) - ord(operand)
    elif operator == "+":
        number = int(raw) - int(operand)
    else:
        number = int(raw) // int(operand) if int(raw) % int(operand) == 0 else -1
    return None if number < 0 else str(number)


def _spelled(token: re.Match[str], value: str) -> str | None:
    """The inverse of `_number`."""
    operator, operand = token["operator"], token["operand"]
    if not operator:
        return value
    if operator == "@":
        letter = ord(operand) + int(value)
        return chr(letter) if letter <= ord("z") else None
    return str(int(value) + int(operand) if operator == "+" else int(value) * int(operand))
