"""`prepare.sh`: generated data and, where a mode needs them, seeded weights. Nothing is installed unless
`TIPC_INSTALL=1`, nothing is downloaded."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from . import recipe as recipes
from .recipe import Recipe, TxtError

SIZES = {"lite": (20, 5), "whole": (200, 50), "benchmark": (300, 5)}  # samples to train and to validate on, by mode
SIBLING = "train_infer_python.txt"


def prepare(path: str, mode: str) -> int:
    """Make what `mode` needs of the txt.

    Returns:
        Exit status of the first command that failed, or 0.

    Raises:
        TxtError: the txt says neither itself nor in the file beside it how its data are made.
    """
    if os.environ.get("TIPC_INSTALL") == "1":
        status = _run(["python", "-m", "pip", "install", "--editable", ".[cpu,onnx]"])
        if status:
            return status
    status = _run(data_command(path, mode))
    for config, weights in seeds(path, mode):
        if status == 0 and not Path(weights).is_file():
            print(f"no weights at {weights}: writing seeded ones, which were never trained", flush=True)
            status = _run(["python", "test_tipc/seed_weights.py", "--config", config, "--output", weights])
    return status


def data_command(path: str, mode: str) -> list[str]:
    """The command that makes the data: the section `data_params` of the txt or of the training txt beside it."""
    for file in (Path(path), Path(path).with_name(SIBLING)):
        if not file.is_file() or "dy2static" in file.name:
            continue
        if command := recipes.read(file).command("data"):
            train, val = SIZES[mode.partition("_")[0]] if mode.partition("_")[0] in SIZES else SIZES["lite"]
            return ["python", *shlex.split(command), f"--train={train}", f"--val={val}"]
    raise TxtError(f"{path}: no section data_params ('data:<command>') here or in {SIBLING}")


def seeds(path: str, mode: str) -> list[tuple[str, str]]:
    """Recipe and place of the weights that a mode starts from without having trained them."""
    if mode in recipes.INFER_MODES:
        recipe = recipes.read(path)
        pairs = zip(recipe.items(38), recipe.items(37))
        return [(_config(recipe, export), weights) for export, weights in pairs if export != "null"]
    if mode == "paddle2onnx_infer":
        recipe = recipes.read(path)
        weights = recipe.value(5)
        return [(_config(recipe, recipe.value(4)), weights)] if weights.endswith(".pdparams") else []
    return []


def _config(recipe: Recipe, command: str) -> str:
    words = shlex.split(command)
    if "--config" not in words[:-1]:
        raise TxtError(f"{recipe.path}: '{command}' names no --config")
    return words[words.index("--config") + 1]


def _run(argv: list[str]) -> int:
    print(shlex.join(argv), flush=True)
    python = os.environ.get("TIPC_PYTHON") or sys.executable
    return subprocess.run([python, *argv[1:]], stdin=subprocess.DEVNULL).returncode
