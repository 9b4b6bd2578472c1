"""Regenerates the tables of README.md and docs/*.md, so that nothing the code or a measurement knows is typed twice.

A table stands between two comments and is replaced as a whole:

    <!-- table: rtformer_published -->      rows of results/rtformer_published.json
    <!-- keys: Train -->                    keys of a recipe's section, from the dataclass in ppvision/config/schema.py
    <!-- claims: maformer -->               what experiments found, good or bad: results/claims/maformer_*.json
    <!-- names: ppvision.data.TRANSFORMS --> short names of components, with the first sentence of each docstring
    <!-- promises: ppvision.models.network.Network --> what a class offers for overriding, with defaults and docstrings
    <!-- end of table -->

    python tools/tables.py            # rewrite what is out of date
    python tools/tables.py --check    # exit 1 if anything is; what the test does
    python tools/tables.py add rtformer_bear --model rtformer_slim --data "bear, held-out photo" \
        --metric mIoU=0.87 --seed 0 --command "make train"      # record a measurement made on this machine

The format of a results file is described in results/README.md; `read` refuses anything else.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import importlib
import json
import math
import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MARKER = re.compile(r"(<!-- (table|keys|names|promises|claims): ([\w.]+) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)
SOURCES = ("upstream", "paper")
REQUIRED = {
    "published": {"model": str, "data": str, "metrics": dict, "source": str, "reference": str},
    "measured": {
        "model": str,
        "data": str,
        "metrics": dict,
        "command": str,
        "seed": (int, type(None)),
        "machine": dict,
        "versions": dict,
        "date": str,
    },
}
# Names used in the annotations of ppvision/config/schema.py, in words.
ALIASES = {
    "Natural": "int >= 0",
    "Count": "int >= 1",
    "NonNegative": "float >= 0",
    "Triple": "3 floats",
    "Workers": "int 0..256",
    "Threads": "int 1..1024",
    "Component": "mapping",
    r"dict\[str, Any\]": "mapping",
    "Best": "mapping",
    "Slide": "mapping",
}


class Fault(Exception):
    """A results file or a document that cannot be used; the text says which and why."""


def documents(root: Path = ROOT) -> list[Path]:
    """The files whose tables are generated."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def check_row(row: dict[str, Any], where: str) -> None:
    """Raises Fault unless `row` is a complete published or measured row."""
    required = REQUIRED.get(row.get("kind", ""))
    if required is None:
        raise Fault(f"{where}: 'kind' is {row.get('kind')!r}, expected one of {', '.join(REQUIRED)}")
    for key, kind in required.items():
        if key not in row or not isinstance(row[key], kind):
            raise Fault(f"{where}: '{key}' is missing or has the wrong type ({row.get(key)!r})")
    unknown = set(row) - set(required) - {"kind", "note"}
    if unknown:
        raise Fault(f"{where}: unknown keys {', '.join(sorted(unknown))}")
    if row["kind"] == "published" and row["source"] not in SOURCES:
        raise Fault(f"{where}: 'source' is {row['source']!r}, expected one of {', '.join(SOURCES)}")
    for name, value in row["metrics"].items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if value is not None and not number:
            raise Fault(f"{where}: metric '{name}' is {value!r}, expected a finite number or null")


def read(path: Path) -> dict[str, Any]:
    """A checked results file: {"title", "columns": [[key, heading, format?], ...], "rows": [...]}."""
    try:
        table = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise Fault(f"{path.name}: {error}") from None
    if not isinstance(table, dict) or set(table) != {"title", "columns", "rows"}:
        raise Fault(f"{path.name}: needs exactly the keys title, columns, rows")
    for column in table["columns"]:
        if not 2 <= len(column) <= 3 or not all(isinstance(part, str) for part in column):
            raise Fault(f"{path.name}: column {column!r} is not [key, heading] or [key, heading, format]")
    for i, row in enumerate(table["rows"]):
        check_row(row, f"{path.name}, row {i}")
    return table


def source_of(row: dict[str, Any]) -> str:
    """One cell that says where a row's numbers come from."""
    if row["kind"] == "published":
        return f"{row['source']}: {row['reference']}"
    machine, versions = row["machine"], row["versions"]
    seed = "" if row["seed"] is None else f", seed {row['seed']}"
    device = f"{machine['cores']} x {machine['cpu']}" if machine.get("device", "cpu") == "cpu" else machine["device"]
    return f"measured {row['date']}, {device}, Paddle {versions['paddlepaddle']}{seed}: `{row['command']}`"


