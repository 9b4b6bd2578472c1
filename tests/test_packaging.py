"""The wheel holds everything the package needs, and says what is missing where Paddle is not installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str | Path, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess:
    """A command with an environment that has nothing but PATH and `env`."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", **env},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from a copy of the sources, without asking a registry."""
    folder = tmp_path_factory.mktemp("wheel")
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "ppvision", folder / "source/ppvision", ignore=skip)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    done = run(
        *(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"),
        *("--wheel-dir", folder, folder / "source"),
        HOME=str(folder),
    )
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The wheel's content in a folder of its own, as an installation would lay it out."""
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


@pytest.mark.slow
class TestWheel:
    def test_holds_every_file_of_the_package(self, wheel):
        ours = {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / "ppvision").rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
        assert packed == ours

    def test_metadata(self, wheel):
        archive = zipfile.ZipFile(wheel)
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        text = archive.read(name).decode()
        requires = re.findall(r"^Requires-Dist: (.+)$", text, re.MULTILINE)
        assert "Version: 0.1.0" in text
        assert not [r for r in requires if r.lower().startswith("paddlepaddle") and "extra ==" not in r]
        assert [r for r in requires if r.startswith("paddlepaddle") and 'extra == "cpu"' in r]
        entry = archive.read(name.replace("METADATA", "entry_points.txt")).decode()
        assert "ppvision = ppvision.cli:main" in entry

    def test_commands_work_from_the_wheel(self, installed, tmp_path):
        """Outside the repository, from what is in the wheel alone."""
        listed = run(sys.executable, "-m", "ppvision", "models", cwd=tmp_path, PYTHONPATH=str(installed))
        assert listed.returncode == 0, listed.stderr
        assert "rtformer_slim" in listed.stdout
        version = run(sys.executable, "-m", "ppvision", "--version", cwd=tmp_path, PYTHONPATH=str(installed))
        assert version.stdout.strip() == "0.1.0"

    def test_without_paddle_one_line_says_what_to_install(self, installed, tmp_path):
        (tmp_path / "x.yml").write_text(
            "model: {type: rtformer_debug, num_classes: 2}\n"
            "data: {type: seg_list, root: ., train: {split: train}}\ntrain: {iters: 1}\n"
        )
        code = "import sys; sys.modules['paddle'] = None; from ppvision.cli import main; sys.exit(main(sys.argv[1:]))"
        done = run(sys.executable, "-c", code, "train", "-c", "x.yml", cwd=tmp_path, PYTHONPATH=str(installed))
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.splitlines()) == 1 and "paddlepaddle" in done.stderr


def test_every_requirement_of_the_package_gives_a_reason():
    """A line of install_requires without a comment is a dependency nobody can remove."""
    text = (ROOT / "setup.py").read_text("utf-8")
    block = text[text.index("INSTALL_REQUIRES = [") : text.index("EXTRAS = {")]
    lines = [line for line in block.splitlines() if line.strip().startswith('"')]
    assert lines and all("  # " in line for line in lines)


def test_constraints_lie_inside_the_ranges_of_setup():
    """What `make` installs is what `pip install .` would accept."""
    from packaging.requirements import Requirement

    pins = {}
    for line in (ROOT / "requirements/constraints.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            pins[pin.name.lower().replace("_", "-")] = str(pin.specifier).removeprefix("==")
    declared = re.findall(r'"([A-Za-z][\w-]*>=[^"]+)"', (ROOT / "setup.py").read_text("utf-8"))
    checked = 0
    for text in declared:
        requirement = Requirement(text)
        if requirement.name == "openvino":
            continue  # not part of what `make` installs
        version = pins[requirement.name.lower().replace("_", "-")]
        assert requirement.specifier.contains(version), f"{text} against {version}"
        checked += 1
    assert checked >= 12
