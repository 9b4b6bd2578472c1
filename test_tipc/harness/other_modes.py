"""The modes besides training and inference: paddle2onnx_infer and dy2static."""

from __future__ import annotations

import os
import posixpath
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from . import plan as planning
from .plan import OUTPUT, Plan, Step, argument
from .recipe import Line, Recipe, TxtError

STATIC = " --opts to_static_training=True"
RTOL = "1e-4"  # of the losses of dynamic and static training


def onnx_plan(recipe: Recipe, mode: str = "paddle2onnx_infer") -> Plan:
    """The commands of `test_paddle2onnx.sh <txt> [mode]`. The conversion counts only with a parity table beside it."""
    if recipe.kind != "paddle2onnx":
        raise TxtError(f"{recipe.path}: paddle2onnx_infer needs a file that starts with ===paddle2onnx_params===")
    folder = f"{OUTPUT}/{recipe.model_name}/{mode}"
    result = Plan(recipe, mode, folder, f"{folder}/results_paddle2onnx.log")
    onnx = recipe.value(8)
    argv = shlex.split(recipe.value(4))
    for position in range(5, 11):
        argv += argument(recipe.key(position), recipe.value(position))
    makes = [onnx, f"{posixpath.dirname(onnx)}/parity.json"]
    converted = result.add(Step("convert", argv, f"{folder}/trans_model.log", False, makes=makes))
    script = shlex.split(recipe.value(11))
    argv = [*shlex.split(recipe.value(3)), *script, *argument(recipe.key(13), recipe.value(13))]
    argv += argument(recipe.key(12), onnx)
    results = script[script.index("--save_dir") + 1] if "--save_dir" in script[:-1] else None
    images = recipe.value(13) if results else None
    log = f"{folder}/paddle2onnx_infer_cpu.log"
    result.add(Step("onnx_infer", argv, log, False, [converted], results=results, images=images))
    return result


def static_plan(sections: Mapping[str, Recipe], gpus: int, environment: Mapping[str, str] = os.environ) -> Plan:
    """The commands of `test_train_dy2static_python.sh <txt>`: every section is trained as written and again as a static
    graph, and the two series of losses are compared."""
    first = next(iter(sections.values()))
    folder = f"{OUTPUT}/{first.model_name}/dy2static"
    result = Plan(first, "dy2static", folder, f"{folder}/results_python.log")
    for name, recipe in sections.items():
        if recipe.model_name != first.model_name:
            raise recipe.fail(2, f"sections of one file have one model_name, got '{recipe.model_name}'")
        single = _changed(recipe, 4, "-1" if environment.get("TIPC_DEVICE") == "cpu" else "0")
        numbers, outputs = [], []
        for word, extra in (("dygraph", ""), ("dy2static", STATIC)):
            variant = _changed(single, 16, single.value(16) + extra)
            part = planning.plan(variant, "lite_train_lite_infer", gpus=gpus, environment=environment)
            if len(part.steps) != 1:
                raise recipe.fail(15, "a section of a dy2static file trains once: one device, precision and trainer")
            step = part.steps[0]
            step.argv = [w.replace(part.folder, folder) for w in step.argv]
            step.makes = [w.replace(part.folder, folder) for w in step.makes]
            step.log = f"{folder}/{name}_python_train_infer_{word}_output.txt"
            step.trainer = f"{name} {word}"
            step.environment = {**step.environment, "FLAGS_cudnn_deterministic": "True"}
            step.before = _writer(variant, f"{folder}/dy2static_{name}.txt")
            numbers.append(result.add(step))
            outputs.append(step.log)
        argv = [*shlex.split(recipe.value(3)), "test_tipc/extract_loss.py", "-v", "[TRAIN] epoch:"]
        argv += ["-e", "loss: {%f},", "--compare", *outputs, "--rtol", RTOL]
        result.add(Step("losses", argv, f"{folder}/{name}_diff_log.txt", False, numbers, trainer=name))
    return result


def _changed(recipe: Recipe, position: int, value: str) -> Recipe:
    lines = list(recipe.lines)
    line = lines[position]
    lines[position] = Line(line.number, f"{line.key}:{value}", line.key, value)
    return replace(recipe, lines=lines)


def _writer(recipe: Recipe, path: str):
    """Writes a section to a file of its own, for people to look at."""

    def write() -> None:
        texts = [line.text for line in recipe.lines[1:]]
        Path(path).write_text("\n".join(texts) + "\n", encoding="utf-8")

    return write