def cell(row: dict[str, Any], key: str, fmt: str = "") -> str:
    """The value at a dotted `key`, formatted; a missing or null value is a dash."""
    value: Any = row
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return "-" if value is None else format(value, fmt)


def render(table: dict[str, Any]) -> str:
    """The Markdown of one results file. Its source column is always there; rows keep the order of the file."""
    headings = [column[1] for column in table["columns"]] + ["Source"]
    numeric = [len(column) == 3 for column in table["columns"]] + [False]
    lines = ["| " + " | ".join(headings) + " |", "|" + "|".join("---:" if n else "---" for n in numeric) + "|"]
    for row in table["rows"]:
        cells = [cell(row, *(column[i] for i in (0, 2) if i < len(column))) for column in table["columns"]]
        lines.append("| " + " | ".join([*cells, source_of(row)]) + " |")
    if not table["rows"]:
        lines.append("| " + " | ".join(["none yet", *[""] * (len(headings) - 1)]) + " |")
    return "\n".join(lines) + "\n"


def definition(path: Path, name: str) -> ast.ClassDef | ast.FunctionDef:
    """The class or function `name` of a source file, which is not executed."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            return node
    raise Fault(f"{path.name} has no class or function {name}")


def arguments(path: Path, name: str, given: tuple[str, ...] = ()) -> str:
    """What a recipe may say beside `type`: parameters with their defaults, without those that the program supplies.

    Where there are keyword-only parameters, the others are the program's.
    """
    node = definition(path, name)
    if isinstance(node, ast.ClassDef):
        found = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
        if not found:
            bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
            local = {item.name for item in ast.parse(path.read_text("utf-8")).body if isinstance(item, ast.ClassDef)}
            return next((arguments(path, base, given) for base in bases if base in local), "")
        node = found[0]
    spec = node.args
    if spec.kwonlyargs:
        pairs = list(zip(spec.kwonlyargs, spec.kw_defaults))
    else:
        pairs = list(zip(spec.args, [None] * (len(spec.args) - len(spec.defaults)) + spec.defaults))
    pairs = [(arg.arg, default) for arg, default in pairs if arg.arg not in ("self", "root", "split", *given)]
    return ", ".join(f"`{key}`" if value is None else f"`{key}={ast.unparse(value)}`" for key, value in pairs)


def render_keys(name: str) -> str:
    """Keys, types, defaults and comments of a section of the recipe, as written in ppvision/config/schema.py."""
    path = ROOT / "ppvision/config/schema.py"
    text = path.read_text("utf-8")
    source = text.splitlines()
    lines = ["| key | type | default | |", "|---|---|---|---|"]
    for node in definition(path, name).body:
        if not isinstance(node, ast.AnnAssign):
            continue
        default = "" if node.value is None else ast.get_source_segment(text, node.value)
        if default.startswith("field("):
            (factory,) = (k.value for k in node.value.keywords if k.arg == "default_factory")
            default = {"list": "[]", "dict": "{}"}.get(ast.unparse(factory), "see below")
            if isinstance(factory, ast.Lambda):
                default = ast.get_source_segment(text, factory.body)
        default = {"None": "null", "True": "true", "False": "false"}.get(default, default).strip('"')
        _, _, comment = source[node.end_lineno - 1].partition("  # ")
        annotation = ast.unparse(node.annotation).replace(" | ", " or ").replace("None", "null")
        annotation = re.sub(r"Literal\[(.*?)\]", lambda m: m[1].replace("'", ""), annotation)
        annotation = re.sub(r"Annotated\[(\w+), (.*?)\]", r"\1 >= \2", annotation)
        for alias, meaning in ALIASES.items():
            annotation = re.sub(rf"\b{alias}(?!\w)", meaning, annotation)
        annotation = re.sub(r"(?:list|tuple)\[(.*)\]", r"list (\1)", annotation)
        default = f"`{default}`" if default else ""
        lines.append(f"| `{node.target.id}` | {annotation} | {default} | {comment} |")
    return "\n".join(lines) + "\n"


def render_names(dotted: str) -> str:
    """A table of the names in `module.ATTRIBUTE` (name -> "module:class"): arguments, first sentence of docstrings."""
    module, _, attribute = dotted.rpartition(".")
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    given = ("num_classes", "ignore_index", "class_names") if module == "ppvision.metrics" else ("model",)
    lines = ["| type | arguments | |", "|---|---|---|"]
    for name, target in sorted(getattr(importlib.import_module(module), attribute).items()):
        file, _, cls = target.partition(":")
        path = ROOT / (file.replace(".", "/") + ".py")
        doc = ast.get_docstring(definition(path, cls)) or ""
        first = re.match(r".*?(?:\.(?=\s)|$)", " ".join(doc.split()))[0]
        lines.append(f"| `{name}` | {arguments(path, cls, given)} | {first} |")
    return "\n".join(lines) + "\n"


def render_promises(dotted: str) -> str:
    """Public attributes and methods of a class, with their defaults and what the docstrings say of them."""
    module, _, name = dotted.rpartition(".")
    node = definition(ROOT / (module.replace(".", "/") + ".py"), name)
    documented = attributes(ast.get_docstring(node) or "")
    lines = ["| promise | default | |", "|---|---|---|"]
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and item.target.id in documented and item.value is not None:
            default = ast.unparse(item.value)
            if isinstance(item.value, ast.Tuple) and item.value.elts:
                default = ", ".join(map(ast.unparse, item.value.elts))
            lines.append(f"| `{item.target.id}` | `{default}` | {documented[item.target.id]} |")
        elif isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
            names = [arg.arg for arg in item.args.args if arg.arg not in ("self", "cls")]
            given = ", ".join([*names, *([f"*{item.args.vararg.arg}"] if item.args.vararg else [])])
            summary = " ".join((ast.get_docstring(item) or "").split("\n\n")[0].split())
            lines.append(f"| `{item.name}({given})` | {default_of(item)} | {summary.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


def attributes(doc: str) -> dict[str, str]:
    """Entries of the section `Attributes:` of a docstring."""
    found: dict[str, str] = {}
    inside = False
    for line in doc.splitlines():
        if line == "Attributes:":
            inside = True
        elif inside and line and not line.startswith(" "):
            inside = False
        elif inside and (match := re.fullmatch(r" {4}(\w+): (.+)", line)):
            name = match[1]
            found[name] = match[2]
        elif inside and line.strip():
            found[name] += " " + line.strip()
    return {key: text.replace("|", "/") for key, text in found.items()}


def default_of(method: ast.FunctionDef) -> str:
    """What a method does that nobody overrides, in a few words."""
    if any(isinstance(item, ast.Name) and item.id == "optional" for item in method.decorator_list):
        return "not offered"
    body = [item for item in method.body if not (isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant))]
    if not body:
        return "does nothing"
    if isinstance(body[0], ast.Raise):
        return "not offered"
    text = ast.unparse(body[0].value) if isinstance(body[0], ast.Return) and body[0].value is not None else ""
    return f"`{text}`" if 0 < len(text) < 50 else "see the code"


def render_claims(system: str, folder: Path) -> str:
    """Every experiment of a system that was run: its claim, the verdict and why, caveats, and where that comes from."""
    lines = ["| Experiment | Claim | Verdict | Found | Source |", "|---|---|---|---|---|"]
    paths = sorted(folder.glob(f"{system}_*.json"))
    for path in paths:
        try:
            claim = json.loads(path.read_text("utf-8"))
            if claim["system"] != system:
                continue
            if claim["quick"]:
                raise Fault(f"{path.name}: a quick run is no result")
            found = "; ".join([claim["reason"], *(f"*{text}*" for text in claim["caveats"])])
            row = {**claim, "kind": "measured", "seed": None}
            cells = [f"`{claim['experiment']}`", claim["claim"], claim["verdict"], found, source_of(row)]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Fault(f"{path.name}: {type(error).__name__}: {error}") from None
        lines.append("| " + " | ".join(" ".join(text.replace("|", "/").split()) for text in cells) + " |")
    if not paths:
        lines.append("| none yet | | | | |")
    return "\n".join(lines) + "\n"


def regenerate(text: str, results: Path, name: str = "document") -> str:
    """`text` with everything between markers made anew."""
    if len(re.findall(r"<!-- (?:table|keys|names|promises|claims):", text)) != len(MARKER.findall(text)):
        raise Fault(f"{name}: a marker has no '<!-- end of table -->'")
    render_of = {
        "table": lambda key: render(read(results / f"{key}.json")),
        "claims": lambda system: render_claims(system, results / "claims"),
        "keys": render_keys,
        "names": render_names,
        "promises": render_promises,
    }
    return MARKER.sub(lambda match: match[1] + render_of[match[2]](match[3]) + match[5], text)


def machine() -> dict[str, Any]:
    """What this machine is, as far as a reader of a timing needs it."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = re.findall(r"^model name\s*: (.+)$", info.read_text(errors="replace"), re.MULTILINE)
        cpu = names[0].strip() if names else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": cpu, "cores": cores, "system": f"{platform.system()} {platform.machine()}", "device": "cpu"}


