"""Files that survive a crash, and folders that several processes share.

What appears under its final name is whole: it is written under another name in the same folder, flushed to the disk,
renamed, and the folder is flushed, so that a kill or a power cut leaves the old content or the new one. A name under
which something is being written begins with `.writing_`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ppvision.errors import UserError

CHUNK = 1 << 20
POLL = 0.1  # seconds between two looks at a lock
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.EACCES, errno.EPERM)


def sha256(path: str | os.PathLike) -> str:
    """64 hexadecimal digits of a file's content, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def sync(path: str | os.PathLike) -> None:
    """Flush a file, or the names in a folder, to the disk; a file system that cannot do that to folders is no error."""
    folder = os.path.isdir(path)
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not (folder and error.errno in NO_FOLDER_SYNC):
            raise


def move(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Give a finished file, or a folder of files, its final name (on the same file system); a file of that name goes.

    Args:
        source: the file, or the folder; all below it is flushed first.
        target: its new path. A folder there must be removed before (see `remove`).
    """
    source, target = Path(source), Path(target)
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            sync(path)
    sync(source)
    os.replace(source, target)
    sync(target.parent)


def write(path: str | os.PathLike, content: str | bytes | Callable[[Path], Any]) -> None:
    """Write a file so that it is there whole or not at all. Where two may write it at once, hold a lock (`locked`).

    Args:
        path: the file; its folder must exist.
        content: text (stored as UTF-8), bytes, or a function that writes the file whose path it is given (with the
            suffix of `path`).
    """
    path = Path(path)
    aside = path.with_name(f".writing_{path.name}")
    aside.unlink(missing_ok=True)
    try:
        if isinstance(content, str):
            aside.write_text(content, "utf-8")
        elif isinstance(content, bytes):
            aside.write_bytes(content)
        else:
            content(aside)
        move(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def new_folder(target: str | os.PathLike, *, durable: bool = True) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of `target` when the block ends; an exception removes it.

    Args:
        target: its final path; what an earlier call left there is replaced. One writer at a time: hold a lock where
            there may be two.
        durable: flush every file to the disk first. False for what can be made again from thousands of small files.

    Yields:
        The folder under its temporary name, `.writing_<name>`.
    """
    target = Path(target)
    aside = target.with_name(f".writing_{target.name}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        yield aside
        if target.exists():
            remove(target)
        if durable:
            move(aside, target)
        else:
            os.replace(aside, target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def remove(folder: Path) -> None:
    """Delete a folder so that a kill leaves it whole or gone: renamed (to `.removing_<name>`) first, then emptied."""
    aside = folder.with_name(f".removing_{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(folder, aside)
    shutil.rmtree(aside)


@contextlib.contextmanager
def locked(
    path: str | os.PathLike, patience: float = 3600.0, *, watch: Callable[[], Any] | None = None, hint: str = ""
) -> Iterator[None]:
    """Only one process, and one thread of it, at a time gets here for `path`. The kernel frees the lock of one that
    dies.

    Args:
        path: a folder, or a lock file that is made if need be and stays: removing it would let one process lock the
            removed file and another a new one.
        patience: seconds to wait; 0 does not wait.
        watch: what the owner of the lock changes while it works (a size, a time); each change starts the wait anew.
        hint: what to do on a file system without locks.

    Raises:
        UserError: another process holds the lock; the file system has none.
        OSError: the lock file cannot be opened.
    """
    import fcntl

    flags = os.O_RDONLY if os.path.isdir(path) else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags, 0o666)
    try:
        seen, since = None, time.monotonic()
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                pass
            except OSError as error:
                raise UserError(
                    f"{path}: this file system has no locks ({error.strerror}){hint and '; '}{hint}"
                ) from None
            if watch is not None and (now := watch()) != seen:
                seen, since = now, time.monotonic()
            if time.monotonic() - since >= patience:
                raise UserError(
                    f"{path}: another process has held this lock for {patience:.0f} s and makes no progress; "
                    "end it (fuser shows it) and run again"
                )
            time.sleep(POLL)
        try:
            yield
        finally:
            # Closing would not do: a child forked meanwhile shares the lock and keeps it.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def cache_folder(kind: str) -> Path:
    """Where files from the web are kept: `$PPVISION_CACHE/<kind>`, by default `~/.cache/ppvision/<kind>`.

    Args:
        kind: "weights", "packages".

    Raises:
        UserError: there is no home folder and PPVISION_CACHE is not set.
    """
    if shared := os.environ.get("PPVISION_CACHE"):
        return Path(shared).expanduser() / kind
    try:
        return Path.home() / ".cache" / "ppvision" / kind
    except RuntimeError:  # a container run under a user id that has no entry and no HOME
        raise UserError(f"no home folder to keep {kind} in: set PPVISION_CACHE to a folder") from None
