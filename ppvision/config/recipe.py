"""A recipe: one YAML file, its bases and overrides, checked and typed. Loading one imports neither Paddle nor numpy.

    cfg = load("configs/x.yml", ["train.iters=20", "data.train.transforms.0.scale=2"])
    cfg.train.iters, cfg.model.type, cfg.where("train.iters")
    net = build("model", cfg.model)

`train`, `eval`, `export`, `log` and `data` are the typed sections of schema.py; `model`, `method`, `optimizer`,
`schedule`, `data.train` and `data.val` are components, whose arguments are checked when they are built (or by `check`).
"""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ppvision.config import schema, tree
from ppvision.config.component import RESERVED, Component, arguments, resolve
from ppvision.config.profiler import parse_profiler
from ppvision.config.tree import Override, float_hint, join
from ppvision.config.types import fields, shown, unknown_key
from ppvision.errors import UserError

__all__ = ["Config", "check", "load", "optimizer_spec"]

COMPONENTS: dict[str, dict[str, Any]] = {  # sections that are components, and what an omitted one means
    "model": {"type": None},
    "method": {"type": "supervised"},
    "optimizer": {"type": "adamw", "lr": 1.0e-3},
    "schedule": {"type": "constant"},
}
TYPED = {"data": schema.Data, "train": schema.Train, "eval": schema.Eval, "export": schema.Export, "log": schema.Log}
ORDER = ("model", "method", "data", "optimizer", "schedule", "train", "eval", "export", "log")


