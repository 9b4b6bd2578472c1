"""Mistakes in a recipe and on the command line: makers that change one thing in a `Case`."""

from __future__ import annotations

import contextlib
import copy
import re
import types
import typing
from functools import cache
from typing import Any

import yaml
from cases import Case, at, key_of, key_paths, put, remove, typo
from recipe_tables import (
    BREAKING,
    DATA_TRAIN,
    ELSEWHERE,
    FLAGS,
    FOREIGN,
    INF,
    MISSING,
    NAME,
    NAN,
    OUT_OF_RANGE,
    UNKNOWN_NAME,
    UPSTREAM,
    WRONG_TYPE,
)


def typo_in_a_key(case: Case) -> None:
    path = case.pick(key_paths(case.spec))
    above, _, key = path.rpartition(".")
    node, wrong = at(case.spec, above) if above else case.spec, typo(case.rng, key)
    items = [(wrong if k == key else k, v) for k, v in node.items()]
    node.clear()
    node.update(items)
    # a required key under another name may be reported as missing, by its full path
    case.words, case.what = (wrong, path), f"{path} spelt {wrong}"


def wrong_type(case: Case) -> None:
    path = case.pick(WRONG_TYPE)
    value = case.pick(WRONG_TYPE[path])
    put(case.spec, path, value)
    case.words, case.what, case.path = (key_of(path),), f"{path} is {value!r}", path


def out_of_range(case: Case) -> None:
    path = case.pick(OUT_OF_RANGE)
    value = case.pick(OUT_OF_RANGE[path])
    put(case.spec, path, value)
    case.words, case.what, case.path = (key_of(path),), f"{path} is {value!r}", path
    if isinstance(value, str):  # naming the value is as good: '... has no list 'trian.txt''
        case.words += (f"{value}.txt", *([value] if value else []))


def out_of_range_elsewhere(case: Case) -> None:
    first, path, values = case.pick(ELSEWHERE)
    value = case.pick(values)
    for place, part in first.items():
        put(case.spec, place, copy.deepcopy(part))
    put(case.spec, path, value)
    kind = at(case.spec, path.rpartition(".")[0]).get("type")
    case.words, case.what, case.path = (key_of(path),), f"{path} of {kind} is {value!r}", path


# What is no value of a type.
NO_VALUE: dict[Any, list[Any]] = {
    int: ["x", 1.5, [1], {"a": 1}, True, "", NAN],
    float: ["x", [1.0], {"a": 1.0}, True, NAN, INF],
    bool: ["of course", 2, [True], 0.5],
    str: [3, ["x"], {"a": "x"}, True],
}


def plain_type(hint: Any) -> type | None:
    """int, float, bool or str if a hint means one of these, or null; lists and the like are left out."""
    options = [o for o in typing.get_args(hint) if o is not type(None)] if is_union(hint) else [hint]
    if len(options) != 1:
        return None
    option = options[0]
    option = typing.get_args(option)[0] if typing.get_origin(option) is typing.Annotated else option
    return option if option in NO_VALUE else None


def is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


@cache
def schema_leaves() -> tuple[tuple[str, type], ...]:
    """Every leaf of the typed sections that is a plain value."""
    from ppvision.config import schema

    sections = {"data": schema.Data, "train": schema.Train, "eval": schema.Eval, "export": schema.Export}
    found = []
    for section, cls in {**sections, "log": schema.Log}.items():
        hints = typing.get_type_hints(cls, include_extras=True)
        found += [(f"{section}.{key}", kind) for key, hint in hints.items() if (kind := plain_type(hint))]
    return tuple(found)


def schema_leaf(case: Case) -> None:
    """A value of another type anywhere in the typed sections, read from the schema itself."""
    path, kind = case.pick(schema_leaves())
    value = case.pick(NO_VALUE[kind])
    put(case.spec, path, value)
    case.words, case.what, case.path = (key_of(path),), f"{path} (any leaf) is {value!r}", path


@cache
def all_arguments() -> tuple[tuple[str, str, str, type], ...]:
    """(kind, type, argument, its type) of every component that a recipe can name."""
    from ppvision.config.component import TABLES, resolve, schema

    found = []
    for kind in ("model", "method", "loss", "head", "dataset", "transform", "metric", "optimizer", "schedule"):
        module, attribute = TABLES[kind]
        for name in getattr(__import__(module, fromlist=[attribute]), attribute):
            with contextlib.suppress(ImportError, AttributeError):  # a name whose optional package is not installed
                for key, parameter in schema(kind, resolve(kind, name)).items():
                    plain = plain_type(parameter.annotation)
                    if plain and (kind, key) not in GIVEN:
                        found.append((kind, name, key, plain))
    return tuple(found)


