"""The txt files: PaddleSeg's positional recipe, read strictly.

Line n means what position n means; the key is there for people, so a key that does not fit its position is an error
here, as are a missing header, an unknown trainer and lists of unequal length. Upstream's shell scripts read the same
files without any such check: `quirks` names what they would understand otherwise.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

TRAIN_MODES = ("lite_train_lite_infer", "lite_train_whole_infer", "whole_train_whole_infer", "benchmark_train")
INFER_MODES = ("whole_infer", "klquant_whole_infer")
MODES = (*TRAIN_MODES[:3], "whole_infer", "benchmark_train", "paddle2onnx_infer", "dy2static")
EXTRAS = ("log_iters", "repeats", "skip_iters", "task")
HEADER = re.compile(r"=+\s*([^=\s][^=]*?)\s*=+")

# What the key of each line must be: a word, "flag" (--x or null), "name" (a trainer's name, or null), "any",
# "##", or "=word" for a header that holds the word.
TRAIN_KEYS = (
    *("=train_params", "model_name", "python", "gpu_list", "flag", "flag", "flag", "flag", "flag", "flag"),
    *("train_model_name", "train_infer_img_dir", "flag", "##", "trainer", "name", "name", "name", "name", "name"),
    *("name", "##"),
)
EVAL_KEYS = ("=eval_params", "eval", "flag", "##")
EXPORT_KEYS = (
    *("=export_params", "flag", "flag", "norm_export", "quant_export", "fpgm_export", "distill_export"),
    *("name", "name"),
)
INFER_KEYS = ("inference_dir", "infer_model", "infer_export", "infer_quant", "inference", *["flag"] * 12)
FULL_KEYS = TRAIN_KEYS + EVAL_KEYS + EXPORT_KEYS + INFER_KEYS
ONNX_KEYS = (*("=paddle2onnx_params", "model_name", "python", "2onnx", *["flag"] * 6, "inference", "flag", "flag"),)
BENCHMARK_KEYS = ("batch_size", "fp_items", "epoch", "--profiler_options", "flags")


class TxtError(Exception):
    """`file:line: what`; exit status 2."""


@dataclass(frozen=True)
class Line:
    """One line: its number in the file, and the two sides of the first colon."""

    number: int
    text: str
    key: str
    value: str

    @property
    def items(self) -> list[str]:
        """The value as a `|` list."""
        return self.value.split("|")


@dataclass
class Recipe:
    """A txt file.

    Attributes:
        path: of the file, for messages.
        kind: "train" (52 lines), "section" (the first 22), "paddle2onnx".
        lines: by position, from 1 (`lines[0]` is None).
        sections: trailing sections by the name in their header.
        extras: the `key:value;key:value` of the last line.
    """

    path: str
    kind: str
    lines: list[Line | None]
    sections: dict[str, list[Line]] = field(default_factory=dict)
    extras: dict[str, str] = field(default_factory=dict)

    def key(self, position: int) -> str:
        return self.lines[position].key

    def value(self, position: int) -> str:
        return self.lines[position].value

    def items(self, position: int) -> list[str]:
        return self.lines[position].items

    @property
    def model_name(self) -> str:
        return self.value(2)

    def fail(self, position: int, what: str) -> TxtError:
        """An error at a position."""
        return TxtError(f"{self.path}:{self.lines[position].number}: {what}")

    def by_mode(self, position: int, mode: str) -> str:
        """The value of `mode=value|mode=value` (lines 7 and 9).

        Raises:
            TxtError: the mode has none.
        """
        for item in self.items(position):
            name, equals, value = item.partition("=")
            if equals and name == mode and value:
                return value
        raise self.fail(position, f"'{self.key(position)}' has no value for {mode} (it has: {self.value(position)})")

    def section(self, name: str) -> list[Line] | None:
        """The trailing section of that header."""
        return self.sections.get(name)

    def command(self, word: str) -> str | None:
        """The value of the one line of the trailing section `<word>_params`, if it is there and not null."""
        lines = self.section(f"{word}_params")
        if lines is None:
            return None
        if len(lines) != 1 or lines[0].key != word:
            raise TxtError(f"{self.path}: the section {word}_params takes one line, '{word}:<command>'")
        return None if lines[0].value in ("", "null") else lines[0].value

    def modes(self) -> list[str]:
        """Modes this file can be run in."""
        if self.kind == "paddle2onnx":
            return ["paddle2onnx_infer"]
        if self.kind == "section":
            return ["dy2static"]
        lists = [{i.partition("=")[0] for i in self.items(p) if "=" in i} for p in (7, 9)]
        found = [mode for mode in TRAIN_MODES[:3] if mode in lists[0] & lists[1]]
        return found + ["whole_infer"] + ["benchmark_train"] * (self.section("train_benchmark_params") is not None)


def read(path: str | Path) -> Recipe:
    """Read a txt file with 52 positions or a paddle2onnx one.

    Raises:
        TxtError: it is not what `tipc.md` says; the message is one line.
    """
    lines = _lines(path)
    if not lines:
        raise TxtError(f"{path}: the file is empty")
    if _header(lines[0].text) and "paddle2onnx_params" in lines[0].text:
        return _read_onnx(str(path), lines)
    if (word := _foreign(lines)) is not None:
        raise TxtError(f"{path}: a txt of {word}; only PaddleSeg's dialect is read (docs/tipc.md)")
    _fit(str(path), lines, FULL_KEYS)
    recipe = Recipe(str(path), "train", [None, *lines[: len(FULL_KEYS)]])
    recipe.sections, recipe.extras = _trailing(str(path), lines[len(FULL_KEYS) :])
    _check(recipe)
    return recipe


def read_sections(path: str | Path) -> dict[str, Recipe]:
    """Read `train_dy2static_python.txt`: sections of 22 lines, each headed by its name.

    Raises:
        TxtError: as above.
    """
    lines, found = _lines(path), {}
    starts = [i for i, line in enumerate(lines) if _header(line.text)]
    if not starts or starts[0]:
        raise TxtError(f"{path}:1: a dy2static file starts with '=== name ==='")
    for start, stop in zip(starts, [*starts[1:], len(lines)]):
        name = _header(lines[start].text)
        if stop - start != 22:
            raise TxtError(f"{path}:{lines[start].number}: section '{name}' has {stop - start} lines, expected 22")
        body = lines[start:stop]
        _fit(str(path), body[1:21], TRAIN_KEYS[1:21])
        if " " in name or name in found:
            raise TxtError(f"{path}:{lines[start].number}: section names are one word each, and differ; got '{name}'")
        found[name] = Recipe(str(path), "section", [None, *body])
        _check_trainers(found[name])
    return found


def load(path: str | Path, mode: str) -> Recipe | dict[str, Recipe]:
    """What `mode` needs of a file."""
    return read_sections(path) if mode == "dy2static" else read(path)


def describe(path: str | Path) -> tuple[str, list[str]]:
    """Model name and modes of a file of any kind."""
    if "dy2static" in Path(path).name:
        recipe = next(iter(read_sections(path).values()))
    else:
        recipe = read(path)
    return recipe.model_name, recipe.modes()


def quirks(path: str | Path) -> list[str]:
    """What upstream's shell parser would read otherwise than `read`: one message per line. It splits the file at
    newlines into words, takes the text between the first two colons as the value, and expands wildcards."""
    found = []
    with open(path, encoding="utf-8", newline="") as file:
        for number, text in enumerate(file.read().split("\n"), 1):
            text_is_header = _header(text) is not None
            if "\r" in text:
                found.append(f"{path}:{number}: a carriage return, which upstream keeps in the value")
            key, _, value = text.rstrip("\r").partition(":")
            if ":" in value and not text_is_header and key not in EXTRAS:
                found.append(f"{path}:{number}: a second colon; upstream reads '{value.partition(':')[0]}'")
            # Every word of a value is expanded when upstream composes the command.
            for word in value.split():
                if re.search(r"[*?]|\[.*\]", word) and glob.glob(word):
                    found.append(f"{path}:{number}: '{word}' is a wildcard that matches files here")
    return found


def _lines(path: str | Path) -> list[Line]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TxtError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.rstrip("\r")
        if len(line) > 1 and line[0] == line[-1] == '"':  # as benchmark_train.sh writes line 13
            line = line[1:-1]
        if line.strip():
            key, _, value = line.partition(":")
            found.append(Line(number, line, key.strip(), value.strip()))
    return found


def _header(text: str) -> str | None:
    match = HEADER.fullmatch(text.strip())
    return match[1] if match and text.strip().startswith("==") else None


def _foreign(lines: Sequence[Line]) -> str | None:
    """Name of the suite whose dialect this is, if it is not PaddleSeg's."""
    texts = [line.text for line in lines]
    if any("-o Global." in text for text in texts) or any(line.key.startswith("Global.") for line in lines[:52]):
        return "PaddleClas or PaddleOCR"
    if len(texts) > 4 and texts[4].strip() == "##":
        return "Paddle3D or PaddleGAN"
    if (len(texts) > 26 and "infer_params" in texts[26]) or any(line.key == "use_gpu" for line in lines[:10]):
        return "PaddleDetection"
    return None


