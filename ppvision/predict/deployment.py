"""`deploy.yaml`: the contract between an export and whoever runs it, read and written by one class.

    <folder>/deploy.yaml            of one network: the graph beside it and everything needed to run it
    <folder>/deploy.yaml            of several: the task, and under `parts` the deploy.yaml of each
    <folder>/<part>/deploy.yaml

The block `Deploy` has upstream's keys; `PPVision` is the contract: inputs and outputs by name with kind, type, axes and
range, the transforms that come before with every argument and their rule in words, the way back to the original
picture, labels, palette, threshold, and the sha256 of each file. An input that another part gives says so (`from`).
tests/deploy/test_contract.py runs exports with ONNX Runtime, OpenCV and PyYAML alone, from this file alone.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ppvision.errors import UserError, brief, did_you_mean
from ppvision.files import sha256
from ppvision.models.network import Input, fixed_batch, graph_name
from ppvision.predict import TASKS
from ppvision.predict.nets import GraphNet
from ppvision.predict.runtime import Runtime, open_session
from ppvision.predict.tasks.base import Output, Task, create_task, task_class
from ppvision.version import __version__

FORMAT = 2  # of the file; raised when a reader of the old one would go wrong
RANGES = {"image": [0, 255], "mask": [0, 1]}
MEANINGS = {
    "image": "RGB, rows of pixels per channel; normalisation is inside the graph",
    "mask": "true where the picture is, false where it was padded; all true without padding",
    "size": "height and width in pixels",
    "vector": "numbers",
    "points": "rows of all samples one after the other",
    "offsets": "where the rows of each sample begin, and where the last one ends",
}
# The transforms of deployment in words; sides are rounded as max(1, floor(side * scale + 0.5)).
RULES = {
    "Resize": (
        "size [height, width] (or one number for both) gives exactly that, with keep_ratio scale = min(size[0] / "
        "height, size[1] / width); short: scale = short / shorter side, with max at most max / longer side; long: "
        "scale = long / longer side; a scaled side is max(1, floor(side * scale + 0.5)); then both sides up to a "
        "multiple of multiple_of. OpenCV's resize on uint8: linear INTER_LINEAR, area INTER_AREA, cubic INTER_CUBIC, "
        "nearest INTER_NEAREST_EXACT"
    ),
    "PadTo": (
        "extend at the bottom and right to at least size [height, width] (null: as it is), then both sides up to a "
        "multiple of multiple; what is added holds normalisation.mean whatever value says, and is false in an input "
        "of kind mask"
    ),
    "CenterCrop": "the window of size [height, width] in the middle, offsets (side - size) // 2",
}
TRUSTED: set[str] = set()  # modules of the user's own that a deploy.yaml may name


def trust(*modules: str) -> None:
    """Let exports name tasks of these modules (and of what is inside them); naming one imports it."""
    TRUSTED.update(modules)


@dataclass(frozen=True)
class Part:
    """One exported graph.

    Attributes:
        folder: where its files are.
        stem: of their names.
        inputs: by the names of the network's arguments; a free side is a letter.
        outputs: in the graph's order.
        output_op: name of the ending.
        options: with which the task reads a graph that ends so.
        shape_profile: {"min"|"opt"|"max": {input: shape}} for TensorRT, where validation pictures told it.
        tolerance: largest relative error and least agreement the export was held to.
        sha256: file name -> digest.
    """

    folder: Path
    stem: str
    inputs: Mapping[str, Input]
    outputs: Sequence[Output]
    output_op: str
    options: Mapping[str, Any] = field(default_factory=dict)
    shape_profile: Mapping[str, Any] | None = None
    tolerance: Mapping[str, float] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)

    def file(self, suffix: str) -> Path:
        """The file of that ending; it need not exist."""
        return self.folder / f"{self.stem}{suffix}"

    @property
    def batch(self) -> int | None:
        """The fixed batch of the graph; None where it is free."""
        return fixed_batch(self.inputs)

    def check(self, backend: str) -> None:
        """Compare the files that a backend reads with the hashes of the export.

        Raises:
            UserError: a file is missing, unknown to the export, or altered.
        """
        suffixes = (".json", ".pdiparams") if backend in ("paddle", "tensorrt") else (".onnx",)
        for path in map(self.file, suffixes):
            if path.name not in self.sha256:
                known = ", ".join(sorted(self.sha256))
                raise UserError(f"{path}: this export has no such file (it has: {known})")
            if not path.is_file():
                raise UserError(f"{path}: missing; export again")
            if sha256(path) != self.sha256[path.name]:
                raise UserError(
                    f"{path}: sha256 differs from deploy.yaml; the file was altered or damaged, export again"
                )

    def open(self, backend: str, device: str, runtime: Runtime) -> GraphNet:
        """The graph in a backend, as a task calls it."""
        self.check(backend)
        if runtime.shape_profile is None and self.shape_profile:
            runtime = replace(runtime, shape_profile=self.shape_profile)
        files = {"model": self.file(".json"), "params": self.file(".pdiparams"), "onnx": self.file(".onnx")}
        session = open_session(backend, device, runtime, **files)
        for name, spec in self.inputs.items():
            dtype, _ = session.inputs.get(graph_name(name), (None, None))
            if dtype != spec.dtype:
                known = ", ".join(f"{key} {kind}" for key, (kind, _) in session.inputs.items())
                raise UserError(
                    f"{self.folder}: deploy.yaml says input '{graph_name(name)}' {spec.dtype}, the graph takes "
                    f"{known}; export again"
                )
        lost = [output.name for output in self.outputs if output.name not in session.outputs]
        if lost:
            known = ", ".join(session.outputs)
            raise UserError(f"{self.folder}: the graph has no output '{lost[0]}' (it has: {known})")
        return GraphNet(session, self.inputs, self.folder.name)


@dataclass(frozen=True)
class Deployment:
    """An export as a whole.

    Attributes:
        path: its deploy.yaml.
        task: name of the task that prepares the inputs and reads the outputs.
        model_name: for logs.
        mean: of the normalisation inside the graphs, 0..255.
        std: likewise.
        labels: class names by id; may be empty.
        palette: RGB per class, or None.
        transforms: plain mappings, house spelling.
        options: of the task as it was exported (`Task.defaults`), such as thresholds.
        parts: the graphs by name of the deployable.
        is_part: this is the deploy.yaml of one part of several.
    """

    path: Path
    task: str
    model_name: str
    mean: Sequence[float]
    std: Sequence[float]
    labels: Sequence[str] = ()
    palette: Sequence[Sequence[int]] | None = None
    transforms: Sequence[Mapping[str, Any]] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, Part] = field(default_factory=dict)
    is_part: bool = False

    @property
    def only(self) -> Part:
        """The graph of a deployment that has one; of several the first."""
        return next(iter(self.parts.values()))

    def make_task(self, **options: Any) -> Task:
        """The task, with the options of the export and what is given over them."""
        own: dict[str, Any] = {"class_names": list(self.labels), "palette": self.palette}
        for part in self.parts.values():
            own |= part.options
        try:
            task = create_task(self.task, **{**own, **options})
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.path}: PPVision.postprocess cannot be read ({brief(error)})") from None
        task.fill = tuple(self.mean)
        return task

    def make_transforms(self) -> Any:
        """The transforms. Unlike a recipe a deploy.yaml may name only those of the suite: an export is data that is
        passed on, and a dotted path would run whatever it names."""
        from ppvision.config import Component
        from ppvision.data import TRANSFORMS
        from ppvision.data.transforms.image import build_transforms

        where = str(self.path)
        components = [
            Component(item, f"PPVision.transforms.{i}", lambda _: where) for i, item in enumerate(self.transforms)
        ]
        for component in components:
            if component.type not in TRANSFORMS:
                near = did_you_mean(component.type, TRANSFORMS)
                raise UserError(
                    f"{where}: {component.path}: no transform '{component.type}'{near}; a deploy.yaml may name only "
                    "those of ppvision.data.TRANSFORMS"
                )
        return build_transforms(components)

    def open(self, backend: str, device: str, runtime: Runtime) -> dict[str, GraphNet]:
        """All graphs, by name, as a task calls them."""
        return {name: part.open(backend, device, runtime) for name, part in self.parts.items()}

    # ---- writing

    def write(self) -> None:
        """Write `path`, and the deploy.yaml of each part where there are several."""
        if len(self.parts) == 1:
            self.path.write_text(_dumped(self._deploy(self.only), self._contract(self.only)), encoding="utf-8")
            return
        for name, part in self.parts.items():
            inside = self._contract(part) | {"part": name}
            (part.folder / "deploy.yaml").write_text(_dumped(self._deploy(part), inside), encoding="utf-8")
        folders = {name: f"{part.folder.name}/deploy.yaml" for name, part in self.parts.items()}
        self.path.write_text(_dumped(None, self._common() | {"parts": folders}), encoding="utf-8")

    def _deploy(self, part: Part) -> dict[str, Any]:
        """Upstream's keys, for programs that read only those."""
        return {
            "model": f"{part.stem}.json",
            "params": f"{part.stem}.pdiparams",
            "transforms": [upstream_transform(t) for t in self.transforms],
            "input_shape": _picture_shape(part.inputs),
            "output_op": part.output_op,
            "output_dtype": part.outputs[0].dtype,
        }

    def _common(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": __version__,
            "task": self.task,
            "model_name": self.model_name,
            "labels": list(self.labels),
            "palette": [[int(c) for c in colour] for colour in self.palette] if self.palette is not None else None,
            "transforms": [complete(t) for t in self.transforms],
            "rules": rules(self.transforms),
            "normalisation": {
                "mean": [float(v) for v in self.mean],
                "std": [float(v) for v in self.std],
                "inside_graph": True,
            },
        }

    def _contract(self, part: Part) -> dict[str, Any]:
        inputs = [
            {
                "name": graph_name(name),
                "argument": name,
                "kind": spec.kind,
                "dtype": spec.dtype,
                "shape": [_side(side) for side in spec.shape],
                "axes": [side if isinstance(side, str) else str(side) for side in spec.shape],
                **({"range": RANGES[spec.kind]} if spec.kind in RANGES else {}),
                **self._source(part, name),
                "about": MEANINGS.get(spec.kind, ""),
            }
            for name, spec in part.inputs.items()
        ]
        outputs = [{"name": o.name, "kind": o.kind, "dtype": o.dtype, "about": o.about} for o in part.outputs]
        return self._common() | {
            "inputs": inputs,
            "outputs": outputs,
            "way_back": task_class(self.task).way_back,
            "postprocess": {"type": self.task, **self.options, **part.options},
            "shape_profile": part.shape_profile,
            "tolerance": dict(part.tolerance),
            "sha256": dict(part.sha256),
        }

    def _source(self, part: Part, name: str) -> dict[str, str]:
        """Which other part gives this input: the one that has an output of its name."""
        givers = [key for key, other in self.parts.items() if name in [output.name for output in other.outputs]]
        return {"from": givers[0]} if givers and self.parts[givers[0]] is not part else {}

    # ---- reading

    @classmethod
    def read(cls, source: str | os.PathLike) -> Deployment:
        """The deployment in a folder, or of a deploy.yaml.

        Raises:
            UserError: no such file, damaged, of an older form, or a part is missing; one line with file and key.
        """
        path = Path(source)
        path = path / "deploy.yaml" if path.is_dir() else path
        content = _content(path)
        ours = content["PPVision"]
        _check_task(path, ours["task"])
        files = ours.get("parts")
        if files is None:
            parts = {ours.get("part", "model"): _part(path, content)}
        else:
            parts = {}
            for name, file in files.items():
                if not (path.parent / file).is_file():
                    raise UserError(f"{path}: part '{name}' is missing ({path.parent / file}); export again")
                inside = _content(path.parent / file)
                if inside["PPVision"].get("part") != name:
                    raise _altered(path, f"PPVision.parts.{name}")
                parts[name] = _part(path.parent / file, inside)
        return cls(
            path=path,
            task=ours["task"],
            model_name=ours["model_name"],
            mean=tuple(ours["normalisation"]["mean"]),
            std=tuple(ours["normalisation"]["std"]),
            labels=ours.get("labels") or (),
            palette=ours.get("palette"),
            transforms=ours["transforms"],
            parts=parts,
            is_part="part" in ours,
        )


