"""Repeats the experiments behind what the documents claim, and writes what came out, good or bad.

    python tools/reproduce.py --list
    python tools/reproduce.py maformer fashion
    python tools/reproduce.py maformer --quick --out /tmp/claims        # a few updates of everything: does it run?

The experiments of a system are in tools/experiments/<system>.py. Each gives a verdict, PASS, FAIL or UNRESOLVED, and
is written to results/claims/<system>_<experiment>.json with its figures per seed, seconds, versions and machine. A
FAIL is a result like any other: the file is written and the exit status is 0; 1 means that an experiment broke down.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.util
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of tools/, whose file names would shadow other modules

from tools.experiments import Experiment, Outcome, Settings  # noqa: E402


def systems() -> list[str]:
    """Names of the modules with experiments."""
    return sorted(p.stem for p in (ROOT / "tools/experiments").glob("*.py") if not p.stem.startswith("_"))


def experiments(system: str) -> dict[str, Experiment]:
    """Experiment by name, of one system."""
    return importlib.import_module(f"tools.experiments.{system}").EXPERIMENTS


def described() -> dict[str, Any]:
    """Machine and versions, as the tables of results have them."""
    spec = importlib.util.spec_from_file_location("tables", ROOT / "tools/tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    return {"machine": tables.machine(), "versions": tables.versions()}


def record(system: str, name: str, experiment: Experiment, outcome: Outcome, settings: Settings, cost: dict) -> dict:
    """The content of a claim's file."""
    return {
        "system": system,
        "experiment": name,
        "claim": experiment.claim,
        "verdict": outcome.verdict,
        "reason": outcome.reason,
        "caveats": list(experiment.caveats),
        "quick": settings.quick,
        "seeds": list(settings.seeds),
        "figures": outcome.metrics,
        "cost": cost,
        **described(),
        "command": f"python tools/reproduce.py {system} {name} --seeds {' '.join(map(str, settings.seeds))}",
        "date": datetime.date.today().isoformat(),
    }


def cpu_seconds() -> float:
    """Of this process and of those it has waited for: some experiments train in processes of their own."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def run(system: str, name: str, settings: Settings, out: Path) -> bool:
    """One experiment into its file; False when it broke down."""
    experiment = experiments(system)[name]
    settings = settings if settings.seeds else Settings(experiment.seeds, settings.quick, settings.data)
    print(f"{system} {name}: {experiment.claim}", flush=True)
    wall, cpu = time.perf_counter(), cpu_seconds()
    try:
        outcome = experiment.run(settings)
    except Exception:
        traceback.print_exc()
        print(f"{system} {name}: broke down, nothing written", file=sys.stderr)
        return False
    cost = {"seconds": round(time.perf_counter() - wall, 1), "cpu_seconds": round(cpu_seconds() - cpu, 1)}
    path = out / f"{system}_{name}.json"
    out.mkdir(parents=True, exist_ok=True)
    content = record(system, name, experiment, outcome, settings, cost)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"{system} {name}: {outcome.verdict}: {outcome.reason}\n  {path}", flush=True)
    return True


def command_line() -> argparse.ArgumentParser:
    """The command line of this tool."""
    parser = argparse.ArgumentParser(description="Repeat the experiments behind the documents' claims.")
    parser.add_argument("system", nargs="?", help=f"one of: {', '.join(systems())}")
    parser.add_argument("experiment", nargs="*", help="default: all of the system")
    parser.add_argument("--list", action="store_true", help="names and claims")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="default: the experiment's own")
    parser.add_argument("--quick", action="store_true", help="a few updates only; the figures mean nothing")
    parser.add_argument("--data", type=Path, default=Path("data"), help="where `ppvision data fetch` wrote")
    parser.add_argument("--out", type=Path, help="default: results/claims; with --quick none, it must be named")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0, 1 when an experiment broke down, 2 for a wrong name."""
    args = command_line().parse_args(argv)
    if args.list or args.system is None:
        for system in systems():
            for name, experiment in experiments(system).items():
                print(f"{system} {name}: {experiment.claim}")
        return 0
    if args.system not in systems():
        print(f"reproduce: no system '{args.system}' (there are: {', '.join(systems())})", file=sys.stderr)
        return 2
    known = experiments(args.system)
    for name in args.experiment:
        if name not in known:
            print(f"reproduce: no experiment '{name}' (there are: {', '.join(known)})", file=sys.stderr)
            return 2
    if args.quick and args.out is None:
        print("reproduce: --quick needs --out: its figures have no place in results/claims", file=sys.stderr)
        return 2
    out = args.out or ROOT / "results/claims"
    settings = Settings(tuple(args.seeds), args.quick, args.data)
    done = [run(args.system, name, settings, out) for name in args.experiment or known]
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
