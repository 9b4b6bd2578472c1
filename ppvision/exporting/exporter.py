"""Export: write what a server needs, prove that it says what the network says, and only then put it in place.

    <save_dir>/ model.json, model.pdiparams   static graph (PIR): the product
                model.onnx      when its numbers agree
                model.pdmodel   on request, for servers of Paddle 2, where the running Paddle can write it (up to 3.1)
                deploy.yaml     the contract: see `predict.deployment`
                parity.json     backend x precision x case: errors, agreement, latency

Everything is made in a hidden folder inside `save_dir` and renamed into place, `deploy.yaml` last, so that no reader
meets half an export; other files in `save_dir` (a run folder, say) are not touched. Several deployables go to a
sub-folder each, and `save_dir` gets the deploy.yaml of the whole.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ppvision.config import Config, load
from ppvision.data import TRANSFORMS
from ppvision.device import use_device
from ppvision.errors import RunError, UserError, did_you_mean
from ppvision.exporting import cases as examples
from ppvision.exporting import convert_onnx, parity
from ppvision.exporting.deployed import Deployed
from ppvision.exporting.graph import check_graph, check_parameters, resolved, save_static
from ppvision.exporting.legacy import legacy_writer
from ppvision.exporting.staging import install, staging_folder
from ppvision.files import sha256
from ppvision.models.network import Input, graph_name, inputs_of, promises
from ppvision.predict.assemble import Assembly, assemble, task_name, validation_set
from ppvision.predict.deployment import Deployment, Part
from ppvision.predict.runtime import paddle_version
from ppvision.predict.tasks.base import Task, ending_of, first, named, task_class

logger = logging.getLogger("ppvision")

FORMATS = ("paddle", "onnx", "pdmodel")


@dataclass(frozen=True)
class Spec:
    """What an export needs besides the layer.

    Attributes:
        model_name: for deploy.yaml.
        task_name: of the task that prepares the inputs and reads the outputs.
        task: that task.
        mean, std: per channel, 0..255, RGB.
        shapes: by name of an input, -1 is free; inputs that are not named are as the network declares them.
        output_op: name of an ending of the task; None: its default.
        formats: of `FORMATS`.
        strict: an ONNX file or pdmodel that cannot be had is an error, not a line in the log.
        example: height and width to compare at.
        tolerance: of raw outputs, relative to their largest magnitude.
        agreement: least share of equal decisions.
        transforms: plain mappings, house spelling.
        batches: collated samples of the validation set after the transforms; may be empty.
        save_name: stem of the files.
        legacy: writes `<folder>/model.pdmodel` and its `.pdiparams` in a child process; None where that is impossible.
    """

    model_name: str
    task_name: str
    task: Task
    mean: Sequence[float]
    std: Sequence[float]
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    output_op: str | None = None
    formats: Sequence[str] = ("paddle", "onnx")
    strict: bool = False
    example: tuple[int, int] = (512, 512)
    tolerance: float = 1.0e-4
    agreement: float = 0.999
    transforms: Sequence[Mapping[str, Any]] = ()
    batches: Sequence[Mapping[str, Any]] = field(default_factory=list)
    save_name: str = "model"
    legacy: Callable[[Path, str, str], None] | None = None


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
        weights: weight file or checkpoint folder; default by the rule of `predict.assemble`.
        save_dir: gets the files; may hold others.
        input_shape: [N,C,H,W] of the picture, -1 is free; default `export.shapes` and `export.input_shape`.
        output_op: default `export.output_op`, else the task's own.
        formats: default `export.formats`. A format named here that cannot be had is an error; one of the recipe is said
            to be missing and left out.

    Returns:
        `save_dir`.

    Raises:
        UserError: wrong arguments or weights that do not fit. `save_dir` is then as it was.
        RunError: numbers past the tolerance; likewise.
    """
    cfg = load(config, overrides)
    # a slip in a name is told before anything is built
    _check_output_op(cfg, task_class(task_name(cfg)), output_op)
    _check_formats(formats or cfg.export.formats)
    device = paddle.get_device()
    use_device("cpu")  # the reference of the comparison, and a graph that holds no device
    try:
        with (
            paddle.utils.unique_name.guard()
        ):  # parameter names, and so the order in the file, do not depend on what was built before
            assembly = assemble(cfg, weights=weights)
        spec = _spec(assembly, input_shape, output_op, formats)
        return export_nets(assembly.nets, save_dir, spec)
    finally:
        use_device(device)


