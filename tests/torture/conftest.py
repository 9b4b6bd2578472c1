"""Lets the tests of this folder import its parts and the recipe of the engine's tests."""

import sys
from pathlib import Path

import pytest

for folder in (Path(__file__).parents[1] / "engine", Path(__file__).parent):
    sys.path.insert(0, str(folder))


@pytest.fixture(autouse=True, scope="module")
def parts_are_importable():
    """Recipes here name a Method of this folder by its path; an earlier test may have put an older `sys.path` back."""
    folder = str(Path(__file__).parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
