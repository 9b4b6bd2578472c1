"""`benchmark_train.sh`: training speed and loss as upstream's benchmark CI collects them."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import losses
from .plan import OUTPUT, Plan, Step
from .recipe import Line, Recipe, TxtError
from .report import versions

COPY = "./test_tipc/benchmark_train.txt"
PROFILE_LIMIT = 300.0  # seconds
DEFAULT_NODES = ("N1C1", "N1C8")
PYTHON, CARDS, PRECISION, LENGTH, BATCH, PROFILER, TRAINER, EVAL, EXPORT = 3, 4, 6, 7, 9, 13, 15, 24, 30


def benchmark_plan(
    recipe: Recipe, params: str = "", *, gpus: int = 0, environment: Mapping[str, str] = os.environ
) -> Plan:
    """The commands of `benchmark_train.sh <txt> benchmark_train [params]`.

    Raises:
        TxtError: the txt has no benchmark section, or the params make no sense.
    """
    section = recipe.section("train_benchmark_params")
    if recipe.kind != "train" or section is None:
        raise TxtError(f"{recipe.path}: benchmark_train needs a section train_benchmark_params")
    values = {line.key: line.value for line in section}
    static, batches, precisions, nodes, run_mode = _params(params, values)
    where = environment.get("BENCHMARK_LOG_DIR") or os.getcwd()
    folder = f"{OUTPUT}/{recipe.model_name}/benchmark"
    result = Plan(recipe, "benchmark_train", folder, f"{where}/benchmark_log/results.log")
    flags = dict(flag.partition("=")[::2] for flag in values["flags"].split(";") if "=" in flag)
    for batch in batches:
        for precision in precisions:
            for node in nodes:
                cards = _cards(node)
                edits = {
                    PYTHON: "python",
                    CARDS: cards,
                    PRECISION: precision,
                    LENGTH: f"benchmark_train={values['epoch']}",
                    BATCH: f"benchmark_train={batch}",
                    PROFILER: "null",
                    TRAINER: "to_static_train" if static else recipe.value(TRAINER),
                    EVAL: "null",
                    EXPORT: "null",
                }
                name = f"{recipe.model_name}_bs{batch}_{precision}_{run_mode}"
                _one(result, recipe, edits, name, node, "d2sT_" if static else "", where, flags, gpus, environment)
    return result


def _params(params: str, values: Mapping[str, str]) -> tuple[bool, list[str], list[str], list[str], str]:
    if params in ("", "dynamicTostatic"):
        lists = values["batch_size"].split("|"), values["fp_items"].split("|")
        return params == "dynamicTostatic", *lists, list(DEFAULT_NODES), "DP"
    match = re.fullmatch(r"(dynamic|dynamicTostatic)_bs(\d+)_(fp32|fp16|bf16|null)_(\w+?)_(N\d+C\d+)", params)
    if match is None:
        raise TxtError(
            f"params are <dynamic|dynamicTostatic>_bs<n>_<fp32|fp16|null>_<run mode>_N<n>C<n>, got '{params}'"
        )
    model_type, batch, precision, run_mode, node = match.groups()
    return model_type != "dynamic", [batch], ["fp32" if precision == "null" else precision], [node], run_mode


def _cards(node: str) -> str:
    """`N1C4` -> `0,1,2,3`: the cards of one machine."""
    machines, cards = map(int, re.fullmatch(r"N(\d+)C(\d+)", node).groups())
    if not machines or not cards:
        raise TxtError(f"'{node}' has no machine or no card")
    return ",".join(str(i) for i in range((cards - 1) // machines + 1))


def _one(
    result: Plan,
    recipe: Recipe,
    edits: dict[int, str],
    name: str,
    node: str,
    prefix: str,
    where: str,
    flags: dict[str, str],
    gpus: int,
    environment: Mapping[str, str],
) -> None:
    """Profile, training and analysis for one batch size, precision and number of cards."""
    count = edits[CARDS].count(",") + 1
    skip = f"no device: card {count - 1} of {gpus}" if count > max(gpus, 1) else None
    file = f"{Path.cwd().name}_{name}_{node}_{prefix}"
    train_log, speed_log = f"{where}/train_log/{file}log", f"{where}/index/{file}speed"
    about = {"trainer": f"{name} {prefix}".strip(), "gpu": edits[CARDS], "precision": edits[PRECISION], "skip": skip}
    argv = ["python", "test_tipc/tipc.py", "train_infer", COPY, "benchmark_train"]
    changes = {**flags, "TIPC_STRICT": "1"}
    if count == 1 and environment.get("PROFILING_TIMER_ONLY", "True") != "no":
        option = next(line for line in recipe.section("train_benchmark_params") if line.key.startswith("--profiler"))
        value = option.value
        if environment.get("PROFILING_TIMER_ONLY") == "False":
            value += ";timer_only=False"
        write = _writer(recipe, {**edits, PROFILER: value}, option.key, train_log)
        log = f"{where}/profiling_log/{file}profiling"
        result.add(Step("profile", argv, log, False, environment=changes, before=write, timeout=PROFILE_LIMIT, **about))
    write, clock = _writer(recipe, edits, None, train_log), [0.0]

    def start() -> None:
        write()
        clock[0] = time.monotonic()

    trained = result.add(Step("benchmark", argv, train_log, False, environment=changes, before=start, **about))
    read = train_log
    if "skip_iters" in recipe.extras:
        read = f"{train_log}_filtered"
        argv = ["python", "test_tipc/filter_log.py", "--in_log_path", train_log, "--out_log_path", read]
        argv += ["--skip_iters", recipe.extras["skip_iters"]]
        trained = result.add(Step("filter", argv, None, False, [trained], makes=[read], **about))
    root = environment.get("BENCHMARK_ROOT")
    tool = [f"{root}/scripts/analysis.py"] if root else ["test_tipc/tipc.py", "analyse"]
    argv = ["python", *tool, "--filename", read, "--speed_log_file", speed_log, "--model_name", name]
    argv += ["--base_batch_size", edits[BATCH].partition("=")[2], "--run_mode", name.rpartition("_")[2]]
    argv += ["--fp_item", edits[PRECISION], "--keyword", "ips:", "--skip_steps", "2", "--device_num", node]
    argv += ["--speed_unit", "samples/s", "--convergence_key", "loss:"]
    step = Step("analyse", argv, None, False, [trained], makes=[speed_log], **about)

    def stop() -> None:
        step.environment = {"model_run_time": f"{time.monotonic() - clock[0]:.1f}"}

    step.before = stop
    result.add(step)


def _writer(recipe: Recipe, edits: Mapping[int, str], profiler: str | None, log: str):
    """Writes the copy of the txt with some lines changed, and makes the folders of the logs."""

    def write() -> None:
        texts = Path(recipe.path).read_text(encoding="utf-8").splitlines()
        for position, value in edits.items():
            line: Line = recipe.lines[position]
            text = f"{line.key}:{value}"
            if position == PROFILER:
                text = f'"{profiler}:{value}"' if profiler else f"{line.key}:{value}"
            texts[line.number - 1] = text
        Path(COPY).write_text("\n".join(texts) + "\n", encoding="utf-8")
        for folder in ("train_log", "index", "profiling_log"):
            (Path(log).parents[1] / folder).mkdir(parents=True, exist_ok=True)

    return write


def open_status(plan: Plan) -> None:
    """Make the folder of the status lines."""
    Path(plan.status).parent.mkdir(parents=True, exist_ok=True)


def analyse(argv: Sequence[str]) -> int:
    """What upstream's `scripts/analysis.py` does with these arguments: mean speed after the first values, last loss."""
    parser = argparse.ArgumentParser(prog="tipc.py analyse", allow_abbrev=False)
    for name in ("filename", "speed_log_file", "model_name", "run_mode", "fp_item", "device_num", "speed_unit"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--base_batch_size", type=int, required=True)
    parser.add_argument("--keyword", default="ips:")
    parser.add_argument("--convergence_key", default="loss:")
    parser.add_argument("--skip_steps", type=int, default=2)
    args = parser.parse_args(argv)
    try:
        lines = Path(args.filename).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        print(f"error: {args.filename}: {error.strerror}", file=sys.stderr)
        return 2
    speeds = losses.after_word(lines, args.keyword)
    values = losses.after_word(lines, args.convergence_key)
    if len(speeds) <= args.skip_steps:
        print(f"error: {args.filename}: {len(speeds)} speeds, more than {args.skip_steps} are needed", file=sys.stderr)
        return 1
    kept = speeds[args.skip_steps :]
    cards = int(args.device_num.rpartition("C")[2])
    found = {
        "model_name": args.model_name,
        "batch_size": args.base_batch_size,
        "fp_item": args.fp_item,
        "run_mode": args.run_mode,
        "convergence_value": values[-1] if values else 0,
        "convergence_key": args.convergence_key,
        "ips": round(cards * sum(kept) / len(kept), 4),
        "speed_unit": args.speed_unit,
        "device_num": args.device_num,
        "device_type": "gpu" if shutil.which("nvidia-smi") else "cpu",
        "model_run_time": os.environ.get("model_run_time", ""),
        "frame_version": versions().get("paddlepaddle-gpu") or versions().get("paddlepaddle", ""),
    }
    text = json.dumps(found)
    Path(args.speed_log_file).write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0
