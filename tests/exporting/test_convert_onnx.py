"""The converter's process: nothing it does may take ours down."""

import importlib.util

import pytest

from ppvision.errors import UserError
from ppvision.exporting import convert_onnx


def test_child_finds_this_ppvision_and_installs_nothing(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    environment = convert_onnx.child_environment(POLYGRAPHY_AUTOINSTALL_DEPS="0")
    assert environment["PYTHONPATH"].endswith(":/elsewhere") and environment["POLYGRAPHY_AUTOINSTALL_DEPS"] == "0"


def test_a_failed_conversion_is_one_line_with_the_reason(tmp_path):
    with pytest.raises(UserError, match="paddle2onnx ended with status"):
        convert_onnx.convert([(tmp_path / "m.json", tmp_path / "m.pdiparams", tmp_path / "m.onnx")])


def test_an_abort_is_survived(tmp_path, monkeypatch):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 'Check failed: RuntimeError stride' >&2\nkill -ABRT $$\n")
    fake.chmod(0o755)
    monkeypatch.setattr(convert_onnx.sys, "executable", str(fake))
    with pytest.raises(UserError, match="status -6: Check failed"):
        convert_onnx.convert([(tmp_path / "m.json", tmp_path / "m.pdiparams", tmp_path / "m.onnx")])


def test_a_missing_converter_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"ppvision\[onnx\]"):
        convert_onnx.convert([])