GIVEN = {  # what the program supplies: not for a recipe to say
    *(("metric", k) for k in ("num_classes", "ignore_index", "class_names")),
    *(("head", k) for k in ("num_in", "num_classes")),
    *(("schedule", k) for k in ("lr", "total")),
}


def any_argument(case: Case) -> None:
    """A value of another type for any argument of any component; `config validate` must find it without building."""
    kind, name, key, plain = case.pick(all_arguments())
    value = case.pick(NO_VALUE[plain])
    part = {"type": name, key: value}
    path = {
        "loss": "method.loss",
        "head": "method.aux.0",
        "dataset": "data.train",
        "transform": f"{DATA_TRAIN}.0",
        "metric": "eval.metrics",
    }.get(kind, kind)
    if kind == "head":
        part["level"] = "c3"
    elif kind == "metric":
        part, path = [part], "eval.metrics"
    elif kind == "dataset":
        part["transforms"] = []
    put(case.spec, path, part)
    case.verb = ("config", "validate")
    case.words, case.what = (key,), f"{kind} {name}: {key} is {value!r}"


def foreign_part(case: Case) -> None:
    """A component of another package that is none, or fails."""
    path, value, words = case.pick(FOREIGN)
    put(case.spec, path, copy.deepcopy(value))
    if path.startswith("model"):
        put(case.spec, "method.aux", [])
        put(case.spec, "optimizer.lr_mult", {})
    # what these are called with shows at the first step
    case.untouched = not path.startswith(("method.loss", DATA_TRAIN))
    case.words, case.what, case.path = words, f"{path} is {value!r}", path


def another_recipe(case: Case) -> None:
    """`--resume` with a recipe that would make another run."""
    path = case.pick(BREAKING)
    value = case.pick(BREAKING[path])
    put(case.spec, path, value)
    if path == "model.type":
        case.spec["method"]["aux"], case.spec["optimizer"]["lr_mult"] = [], {}
    elif path == "schedule.type":
        del case.spec["schedule"]["power"]
    elif path == "optimizer.type":
        del case.spec["optimizer"]["betas"]
    case.flags, case.guarded = ["--resume", str(case.stock.run)], case.stock.run
    case.words, case.what = (path,), f"--resume with {path} {value!r}"


def unknown_name(case: Case) -> None:
    path = case.pick(UNKNOWN_NAME)
    value = case.pick(UNKNOWN_NAME[path])
    put(case.spec, path, value)
    name = value[-1] if isinstance(value, list) else value
    case.words, case.what = (name,), f"{path} is {value!r}"


def missing_key(case: Case) -> None:
    path = case.pick(MISSING)
    remove(case.spec, path)
    case.words, case.what = (MISSING[path],), f"{path} is missing"


def half_of_a_pair(case: Case) -> None:
    """Keys that only mean something together."""
    which = case.pick(["mean", "std", "iters and epochs", "zero std", "unit scale", "a mean above 255", "no size"])
    if which == "zero std":
        case.spec["data"] |= {"mean": [127.5] * 3, "std": [58.4, 0.0, 57.4]}
        case.words = ("std",)
    elif which in ("unit scale", "a mean above 255"):
        high = 0.5 if which == "unit scale" else 300.0
        case.spec["data"] |= {"mean": [high] * 3, "std": [0.2] * 3}
        case.words = ("mean",)
    elif which == "no size":
        case.spec["data"]["val"]["transforms"][0] = {"type": "Resize"}
        case.words = ("size", "short")
    elif which in ("mean", "std"):
        case.spec["data"][which] = [127.5] * 3
        case.words = ("mean", "std")
    else:
        case.spec["train"]["epochs"] = 2
        case.words = ("epochs", "iters")
    case.what = f"data.{which} alone" if which in ("mean", "std") else which


def bad_flag(case: Case) -> None:
    flags, word = case.pick(FLAGS)
    case.flags, case.words, case.what = list(flags), (word,), " ".join(flags)


def bad_command(case: Case) -> None:
    words = case.pick(
        [
            (["trian", "-c", "RECIPE"], "trian"),
            (["config", "vlidate", "RECIPE"], "vlidate"),
            (["train", "-c", "nowhere.yml"], "nowhere.yml"),
            (["train", "-c", "FOLDER"], "FOLDER"),
            (["train"], "--config"),
            (["eval", "-c", "RECIPE", "--model_path", "nowhere.pdparams"], "nowhere.pdparams"),
            (["export", "-c", "RECIPE", "--output_op", "argmin"], "--output_op"),
            (["data", "check", "--format", "seglist", "--root", "FOLDER"], "seglist"),
            (["data", "check", "--format", "seg_list", "--root", "/nowhere/data"], "/nowhere/data"),
            (["models", "--task", "segmentatoin"], "segmentatoin"),
        ]
    )
    fill = {"RECIPE": str(case.recipe), "FOLDER": str(case.folder)}
    *verb, case.words = [fill.get(w, w) for w in words[0]], (fill.get(words[1], words[1]),)
    case.verb, case.bare, case.what = tuple(verb[0]), True, " ".join(words[0])


