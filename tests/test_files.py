"""ppvision.files: what is written is whole under its final name or not there; one process at a time holds a lock."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ppvision import files
from ppvision.errors import UserError


def test_sha256_of_more_than_one_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CHUNK", 5)
    (tmp_path / "f").write_bytes(b"0123456789ab")
    assert files.sha256(tmp_path / "f") == hashlib.sha256(b"0123456789ab").hexdigest()


class TestWrite:
    @pytest.mark.parametrize(
        "content",
        [
            "r\u00e9sum\u00e9\n",
            "r\u00e9sum\u00e9\n".encode(),
            lambda path: path.write_text("r\u00e9sum\u00e9\n", "utf-8"),
        ],
    )
    def test_replaces_in_the_order_that_a_power_cut_needs(self, tmp_path, events, content):
        (tmp_path / "a.json").write_text("old")
        files.write(tmp_path / "a.json", content)
        assert (tmp_path / "a.json").read_bytes() == b"r\xc3\xa9sum\xc3\xa9\n"
        assert events == [("flushed", ".writing_a.json"), ("renamed", "a.json"), ("flushed", tmp_path.name)]
        assert os.listdir(tmp_path) == ["a.json"]

    def test_a_failure_leaves_the_old_file_and_nothing_else(self, tmp_path):
        (tmp_path / "a.json").write_text("old")

        def fail(path):
            path.write_text("half")
            raise OSError(errno.ENOSPC, "full")

        with pytest.raises(OSError, match="full"):
            files.write(tmp_path / "a.json", fail)
        assert (tmp_path / "a.json").read_text() == "old" and os.listdir(tmp_path) == ["a.json"]

    def test_a_leftover_of_a_killed_writer_is_no_obstacle(self, tmp_path):
        (tmp_path / ".writing_a").write_text("half of something long")
        files.write(tmp_path / "a", lambda path: path.open("x").close())
        assert (tmp_path / "a").read_text() == "" and os.listdir(tmp_path) == ["a"]


class TestFolder:
    def test_all_is_flushed_before_it_has_its_name(self, tmp_path, events):
        with files.new_folder(tmp_path / "set") as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / "deep").write_text("1")
            (folder / "top").write_text("2")
            assert not (tmp_path / "set").exists()
        at = events.index(("renamed", "set"))
        assert {name for _, name in events[:at]} == {"deep", "sub", "top", ".writing_set"}
        assert events[at + 1 :] == [("flushed", tmp_path.name)]
        assert (tmp_path / "set" / "sub" / "deep").read_text() == "1"

    def test_not_durable_flushes_nothing(self, tmp_path, events):
        with files.new_folder(tmp_path / "set", durable=False) as folder:
            (folder / "top").write_text("2")
        assert events == [("renamed", "set")]

    def test_replaces_a_full_folder(self, tmp_path):
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "old").write_text("1")
        (tmp_path / ".writing_set").mkdir()
        (tmp_path / ".writing_set" / "left").write_text("of a killed writer")
        with files.new_folder(tmp_path / "set") as folder:
            (folder / "new").write_text("2")
        assert os.listdir(tmp_path) == ["set"] and os.listdir(tmp_path / "set") == ["new"]

    def test_a_failure_leaves_the_old_folder(self, tmp_path):
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "old").write_text("1")
        with pytest.raises(KeyboardInterrupt), files.new_folder(tmp_path / "set") as folder:
            (folder / "new").write_text("2")
            raise KeyboardInterrupt
        assert os.listdir(tmp_path) == ["set"] and os.listdir(tmp_path / "set") == ["old"]


class TestSync:
    @pytest.mark.parametrize("folder, number, passes", [(True, errno.EINVAL, True), (True, errno.EIO, False)])
    def test_a_folder_that_cannot_be_flushed(self, tmp_path, monkeypatch, folder, number, passes):
        def fail(descriptor):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fail)
        if passes:
            files.sync(tmp_path)
        else:
            with pytest.raises(OSError, match=os.strerror(number)):
                files.sync(tmp_path)
        (tmp_path / "f").touch()
        with pytest.raises(OSError, match=os.strerror(number)):  # a file has no such excuse
            files.sync(tmp_path / "f")


class TestLock:
    @pytest.mark.parametrize("name", ["", "lock"])
    def test_one_at_a_time(self, tmp_path, name):
        inside, most = [], []

        def work():
            with files.locked(tmp_path / name):
                inside.append(1)
                most.append(len(inside))
                threading.Event().wait(0.01)
                inside.pop()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most == [1] * 4

    def test_says_who_is_waited_for_in_vain(self, tmp_path):
        code = (
            "import sys; from ppvision.files import locked\n"
            f"with locked({str(tmp_path)!r}): print('held', flush=True); sys.stdin.read()"
        )
        owner = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[1])},
        )
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"{tmp_path}: another process has held this lock for 0 s"):
            with files.locked(tmp_path, 0):
                pass
        owner.communicate()
        with files.locked(tmp_path, 0):
            pass

    def test_a_child_forked_meanwhile_does_not_keep_it(self, tmp_path):
        """A loader's worker, say: it shares the descriptor, which closing here does not close there."""
        reading, writing = os.pipe()
        with files.locked(tmp_path):
            child = os.fork()
            if child == 0:
                os.close(writing)
                os.read(reading, 1)  # until the parent closes its end
                os._exit(0)
        try:
            with files.locked(tmp_path, 0):
                pass
        finally:
            os.close(writing)
            os.close(reading)
            os.waitpid(child, 0)

    def test_waits_on_while_the_owner_gets_on(self, tmp_path, monkeypatch):
        """Each change of what is watched starts the patience anew; when it stays, the wait ends."""
        clock, seen = [0.0], []
        monkeypatch.setattr(files.time, "monotonic", lambda: clock[0])
        monkeypatch.setattr(files.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + 1))

        def progress():
            seen.append(clock[0])
            return min(len(seen), 10)

        with files.locked(tmp_path), pytest.raises(UserError, match="for 3 s and makes no progress"):
            with files.locked(tmp_path, 3, watch=progress):
                pass
        assert clock[0] == 9 + 3

    def test_a_file_system_without_locks(self, tmp_path, monkeypatch):
        import fcntl

        def fail(*args):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(fcntl, "flock", fail)
        with pytest.raises(UserError, match="has no locks .*; use another folder"):
            with files.locked(tmp_path, hint="use another folder"):
                pass


class TestCache:
    def test_the_variable_wins(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("PPVISION_CACHE", raising=False)
        assert files.cache_folder("weights") == tmp_path / ".cache" / "ppvision" / "weights"
        monkeypatch.setenv("PPVISION_CACHE", "~/big")
        assert files.cache_folder("packages") == tmp_path / "big" / "packages"

    def test_no_home(self, monkeypatch):
        def fail():
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("PPVISION_CACHE", raising=False)
        monkeypatch.setattr(files.Path, "home", fail)
        with pytest.raises(UserError, match="no home folder to keep weights in: set PPVISION_CACHE"):
            files.cache_folder("weights")
