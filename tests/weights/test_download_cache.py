"""Downloads and what they share: the disk, and other processes."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from web import BODY, CUT, ROOT, left, respond

from ppvision.errors import RunError, UserError
from ppvision.weights import download
from ppvision.weights.download import cached_path, fetch


class TestDisk:
    def test_too_small_is_said_before(self, server, cache, monkeypatch):
        monkeypatch.setattr(download.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
        url = server.url("/m.pdparams", respond())
        with pytest.raises(RunError, match=r"needs 300.0 kB and 1.0 kB are free.*PPVISION_CACHE"):
            fetch(url)
        assert left(cache) == set()

    def test_full_while_writing(self, server, cache):
        """/dev/full: every write fails as on a full disk."""
        url = server.url("/m.pdparams", respond())
        cache.mkdir(parents=True)
        Path(f"{cached_path(url)}.part").symlink_to("/dev/full")
        with pytest.raises(RunError, match=f"{cache}: no space left for .*{os.strerror(errno.ENOSPC)}.*PPVISION_CACHE"):
            fetch(url)
        assert left(cache) == set() and Path("/dev/full").exists()
        assert fetch(url).read_bytes() == BODY

    def test_full_half_way(self, server, cache):
        """A real limit on the size of files, in a process of its own."""
        url = server.url("/m.pdparams", respond())
        limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({CUT}, {CUT}))"
        run = process(url, limit)
        out = run.communicate(timeout=300)[0]
        assert run.returncode == 0 and re.search("RunError .*no space left.*File too large", out), out
        assert left(cache) == set()

    def test_folder_that_cannot_be_written(self, server, tmp_path):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(UserError, match="PPVISION_CACHE"):
            fetch(server.url("/m.pdparams", respond()), cache=tmp_path / "file")

    def test_cache_that_is_only_read(self, server, monkeypatch):
        """A hit writes nothing, so a shared read-only cache serves."""
        url = server.url("/m.pdparams", respond())
        path = fetch(url)
        before = {p: p.stat().st_mtime_ns for p in [path.parent, *path.parent.iterdir()]}
        assert fetch(url) == path
        assert before == {p: p.stat().st_mtime_ns for p in [path.parent, *path.parent.iterdir()]}


def process(url: str, before: str = "") -> subprocess.Popen:
    """Fetches `url` in another process, which prints the size of the file or the error."""
    code = f"""
import sys
from ppvision.errors import UserError
from ppvision.weights.download import fetch
{before}
try:
    print(fetch({url!r}).stat().st_size)
except UserError as e:
    print(type(e).__name__, e)
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    )


def wait_for(condition, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class TestProcesses:
    def test_one_downloads_the_others_wait(self, server, cache):
        url = server.url("/m.pdparams", respond(piece=CUT, pause=0.3))
        runs = [process(url) for _ in range(3)]
        assert [run.communicate(timeout=300)[0].strip() for run in runs] == [str(len(BODY))] * 3
        assert len(server.requests) == 1
        assert left(cache) == {"", ".json"}

    def test_threads_too(self, server):
        url = server.url("/m.pdparams", respond(piece=CUT, pause=0.05))
        found = []
        threads = [threading.Thread(target=lambda: found.append(fetch(url).read_bytes() == BODY)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        assert found == [True] * 4 and len(server.requests) == 1

    def test_killed_half_way(self, server, cache):
        """The lock of a dead process is free, and its bytes are not lost."""
        url = server.url("/m.pdparams", respond(piece=150_000, pause=0.3), respond())
        run = process(url)
        part = Path(f"{cached_path(url)}.part")
        try:
            wait_for(lambda: part.exists() and part.stat().st_size)
        finally:
            run.send_signal(signal.SIGKILL)
            run.communicate(timeout=300)
        assert left(cache) == {".part", ".part.json"}
        size = part.stat().st_size
        assert 0 < size < len(BODY)
        assert fetch(url).read_bytes() == BODY
        assert server.requests[1][1] == f"bytes={size}-"

    def test_a_stuck_owner_is_not_waited_for_forever(self, server, cache, monkeypatch):
        import fcntl

        monkeypatch.setattr(download, "MAX_WAIT", 0.1)
        url = server.url("/m.pdparams", respond())
        cache.mkdir(parents=True)
        path = cached_path(url)
        with open(path.with_name(f".{path.name}.lock"), "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(UserError, match="another process has held this lock"):
                fetch(url, timeout=0.01)
        assert not server.requests
        assert fetch(url).read_bytes() == BODY


def test_importing_brings_no_http_client():
    code = "import sys, ppvision.weights.download; print({'requests', 'paddle', 'tqdm'} & set(sys.modules))"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=env)
    assert run.stdout.strip() == "set()", run.stderr