def _fit(path: str, lines: Sequence[Line], keys: Sequence[str]) -> None:
    """Every line's key fits its position."""
    for line, expected in zip(lines, keys):
        where = f"{path}:{line.number}:"
        if expected.startswith("="):
            if expected[1:] not in (_header(line.text) or ""):
                raise TxtError(f"{where} expected the header '==={expected[1:]}===', got '{line.text}'")
        elif expected == "##":
            if line.text.strip() != "##":
                raise TxtError(f"{where} expected the spacer '##', got '{line.text}'")
        elif expected == "inference_dir":
            if _header(line.text) is None and line.key != expected:
                raise TxtError(f"{where} expected a header or 'inference_dir:<name>', got '{line.text}'")
        elif expected == "flag":
            if line.key != "null" and not line.key.startswith("--"):
                raise TxtError(f"{where} expected a flag '--name:value' or 'null:null', got '{line.text}'")
        elif expected == "name":
            if not re.fullmatch(r"\w+", line.key):
                raise TxtError(f"{where} expected 'name:command' or 'null:null', got '{line.text}'")
        elif line.key != expected:
            raise TxtError(f"{where} expected '{expected}:', got '{line.text}'")
    if len(lines) < len(keys):
        last = lines[-1].number if lines else 0
        raise TxtError(f"{path}:{last}: the file ends here; line {len(lines) + 1} should be '{keys[len(lines)]}'")


