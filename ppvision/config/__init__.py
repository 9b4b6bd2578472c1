"""Recipes: YAML with bases and overrides, checked and typed (`recipe`), and what a recipe names, built (`component`).
Knows nothing of Paddle.
"""

from ppvision.config.component import Component, Deferred, build, resolve
from ppvision.config.profiler import Profiler, parse_profiler
from ppvision.config.recipe import Config, check, load, optimizer_spec
from ppvision.config.tree import Override

__all__ = [
    "Component",
    "Config",
    "Deferred",
    "Override",
    "Profiler",
    "build",
    "check",
    "load",
    "optimizer_spec",
    "parse_profiler",
    "resolve",
]
