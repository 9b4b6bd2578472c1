"""Fetching: the pinned file and no other, nothing half-written, a second call does nothing, errors name the package."""

import dataclasses
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppvision.data.samples import fetch as module
from ppvision.data.samples import packages
from ppvision.data.samples.fetch import Sample, fetch
from ppvision.data.samples.packages import Package
from ppvision.errors import UserError


def wheel(folder: Path, name="toy_photos", version="1.0", files=None) -> Path:
    """A wheel as pip accepts it, with one picture."""
    picture = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), 7, np.uint8)).save(picture, "PNG")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
        for file, data in (files or {f"{name}/a.png": picture.getvalue()}).items():
            archive.writestr(file, data)
    return path


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A package index in a folder: real pip, no network. `shop.calls` counts its runs."""
    index = tmp_path / "index"
    path = wheel(index)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    package = Package("toy-photos", "1.0", hashlib.sha256(path.read_bytes()).hexdigest(), "MIT")

    def lay_out(folder, files):
        (folder / "deep").mkdir()
        (folder / "deep" / "a.png").write_bytes(files["toy-photos"].read("toy_photos/a.png"))

    monkeypatch.setitem(module.PACKAGES, "toy-photos", package)
    monkeypatch.setitem(module.SAMPLES, "toy", Sample("a toy (images)", ("toy-photos",), lay_out))

    class Shop:
        wheel, root, cache, calls = path, tmp_path / "data", tmp_path / "cache", []

        def fetch(self, name="toy"):
            return fetch(name, root=self.root, cache=self.cache)

    run = packages.run
    monkeypatch.setattr(packages, "run", lambda command, *a, **k: (Shop.calls.append(command), run(command, *a, **k)))
    return Shop()


def everything(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*")) if folder.exists() else []


def test_lays_out_with_licence_and_stamp(shop):
    folder = shop.fetch()
    assert folder == shop.root / "toy"
    assert everything(shop.root) == ["toy", "toy/.ppvision.json", "toy/LICENSE", "toy/deep", "toy/deep/a.png"]
    note = (folder / "LICENSE").read_text()
    assert "toy-photos 1.0 (PyPI)" in note and "MIT" in note and module.PACKAGES["toy-photos"].sha256 in note
    assert "toy_photos" not in sys.modules


def test_second_call_does_nothing(shop):
    before = {p: p.stat().st_mtime_ns for p in shop.fetch().rglob("*")}
    assert len(shop.calls) == 1
    shop.wheel.unlink()
    assert {p: p.stat().st_mtime_ns for p in shop.fetch().rglob("*")} == before
    assert len(shop.calls) == 1


def test_deleted_file_is_restored_from_the_cache(shop):
    folder = shop.fetch()
    (folder / "deep" / "a.png").unlink()
    shop.wheel.unlink()  # the cache is enough
    assert (shop.fetch() / "deep" / "a.png").exists()
    assert len(shop.calls) == 1


def test_new_revision_is_laid_out_anew(shop, monkeypatch):
    folder = shop.fetch()
    (folder / "stale").write_text("")
    newer = dataclasses.replace(module.SAMPLES["toy"], revision=2)
    monkeypatch.setitem(module.SAMPLES, "toy", newer)
    assert not (shop.fetch() / "stale").exists()
    assert json.loads((folder / ".ppvision.json").read_text())["revision"] == 2


def test_another_file_under_the_same_name_is_refused(shop):
    with zipfile.ZipFile(shop.wheel, "a") as archive:
        archive.writestr("toy_photos/extra.txt", "x")
    with pytest.raises(UserError, match=r"toy-photos 1.0 \(PyPI\): .*has sha256 [0-9a-f]{64}, expected [0-9a-f]{64}"):
        shop.fetch()
    assert everything(shop.root) == [] and everything(shop.cache) == ["packages"]


def test_altered_cache_is_fetched_again(shop):
    folder = shop.fetch()
    (kept,) = (p for p in (shop.cache / "packages").iterdir())
    kept.write_bytes(b"not the wheel")
    shutil.rmtree(folder)
    assert shop.fetch().is_dir() and len(shop.calls) == 2
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == module.PACKAGES["toy-photos"].sha256


def test_missing_package_is_named_with_pips_reason(shop):
    shop.wheel.unlink()
    with pytest.raises(UserError, match=r"toy-photos 1.0 \(PyPI\) cannot be fetched: pip says: ERROR: .*toy-photos"):
        shop.fetch()
    assert everything(shop.root) == []


def test_unreachable_index_ends_quickly_and_names_the_package(shop, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: refused at once
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    with pytest.raises(UserError, match=r"toy-photos 1.0 \(PyPI\) cannot be fetched"):
        shop.fetch()
    assert everything(shop.root) == []


def test_failure_while_laying_out_leaves_the_old_data(shop, monkeypatch):
    folder = shop.fetch()

    def broken(new, files):
        (new / "half").write_text("")
        files["toy-photos"].read("toy_photos/b.png")

    monkeypatch.setitem(module.SAMPLES, "toy", Sample("", ("toy-photos",), broken, revision=9))
    before = everything(shop.root)
    with pytest.raises(UserError, match="toy-photos 1.0 .PyPI. holds no 'toy_photos/b.png'"):
        shop.fetch()
    assert everything(shop.root) == before and (folder / "deep" / "a.png").exists()


def test_kill_while_laying_out_leaves_nothing_behind(tmp_path):
    code = """
