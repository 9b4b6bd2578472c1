"""Export: write what a server needs, prove that it says what the network says, and only then put it in place.

    <save_dir>/ model.json, model.pdiparams   static graph (PIR): the product
                model.onnx      when its numbers agree
                model.pdmodel   on request, for servers of Paddle 2, where the running Paddle can write it (up to 3.1)
                deploy.yaml     upstream's `Deploy` block, and `PPVision`: task, labels, transforms, hashes
                parity.json     backend x precision x shape: errors, agreement, latency

Everything is made in a hidden folder inside `save_dir` and renamed into place, `deploy.yaml` last, so that no reader
meets half an export; other files in `save_dir` (a run folder, say) are not touched. Several deployables go to a
sub-folder each.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import yaml
from paddle import nn

import ppvision
from ppvision.data import TRANSFORMS
from ppvision.device import use_device
from ppvision.errors import RunError, UserError, did_you_mean
from ppvision.export import convert_onnx, parity
from ppvision.export.deployed import OUTPUT_OPS, Deployed, output_names
from ppvision.predict.predictor import build_network, labels_of, sha256, statistics_of, task_name, validation_set
from ppvision.predict.runtime import paddle_version
from ppvision.predict.tasks.base import create_task

logger = logging.getLogger("ppvision")

FORMATS = ("paddle", "onnx", "pdmodel")
FULL = 1 << 16  # bytes free: below, nothing more can be written
NUM_PICTURES = 8  # of the validation set: parity takes the first ones, the shape profile looks at all


@dataclass(frozen=True)
class Spec:
    """What an export needs besides the layer.

    Args:
        model_name: for deploy.yaml.
        task: name of the task that reads the outputs.
        mean, std: per channel, 0..255, RGB.
        input_shape: [N,C,H,W], -1 is free.
        output_op: of `deployed.OUTPUT_OPS`; None = the task's default.
        formats: of `FORMATS`.
        strict: an ONNX file or pdmodel that cannot be had is an error, not a line in the log.
        example: height and width to compare at.
        tolerance: of raw outputs, relative to their largest magnitude.
        agreement: least share of equal decisions.
        labels, palette: of the classes.
        transforms: plain mappings, house spelling.
        samples: RGB uint8 images after the transforms; may be empty.
        save_name: stem of the files.
        legacy: writes `<folder>/model.pdmodel` and its `.pdiparams` in a child process; None where that is impossible.
    """

    model_name: str
    task: str
    mean: Sequence[float]
    std: Sequence[float]
    input_shape: Sequence[int] = (-1, 3, -1, -1)
    output_op: str | None = None
    formats: Sequence[str] = ("paddle", "onnx")
    strict: bool = False
    example: tuple[int, int] = (512, 512)
    tolerance: float = 1.0e-4
    agreement: float = 0.999
    labels: Sequence[str] = ()
    palette: np.ndarray | None = None
    transforms: Sequence[Mapping[str, Any]] = ()
    samples: Sequence[np.ndarray] = field(default_factory=list)
    save_name: str = "model"
    legacy: Callable[[Path, str], None] | None = None


def export(
    config: Any,
    overrides: Sequence[str] = (),
    *,
    weights: str | os.PathLike | None = None,
    save_dir: str | os.PathLike,
    input_shape: Sequence[int] | None = None,
    output_op: str | None = None,
    formats: Sequence[str] | None = None,
) -> Path:
    """Export the network(s) of a recipe.

    Args:
        config: a recipe (path or Config).
        overrides: `a.b=1`.
        weights: weight file or checkpoint folder; default `model.weights`.
        save_dir: gets the files; may hold others.
        input_shape: [N,C,H,W], -1 is free; default `export.input_shape`.
        output_op: default `export.output_op`, else the task's own.
        formats: default `export.formats`. A format named here that cannot be had is an error; one of the recipe is said
            to be missing and left out.

    Returns:
        `save_dir`.

    Raises:
        UserError: wrong arguments or weights that do not fit. `save_dir` is then as it was.
        RunError: numbers past the tolerance; likewise.
    """
    from ppvision.config import load
    from ppvision.models.zoo import ZOO, deployables

    cfg = load(config, overrides)
    weights = weights or cfg.model.weights
    device = paddle.get_device()
    use_device("cpu")  # the reference of the comparison, and a graph that holds no device
    try:
        with (
            paddle.utils.unique_name.guard()
        ):  # parameter names, and so the order in the file, do not depend on what was built before
            net = build_network(cfg, weights)
        mean, std = statistics_of(cfg)
        dataset = validation_set(cfg)
        labels, palette = labels_of(cfg, dataset)
        transforms = [dict(c.spec) for c in cfg.data.val.transforms] if cfg.data.val is not None else []
        parts = deployables(net)
        shape = list(input_shape or cfg.export.input_shape)
        for name, layer in parts.items():
            spec = Spec(
                model_name=cfg.model.type if len(parts) == 1 else f"{cfg.model.type}/{name}",
                task=task_name(cfg),
                mean=mean,
                std=std,
                input_shape=shape,
                output_op=output_op or cfg.export.output_op,
                formats=tuple(formats or cfg.export.formats),
                strict=formats is not None,
                example=ZOO[cfg.model.type].example if cfg.model.type in ZOO else (512, 512),
                tolerance=cfg.export.tolerance,
                agreement=cfg.export.agreement,
                labels=labels,
                palette=palette,
                transforms=transforms,
                samples=_samples(cfg, dataset),
                save_name=cfg.export.save_name,
                legacy=_legacy_writer(cfg, weights, name, shape),
            )
            export_layer(layer, Path(save_dir) if len(parts) == 1 else Path(save_dir) / name, spec)
    finally:
        use_device(device)
    return Path(save_dir)


def export_layer(net: nn.Layer, save_dir: str | os.PathLike, spec: Spec) -> Path:
    """Export one network; see `export`."""
    output_op = _checked(spec)
    folder = Path(save_dir)
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".export-", dir=folder))
    except OSError as error:
        _remove_empty(created)
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from None
    net.eval()
    try:
        _make(net, staging, spec, output_op)
        _install(staging, folder, spec.save_name)
    except OSError as error:
        # Paddle reports a failed write as an OSError without number.
        reason = error.strerror or ("no space left" if _is_full(staging) else error)
        raise RunError(f"export: {folder} cannot be written ({reason})") from error
    except Exception as error:
        # What the checks say of files cut short by a full disk leads nowhere.
        if _is_full(staging):
            raise RunError(f"export: {folder} cannot be written (no space left)") from error
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        _remove_empty(created)
    print(f"exported {spec.model_name} -> {folder}", flush=True)
    return folder


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove those of the folders, inner ones first, that hold nothing."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < FULL
    except OSError:
        return False


def _checked(spec: Spec) -> str:
    """The output_op that applies; raises UserError for arguments that make no sense."""
    for name in spec.formats:
        if name not in FORMATS:
            raise UserError(f"export: no format '{name}'{did_you_mean(name, FORMATS)} (formats: {', '.join(FORMATS)})")
    shape = list(spec.input_shape)
    if len(shape) != 4 or shape[1] != 3 or any(side != -1 and side < 1 for side in shape):
        raise UserError(f"export: input_shape is N C H W with C = 3 and -1 for a free side, got {shape}")
    ops = create_task(spec.task).output_ops
    if spec.output_op is not None and spec.output_op not in ops:
        near = did_you_mean(spec.output_op, ops)
        raise UserError(f"export: no output_op '{spec.output_op}' for {spec.task}{near} (there is: {', '.join(ops)})")
    return spec.output_op or ops[0]


def _make(net: nn.Layer, staging: Path, spec: Spec, output_op: str) -> None:
    """Write all files of the export into `staging`."""
    stem = spec.save_name
    for transform in spec.transforms:
        if transform["type"] not in TRANSFORMS:
            logger.warning(
                "transform '%s' is not in ppvision.data.TRANSFORMS: the Predictor refuses it in a deploy.yaml",
                transform["type"],
            )
    product = Deployed(net, spec.mean, spec.std, output_op)
    product.eval()
    save_static(product, staging / stem, spec.input_shape)
    check_graph(staging / stem)
    check_parameters(net, staging / stem)
    raw, raw_stem = product, staging / stem
    chooses = _chooses(net, spec)
    if output_op != "none" or chooses:
        raw, raw_stem = Deployed(net, spec.mean, spec.std, explain=chooses), staging / "raw" / stem
        raw.eval()
        raw_stem.parent.mkdir()
        save_static(raw, raw_stem, spec.input_shape)
        check_graph(raw_stem)
        sizes = [path.with_name(f"{stem}.pdiparams").stat().st_size for path in (staging / stem, raw_stem)]
        if sizes[0] != sizes[1]:
            raise RunError(
                f"export: {stem}.pdiparams has {sizes[0]} bytes, its second copy {sizes[1]}; is the disk full?"
            )

    graphs, missing = _with_onnx(raw_stem, staging / stem, spec)
    rows = parity.run(
        _eager(raw),
        _eager(product),
        *graphs,
        parity.shapes_for(spec.input_shape, spec.example),
        task=create_task(spec.task),
        tolerance=spec.tolerance,
        given=spec.samples,
        chooses=chooses,
    )
    refused = parity.faults(rows, spec.tolerance, spec.agreement)
    print(parity.table(rows), flush=True)
    if "onnx" in refused:
        _without(staging / f"{stem}.onnx", f"{stem}.onnx refused: {refused['onnx']}", spec.strict)
        missing["onnx"] = refused["onnx"]
    fatal = {name: reason for name, reason in refused.items() if name != "onnx"}
    if fatal:
        name, reason = next(iter(fatal.items()))
        raise RunError(
            f"export: {name} does not agree with the network: {reason}; nothing was written to {staging.parent}"
        )
    if "pdmodel" in spec.formats:
        _add_legacy(staging, spec, output_op)
    source = "validation images" if spec.samples else "seeded smooth noise"
    parity.write(
        staging / "parity.json",
        {"model_name": spec.model_name, **parity.report(rows, missing, spec.tolerance, spec.agreement, source)},
    )
    shutil.rmtree(staging / "raw", ignore_errors=True)
    (staging / "deploy.yaml").write_text(_deploy_yaml(staging, spec, output_op, _describe(net, spec)), encoding="utf-8")


def save_static(layer: nn.Layer, stem: Path, input_shape: Sequence[int]) -> None:
    """`paddle.jit.save` with the one input `x`; writes `<stem>.json` and `<stem>.pdiparams` (`.pdmodel` under the
    legacy IR)."""
    shape = [None if side == -1 else int(side) for side in input_shape]
    paddle.jit.save(layer, str(stem), input_spec=[paddle.static.InputSpec(shape, "float32", "x")])


def check_graph(stem: Path) -> None:
    """The graph was written to its end: `paddle.jit.save` says nothing of a full disk.

    Raises:
        RunError: a file is missing, empty or cut off.
    """
    for suffix in (".json", ".pdiparams"):
        path = stem.with_name(stem.name + suffix)
        try:
            if suffix == ".json":
                json.loads(path.read_bytes())
            elif not path.stat().st_size:
                raise ValueError("empty")
        except (FileNotFoundError, ValueError):
            raise RunError(f"export: {path.name} was not written completely; is the disk full?") from None


def check_parameters(net: nn.Layer, stem: Path) -> None:
    """The graph holds exactly the network's parameters and buffers, but for those of its `training_heads`: nothing of
    the training, nothing lost.

    Raises:
        UserError: naming what is too much or missing.
        RunError: the parameter file is shorter than the parameters, or cannot be read back.
    """
    params = stem.with_name(f"{stem.name}.pdiparams")
    try:
        exported = paddle.jit.load(str(stem)).state_dict().values()
    except (RuntimeError, ValueError, OSError, SystemError) as error:
        raise RunError(f"export: {params.name} cannot be read back; is the disk full?") from error
    found = sorted(tuple(value.shape) for value in exported)
    heads = tuple(f"{name}." for name in getattr(net, "training_heads", ()))
    wanted = {name: value for name, value in net.state_dict().items() if not name.startswith(heads)}
    expected = {name: tuple(value.shape) for name, value in wanted.items()}
    if found == sorted(expected.values()):
        needed = sum(_stored_size(value) for value in wanted.values())
        if params.stat().st_size < needed:
            written = params.stat().st_size
            raise RunError(f"export: {params.name} has {written} bytes of at least {needed}; is the disk full?")
        return
    rest = list(found)
    lost = [name for name, shape in expected.items() if shape not in rest or rest.remove(shape)]
    sizes = [sum(int(np.prod(shape)) for shape in shapes) for shapes in (found, expected.values())]
    raise UserError(
        f"export: the graph has {sizes[0]} parameters, the network {sizes[1]}; not in the graph: "
        f"{', '.join(lost[:5]) or 'none'}; not in the network: {len(rest)} arrays of shapes {rest[:5]}. "
        "A deployable must use all it has, and nothing else"
    )


def _stored_size(value: paddle.Tensor) -> int:
    """Bytes of a parameter in a .pdiparams file: 20 of versions and lengths, a protobuf of type and shape, the
    numbers. Paddle reads a file whose last numbers are missing without a word."""
    shape = 2 + sum(1 + max(-(-int(side).bit_length() // 7), 1) for side in value.shape)
    return 20 + shape + value.size * value.element_size()


def _chooses(net: nn.Layer, spec: Spec) -> bool:
    """Whether the network chooses queries by rank: then its graph is compared choice by choice (`parity.settled`)."""
    if not hasattr(net, "explained"):
        return False
    shape = parity.shapes_for(spec.input_shape, spec.example)[-1]
    with paddle.no_grad():
        return "chosen" in net.explained(paddle.zeros(shape))


def _eager(layer: nn.Layer) -> Callable[..., list[np.ndarray]]:
    def session(*arrays: np.ndarray) -> list[np.ndarray]:
        with paddle.no_grad():
            output = layer(*(paddle.to_tensor(array) for array in arrays))
        return [value.numpy() for value in (output if isinstance(output, (list, tuple)) else [output])]

    return session


def _with_onnx(raw: Path, product: Path, spec: Spec) -> tuple[list[parity.Graph], dict[str, str]]:
    """The two graphs, with their ONNX files if those are wanted and could be made; and why they could not."""
    stems = [raw] if raw == product else [raw, product]
    files = {
        stem: [stem.with_name(stem.name + suffix) for suffix in (".json", ".pdiparams", ".onnx")] for stem in stems
    }
    missing: dict[str, str] = {}
    if "onnx" in spec.formats:
        try:
            _need_onnxruntime()
            convert_onnx.convert([tuple(files[stem]) for stem in stems])
        except UserError as error:
            missing["onnx"] = str(error)
            _without(files[product][2], f"{product.name}.onnx not written: {error}", spec.strict)
    graphs = []
    for stem in (raw, product):
        model, params, onnx = files[stem]
        graphs.append(parity.Graph(model, params, onnx if "onnx" in spec.formats and not missing else None))
    return graphs, missing


def _need_onnxruntime() -> None:
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        raise UserError("onnxruntime, which must check it, is not installed; pip install 'ppvision[onnx]'") from None


def _without(path: Path, message: str, strict: bool) -> None:
    """Go on without an optional file, or stop if it was asked for by name."""
    path.unlink(missing_ok=True)
    if strict:
        raise RunError(f"export: {message}")
    logger.warning("%s", message)


def _add_legacy(staging: Path, spec: Spec, output_op: str) -> None:
    name = f"{spec.save_name}.pdmodel"
    version = ".".join(map(str, paddle_version()))
    try:
        if spec.legacy is None:
            raise UserError("needs a recipe, the graph is built again in another process")
        with tempfile.TemporaryDirectory(dir=staging) as folder:
            spec.legacy(Path(folder) / spec.save_name, output_op)
            params = f"{spec.save_name}.pdiparams"
            if sha256(Path(folder) / params) != sha256(staging / params):
                raise UserError("its parameter file differs from that of the PIR graph")
            os.replace(Path(folder) / name, staging / name)
    except UserError as error:
        _without(staging / name, f"{name} not written: {error} (Paddle {version}; use Paddle 3.1)", spec.strict)


def _legacy_writer(cfg: Any, weights: Any, deployable: str, shape: Sequence[int]) -> Callable[[Path, str], None]:
    """Writes a pdmodel in a child process: the flag that selects the old IR is read when Paddle is imported."""

    def write(stem: Path, output_op: str) -> None:
        # The recipe travels as data with its resolved paths; a child has the same working directory.
        job = {
            "config": cfg.to_dict(),
            "weights": os.fspath(weights),
            "deployable": deployable,
            "input_shape": list(shape),
            "output_op": output_op,
            "stem": str(stem),
        }
        done = subprocess.run(
            [sys.executable, "-m", "ppvision.export.legacy"],
            input=json.dumps(job),
            env=convert_onnx.child_environment(FLAGS_enable_pir_api="0"),
            capture_output=True,
            text=True,
            errors="replace",
        )
        if done.returncode or not stem.with_name(stem.name + ".pdmodel").is_file():
            lines = [line.strip() for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()]
            raise UserError(f"this Paddle cannot write it: {legacy_reason(lines)}")

    return write


def legacy_reason(lines: Sequence[str]) -> str:
    """The operator the legacy writer stumbled over, from its output; else the last error line."""
    for line in reversed(lines):
        # "matmul(): argument 'x' (position 0) must be Value, but got Variable"
        # or "TypeError: (InvalidType) matmul(): ...": the word right before a parenthesis, never one that ends in ":".
        operator = re.search(r"([A-Za-z_]\w*)\(", line)
        if "must be" in line and operator:
            return f"operator {operator[1]}"
    errors = [line for line in lines if "rror" in line] or list(lines) or ["no message"]
    return errors[-1][:160]


def _samples(cfg: Any, dataset: Any | None) -> list[np.ndarray]:
    """Some images of the validation set after its transforms, spread over it."""
    from ppvision.data.fields import start
    from ppvision.data.transforms.image import build_transforms

    if dataset is None or not len(dataset):
        return []
    transform = build_transforms(cfg.data.val.transforms)
    images = []
    for index in np.unique(np.linspace(0, len(dataset) - 1, NUM_PICTURES).astype(int)):
        sample = transform(start({"image": dataset[int(index)]["image"]}), np.random.default_rng(0))
        images.append(sample["image"])
    return images


def _describe(net: nn.Layer, spec: Spec) -> dict[str, Any]:
    """Names of the network's outputs, and how many classes the first one has."""
    shape = parity.shapes_for(spec.input_shape, spec.example)[-1]
    with paddle.no_grad():
        output = net(paddle.zeros(shape))
    names = output_names(output)
    first = next(iter(output.values())) if isinstance(output, Mapping) else output[0] if len(names) > 1 else output
    axis = create_task(spec.task).class_axis
    return {"names": names, "classes": int(first.shape[axis]) if hasattr(first, "shape") and first.ndim > 1 else None}