def _spec(
    assembly: Assembly,
    input_shape: Sequence[int] | None,
    output_op: str | None,
    formats: Sequence[str] | None,
) -> Spec:
    from ppvision.models.zoo import ZOO

    cfg = assembly.cfg
    shape = list(input_shape or cfg.export.input_shape)
    shapes = dict(cfg.export.shapes or {})
    if any(side != -1 for i, side in enumerate(shape) if i != 1):
        shapes["image"] = shape
    mean, std = assembly.statistics
    return Spec(
        model_name=cfg.model.type,
        task_name=assembly.task_name,
        task=assembly.task,
        mean=mean,
        std=std,
        shapes=shapes,
        output_op=output_op or cfg.export.output_op,
        formats=tuple(formats or cfg.export.formats),
        strict=formats is not None,
        example=ZOO[cfg.model.type].example if cfg.model.type in ZOO else (512, 512),
        tolerance=cfg.export.tolerance,
        agreement=cfg.export.agreement,
        transforms=[dict(c.spec) for c in cfg.data.val.transforms] if cfg.data.val is not None else [],
        batches=examples.batches(assembly.task, validation_set(cfg), assembly.transform),
        save_name=cfg.export.save_name,
        legacy=legacy_writer(cfg, assembly.weights, shapes),
    )


def export_layer(net: nn.Layer, save_dir: str | os.PathLike, spec: Spec) -> Path:
    """Export one network; see `export`."""
    return export_nets({"model": net}, save_dir, spec)


def export_nets(nets: Mapping[str, nn.Layer], save_dir: str | os.PathLike, spec: Spec) -> Path:
    """Export networks that are built already; see `export`."""
    _check_formats(spec.formats)
    calls = examples.calls(nets, spec.task, spec.batches, (spec.mean, spec.std))
    inputs = {name: resolved(inputs_of(net), _shapes_of(net, spec.shapes, len(nets))) for name, net in nets.items()}
    folder = Path(save_dir)
    with staging_folder(folder) as staging:
        parts = {}
        for name, net in nets.items():
            place = staging if len(nets) == 1 else staging / name
            place.mkdir(exist_ok=True)
            net.eval()
            parts[name] = _make(name, net, place, spec, inputs[name], calls[name])
        deployment = _deployment(staging, spec, nets, parts)
        deployment.write()
        for name in nets if len(nets) > 1 else ():
            (folder / name).mkdir(exist_ok=True)
            install(staging / name, folder / name, spec.save_name)
        install(staging, folder, spec.save_name)
    print(f"exported {spec.model_name} -> {folder}", flush=True)
    return folder


def _check_output_op(cfg: Config, kind: type[Task], output_op: str | None) -> None:
    """Refuse an ending that the task does not have; one of the recipe by file and line, or flag."""
    try:
        ending_of(kind, output_op or cfg.export.output_op)
    except UserError as error:
        if output_op is not None:
            raise
        raise UserError(f"{cfg.where('export.output_op')}: {error}") from None


def _check_formats(formats: Sequence[str]) -> None:
    for name in formats:
        if name not in FORMATS:
            raise UserError(f"export: no format '{name}'{did_you_mean(name, FORMATS)} (formats: {', '.join(FORMATS)})")


def _shapes_of(net: nn.Layer, shapes: Mapping[str, Sequence[int]], num_parts: int) -> Mapping[str, Sequence[int]]:
    """The shapes that concern a network: of several each takes those that it knows."""
    if num_parts == 1:
        return shapes
    known = inputs_of(net)
    names = {*known, *(graph_name(name) for name in known)}
    return {name: shape for name, shape in shapes.items() if name in names}


def _make(
    name: str,
    net: nn.Layer,
    staging: Path,
    spec: Spec,
    inputs: Mapping[str, Input],
    calls: Sequence[examples.Arrays],
) -> Part:
    """Write the graphs of one network into `staging`, compare them, and say what is there."""
    stem = spec.save_name
    output_op, ending = ending_of(spec.task, spec.output_op, name)
    for transform in spec.transforms:
        if transform["type"] not in TRANSFORMS:
            logger.warning(
                "transform '%s' is not in ppvision.data.TRANSFORMS: the Predictor refuses it in a deploy.yaml",
                transform["type"],
            )
    cases = examples.cases(net, inputs, calls, spec.example)
    reference = Deployed(net, spec.mean, spec.std)
    given = _eager(reference)(cases[-1])
    outputs = ending.outputs(given)
    product = Deployed(net, spec.mean, spec.std, ending)
    product.eval()
    shipped = list(_eager(product)(cases[-1]))
    if shipped != [output.name for output in outputs]:
        declared = ", ".join(output.name for output in outputs)
        raise UserError(f"export: ending {output_op} declares {declared}, but gives {', '.join(shipped)}")
    save_static(product, staging / stem, inputs, [output.name for output in outputs])
    check_graph(staging / stem)
    check_parameters(net, staging / stem)
    raw, raw_stem = product, staging / stem
    chooses = _chooses(net, cases[-1], spec)
    if output_op != "none" or chooses:
        raw, raw_stem = Deployed(net, spec.mean, spec.std, explain=chooses), staging / "raw" / stem
        raw.eval()
        raw_stem.parent.mkdir()
        save_static(raw, raw_stem, inputs, list(_eager(raw)(cases[-1])))
        check_graph(raw_stem)
        sizes = [path.with_name(f"{stem}.pdiparams").stat().st_size for path in (staging / stem, raw_stem)]
        if sizes[0] != sizes[1]:
            raise RunError(
                f"export: {stem}.pdiparams has {sizes[0]} bytes, its second copy {sizes[1]}; is the disk full?"
            )
    missing = _compare(raw, product, raw_stem, staging / stem, cases, spec, chooses)
    if "pdmodel" in spec.formats:
        _add_legacy(name, staging, spec, output_op)
    shutil.rmtree(staging / "raw", ignore_errors=True)
    if missing:
        logger.debug("not in the export: %s", missing)
    files = sorted(p for p in staging.iterdir() if p.is_file() and p.name.startswith(f"{stem}."))
    return Part(
        folder=staging,
        stem=stem,
        inputs=inputs,
        outputs=outputs,
        output_op=output_op,
        options=ending.options(),
        shape_profile=examples.profile(inputs, calls),
        tolerance={"relative_error": float(spec.tolerance), "agreement": float(spec.agreement)},
        sha256={path.name: sha256(path) for path in files},
    )