def deploy_file(source: Any) -> Path | None:
    """The deploy.yaml that `source` means, or None when it is a recipe."""
    if not isinstance(source, (str, os.PathLike)):
        return None
    path = Path(source)
    if path.is_dir():
        if not (path / "deploy.yaml").is_file():
            inside = sorted(file.parent.name for file in path.glob("*/deploy.yaml"))
            hint = f"choose one of: {', '.join(inside)}" if inside else "`ppvision export` writes it"
            if (path / "config.yml").is_file():
                hint = f"this is a run folder: give {path / 'config.yml'}, or export it"
            raise UserError(f"{path}: no deploy.yaml in this folder; {hint}")
        return path / "deploy.yaml"
    return path if path.name == "deploy.yaml" or (path.is_file() and _is_deploy(path)) else None


def _is_deploy(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4096).lstrip().startswith((b"Deploy:", b"PPVision:"))


# What must stand in the two blocks of one graph, and in that of several; the other keys are for people.
_DEPLOY_KEYS: dict[str, type] = {"model": str, "params": str, "input_shape": list, "output_op": str}
_COMMON_KEYS: dict[str, type] = {"task": str, "model_name": str, "transforms": list, "normalisation": Mapping}
_PART_KEYS: dict[str, type] = {"inputs": list, "outputs": list, "postprocess": Mapping, "sha256": Mapping}


