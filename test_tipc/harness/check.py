"""`tipc.py check`: every txt against both parsers, and every command against the parser of its target."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from . import prepare, recipe
from .benchmark import benchmark_plan
from .other_modes import onnx_plan, static_plan
from .plan import Plan, plan
from .recipe import TxtError

MANY = 64  # cards, so that nothing is left out for want of a device
PATTERNS = ("*train_infer_python.txt", "train_*.txt", "*paddle2onnx*.txt")


def find(root: str = "test_tipc/configs", mode: str | None = None) -> list[str]:
    """The txt files below a folder, of one mode or of all."""
    if mode is None:
        patterns: Sequence[str] = PATTERNS
    elif mode == "paddle2onnx_infer":
        patterns = PATTERNS[2:]
    else:
        patterns = ("train_dy2static_python.txt",) if mode == "dy2static" else PATTERNS[:1]
    return sorted({str(path) for pattern in patterns for path in Path(root).rglob(pattern)})


def plans(path: str, mode: str, gpu_id: str = "", gpus: int = 0) -> Plan:
    """The plan of any mode."""
    from .plan import on_device

    if mode == "dy2static":
        return static_plan(recipe.read_sections(path), gpus)
    if mode == "paddle2onnx_infer":
        return onnx_plan(recipe.read(path))
    known = on_device(recipe.read(path))
    if mode == "benchmark_train":
        return benchmark_plan(known, gpu_id, gpus=gpus)
    if mode not in recipe.TRAIN_MODES + recipe.INFER_MODES:
        raise TxtError(f"unknown mode '{mode}' (modes: {', '.join(recipe.MODES)})")
    return plan(known, mode, gpu_id, gpus=gpus)


def check(paths: Sequence[str]) -> list[str]:
    """What is wrong with the files, one line each."""
    faults: list[str] = []
    commands: list[list[str]] = []
    origins: list[str] = []
    names: dict[str, str] = {}
    for path in paths:
        try:
            name, modes = recipe.describe(path)
            planned = [plans(path, mode, gpus=MANY) for mode in modes]
            made = prepare.data_command(path, modes[0])
        except TxtError as error:
            faults.append(str(error))
            continue
        faults += recipe.quirks(path)
        if names.setdefault(name, str(Path(path).parent)) != str(Path(path).parent):
            faults.append(f"{path}: model_name '{name}' is that of {names[name]} too; their outputs would meet")
        for argv in [made, *(step.argv for result in planned for step in result.steps)]:
            if argv not in commands:
                commands.append(argv)
                origins.append(path)
    return faults + [f"{origin}: {fault}" for origin, fault in _dry(commands, origins)]


def _dry(commands: Sequence[Sequence[str]], origins: Sequence[str]) -> list[tuple[str, str]]:
    """Parse every command as its script would, in a child process that may import ppvision."""
    child = Path(__file__).with_name("dry_parse.py")
    done = subprocess.run(
        [os.environ.get("TIPC_PYTHON") or sys.executable, str(child)],
        input=json.dumps([list(c) for c in commands]),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        return [("check", f"{child.name} ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")]
    return [(origins[i], fault) for i, fault in json.loads(done.stdout)]
