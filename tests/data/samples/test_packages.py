"""Packages: what the registry's client says becomes one line, and every package is pinned."""

import pytest

from ppvision.data.samples import packages
from ppvision.data.samples.fetch import fetch
from ppvision.data.samples.packages import Package
from ppvision.errors import UserError


def test_client_that_is_not_installed():
    with pytest.raises(UserError, match="x 1 .*'no-such-client' is not installed"):
        packages.run(["no-such-client"], Package("x", "1", "", ""))


def test_client_that_hangs():
    with pytest.raises(UserError, match="did not finish within 0 s"):
        packages.run(["sleep", "30"], Package("x", "1", "", ""), timeout=0.2)


def test_debian_package_without_apt(monkeypatch, tmp_path):
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"needs Debian's apt-get .*packages.debian.org/dataset-fashion-mnist"):
        fetch("fashion_mnist", root=tmp_path, cache=tmp_path / "cache")
    assert not (tmp_path / "fashion_mnist").exists()


def test_every_package_is_pinned():
    for name, package in packages.PACKAGES.items():
        assert name == package.name and len(package.sha256) == 64 and package.version and package.license
    assert packages.sources()["scikit-learn"]["version"] == packages.PACKAGES["scikit-learn"].version
