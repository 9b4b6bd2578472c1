"""Checkpoints that survive a crash: a folder per step, written aside, checksummed, fsynced, renamed.

    <run>/iter_500/  model.pdparams    what was evaluated (the EMA if one is kept); keys of the network, with
                                       several deployables behind "<name>."
                     method.pdparams   raw weights and the rest of the Method, without its frozen parts
                     optimizer.pdopt   accumulators by structured parameter name
                     ema.pdparams      the EMA, if kept
                     config.yml        the resolved recipe
                     state.json        step, best score, log sums, scaler, versions, sources of frozen parts
                     SHA256SUMS        of all the above, written last
    <run>/best_model -> iter_400, <run>/latest -> iter_500    relative links

A kill at any moment leaves either the whole new folder or none: what lies under the temporary name is ignored and
removed. Reading goes through `ppvision.weights.read`, which executes nothing.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ppvision import weights
from ppvision.errors import RunError, UserError
from ppvision.files import new_folder, remove, sha256
from ppvision.version import __version__

STEP = re.compile(r"iter_(\d+)")
SUMS = "SHA256SUMS"
# everything a run may leave in its folder, so that starting anew removes that and nothing else
RUN_FILES = ("best_model", "latest", "log.jsonl", "train.log", "config.yml", "vdl", "pictures", "fault.npz", "profile")


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint folder and its `state.json`."""

    folder: Path
    state: dict[str, Any]

    def arrays(self, name: str) -> dict[str, Any]:
        """Arrays of one of the folder's files."""
        return weights.read(self.folder / name)


def save(
    run_dir: Path,
    step: int,
    files: Mapping[str, Mapping[str, Any]],
    state: Mapping[str, Any],
    *,
    keep: int,
    best_step: int | None,
    texts: Mapping[str, str] | None = None,
) -> Path:
    """Write `iter_<step>`, then point `best_model` and `latest`, then delete all but the newest `keep` (never best or
    latest).

    Args:
        run_dir: the run folder.
        step: number of updates made.
        files: file name -> arrays or tensors by key.
        state: what goes to `state.json`.
        keep: how many step folders stay.
        best_step: step of the best score so far, if any.
        texts: further files, name -> text (the resolved recipe).

    Raises:
        RunError: the disk is full; earlier checkpoints are intact.
    """
    target = run_dir / f"iter_{step}"
    try:
        with new_folder(target) as aside:
            for name, arrays in files.items():
                paddle.save(dict(arrays), str(aside / name))
            for name, text in (texts or {}).items():
                (aside / name).write_text(text)
            (aside / "state.json").write_text(json.dumps(state, indent=1, sort_keys=True) + "\n")
            lines = [f"{sha256(p)}  {p.name}\n" for p in sorted(aside.iterdir())]
            (aside / SUMS).write_text("".join(lines))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(f"{target}: cannot be saved ({(error.strerror or str(error)).lower()})") from error
        previous = steps(run_dir)
        kept = f"iter_{previous[-1]} is intact" if previous else "no checkpoint was written before"
        raise RunError(
            f"{target}: no space left while saving; {kept}. Free space and continue with --resume"
        ) from error
    if best_step is not None:
        link(run_dir, "best_model", best_step)
    link(run_dir, "latest", step)
    prune(run_dir, keep, {step} | ({best_step} if best_step is not None else set()))
    return target


def link(run_dir: Path, name: str, step: int) -> None:
    """Point a relative link at a step folder, atomically."""
    aside = run_dir / f".{name}"
    with contextlib.suppress(FileNotFoundError):
        aside.unlink()
    aside.symlink_to(f"iter_{step}")
    os.replace(aside, run_dir / name)


def prune(run_dir: Path, keep: int, protected: Iterable[int]) -> None:
    """Delete the oldest step folders beyond `keep`, and what an interrupted save left."""
    protected = set(protected)
    for step in steps(run_dir)[: -max(keep, 1)]:
        if step not in protected:
            remove(run_dir / f"iter_{step}")
    sweep(run_dir)


def rewind(run_dir: Path, step: int) -> None:
    """Forget the steps after `step`: a run resumed there takes another way, and must not later continue from the old
    one.
    """
    for later in steps(run_dir):
        if later > step:
            remove(run_dir / f"iter_{later}")
    for name in ("best_model", "latest"):
        if (run_dir / name).is_symlink() and not (run_dir / name).exists():
            (run_dir / name).unlink()


