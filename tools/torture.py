"""Tortures ppvision and writes down how it went: what the tests in tests/torture do in seconds, at full length.

    python tools/torture.py kills          # SIGKILL at any moment of real runs of two methods
    python tools/torture.py mutants        # recipes, data and weights with one mistake each
    python tools/torture.py weights        # hostile and broken weight files
    python tools/torture.py index          # memory of a list of a million samples
    python tools/torture.py endurance      # memory and open files over 20,000 steps
    python tools/torture.py all --json results/reliability.json

Each part adds one row to the results file, or replaces its own. Exit status 1 if any promise was broken (each on a
line of its own), 2 if the run itself was not fair: the code changed under it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PARTS = {  # name -> module in tests/torture, default count
    "kills": ("kills", 100),
    "mutants": ("mutants", 200),
    "weights": ("hostile", 30),
    "index": ("million", 1_000_000),
    "endurance": ("endurance", 20_000),
}
TITLE = "What was done to ppvision on purpose, and how many promises it broke"
COLUMNS = [
    ["model", "Network"],
    ["data", "What was looked for"],
    ["metrics.tried", "Tried", ",d"],
    ["metrics.broken", "Broken promises", "d"],
    ["metrics.seconds", "Seconds", ".0f"],
]


def tables() -> Any:
    """The module tools/tables.py, which knows the format of results files."""
    spec = importlib.util.spec_from_file_location("tables", ROOT / "tools/tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code() -> str:
    """Digest of the code under test."""
    total = hashlib.sha256()
    for path in sorted((ROOT / "ppvision").rglob("*.py")):
        total.update(path.read_bytes())
    return total.hexdigest()


def torture(part: str, count: int, seed: int, folder: Path) -> Any:
    """Run one part; its `Outcome`."""
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"[{part} {time.monotonic() - started:6.1f} s] {line}", flush=True)

    module = importlib.import_module(PARTS[part][0])
    # A terminated torture ends the runs that it started, like an interrupted one; after the import, because Paddle's
    # takes the signal for itself.
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    try:
        outcome = module.run(count, seed, folder, say)
    finally:
        signal.signal(signal.SIGTERM, before)
    outcome.metrics = {
        "tried": outcome.tried,
        "broken": len(outcome.broken),
        "seconds": round(time.monotonic() - started, 1),
        **outcome.metrics,
    }
    for line in outcome.broken:
        print(f"BROKEN {part}: {line}", flush=True)
    print(f"{part}: {', '.join(f'{k} {v}' for k, v in outcome.metrics.items())}", flush=True)
    return outcome


def record(path: Path, part: str, count: int, seed: int, outcome: Any) -> None:
    """Write the row of a part."""
    module = tables()
    table = {"title": TITLE, "columns": COLUMNS, "rows": []}
    if path.is_file():
        table["rows"] = module.read(path)["rows"]
    row = {
        "kind": "measured",
        "model": outcome.model,
        "data": outcome.data,
        "metrics": outcome.metrics,
        "command": f"tools/torture.py {part} --count {count} --seed {seed}",
        "seed": seed,
        "machine": module.machine(),
        "versions": module.versions(),
        "date": date.today().isoformat(),
    }
    if outcome.broken or outcome.note:
        row["note"] = "; ".join([*([outcome.note] if outcome.note else []), *outcome.broken[:20]])
    module.check_row(row, path.name)
    first = [name for name in PARTS]
    kept = [old for old in table["rows"] if part_of(old) != part]
    table["rows"] = sorted([*kept, row], key=lambda r: first.index(part_of(r)))
    path.parent.mkdir(parents=True, exist_ok=True)
    module.write(table, path)


def part_of(row: dict[str, Any]) -> str:
    """The part that a row is of."""
    return row["command"].split("torture.py ")[1].split()[0]


def command_line() -> argparse.ArgumentParser:
    """The command line of this tool."""
    parser = argparse.ArgumentParser(description="Torture ppvision; exit status 1 if a promise is broken.")
    parser.add_argument("part", choices=[*PARTS, "all"])
    counts = ", ".join(f"{name} {count}" for name, (_, count) in PARTS.items())
    parser.add_argument("--count", "--steps", type=int, help=f"how many; default: {counts}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="results file to write the figures into")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work there and leave everything; default: temporary")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 all promises kept, 1 some broken, 2 not a fair run."""
    args = command_line().parse_args(argv)
    if args.count is not None and (args.part == "all" or args.count < 1):
        print("error: --count takes a positive number and goes with one part", file=sys.stderr)
        return 2
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the first import of Paddle
    warnings.filterwarnings("ignore", message="No ccache found", category=UserWarning)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests/engine"), str(ROOT / "tests/torture")]
    folder = args.keep or Path(tempfile.mkdtemp(prefix="ppvision_torture_"))
    broken = 0
    try:
        for part in PARTS if args.part == "all" else [args.part]:
            count, tested = args.count or PARTS[part][1], code()
            shutil.rmtree(folder / part, ignore_errors=True)
            (folder / part).mkdir(parents=True)
            outcome = torture(part, count, args.seed, (folder / part).resolve())
            if code() != tested:
                print(f"error: {part}: the code changed while it was tested; nothing recorded", file=sys.stderr)
                return 2
            if args.json:
                record(args.json, part, count, args.seed, outcome)
            broken += len(outcome.broken)
    finally:
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{broken} broken promises", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    # instead of tools/, whose file names would shadow other modules
    sys.path[0] = str(ROOT)
    sys.exit(main())