def reading_verb(case: Case) -> None:
    """A mistake in the text of a recipe must look the same from every command that reads it."""
    case.verb = case.pick([("train",), ("train",), ("eval",), ("export",), ("config", "show"), ("config", "validate")])


def dumped(case: Case) -> list[str]:
    """Lines of the recipe in block style."""
    return yaml.safe_dump(case.spec, sort_keys=False, default_flow_style=False).splitlines()


def duplicated_key(case: Case) -> None:
    lines = dumped(case)
    scalars = [i for i, line in enumerate(lines) if re.fullmatch(r" +[a-z_]+: [^\[{&*|>\s].*", line)]
    i = case.pick(scalars)
    key = lines[i].strip().partition(":")[0]
    case.text = "\n".join([*lines[: i + 1], lines[i], *lines[i + 1 :], ""])
    if case.rng.random() < 0.3:
        key = case.pick(["train", "optimizer", "eval", "log"])
        case.text = "\n".join([*lines, f"{key}: {{}}", ""])
    case.words, case.what = (key,), f"{key} twice"
    reading_verb(case)


def broken_yaml(case: Case) -> None:
    lines = dumped(case)
    nested = [
        i
        for i in range(1, len(lines))
        if re.fullmatch(r"( +)[a-z_]+: [^\s].*", lines[i])
        and re.fullmatch(r" +[a-z_]+: [^\s].*", lines[i - 1])
        and len(lines[i]) - len(lines[i].lstrip()) == len(lines[i - 1]) - len(lines[i - 1].lstrip())
    ]
    i = case.pick(nested)
    body = "\n".join(lines) + "\n"
    texts: dict[str, str | bytes] = {
        "tab": "\n".join([*lines[:i], "\t" + lines[i].lstrip(), *lines[i + 1 :]]),
        "indentation": "\n".join([*lines[:i], " " + lines[i], *lines[i + 1 :]]),
        "open bracket": body + "notes: [1, 2\n",
        "open quote": body + 'notes: "begun\n',
        "no colon": body + "notes\n",
        "no alias": body.replace("seed: 3", "seed: *nowhere"),
        "a python tag": body.replace("seed: 3", "seed: !!python/object/apply:os.getpid []"),
        "a tag of ours": body.replace("seed: 3", "seed: !Seed 3"),
        "two documents": body + "---\n" + body,
        "not UTF-8": body.encode() + b"# na\xefve\n",
        "UTF-16": body.encode("utf-16"),
        "a zero byte": body.encode() + b"\0",
        "a list": "- train\n- eval\n",
        "a word": "rtformer_debug\n",
        "empty": "",
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
        "an exponent YAML 1.1 reads as text": body.replace("lr: 0.002", "lr: 2e-3"),
        "a recursive alias": body + "notes: &a [*a]\n",
        "a complex key": body + "? [a, b]\n: 1\n",
    }
    case.what = case.pick(texts)
    case.text, case.words = texts[case.what], (NAME,)
    reading_verb(case)


def bad_base(case: Case) -> None:
    body, other = "\n".join(dumped(case)) + "\n", case.folder / "other.yml"
    case.what = case.pick(["missing", "itself", "a cycle", "a number", "a folder", "broken", "one of two", "upstream"])
    bases = {"itself": NAME, "a number": "[3]", "a folder": ".", "one of two": "[good.yml, nowhere.yml]"}
    (case.folder / "good.yml").write_text("log: {interval: 2}\n")
    if case.what == "a cycle":
        other.write_text(f"_base_: {NAME}\n")
    elif case.what == "broken":
        other.write_text("train: {iters: 4\n")
    elif case.what == "upstream":
        other.write_text(UPSTREAM["PaddleSeg"])
    base = {"missing": "nowhere.yml", **bases}.get(case.what, "other.yml")
    case.text = f"_base_: {base}\n{body}"
    word = {"missing": "nowhere.yml", "one of two": "nowhere.yml", "a number": "_base_", "itself": NAME}
    case.words = (word.get(case.what, "other.yml"),)
    if case.what in ("a cycle", "a folder"):
        case.words = ("other.yml", NAME, "_base_")
    case.what = f"_base_ is {case.what}"
    reading_verb(case)


def upstream_recipe(case: Case) -> None:
    case.what = case.pick(UPSTREAM)
    (case.folder / "recipe_base.yml").write_text("model: {type: rtformer_debug}\n")
    case.text, case.words = UPSTREAM[case.what], (NAME,)
    case.what = f"a recipe of {case.what}"
    reading_verb(case)