def _content(path: Path) -> dict[str, Any]:
    """A deploy.yaml whose keys are there and of the right kind."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; `ppvision export` writes it")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML ({error})") from None
    ours = content.get("PPVision") if isinstance(content, Mapping) else None
    several = isinstance(ours, Mapping) and "parts" in ours
    if not isinstance(ours, Mapping) or not (several or isinstance(content.get("Deploy"), Mapping)):
        raise UserError(f"{path}: has no Deploy and PPVision block; was it written by `ppvision export`?")
    if ours.get("format", 1) != FORMAT:
        newer = isinstance(ours.get("format"), int) and ours["format"] > FORMAT
        what = "a newer ppvision; use that one, or write it anew" if newer else "an older ppvision; write it anew"
        raise UserError(
            f"{path}: written by {what}: ppvision export --config <recipe> --model_path <weights> "
            f"--save_dir {path.parent}"
        )
    _need(path, "PPVision", ours, _COMMON_KEYS)
    if not several:
        _need(path, "Deploy", content["Deploy"], _DEPLOY_KEYS)
        _need(path, "PPVision", ours, _PART_KEYS)
    elif not isinstance(ours["parts"], Mapping) or not ours["parts"] or not all(map(_is_text, ours["parts"].values())):
        raise _altered(path, "PPVision.parts")
    statistics = [ours["normalisation"].get(key) for key in ("mean", "std")]
    if not all(isinstance(v, list) and len(v) == 3 and _numbers(v) for v in statistics):
        raise _altered(path, "PPVision.normalisation")
    for key in ("labels", "palette"):
        if not isinstance(ours.get(key) or [], list):
            raise _altered(path, f"PPVision.{key}")
    return content


def _part(path: Path, content: Mapping[str, Any]) -> Part:
    deploy, ours = content["Deploy"], content["PPVision"]
    inputs = dict(_rows(path, "inputs", ours, lambda row: (row["argument"], _input(row))))
    outputs = _rows(path, "outputs", ours, lambda o: Output(o["name"], o["kind"], o.get("about", ""), o["dtype"]))
    if deploy["input_shape"] != _picture_shape(inputs):
        raise _altered(path, "Deploy.input_shape")
    return Part(
        folder=path.parent,
        stem=Path(deploy["model"]).stem,
        inputs=inputs,
        outputs=outputs,
        output_op=deploy["output_op"],
        options={k: v for k, v in ours["postprocess"].items() if k != "type"},
        shape_profile=ours.get("shape_profile"),
        tolerance=ours.get("tolerance") or {},
        sha256=ours["sha256"],
    )


def _rows(path: Path, key: str, ours: Mapping[str, Any], read: Callable[[Mapping[str, Any]], Any]) -> list[Any]:
    """What `read` makes of every row of a block; there must be one."""
    try:
        found = [read(row) for row in ours[key]]
    except (AttributeError, KeyError, TypeError, ValueError):
        found = []
    if not found:
        raise _altered(path, f"PPVision.{key}")
    return found


def _picture_shape(inputs: Mapping[str, Input]) -> list[int]:
    """[N,C,H,W] of the first picture, -1 where a side is free; [] where none goes in."""
    pictures = [spec for spec in inputs.values() if spec.kind == "image"]
    return [_side(side) for side in pictures[0].shape] if pictures else []


def _check_task(path: Path, name: str) -> None:
    """A deploy.yaml is data that is passed on: it names a task of the suite, or one of a module that is trusted."""
    if name in TASKS or any(name.startswith(f"{module}.") for module in TRUSTED):
        return
    if "." in name:
        module = name.rpartition(".")[0]
        raise UserError(f"{path}: task '{name}' is code of another module; if you trust it, say --trust {module}")
    raise UserError(f"{path}: no task '{name}'{did_you_mean(name, TASKS)} (tasks: {', '.join(TASKS)})")


def _input(row: Mapping[str, Any]) -> Input:
    shape = tuple(axis if side == -1 else int(side) for side, axis in zip(row["shape"], row["axes"], strict=True))
    if row["name"] != graph_name(row["argument"]):
        raise ValueError(f"{row['name']} is not the name of {row['argument']} in a graph")
    return Input(shape, row["dtype"], row["kind"], optional=row["kind"] == "mask")  # `GraphNet` makes one that is True


def _need(path: Path, block: str, values: Mapping[str, Any], keys: Mapping[str, type]) -> None:
    for key, kind in keys.items():
        value = values.get(key)
        if not isinstance(value, kind):
            problem = "is missing" if value is None else f"is {value!r}"
            raise UserError(f"{path}: {block}.{key} {problem}; the file was damaged or altered, export again")


def _altered(path: Path, key: str) -> UserError:
    return UserError(f"{path}: {key} is not what an export writes; the file was damaged or altered, export again")


def _numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, (int, float)) for value in values)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _side(side: int | str) -> int:
    return side if isinstance(side, int) else -1


def _dumped(deploy: Mapping[str, Any] | None, ours: Mapping[str, Any]) -> str:
    content = {**({"Deploy": dict(deploy)} if deploy is not None else {}), "PPVision": dict(ours)}
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)


def rules(transforms: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the transforms do, in words that another program can follow."""
    return [f"{t['type']}: {RULES.get(t['type'], 'see the documentation of ppvision')}" for t in transforms]