def bring(source: Path, run_dir: Path) -> None:
    """Copy a step folder of another run, so that a kill leaves all of it or nothing."""
    with new_folder(run_dir / source.name) as aside:
        shutil.copytree(source, aside, dirs_exist_ok=True)


def sweep(run_dir: Path) -> None:
    """Delete what an interrupted save or removal left."""
    for pattern in (".writing_iter_*", ".removing_iter_*"):
        for leftover in run_dir.glob(pattern):
            shutil.rmtree(leftover, ignore_errors=True)


def steps(run_dir: Path) -> list[int]:
    """Steps of the folders present, ascending."""
    if not run_dir.is_dir():
        return []
    return sorted(int(m[1]) for p in run_dir.iterdir() if (m := STEP.fullmatch(p.name)) and p.is_dir())


def fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint folder, on one line, or None when every file matches its checksum."""
    sums = folder / SUMS
    if not sums.is_file():
        return f"{folder}: has no {SUMS}, so it was not written to the end"
    listed = set()
    for line in sums.read_text(errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        path = folder / name
        if not path.is_file():
            return f"{path}: is missing"
        if sha256(path) != digest:
            return f"{path}: sha256 differs from {SUMS}"
        listed.add(name)
    if "state.json" not in listed:
        return f"{sums}: is damaged (it does not list state.json)"
    try:
        json.loads((folder / "state.json").read_text())
    except ValueError:
        return f"{folder / 'state.json'}: is not valid JSON"
    return None


def newest(run_dir: Path, warn: Any = print, below: int | None = None) -> Checkpoint | None:
    """The newest intact checkpoint of a run folder, or None when there is none at all.

    Args:
        run_dir: the run folder.
        warn: called with one line for each damaged folder that is passed over.
        below: only look at earlier steps than this.

    Raises:
        UserError: there are checkpoints, all damaged.
    """
    damaged = []
    found = [step for step in steps(run_dir) if below is None or step < below]
    for i, step in enumerate(reversed(found)):
        folder = run_dir / f"iter_{step}"
        why = fault(folder)
        if why is None:
            for line in damaged:
                warn(f"{line}; using {folder.name} (delete the damaged folder to silence this)")
            return Checkpoint(folder, json.loads((folder / "state.json").read_text()))
        damaged.append(why)
        if i == len(found) - 1:
            raise UserError(f"{damaged[0]}; no intact checkpoint in {run_dir} (start afresh with --overwrite)")
    return None


def find(resume: str, run_dir: Path, warn: Any = print) -> Checkpoint | None:
    """The checkpoint a `train.resume` value means.

    Args:
        resume: `auto` (the newest of the run folder, None when there is none), a step folder, a run folder, or any
            file or prefix inside
            a step folder.
        run_dir: this run's folder.
        warn: see `newest`.

    Raises:
        UserError: nothing is there.
    """
    if resume == "auto":
        return newest(run_dir, warn)
    path = Path(resume)
    for folder in (path, path.parent):
        if (folder / "state.json").is_file():
            why = fault(folder)
            if why is None:
                return Checkpoint(folder, json.loads((folder / "state.json").read_text()))
            match = STEP.fullmatch(folder.resolve().name)
            below = int(match[1]) if match else None
            earlier = newest(folder.resolve().parent, lambda line: None, below) if below is not None else None
            if earlier is None:
                raise UserError(f"{why}; there is no earlier intact checkpoint beside it")
            warn(f"{why}; using {earlier.folder.name}")
            return earlier
    checkpoint = newest(path, warn)
    if checkpoint is None:
        raise UserError(f"train.resume: no checkpoint at '{resume}' (give a run folder, an iter_* folder or 'auto')")
    return checkpoint


def clear(run_dir: Path) -> None:
    """Remove what an earlier run left in its folder, and nothing else."""
    for step in steps(run_dir):
        remove(run_dir / f"iter_{step}")
    for name in RUN_FILES:
        path = run_dir / name
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.is_dir():
            shutil.rmtree(path)
    sweep(run_dir)


def versions() -> dict[str, str]:
    """Versions that a checkpoint records."""
    return {
        "ppvision": __version__,
        "paddle": paddle.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