def _trailing(path: str, lines: Sequence[Line]) -> tuple[dict[str, list[Line]], dict[str, str]]:
    sections: dict[str, list[Line]] = {}
    extras: dict[str, str] = {}
    name = None
    for line in lines:
        if (header := _header(line.text)) is not None:
            name, sections[header] = header, []
        elif line is lines[-1] and line.key in EXTRAS:
            for item in line.text.split(";"):
                key, _, value = item.partition(":")
                if key.strip() not in EXTRAS:
                    raise TxtError(f"{path}:{line.number}: unknown '{key}' (known: {', '.join(EXTRAS)})")
                extras[key.strip()] = value.strip()
        elif name is None:
            raise TxtError(f"{path}:{line.number}: after line 52 only sections with a header follow, got '{line.text}'")
        else:
            sections[name].append(line)
    for title, body in sections.items():
        if title == "train_benchmark_params":
            for line, expected in zip(body, BENCHMARK_KEYS):
                if line.key != expected:
                    raise TxtError(f"{path}:{line.number}: expected '{expected}:' in {title}, got '{line.text}'")
            if len(body) < len(BENCHMARK_KEYS):
                raise TxtError(f"{path}: the section {title} ends before '{BENCHMARK_KEYS[len(body)]}:'")
    return sections, extras


def _check(recipe: Recipe) -> None:
    for position in (7, 9):
        for item in recipe.items(position):
            name, equals, value = item.partition("=")
            if not equals or name not in TRAIN_MODES or not value.isdigit():
                raise recipe.fail(position, f"expected mode=number|mode=number with modes of {', '.join(TRAIN_MODES)}")
    for position in (16, 24, 30, 40):
        if not recipe.value(position):
            raise recipe.fail(position, f"'{recipe.key(position)}' is empty; write null to leave the step out")
    _check_trainers(recipe)
    counts = {p: len(recipe.items(p)) for p in (37, 38, 39)}
    if len(set(counts.values())) != 1:
        raise recipe.fail(37, f"lines 37, 38 and 39 are paired but list {list(counts.values())} items")
    for position, known in ((39, ("True", "False")), (41, ("cpu", "gpu", "True", "False"))):
        for item in recipe.items(position):
            if item not in known:
                raise recipe.fail(position, f"'{item}' is none of {', '.join(known)}")


def _check_trainers(recipe: Recipe) -> None:
    known = [recipe.key(p) for p in range(16, 22) if recipe.key(p) != "null"]
    static = recipe.section("to_static_train_benchmark_params")
    known += [line.key for line in static[:1]] if static else []
    for trainer in recipe.items(15):
        if trainer not in known:
            raise recipe.fail(15, f"no trainer '{trainer}' (there are: {', '.join(known)})")
    for item in recipe.items(4):
        if not re.fullmatch(r"-1|\d+(,\d+)*|[\d.]+(,[\d.]+)*;\d+(,\d+)*", item):
            raise recipe.fail(4, f"'{item}' is neither -1, nor cards such as 0,1, nor ip1,ip2;0,1")


def _read_onnx(path: str, lines: Sequence[Line]) -> Recipe:
    _fit(path, lines, ONNX_KEYS)
    recipe = Recipe(path, "paddle2onnx", [None, *lines[: len(ONNX_KEYS)]])
    recipe.sections, recipe.extras = _trailing(path, lines[len(ONNX_KEYS) :])
    return recipe