def upstream_transform(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A transform in PaddleSeg's spelling where it has the same one, else unchanged: for programs that read only
    `Deploy`."""
    t = plain(spec)
    if t["type"] == "Resize" and not {"multiple_of", "interpolation"} & set(t):
        if t.get("size") is not None:
            size = t["size"] if isinstance(t["size"], list) else [t["size"]] * 2
            return {
                "type": "Resize",
                "target_size": size[::-1],
                **({"keep_ratio": True} if t.get("keep_ratio") else {}),
            }
        if t.get("long") is not None:
            return {"type": "ResizeByLong", "long_size": t["long"]}
        return {"type": "ResizeByShort", "short_size": t["short"], **({"max_size": t["max"]} if t.get("max") else {})}
    if t["type"] == "PadTo" and t.get("size") is not None and t.get("multiple", 1) == 1:
        return {"type": "Padding", "target_size": t["size"][::-1], "im_padding_value": t.get("value", 0.0)}
    return t


def complete(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A transform with every argument, so that a reader need not know the defaults."""
    from ppvision.config import resolve
    from ppvision.data import TRANSFORMS

    t = plain(spec)
    if t["type"] not in TRANSFORMS:
        return t
    parameters = inspect.signature(resolve("transform", t["type"])).parameters.values()
    return {"type": t["type"], **{p.name: plain(t.get(p.name, p.default)) for p in parameters}}


def plain(value: Any) -> Any:
    """Mappings and sequences as YAML's own."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value