def _compare(
    raw: Deployed,
    product: Deployed,
    raw_stem: Path,
    product_stem: Path,
    cases: Sequence[Mapping[str, np.ndarray]],
    spec: Spec,
    chooses: bool,
) -> dict[str, str]:
    """Run the parity table, leave `parity.json`, and say which optional files are missing and why.

    Raises:
        RunError: a backend that must agree does not.
    """
    graphs, missing = _with_onnx(raw_stem, product_stem, spec)
    rows = parity.run(
        _eager(raw),
        _eager(product),
        *graphs,
        cases,
        task=spec.task,
        tolerance=spec.tolerance,
        chooses=chooses,
    )
    refused = parity.faults(rows, spec.tolerance, spec.agreement)
    print(parity.table(rows), flush=True)
    if "onnx" in refused:
        onnx = product_stem.with_name(f"{product_stem.name}.onnx")
        _without(onnx, f"{onnx.name} refused: {refused['onnx']}", spec.strict)
        missing["onnx"] = refused["onnx"]
    fatal = {name: reason for name, reason in refused.items() if name != "onnx"}
    if fatal:
        name, reason = next(iter(fatal.items()))
        raise RunError(f"export: {name} does not agree with the network: {reason}; nothing was written")
    source = "validation samples" if spec.batches else "seeded smooth noise"
    report = parity.report(rows, missing, spec.tolerance, spec.agreement, source)
    parity.write(product_stem.with_name("parity.json"), {"model_name": spec.model_name, **report})
    return missing


def _deployment(staging: Path, spec: Spec, nets: Mapping[str, nn.Layer], parts: Mapping[str, Part]) -> Deployment:
    labels = list(spec.task.class_names)
    if len(parts) == 1:
        # A network with another number of classes than the data set answers by number.
        net, part = next(iter(nets.values())), next(iter(parts.values()))
        labels = labels if _num_classes(net, part, spec) in (None, len(labels)) else []
    palette = spec.task.palette
    return Deployment(
        path=staging / "deploy.yaml",
        task=spec.task_name,
        model_name=spec.model_name,
        mean=spec.mean,
        std=spec.std,
        labels=labels,
        palette=palette.tolist() if labels and palette is not None else None,
        transforms=spec.transforms,
        options=spec.task.defaults(),
        parts=parts,
    )


def _num_classes(net: nn.Layer, part: Part, spec: Spec) -> int | None:
    """How many classes the first output counts; None where it does not."""
    case = examples.cases(net, part.inputs, (), spec.example)[-1]
    output = first(_eager(Deployed(net, spec.mean, spec.std))(case))
    return int(output.shape[spec.task.class_axis]) if output.ndim > 1 else None


def _chooses(net: nn.Layer, case: Mapping[str, np.ndarray], spec: Spec) -> bool:
    """Whether the network chooses queries by rank: then its graph is compared choice by choice (`parity.settled`)."""
    if not promises(net).offers("explained"):
        return False
    return "chosen" in _eager(Deployed(net, spec.mean, spec.std, explain=True))(case)


def _eager(layer: Deployed) -> Callable[..., dict[str, np.ndarray]]:
    def net(inputs: Mapping[str, np.ndarray], *choice: np.ndarray) -> dict[str, np.ndarray]:
        tensors = {name: paddle.to_tensor(array) for name, array in inputs.items()}
        with paddle.no_grad():
            outputs = layer.outputs(tensors, *(paddle.to_tensor(array) for array in choice))
        return {name: value.numpy() for name, value in named(outputs).items()}

    return net


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


def _add_legacy(name: str, staging: Path, spec: Spec, output_op: str) -> None:
    file = f"{spec.save_name}.pdmodel"
    version = ".".join(map(str, paddle_version()))
    try:
        if spec.legacy is None:
            raise UserError("needs a recipe, the graph is built again in another process")
        with tempfile.TemporaryDirectory(dir=staging) as folder:
            spec.legacy(Path(folder) / spec.save_name, name, output_op)
            params = f"{spec.save_name}.pdiparams"
            if sha256(Path(folder) / params) != sha256(staging / params):
                raise UserError("its parameter file differs from that of the PIR graph")
            os.replace(Path(folder) / file, staging / file)
    except UserError as error:
        _without(staging / file, f"{file} not written: {error} (Paddle {version}; use Paddle 3.1)", spec.strict)
