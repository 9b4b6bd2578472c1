from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from ppvision import data


@pytest.mark.parametrize("target", [*data.DATASETS.values(), *data.TRANSFORMS.values()])
def test_tables_point_at_something(target):
    module, attribute = target.split(":")
    assert callable(getattr(importlib.import_module(module), attribute))


def test_public_names_resolve():
    for name in data.__all__:
        assert getattr(data, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = data.nothing


def test_importing_is_light():
    code = "import sys, ppvision.data; print([m for m in ('paddle', 'cv2', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_loading_data_needs_no_paddle():
    code = "import sys; from ppvision.data import Loader, build_transforms, read_image; print('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