def _deploy_yaml(staging: Path, spec: Spec, output_op: str, described: dict[str, Any]) -> str:
    """`Deploy` with upstream's keys, `PPVision` with ours."""
    stem = spec.save_name
    files = sorted(p for p in staging.iterdir() if p.is_file() and p.name.startswith(f"{stem}."))
    labels = list(spec.labels) if described["classes"] == len(spec.labels) else []
    outputs = OUTPUT_OPS[output_op] or [(name, "raw") for name in described["names"]]
    deploy = {
        "model": f"{stem}.json",
        "params": f"{stem}.pdiparams",
        "transforms": [upstream_transform(t) for t in spec.transforms],
        "input_shape": [int(side) for side in spec.input_shape],
        "output_op": output_op,
        "output_dtype": "int32" if output_op == "argmax" else "float32",
    }
    ours = {
        "version": ppvision.__version__,
        "task": spec.task,
        "model_name": spec.model_name,
        "labels": labels,
        "palette": [[int(c) for c in colour] for colour in spec.palette]
        if labels and spec.palette is not None
        else None,
        "inputs": [
            {"name": "x", "dtype": "float32", "shape": [int(side) for side in spec.input_shape], "range": [0, 255]}
        ],
        "outputs": [{"name": name, "kind": kind} for name, kind in outputs],
        "transforms": [_plain(t) for t in spec.transforms],
        "postprocess": {"type": spec.task, **create_task(spec.task).deploy_options(output_op)},
        "normalisation": {
            "mean": [float(v) for v in spec.mean],
            "std": [float(v) for v in spec.std],
            "inside_graph": True,
        },
        "shape_profile": _shape_profile(spec),
        "tolerance": {"relative_error": float(spec.tolerance), "agreement": float(spec.agreement)},
        "sha256": {path.name: sha256(path) for path in files},
    }
    return yaml.safe_dump(
        {"Deploy": deploy, "PPVision": ours}, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True
    )


