"""`tipc.py generate`: the folders of `configs/` from `table.yml` and the texts of `templates/`.

Upstream's scripts read the txt files line by line, so they are stored; nobody edits sixty of them by hand. The only
part of the harness that needs more than the standard library (PyYAML, for the table).
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from .recipe import TxtError

TABLE = "test_tipc/table.yml"
TEMPLATES = "test_tipc/templates"
PICTURES = {"scene", "layout", "size", "atol", "rtol", "data"}
SYSTEM = {"about", "base", "pictures"}
OPTIONAL = {"input_shape", "atol", "rtol", "before", "after"}
# File name -> templates it is made of, and the devices of the chain: `{name}` is the system's.
ON_CPU = {"gpus": "-1", "train_device": "cpu", "precision": "null", "infer_device": "cpu"}
ON_GPU = {"gpus": "0|0,1", "train_device": "gpu|gpu", "precision": "fp16", "infer_device": "cpu|gpu"}
FILES: dict[str, tuple[tuple[str, ...], Mapping[str, str]]] = {
    "{name}.yml": (("recipe.yml",), {}),
    "train_infer_python.txt": (("train_infer.txt", "checks.txt"), ON_CPU),
    "train_linux_gpu_normal_amp_infer_python_linux_gpu_cpu.txt": (("train_infer.txt",), ON_GPU),
    "train_dy2static_python.txt": (("dy2static.txt",), {}),
    "{name}_model_linux_gpu_normal_normal_paddle2onnx_python_linux_cpu.txt": (("paddle2onnx.txt",), {}),
}


def texts(table: str = TABLE, templates: str = TEMPLATES) -> dict[str, str]:
    """Text of every file by its path below `configs/`.

    Raises:
        TxtError: the table cannot be read, or a row lacks a key or has one too many.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(table).read_text(encoding="utf-8"))
        parts = {path.name: path.read_text(encoding="utf-8") for path in sorted(Path(templates).iterdir())}
    except (OSError, yaml.YAMLError) as error:
        raise TxtError(f"{table}: {' '.join(str(error).split())}") from None
    _check(table, content, {"pictures", "systems"})
    for kind, pictures in content["pictures"].items():
        _check(f"{table}: {kind}", pictures, PICTURES)
    found: dict[str, str] = {}
    for name, system in content["systems"].items():
        _check(f"{table}: {name}", system, SYSTEM, OPTIONAL)
        if system["pictures"] not in content["pictures"]:
            raise TxtError(f"{table}: {name}: no pictures '{system['pictures']}'")
        pictures = content["pictures"][system["pictures"]]
        values = _values(name, system, pictures)
        for file, (templates_of, devices) in FILES.items():
            text = "".join(parts[template] for template in templates_of)
            found[f"{name}/{file.format(name=name)}"] = text.format_map(values | devices)
    return found


def _values(name: str, system: Mapping[str, Any], pictures: Mapping[str, Any]) -> dict[str, Any]:
    """What stands for the names in braces of the templates."""
    height, width = pictures["size"]
    shape = f" --input_shape 1 3 {height} {width}" if system.get("input_shape") else ""
    return {
        "name": name,
        "about": system["about"],
        "base": system["base"],
        "before": system.get("before", ""),
        "after": system.get("after", ""),
        "scene": pictures["scene"],
        "layout": pictures["layout"],
        "height": height,
        "width": width,
        "section": pictures["data"],
        "data": f"test_tipc/data/{system['pictures']}",
        "shape": shape,
        "atol": system.get("atol", pictures["atol"]),
        "rtol": system.get("rtol", pictures["rtol"]),
    }


def _check(where: str, row: Any, needed: Set[str], optional: Set[str] = frozenset()) -> None:
    if not isinstance(row, dict):
        raise TxtError(f"{where}: is not a mapping with {', '.join(sorted(needed))}")
    for what, keys in (("lacks", needed - set(row)), ("has unknown", set(row) - needed - optional)):
        if keys:
            raise TxtError(f"{where}: {what} {', '.join(sorted(keys))}")


def stale(configs: str, table: str = TABLE, templates: str = TEMPLATES) -> list[str]:
    """Paths below `configs` that `generate` would change: other text, missing, or of no row of the table."""
    expected = texts(table, templates)
    there = {p.relative_to(configs).as_posix() for p in Path(configs).rglob("*") if p.is_file()}
    other = {path for path in expected if path in there and Path(configs, path).read_text("utf-8") != expected[path]}
    return sorted(other | (expected.keys() ^ there))


def generate(configs: str, table: str = TABLE, templates: str = TEMPLATES) -> list[str]:
    """Write what is out of date; returns the paths written. What belongs to no row stays, and `stale` names it."""
    expected, written = texts(table, templates), []
    for path in stale(configs, table, templates):
        if path in expected:
            target = Path(configs, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(expected[path], encoding="utf-8")
            written.append(path)
    return written
