"""Where an export is made, and how it gets into place: no reader meets half of one, and other files stay."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ppvision.errors import RunError, UserError
from ppvision.files import move

FULL = 1 << 16  # bytes free: below, nothing more can be written
SUFFIXES = (".json", ".pdiparams", ".onnx", ".pdmodel")


@contextlib.contextmanager
def staging_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder inside `folder` that goes away at the end; a full disk is told as such."""
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".export-", dir=folder))
    except OSError as error:
        _remove_empty(created)
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from None
    try:
        yield staging
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


def install(staging: Path, folder: Path, stem: str) -> None:
    """Move the files of `staging` into `folder`; those of an earlier export that this one does not have go away."""
    # First the yaml goes, last it comes: a program that finds one finds files that belong to it.
    (folder / "deploy.yaml").unlink(missing_ok=True)
    for name in [*(f"{stem}{suffix}" for suffix in SUFFIXES), "parity.json", "deploy.yaml"]:
        if (staging / name).exists():
            move(staging / name, folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