import os, signal, sys
from ppvision.data.samples import fetch
def lay_out(folder, files):
    (folder / "half").write_text("")
    os.kill(os.getpid(), signal.SIGKILL)
fetch.SAMPLES["street_mini"] = fetch.Sample("", (), lay_out)
fetch.fetch("street_mini", root=sys.argv[1])
"""
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -9
    assert not (tmp_path / "street_mini").exists()
    folder = fetch("street_mini", root=tmp_path)
    assert not (folder / "half").exists() and [p.name for p in tmp_path.iterdir()] == ["street_mini"]


def test_folder_of_somebody_else_is_not_touched(shop):
    (shop.root / "toy").mkdir(parents=True)
    (shop.root / "toy" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="toy exists and was not made by `data fetch`"):
        shop.fetch()
    assert everything(shop.root) == ["toy", "toy/thesis.txt"]


def test_empty_folder_is_used(shop):
    (shop.root / "toy").mkdir(parents=True)
    assert (shop.fetch() / "deep" / "a.png").exists()


def test_root_that_is_a_file(shop):
    shop.root.write_text("")
    with pytest.raises(UserError, match="data fetch toy: cannot write"):
        shop.fetch()


def test_not_a_wheel(shop, monkeypatch):
    shop.wheel.write_bytes(b"PK but not really")
    monkeypatch.setattr(
        packages, "run", lambda command, *a, **k: shutil.copy(shop.wheel, command[command.index("--dest") + 1])
    )
    digest = hashlib.sha256(shop.wheel.read_bytes()).hexdigest()
    monkeypatch.setitem(
        module.PACKAGES, "toy-photos", dataclasses.replace(module.PACKAGES["toy-photos"], sha256=digest)
    )
    with pytest.raises(UserError, match="toy-photos 1.0 .* is not a wheel"):
        shop.fetch()


def test_two_at_once_do_the_work_once(shop):
    results = []
    threads = [threading.Thread(target=lambda: results.append(shop.fetch())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [shop.root / "toy"] * 3 and len(shop.calls) == 1


def test_unknown_name():
    with pytest.raises(UserError, match="no sample data 'baer'; did you mean 'bear'"):
        fetch("baer")


def test_group_fetches_its_members(shop, monkeypatch):
    monkeypatch.setitem(module.GROUPS, "toys", ("toy",))
    assert shop.fetch("toys") == shop.root and (shop.root / "toy").is_dir()


def test_generated_sample_needs_no_package(tmp_path):
    folder = fetch("street_mini", root=tmp_path, cache=tmp_path / "none")
    assert len(list(folder.glob("leftImg8bit/train/*/*.png"))) == 4
    assert "Synthetic" in (folder / "LICENSE").read_text()
    assert not (tmp_path / "none").exists()


def test_command_line_status(tmp_path):
    """`ppvision data fetch` of an unknown name: one line, status 2, no traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "ppvision", "data", "fetch", "baer", "--root", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr and "bear" in done.stderr


def test_every_sample_comes_from_known_packages():
    for sample in module.SAMPLES.values():
        assert set(sample.packages) <= set(module.PACKAGES)
    assert len(module.describe()) == len(module.SAMPLES) + len(module.GROUPS)
