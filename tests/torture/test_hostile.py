"""All hostile weight files, as in `tools/torture.py weights`."""

from __future__ import annotations

import hostile
import numpy as np
import pytest


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    marker = folder / "ran"
    (folder / "files").mkdir()
    for name, raw in (hostile.files(marker, np.random.default_rng(0)) | hostile.control()).items():
        (folder / "files" / name).write_bytes(raw)
    found = {}
    for verdict in hostile.check_all(folder / "files"):
        found[verdict["file"]] = (verdict, hostile.faults(verdict, marker))
    return found


NAMES = list(hostile.files(hostile.Path("/nowhere/ran"), np.random.default_rng(0)))


def test_there_are_thirty():
    assert len(NAMES) >= 30


@pytest.mark.parametrize("name", NAMES)
def test_refused_on_one_line(verdicts, name):
    verdict, faults = verdicts[name]
    assert faults == [], verdict


@pytest.mark.parametrize("name", hostile.control())
def test_a_good_file_of_the_same_making_is_read(verdicts, name):
    assert verdicts[name][0]["kind"] == "read", verdicts[name][0]


class TestTheCheck:
    """It must be able to fail."""

    def verdict(self, **change):
        good = {"file": "x.pth", "kind": "refused", "message": "/tmp/x.pth: is empty", "seconds": 0.1, "memory": 0}
        return good | change

    def test_a_refusal_is_fine(self, tmp_path):
        assert hostile.faults(self.verdict(), tmp_path / "ran") == []

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"kind": "read", "message": "1 arrays"}, "was read"),
            ({"kind": "KeyError", "message": "w"}, "KeyError w"),
            ({"kind": "killed by SIGALRM"}, "killed by SIGALRM"),
            ({"message": "is empty"}, "not one line that names the file"),
            ({"message": "x.pth\nis empty"}, "not one line that names the file"),
            ({"memory": 1 << 30}, "took 1024 MB of memory"),
        ],
    )
    def test_anything_else_is_not(self, tmp_path, change, message):
        assert any(message in fault for fault in hostile.faults(self.verdict(**change), tmp_path / "ran"))

    def test_a_marker_is_seen(self, tmp_path):
        (tmp_path / "ran").touch()
        assert hostile.faults(self.verdict(), tmp_path / "ran") == ["ran what the file asks for"]

    def test_the_files_would_run_in_an_ordinary_unpickler(self, tmp_path):
        """They are hostile indeed: what Python's own loader does with two of them."""
        import subprocess
        import sys

        content = hostile.files(tmp_path / "ran", np.random.default_rng(0))
        for name in ("os_system.pdparams", "stack_global.pdparams", "inst.pdparams", "getattr_chain.pdparams"):
            (tmp_path / name).write_bytes(content[name])
            code = f"import pickle; pickle.{'load'}(open({str(tmp_path / name)!r}, 'rb'))"
            subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=300)
            assert (tmp_path / "ran").exists(), name
            (tmp_path / "ran").unlink()
