"""What all tests share: one thread per worker and the command line's kernels, no package installed while they run, GPU
tests only where a GPU is, property tests without deadlines."""

from __future__ import annotations

import os
import sys

# Before the first import of Paddle, NumPy or paddle2onnx.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("POLYGRAPHY_AUTOINSTALL_DEPS", "0")

from pathlib import Path

import pytest
from hypothesis import settings

import ppvision  # noqa: F401  chooses the kernels, for the processes that tests start as well

# Deadlines are timed tests. What continuous integration draws is the same every time.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `gpu` where Paddle sees no CUDA device. Paddle is imported only if there are such tests."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import paddle

    if paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count():
        return
    for item in marked:
        item.add_marker(pytest.mark.skip(reason="Paddle sees no CUDA device"))


@pytest.fixture(autouse=True)
def same_start():
    """Initial weights must not depend on which tests ran before in the same process."""
    if "paddle" in sys.modules:
        sys.modules["paddle"].seed(0)


@pytest.fixture
def events(monkeypatch):
    """(what, name) of every flush and rename, in order."""
    events, names = [], {}
    opened, flushed, renamed = os.open, os.fsync, os.replace

    def note_open(path, *args, **kwargs):
        descriptor = opened(path, *args, **kwargs)
        names[descriptor] = Path(path).name
        return descriptor

    def note_flush(descriptor):
        events.append(("flushed", names.get(descriptor)))
        flushed(descriptor)

    def note_rename(source, target):
        events.append(("renamed", Path(target).name))
        renamed(source, target)

    monkeypatch.setattr(os, "open", note_open)
    monkeypatch.setattr(os, "fsync", note_flush)
    monkeypatch.setattr(os, "replace", note_rename)
    return events
