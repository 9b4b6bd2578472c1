"""Lets the tests of this folder import its parts and the recipe of the engine's tests."""

import sys
from pathlib import Path

for folder in (Path(__file__).parents[1] / "engine", Path(__file__).parent):
    sys.path.insert(0, str(folder))
