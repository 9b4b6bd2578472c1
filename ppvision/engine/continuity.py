"""What may change when a run is continued, and what would make it another run.

A checkpoint holds the resolved recipe that made it. Whoever resumes with another batch size, network or schedule would
get a run that neither recipe describes, so such a difference ends the command; what only says how a run is watched,
kept or prolonged is told and taken over.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ppvision.config import Component, Config, load, resolve
from ppvision.config.component import schema
from ppvision.config.tree import leaves
from ppvision.errors import UserError
from ppvision.threads import KERNELS, THREADS

__all__ = ["check_arithmetic", "check_continuity", "differences"]

NO_MATTER = ("train.resume", "train.overwrite", "train.save_dir", "train.profiler", "train.threads", "model.weights")
HARMLESS = (
    "log",
    "eval",
    "export",
    "data.val",
    "data.workers",
    "data.skip_bad",
    "data.train.root",  # moved; another data set fails by its classes or its names
    *(f"train.{k}" for k in ("iters", "epochs", "save_interval", "keep", "early_stop", "max_bad_steps")),
    *(f"train.{k}" for k in ("device", "recompute", "to_static", "shard_optimizer")),
)
SHOWN = 5


def differences(cfg: Config, earlier: Config) -> tuple[dict[str, tuple[Any, Any]], dict[str, tuple[Any, Any]]]:
    """Leaves in which two recipes differ, key -> (earlier value, value now): those that break a run, and the harmless.

    Arguments that a recipe leaves out count with their defaults.
    """
    now, before = leaves(_whole(cfg)), leaves(_whole(earlier))
    changed = {
        key: (before.get(key), now.get(key))
        for key in dict.fromkeys([*now, *before])
        if now.get(key) != before.get(key) and not _below(key, NO_MATTER)
    }
    harmless = {key: pair for key, pair in changed.items() if _below(key, HARMLESS)}
    return {key: pair for key, pair in changed.items() if key not in harmless}, harmless


def check_continuity(
    cfg: Config, folder: Path, warn: Callable[[str], None], processes: tuple[int, int] = (1, 1)
) -> None:
    """Compare a recipe with the one that made a checkpoint.

    Args:
        cfg: the recipe to go on with.
        folder: of the checkpoint.
        warn: called with one line for differences that do no harm.
        processes: how many made the checkpoint, and how many there are now.

    Raises:
        UserError: going on would be another run; names the keys and the ways out.
    """
    try:
        earlier = load(folder / "config.yml")
        breaking, harmless = differences(cfg, earlier)
    except UserError as error:
        warn(f"{folder}: its recipe cannot be compared with this one ({error})")
        return
    before, now = earlier.train.batch_size, cfg.train.batch_size
    breaking.pop("train.batch_size", None)
    if before * processes[0] != now * processes[1]:  # what counts is the batch of all processes together
        sizes = [f"{n} in {p} processes" for n, p in zip((before, now), processes, strict=True)]
        breaking["train.batch_size"] = (before, now) if processes[0] == processes[1] else (sizes[0], sizes[1])
    if breaking:
        key = next(iter(breaking))
        raise UserError(
            f"{cfg.where(key)}: {folder} was made with {_shown(breaking)}; resume with the recipe that made it, start "
            f"anew with --overwrite, or start from its weights with --model_path {folder / 'model.pdparams'}"
        )
    if harmless:
        stretch = {"train.iters", "train.epochs"} & set(harmless)
        more = "; the schedule now spans the new length" if stretch and cfg.schedule.type != "constant" else ""
        warn(f"{folder} was made with {_shown(harmless)}{more}")


def check_arithmetic(
    state: Mapping[str, Any], folder: Path, now: tuple[int, str | None], warn: Callable[[str], None]
) -> None:
    """Compare what a CPU computed a checkpoint with, which decides the last bits of every sum, with what it computes
    with now. A checkpoint that does not say passes.

    Args:
        state: of the checkpoint.
        folder: of the checkpoint.
        now: threads and MKL kernels in force (`ppvision.threads.in_force`).
        warn: called with one line where they differ.
    """
    if "threads" not in state or "kernels" not in state:
        return
    before = (state["threads"], state["kernels"])
    if before != now:
        was, ours = (f"{THREADS}={threads} {KERNELS}={kernels or ''}" for threads, kernels in (before, now))
        warn(
            f"{folder} was made with {was} (now {ours}): the run goes on, but not bit for bit; "
            f"for that set {was} before the start (or --threads {before[0]})"
        )


def _shown(changes: Mapping[str, tuple[Any, Any]]) -> str:
    parts = [f"{key} {_brief(before)} (now {_brief(now)})" for key, (before, now) in list(changes.items())[:SHOWN]]
    return ", ".join(parts) + (f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else "")


def _brief(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _below(key: str, roots: Iterable[str]) -> bool:
    return any(key == root or key.startswith(f"{root}.") for root in roots)


def _whole(cfg: Config) -> dict[str, Any]:
    """The recipe with the defaults of what it names; `data.type` and `data.root` in the parts that use them."""
    whole = cfg.to_dict()
    for kind in ("model", "method", "optimizer", "schedule"):
        whole[kind] = _filled(kind, getattr(cfg, kind))
    for name in ("train", "val"):
        part = getattr(cfg.data, name)
        if part is not None:
            whole["data"][name] = {
                **_filled("dataset", part),
                "transforms": [_filled("transform", transform) for transform in part.transforms],
            }
    del whole["data"]["type"], whole["data"]["root"]
    return whole


def _filled(kind: str, component: Component) -> dict[str, Any]:
    try:
        parameters = schema(kind, resolve(kind, component.type)) if component.type else {}
    except UserError:  # the earlier recipe may name what is gone by now: then it differs anyway
        parameters = {}
    defaults = {k: p.default for k, p in parameters.items() if p.default is not inspect.Parameter.empty}
    return _plain({"type": component.type, **defaults, **component.spec})  # a change of type is told first


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
