"""The TIPC harness: what the `.sh` files of this folder call, and a runner for many chains at once.

    python test_tipc/tipc.py run --all --mode lite_train_lite_infer --jobs 2
    python test_tipc/tipc.py list | check | plan <txt> <MODE>
    python test_tipc/tipc.py generate      # the files of configs/ from table.yml and templates/

To be started at the root of the repository. Standard library only (`generate` reads YAML); exit status 0: every command
succeeded, 1: one failed, 2: the txt or the command line is wrong, 3: nothing ran. `TIPC_STRICT=0`: always 0.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import Empty, Queue

from harness import benchmark, check, generate, prepare, recipe, report, runner
from harness.other_modes import onnx_plan, static_plan
from harness.plan import OUTPUT, Plan, count_gpus, on_device, plan
from harness.recipe import MODES, TxtError

CONFIGS = "test_tipc/configs"


def main(argv: Sequence[str]) -> int:
    """Exit status of the command."""
    parser = arguments()
    if argv[:1] == ["analyse"]:
        return report.strict(benchmark.analyse(argv[1:]))
    args = parser.parse_args(argv)
    if not Path(CONFIGS).is_dir():
        return _usage(f"no {CONFIGS} here; start at the root of the repository")
    try:
        with runner.stoppable():
            return report.strict(args.run(args))
    except TxtError as error:
        return _usage(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return report.strict(130)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tipc.py", description=__doc__.split("\n")[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], int], about: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about, description=about, allow_abbrev=False)
        command.set_defaults(run=run)
        return command

    many = add("run", run_many, "run chains, prepared first, and print one table")
    many.add_argument("txt", nargs="*", help="txt files; or --all")
    many.add_argument("--all", action="store_true", help=f"every txt of the mode below {CONFIGS}")
    many.add_argument("--mode", default=MODES[0], choices=MODES, metavar="MODE", help=", ".join(MODES))
    many.add_argument("--jobs", type=int, default=1, help="chains at a time")
    many.add_argument("--grep", default="", help="only files whose path holds this")
    many.add_argument(
        "--record", action="store_true", help=f"write {report.RECORD.format(mode='<MODE>')} and the README table"
    )

    add("list", list_all, "all txt files with their modes")
    one = add("check", check_all, "all txt files against both parsers and the parsers of their commands")
    one.add_argument("txt", nargs="*")
    make = add("generate", generate_all, f"write the files below {CONFIGS} from {generate.TABLE}")
    make.add_argument("--check", action="store_true", help="write nothing; exit status 1 if anything is out of date")
    for name, run, about in (
        ("plan", show_plan, "the commands of a run, without running them"),
        ("prepare", prepare_one, "data and seeded weights for a run"),
        ("train_infer", run_one, "what test_train_inference_python.sh does"),
        ("paddle2onnx", run_one, "what test_paddle2onnx.sh does"),
        ("dy2static", run_one, "what test_train_dy2static_python.sh does"),
        ("benchmark", run_one, "what benchmark_train.sh does"),
    ):
        single = add(name, run, about)
        single.add_argument("txt")
        single.add_argument("mode", nargs="?", default=None)
        single.add_argument("extra", nargs="?", default="", help="GPU ids of whole_infer; params of benchmark_train")
    return parser


def plan_of(args: argparse.Namespace) -> Plan:
    """The plan that a command line means."""
    gpus = count_gpus()
    default = {"paddle2onnx": "paddle2onnx_infer", "dy2static": "dy2static", "benchmark": "benchmark_train"}
    mode = args.mode or default.get(args.command)
    if mode is None:
        raise TxtError(f"{args.txt}: which mode? ({', '.join(MODES)})")
    if args.command == "plan" and mode in ("paddle2onnx_infer", "dy2static", "benchmark_train"):
        return check.plans(args.txt, mode, args.extra, gpus)
    if args.command == "paddle2onnx":
        return onnx_plan(recipe.read(args.txt), mode)
    if args.command == "dy2static":
        return static_plan(recipe.read_sections(args.txt), gpus)
    known = on_device(recipe.read(args.txt))
    if args.command == "benchmark":
        return benchmark.benchmark_plan(known, args.extra, gpus=gpus)
    if mode not in recipe.TRAIN_MODES + recipe.INFER_MODES:
        raise TxtError(f"unknown mode '{mode}' (modes: {', '.join(recipe.TRAIN_MODES + recipe.INFER_MODES)})")
    return plan(known, mode, args.extra, gpus=gpus)


def run_one(args: argparse.Namespace) -> int:
    """Run one chain and leave its summary."""
    chain = plan_of(args)
    benchmark.open_status(chain)
    with runner.alone(chain.folder):
        started, clock = time.time(), time.monotonic()
        outcomes = runner.run(chain)
        summary = report.write(chain, outcomes, started, time.monotonic() - clock)
    print("\n".join(report.table([summary])), flush=True)
    return report.status_of(outcomes)


def show_plan(args: argparse.Namespace) -> int:
    """Print the commands."""
    for step in plan_of(args).steps:
        about = [f"{step.number} {step.kind}"]
        about += [f"{k}={v}" for k, v in step.environment.items() if v is not None]
        about += [f"after {','.join(map(str, step.needs))}"] if step.needs else []
        about += [f"log {step.log}"] if step.log else []
        about += [f"skipped: {step.skip}"] if step.skip else []
        print(f"# {'; '.join(about)}\n{step.command}")
    return 0


def prepare_one(args: argparse.Namespace) -> int:
    """Make the data of a run."""
    if args.mode is None:
        raise TxtError(f"{args.txt}: which mode? ({', '.join(MODES)})")
    return 1 if prepare.prepare(args.txt, args.mode) else 0


def list_all(args: argparse.Namespace) -> int:
    """Print path, model name and modes of every txt."""
    faults = 0
    for path in check.find():
        try:
            name, modes = recipe.describe(path)
            print(f"{path}: {name}: {' '.join(modes)}")
        except TxtError as error:
            print(f"error: {error}", file=sys.stderr)
            faults += 1
    return 2 if faults else 0


def check_all(args: argparse.Namespace) -> int:
    """Print what is wrong with the txt files."""
    paths = args.txt or check.find()
    faults = check.check(paths)
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    print(f"{len(paths)} files, {len(faults)} faults")
    return 2 if faults or not paths else 0


def generate_all(args: argparse.Namespace) -> int:
    """Bring the folders up to the table, or say which files are not."""
    written = [] if args.check else generate.generate(CONFIGS)
    for path in written:
        print(f"{CONFIGS}/{path}: written")
    left = generate.stale(CONFIGS)
    for path in left:
        why = "is out of date; run tipc.py generate" if args.check else f"belongs to no system of {generate.TABLE}"
        print(f"error: {CONFIGS}/{path}: {why}", file=sys.stderr)
    return 1 if left else 0


ENTRIES = {"paddle2onnx_infer": "paddle2onnx", "dy2static": "dy2static", "benchmark_train": "benchmark"}


def run_many(args: argparse.Namespace) -> int:
    """Prepare and run several chains, each in a process of its own, and print one table."""
    if bool(args.txt) == args.all:
        raise TxtError("run takes txt files or --all")
    paths = [p for p in args.txt or check.find(mode=args.mode) if args.grep in p]
    jobs = max(1, args.jobs)
    if args.mode == "benchmark_train" and jobs > 1:
        print("benchmark_train: one chain at a time, so that they do not slow each other down")
        jobs = 1
    names = {path: recipe.describe(path) for path in paths}  # a wrong file stops everything before anything ran
    for path, (_, modes) in names.items():
        if args.mode not in modes:
            raise TxtError(f"{path}: has no mode {args.mode} (it has: {', '.join(modes)})")
    clock = time.monotonic()
    statuses = Pool(jobs, args.mode).run([(path, names[path][0]) for path in paths])
    summaries = []
    for path, status in statuses.items():
        folder = "benchmark" if args.mode == "benchmark_train" else args.mode
        file = Path(OUTPUT) / names[path][0] / folder / "summary.json"
        summaries.append(
            json.loads(file.read_text()) if file.is_file() else _unstarted(path, names[path][0], args, status)
        )
    print("\n".join(report.table(summaries)))
    print(f"{len(summaries)} chains in {time.monotonic() - clock:.0f} s, {jobs} at a time")
    Path(OUTPUT).mkdir(parents=True, exist_ok=True)
    Path(OUTPUT, "junit.xml").write_text(report.junit(summaries), encoding="utf-8")
    if args.record:
        report.record(args.mode, list(latest(args.mode)))
    bad = set(statuses.values()) - {0}
    return 3 if not statuses else 0 if not bad else 1 if bad - {3} else 3


def _unstarted(path: str, name: str, args: argparse.Namespace, status: int) -> dict:
    """Stands for a chain that ended before its first step."""
    step = {"number": 1, "kind": "prepare", "trainer": "", "gpu": "", "precision": "", "command": path, "log": None}
    step |= {"rc": status, "status": "failed", "reason": f"exit status {status}"}
    step |= {"wall_s": 0.0, "cpu_s": 0.0, "metrics": {}}
    return {
        "model_name": name,
        "mode": args.mode,
        "txt": path,
        "start": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "wall_s": 0.0,
        "passed": 0,
        "failed": 1,
        "skipped": 0,
        "steps": [step],
    }


def latest(mode: str) -> Iterator[dict]:
    """Summaries of the last run of every chain of a mode."""
    folder = "benchmark" if mode == "benchmark_train" else mode
    for path in check.find(mode=mode):
        file = Path(OUTPUT) / recipe.describe(path)[0] / folder / "summary.json"
        if file.is_file():
            yield json.loads(file.read_text(encoding="utf-8"))


class Pool:
    """Runs chains in child processes, some at a time; what each says goes to `output/<name>/<mode>.txt`."""

    def __init__(self, jobs: int, mode: str):
        self.jobs, self.mode = jobs, mode
        self.children: set[subprocess.Popen] = set()
        self.stopped = False

    def run(self, chains: Sequence[tuple[str, str]]) -> dict[str, int]:
        """Exit status by path."""
        waiting: Queue = Queue()
        for chain in chains:
            waiting.put(chain)
        statuses: dict[str, int] = {path: 130 for path, _ in chains}
        threads = [threading.Thread(target=self._work, args=(waiting, statuses)) for _ in range(self.jobs)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:
            self.stopped = True
            for child in list(self.children):
                child.send_signal(signal.SIGTERM)
            for thread in threads:
                thread.join()
        return statuses

    def _work(self, waiting: Queue, statuses: dict[str, int]) -> None:
        while not self.stopped:
            try:
                path, name = waiting.get_nowait()
            except Empty:
                return
            output = Path(OUTPUT) / name / f"{self.mode}.txt"
            output.parent.mkdir(parents=True, exist_ok=True)
            print(f"{name}: started, output in {output}", flush=True)
            clock = time.monotonic()
            with open(output, "wb") as file:
                folder = "benchmark" if self.mode == "benchmark_train" else self.mode
                (Path(OUTPUT) / name / folder / "summary.json").unlink(missing_ok=True)
                status = self._child(["prepare", path, self.mode], file, name)
                if status == 0:
                    status = self._child([ENTRIES.get(self.mode, "train_infer"), path, self.mode], file, name)
            statuses[path] = status
            words = {0: "passed", 3: "nothing ran"}.get(status, f"failed ({status})")
            print(f"{name}: {words} in {time.monotonic() - clock:.0f} s", flush=True)

    def _child(self, words: Sequence[str], file, name: str) -> int:
        if self.stopped:
            return 130
        environment = {**os.environ, "TIPC_STRICT": "1"}
        if self.jobs > 1:  # chains share the machine
            environment.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // self.jobs)))
        if self.mode == "benchmark_train":
            environment.setdefault("BENCHMARK_LOG_DIR", f"{OUTPUT}/{name}/benchmark")
        argv = [sys.executable, __file__, *words]
        child = subprocess.Popen(argv, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
        self.children.add(child)
        try:
            return child.wait()
        finally:
            self.children.discard(child)


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _usage(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return report.strict(2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