def upstream_transform(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A transform in PaddleSeg's spelling where it has the same one, else unchanged: for programs that read only
    `Deploy`."""
    t = _plain(spec)
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


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _shape_profile(spec: Spec) -> dict[str, dict[str, list[int]]] | None:
    """Least, middle and largest input of the validation images, for TensorRT; None where there are no images to learn
    it from."""
    if not spec.samples:
        return None
    sides = np.asarray([image.shape[:2] for image in spec.samples])
    batch = max(int(spec.input_shape[0]), 1)
    profile = {}
    for key, (h, w) in (("min", sides.min(0)), ("opt", np.median(sides, 0)), ("max", sides.max(0))):
        height, width = spec.input_shape[2:]
        profile[key] = {"x": [batch, 3, int(height if height > 0 else h), int(width if width > 0 else w)]}
    return profile


def _install(staging: Path, folder: Path, stem: str) -> None:
    """Move the files of `staging` into `folder`; those of an earlier export that this one does not have go away."""
    own = [f"{stem}{suffix}" for suffix in (".json", ".pdiparams", ".onnx", ".pdmodel")] + [
        "parity.json",
        "deploy.yaml",
    ]
    # First the yaml goes, last it comes: a program that finds one finds files that belong to it.
    (folder / "deploy.yaml").unlink(missing_ok=True)
    for name in own:
        source, target = staging / name, folder / name
        if not source.exists():
            target.unlink(missing_ok=True)
            continue
        with source.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(source, target)