def versions() -> dict[str, str]:
    """Versions of everything a number may depend on."""
    found = {"python": platform.python_version()}
    for name in ("ppvision", "paddlepaddle", "paddlepaddle-gpu", "numpy", "opencv-python-headless", "onnxruntime"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found.setdefault("paddlepaddle", found.get("paddlepaddle-gpu", "none"))
    return found


def metric(pair: str) -> tuple[str, float]:
    """`NAME=VALUE` as given on the command line; a whole number stays one."""
    name, _, text = pair.partition("=")
    try:
        return name, int(text) if re.fullmatch(r"-?\d+", text) else float(text)
    except ValueError:
        raise Fault(f"--metric {pair}: expected NAME=NUMBER") from None


def write(table: dict[str, Any], path: Path) -> None:
    """Writes a results file with one line per column and row, so that a diff shows what changed."""

    def lines(items: list[Any]) -> str:
        return ",\n".join("  " + json.dumps(item, ensure_ascii=False) for item in items)

    title = json.dumps(table["title"], ensure_ascii=False)
    parts = [f' "{key}": [\n{lines(table[key])}\n ]' for key in ("columns", "rows")]
    body = ",\n".join([f' "title": {title}', *parts]).replace("[\n\n ]", "[]")
    path.write_text(f"{{\n{body}\n}}\n", "utf-8")


def add(args: argparse.Namespace) -> None:
    """Writes one measured row; a row with the same model, data and command is replaced."""
    path = args.results / f"{args.table}.json"
    table = read(path)
    here = machine()
    if args.device:
        here["device"] = args.device
    row = {
        "kind": "measured",
        "model": args.model,
        "data": args.data,
        "metrics": dict(metric(pair) for pair in args.metric),
        "command": args.command,
        "seed": args.seed,
        "machine": here,
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
    }
    if args.note:
        row["note"] = args.note
    check_row(row, f"{path.name}, new row")
    same = ("kind", "model", "data", "command")
    kept = [old for old in table["rows"] if [old.get(k) for k in same] != [row[k] for k in same]]
    table["rows"] = [*kept, row]
    write(table, path)
    print(f"{path}: {len(table['rows'])} rows")


def command_line() -> argparse.ArgumentParser:
    """The command line of this tool."""
    parser = argparse.ArgumentParser(description="Generate the tables of README.md and docs/ from results/*.json.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a table is out of date")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help=argparse.SUPPRESS)
    verbs = parser.add_subparsers(dest="verb")
    new = verbs.add_parser("add", help="record a measurement made on this machine")
    new.add_argument("table", help="name of the file in results/, without .json")
    new.add_argument("--model", required=True)
    new.add_argument("--data", required=True, help="what was measured on")
    new.add_argument("--metric", action="append", required=True, metavar="NAME=VALUE")
    new.add_argument("--command", required=True, help="the command that repeats it")
    new.add_argument("--seed", type=int)
    new.add_argument("--device", help="the GPU's name, if it was not the CPU")
    new.add_argument("--note")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0, 1 when `--check` finds a stale table, 2 when a file cannot be used."""
    args = command_line().parse_args(argv)
    try:
        if args.verb == "add":
            add(args)
            return 0
        stale = []
        for path in documents():
            old = path.read_text("utf-8")
            new_text = regenerate(old, args.results, path.name)
            if new_text != old:
                stale.append(path.name)
                if not args.check:
                    path.write_text(new_text, "utf-8")
    except Fault as fault:
        print(f"tables: {fault}", file=sys.stderr)
        return 2
    if args.check and stale:
        print(f"tables out of date in {', '.join(stale)}: run `make docs`", file=sys.stderr)
        return 1
    print(f"tables: {', '.join(stale) + ' rewritten' if stale else 'up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