class Config:
    """A checked recipe. It never changes; `load(cfg, overrides)` gives another one.

    Attributes:
        path: file it was read from.
        name: its stem, which names the run folder; of a run's own config.yml the folder's name.
        model, method, optimizer, schedule: components. data, train, eval, export, log: typed sections.
    """

    model: Component
    method: Component
    optimizer: Component
    schedule: Component
    data: schema.Data
    train: schema.Train
    eval: schema.Eval
    export: schema.Export
    log: schema.Log

    def __init__(self, values: Mapping[str, Any], origins: tree.Origins, path: str):
        self.path, self.name = path, _name(Path(path))
        self.tree, self.origins = dict(values), origins
        for key, value in self.tree.items():
            if key not in ORDER:
                raise unknown_key(str(key), ORDER, self.where)
            if not isinstance(value, (Mapping, type(None))):
                raise UserError(f"{self.where(key)}: '{key}' must be a mapping, got {shown(value)}")
        for key, default in COMPONENTS.items():
            spec = self.tree.get(key) or {}
            spec = {"type": default["type"], **spec} if spec else default
            setattr(self, key, Component(spec, key, self.where, reserved=RESERVED.get(key, ())))
        for key, cls in TYPED.items():
            spec = dict(self.tree.get(key) or {})
            parts = (
                {name: self._split(name, spec) for name in ("train", "val") if spec.pop(name, None) is not None}
                if key == "data"
                else {}
            )
            setattr(self, key, cls(**fields(cls, spec, key, self.where, also=ORDER), **parts))
        self._check()

    def _split(self, name: str, data: Mapping[str, Any]) -> Component:
        """`data.train` or `data.val` with the type and root it shares with the other."""
        path, own = f"data.{name}", self.tree["data"][name]
        if not isinstance(own, Mapping):
            raise UserError(f"{self.where(path)}: '{path}' must be a mapping, got {shown(own)}")
        shared = {k: data[k] for k in ("type", "root") if data.get(k) is not None and k not in own}
        part = Component({**shared, **own}, path, self.where, reserved=RESERVED["dataset"])
        _ = part.transforms  # refused here if it is no list of components
        return part

    def _check(self) -> None:
        """What the type of a single value cannot say."""

        def need(condition: bool, path: str, reason: str) -> None:
            if not condition:
                raise UserError(f"{self.where(path)}: '{path}' {reason}")

        train, evaluation, export = self.train, self.eval, self.export
        if train.iters is not None and train.epochs is not None:
            raise UserError(f"{self.where('train.epochs')}: give 'train.iters' or 'train.epochs', not both")
        need(train.ema is None or train.ema < 1, "train.ema", f"is a decay below 1, got {train.ema}")
        need(train.clip_norm != 0, "train.clip_norm", "must be positive; null switches clipping off")
        if train.profiler is not None:
            parse_profiler(train.profiler, f"{self.where('train.profiler')}: 'train.profiler'")
        for path, text in (
            ("train.save_dir", train.save_dir),
            ("train.resume", train.resume),
            ("log.dir", self.log.dir),
            ("model.weights", self.model.weights),
        ):
            need(isinstance(text, (str, type(None))), path, f"must be a path, got {shown(text)}")
            need(text is None or bool(text.strip()), path, "must not be empty; leave it out or set it to null")
        mean, std = self.data.mean, self.data.std
        for one, other in (("mean", "std"), ("std", "mean")):
            given = getattr(self.data, one) is not None and getattr(self.data, other) is None
            need(not given, f"data.{one}", f"is given without 'data.{other}'")
        if mean is not None and std is not None:
            need(min(std) > 0, "data.std", f"must be positive, got {shown(list(std))}")
            need(0 <= min(mean) and max(mean) <= 255, "data.mean", f"lies in 0..255, got {shown(list(mean))}")
            unit = 0 < max(mean) <= 1 and max(std) <= 1
            need(not unit, "data.mean", "and 'data.std' are on the scale 0..255, not 0..1: multiply them by 255")
        need(bool(evaluation.scales), "eval.scales", "needs at least one number; [1.0] is the image as it is")
        if evaluation.slide is not None:
            crop, stride = evaluation.slide["crop"], evaluation.slide["stride"]
            fits = stride[0] <= crop[0] and stride[1] <= crop[1]
            reason = f"{list(stride)} is larger than 'crop' {list(crop)}; pixels between windows would be missed"
            need(fits, "eval.slide.stride", reason)
        shape = export.input_shape
        fits = len(shape) == 4 and shape[1] == 3 and all(side == -1 or side >= 1 for side in shape)
        need(fits, "export.input_shape", f"is [N, 3, H, W], -1 where a side is free, got {shown(shape)}")
        for name, shape in (export.shapes or {}).items():
            fits = bool(shape) and all(side == -1 or side >= 1 for side in shape)
            reason = f"lists the sides of an input, -1 where one is free, got {shown(shape)}"
            need(fits, f"export.shapes.{name}", reason)
        need(bool(export.formats), "export.formats", "names no format (paddle, onnx, pdmodel)")
        stem = export.save_name
        plain = bool(stem.strip()) and not any(c in stem for c in "/\\\0") and stem not in (".", "..")
        need(plain, "export.save_name", f"is the stem of the files, without a folder, got {shown(stem)}")

    def where(self, path: str) -> str:
        """Origin of a value, "configs/x.yml:12" or "-o train.iters=5"; of a default, that of what surrounds it, and of
        a list, that of an override of one of its items.
        """
        for key, origin in self.origins.items():
            item = key.removeprefix(f"{path}.").partition(".")[0]
            if key.startswith(f"{path}.") and item.isdigit() and origin.startswith("-o "):
                return origin
        while path:
            if path in self.origins:
                return self.origins[path]
            if path.startswith(("data.train.", "data.val.")) and path.count(".") == 2:
                shared = self.origins.get("data." + path.rpartition(".")[2])
                if shared:
                    return shared
            path = path.rpartition(".")[0]
        return self.path

    def to_dict(self) -> dict[str, Any]:
        """The resolved recipe, defaults included, as plain data that `load` reads back to an equal recipe."""
        result: dict[str, Any] = {}
        for key in ORDER:
            if key in COMPONENTS:
                result[key] = _plain(getattr(self, key).spec)
            else:
                values = getattr(self, key)
                result[key] = {f.name: _plain(getattr(values, f.name)) for f in dataclasses.fields(values)}
        given = self.tree.get("train") or {}
        result["train"]["save_interval"] = given.get("save_interval")  # its default depends on what is counted
        for name in ("train", "val"):  # as written: what is inherited from `data` must stay free to be overridden there
            result["data"][name] = (
                copy.deepcopy(self.tree["data"][name]) if getattr(self.data, name) is not None else None
            )
        return result

    def to_yaml(self) -> str:
        """`to_dict` as YAML."""
        return yaml.dump(
            self.to_dict(), Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self.to_dict() == other.to_dict()

    __hash__ = None

    def __repr__(self) -> str:
        return f"Config({self.path})"


def _name(path: Path) -> str:
    """`output/x/config.yml` and `output/x/iter_20/config.yml` are the recipe of run `x`."""
    if path.stem != "config":
        return path.stem
    folder = path.parent.parent if path.parent.name.startswith("iter_") else path.parent
    return folder.name or path.stem


class _Dumper(yaml.SafeDumper):
    """Quotes what the plain style would change: text that looks like a number, and Unicode line breaks; no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, text: str) -> yaml.ScalarNode:
        style = '"' if any(c in text for c in "\x85\u2028\u2029\ufeff") else "'" if float_hint(text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.text)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def load(source: str | os.PathLike | Mapping | Config, overrides: Iterable[str | Override] = ()) -> Config:
    """Read, merge and check a recipe.

    Args:
        source: a YAML file; a mapping with the same sections; or a Config, to override more of it.
        overrides: `a.b=1`, YAML-typed, list index allowed; the later wins.
    Raises:
        UserError: one line with file and line (or the override), key, what was expected and the nearest valid name.
    """
    if isinstance(source, Config):
        values, origins, path = source.tree, source.origins, source.path
    elif isinstance(source, Mapping):
        values, origins, path = copy.deepcopy(dict(source)), {}, "config"
    else:
        path = os.fspath(source)
        values, origins = tree.read(path)
    values, origins = tree.apply(values, origins, overrides)
    return Config(values, origins, path)


def optimizer_spec(cfg: Config, name: str, names: Container[str]) -> Component:
    """The optimizer of one group of a Method: what `optimizer.<name>` says over what `optimizer` says for all.

    Args:
        name: of the group; names: of all groups of the Method.
    """
    path, own = join("optimizer", name), cfg.optimizer.get(name) or {}
    if not isinstance(own, Mapping):
        raise UserError(f"{cfg.where(path)}: '{path}' must be a mapping, got {shown(own)}")

    def where(place: str) -> str:
        key = place.partition(".")[2].partition(".")[0]
        return cfg.where(place.replace("optimizer", path, 1) if key in own else place)

    return Component({**{k: v for k, v in cfg.optimizer.items() if k not in names}, **own}, "optimizer", where)


def check(cfg: Config) -> None:
    """Resolve everything a recipe names and check its arguments; builds nothing, reads no data, imports Paddle.

    Raises:
        UserError: the first mistake found.
    """
    arguments("model", cfg.model, (), make=False)
    method, _ = arguments("method", cfg.method, ("model",), make=False)
    groups = {phase.optimizer for phase in method.phases}
    for group in sorted(groups):
        arguments("optimizer", optimizer_spec(cfg, group, groups), ("parameters",), make=False)
    arguments("schedule", cfg.schedule, ("lr", "total"), make=False)
    for part in (cfg.data.train, cfg.data.val):
        if part is not None:
            arguments("dataset", part, (), make=False)
            for transform in part.transforms:
                arguments("transform", transform, (), make=False)
    for i, metric in enumerate(cfg.eval.metrics):
        spec = {"type": metric} if isinstance(metric, str) else metric
        given = ("num_classes", "ignore_index", "class_names")
        arguments("metric", Component(spec, f"eval.metrics.{i}", cfg.where), given, make=False)
    if cfg.eval.task is not None:
        try:
            resolve("task", cfg.eval.task)
        except UserError as e:
            raise UserError(f"{cfg.where('eval.task')}: {e}") from None
    if cfg.train.iters is None and cfg.train.epochs is None:
        raise UserError(f"{cfg.where('train')}: 'train.iters' or 'train.epochs' is missing")
