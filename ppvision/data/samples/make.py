"""Write a generated data set once: `ppvision data make`.

The set is written under a temporary name and renamed; a stamp says from which arguments, so that a second call with
the same ones has nothing to do and one with others replaces it. `{split}.list` names the images of a split, relative
to the folder, for tools that take a list.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
from pathlib import Path

from ppvision.data import DATASETS
from ppvision.data.samples.synthetic import GENERATORS
from ppvision.errors import UserError, did_you_mean
from ppvision.files import locked, new_folder

STAMP = ".ppvision-made.json"
REVISION = 1  # raised when a generator changes what it writes, so that older folders are written anew
SPLITS = ("train", "val")


def make(
    layout: str,
    root: str | os.PathLike,
    num_train: int = 20,
    num_val: int = 5,
    size: tuple[int, int] = (128, 256),
    seed: int = 0,
) -> bool:
    """Write a synthetic data set as `root`, unless it is there.

    Args:
        layout: a key of `ppvision.data.samples.synthetic.GENERATORS`.
        num_train, num_val: samples of the two splits.
        size: height and width of the pictures.

    Returns:
        Whether anything was written.

    Raises:
        UserError: no such generator; `root` holds something else, or cannot be written.
    """
    root = Path(root)
    if layout not in GENERATORS:
        raise UserError(
            f"no synthetic data in the layout '{layout}'{did_you_mean(layout, GENERATORS)}"
            f" (there are: {', '.join(sorted(GENERATORS))})"
        )
    if min(num_train, num_val) < 1 or min(size) < 1:
        raise UserError(f"data make: at least one sample per split and one pixel, got {num_train}, {num_val}, {size}")
    stamp = {
        "layout": layout,
        "train": num_train,
        "val": num_val,
        "size": list(size),
        "seed": seed,
        "revision": REVISION,
    }
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with locked(root.parent):
            if _is_current(root, stamp):
                return False
            with new_folder(root, durable=False) as new:
                _generator(layout)(new, num_train, num_val, tuple(size), seed=seed)
                for split in SPLITS:
                    _write_list(layout, new, split)
                (new / STAMP).write_text(json.dumps(stamp) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"data make: cannot write {root} ({error.strerror or error})") from None
    return True


def _is_current(root: Path, stamp: dict) -> bool:
    if not root.exists():
        return False
    try:
        return json.loads((root / STAMP).read_text(encoding="utf-8")) == stamp
    except (OSError, ValueError):
        if root.is_dir() and not any(root.iterdir()):
            shutil.rmtree(root)
            return False
        raise UserError(
            f"{root} exists and was not made by `data make` (no {STAMP}); move it or choose another --root"
        ) from None


def _generator(layout: str):
    module, _, function = GENERATORS[layout].partition(":")
    return getattr(importlib.import_module(module), function)


def _write_list(layout: str, root: Path, split: str) -> None:
    path = root / f"{split}.list"
    if path.exists():
        return
    module, _, name = DATASETS[layout].partition(":")
    dataset = getattr(importlib.import_module(module), name)(str(root), split)
    lines = [Path(dataset.name(i)).relative_to(root).as_posix() for i in range(len(dataset))]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
