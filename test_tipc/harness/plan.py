"""From a recipe and a mode to the commands of a run: order of loops, arguments, log and result paths as in PaddleSeg's
`test_train_inference_python.sh`, so that a reader of either finds the same files."""

from __future__ import annotations

import os
import posixpath
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .recipe import INFER_MODES, Line, Recipe, TxtError

OUTPUT = "./test_tipc/output"
RESULTS = "test_tipc/results"
LONGEST_CARDS = 15  # a longer gpu item names machines, as upstream tells them apart


@dataclass
class Step:
    """One command.

    Attributes:
        kind: train, eval, export, infer, compare, convert, onnx_infer, losses, profile, benchmark, analyse, filter.
        argv: the command, first word as line 3 has it.
        log: where its output goes; None: to the screen only.
        tee: the output also goes to the screen while it runs; else afterwards.
        needs: numbers (from 1) of steps without which this one makes no sense.
        makes: files it must leave; of several separated by `|` one is enough; `*` stands for any folder.
        results: folder that must hold a result for each image of `images`.
        environment: changes; None removes a variable.
        skip: why it is not run, if so.
        before: called when the step's turn comes.
        timeout: seconds it may take, where that is not the general limit.
        trainer, gpu, precision: of the training run it belongs to.
        quick: a profiled training that may end before it saves.
    """

    kind: str
    argv: list[str]
    log: str | None = None
    tee: bool = True
    needs: list[int] = field(default_factory=list)
    makes: list[str] = field(default_factory=list)
    results: str | None = None
    images: str | None = None
    environment: dict[str, str | None] = field(default_factory=dict)
    skip: str | None = None
    before: Callable[[], None] | None = None
    timeout: float | None = None
    trainer: str = ""
    gpu: str = ""
    precision: str = ""
    quick: bool = False
    number: int = 0

    @property
    def command(self) -> str:
        """As it would be typed."""
        return shlex.join(self.argv)


@dataclass
class Plan:
    """The steps of a run. `folder` receives logs and summary, `status` the status lines."""

    recipe: Recipe
    mode: str
    folder: str
    status: str
    steps: list[Step] = field(default_factory=list)

    def add(self, step: Step) -> int:
        """Append a step; returns its number."""
        self.steps.append(step)
        step.number = len(self.steps)
        return step.number


def on_device(recipe: Recipe, environment: Mapping[str, str] = os.environ) -> Recipe:
    """The recipe as `TIPC_DEVICE` wants it: lines 4, 5 and 41 rewritten in memory."""
    device = environment.get("TIPC_DEVICE", "")
    if device not in ("", "cpu", "gpu"):
        raise TxtError(f"TIPC_DEVICE is cpu or gpu, got '{device}'")
    if device and recipe.kind != "paddle2onnx":
        changed = {4: "-1" if device == "cpu" else "0", 5: device, **({41: device} if recipe.kind == "train" else {})}
        for position, value in changed.items():
            line = recipe.lines[position]
            recipe.lines[position] = Line(line.number, f"{line.key}:{value}", line.key, value)
    return recipe


def count_gpus(environment: Mapping[str, str] = os.environ) -> int:
    """Cards that commands of this machine see; `TIPC_GPUS` overrides what nvidia-smi says."""
    if environment.get("TIPC_GPUS", "").isdigit():
        return int(environment["TIPC_GPUS"])
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines()) if done.returncode == 0 else 0


def argument(key: str, value: str) -> list[str]:
    """`key=value` in one word; nothing where either is null or the value is empty."""
    return [] if key == "null" or value.strip() in ("", "null") else [f"{key}={value}"]


def plan(
    recipe: Recipe, mode: str, gpu_id: str = "", *, gpus: int = 0, environment: Mapping[str, str] = os.environ
) -> Plan:
    """The commands of `test_train_inference_python.sh <txt> <mode> [gpu_id]`.

    Args:
        gpus: how many cards there are; training on more is planned but skipped.

    Raises:
        TxtError: the mode has no length or batch size, or a trainer no command.
    """
    folder = f"{OUTPUT}/{recipe.model_name}/{mode}"
    result = Plan(recipe, mode, folder, f"{folder}/results_python.log")
    if mode in INFER_MODES:
        _infer_branch(result, gpu_id)
    else:
        for gpu, device in _devices(recipe):
            for precision in recipe.items(6):
                for trainer in recipe.items(15):
                    _train_branch(result, gpu, device, precision, trainer, gpus, environment)
    return result


def _devices(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Items of line 4 with the item of line 5 at the same place, or none."""
    devices = recipe.items(5)
    for i, gpu in enumerate(recipe.items(4)):
        yield gpu, devices[i] if i < len(devices) else ""


def _trainer(recipe: Recipe, trainer: str) -> tuple[str, str, bool]:
    """Training command, export command and whether the model is quantised."""
    exports = {16: 30, 17: 31, 18: 32, 19: 33, 20: 34, 21: 35}
    for position in range(17, 22):
        if trainer == recipe.key(position):
            export = recipe.value(exports[position]) if recipe.kind == "train" else "null"
            return recipe.value(position), export, position == 17
    export = recipe.value(30) if recipe.kind == "train" else "null"
    static = recipe.section("to_static_train_benchmark_params")
    if static and trainer == static[0].key:
        return f"{recipe.value(16)} {static[0].value}", export, False
    return recipe.value(16), export, False


def _train_branch(
    result: Plan,
    gpu: str,
    device: str,
    precision: str,
    trainer: str,
    gpus: int,
    environment: Mapping[str, str],
) -> None:
    recipe, mode = result.recipe, result.mode
    train, export, quantised = _trainer(recipe, trainer)
    if train == "null":
        return
    ips, cards, nodes = "", gpu, 1
    if len(gpu) > LONGEST_CARDS:
        ips, _, cards = gpu.partition(";")
        nodes = len(ips.split(","))
    name = f"{trainer}_gpus_{cards}_autocast_{precision}"
    run_folder = f"{result.folder}/{name}" + (f"_nodes_{nodes}" if nodes > 1 else "")
    log = f"{result.folder}/{name}_nodes_{nodes}"
    about = {"trainer": trainer, "gpu": gpu, "precision": precision}
    # One card is chosen by the environment; several by the launcher, and what follows runs on the first of them.
    first = {} if gpu == "-1" or ips else {"CUDA_VISIBLE_DEVICES": cards.split(",")[0]}
    several = "," in cards
    skip = None
    needed = 1 + max(int(i) for i in cards.split(","))
    if needed > gpus and (device != "cpu" or several):
        skip = f"no device: card {needed - 1} of {gpus}"

    python, iters = shlex.split(recipe.value(3)), recipe.by_mode(7, mode)
    length = argument(recipe.key(7), iters)
    start = argument(recipe.key(10), recipe.value(10))
    launcher, change = _launcher(cards, ips, several, environment)
    argv = [*python, *launcher, *shlex.split(train), *argument(recipe.key(5), device)]
    argv += argument(recipe.key(8), run_folder) + (start + length if ips else length + start)
    argv += argument(recipe.key(6), precision) + argument(recipe.key(9), recipe.by_mode(9, mode))
    argv += argument(recipe.key(13), recipe.value(13))
    if mode == "benchmark_train":
        argv += ["--amp_level=O2"] if precision == "fp16" else []
        for word in ("log_iters", "repeats"):
            if word in recipe.extras:
                argv += [f"--{word}", recipe.extras[word]]
    weights = f"{run_folder}/{recipe.value(11)}"
    quick = mode == "benchmark_train" and recipe.value(13) not in ("", "null")
    trained = result.add(
        Step(
            "train",
            argv,
            f"{log}.log",
            makes=[] if quick else [f"{weights}|{run_folder}/iter_{iters}/model.pdparams"],
            environment=change if launcher else first,
            skip=skip,
            quick=quick,
            **about,
        )
    )
    if recipe.kind != "train":
        return
    if recipe.value(24) != "null":
        argv = [*python, *shlex.split(recipe.value(24)), *argument(recipe.key(10), weights)]
        argv += argument(recipe.key(5), device) + argument(recipe.key(25), recipe.value(25))
        result.add(Step("eval", argv, f"{log}_eval.log", needs=[trained], environment=first, **about))
    if export == "null":
        return
    argv = [*python, *shlex.split(export), *argument(recipe.key(29), weights), *argument(recipe.key(28), run_folder)]
    inference = recipe.value(36)
    model = run_folder if inference in ("null", "##") else f"{run_folder}/{inference}"
    exported = result.add(
        Step(
            "export",
            argv,
            f"{log}_export.log",
            needs=[trained],
            makes=_exported(model),
            environment=first,
            **about,
        )
    )
    inferred = _inference(result, python, model, recipe.value(12), quantised, cards, exported, first, about)
    if not launcher:  # the stored figures are of one process: several train on a larger batch
        _compare(result, python, inferred, about)


def _launcher(
    cards: str, ips: str, several: bool, environment: Mapping[str, str]
) -> tuple[list[str], dict[str, str | None]]:
    """Words before the script where there are several processes, and what they change in the environment."""
    launch = ["-m", "paddle.distributed.launch"]
    processes = environment.get("TIPC_CPU_PROCS", "")
    if cards == "-1" and processes.isdigit() and int(processes) > 1:
        # An empty CUDA_VISIBLE_DEVICES breaks Paddle's launcher.
        return [*launch, "--nproc_per_node", processes], {"CUDA_VISIBLE_DEVICES": None}
    if ips:
        return [*launch, f"--ips={ips}", f"--devices={cards}"], {}
    return ([*launch, f"--devices={cards}"], {}) if several else ([], {})


def _exported(model: str) -> list[str]:
    folder = posixpath.normpath(model)
    graph = f"{folder}/model.json|{folder}/model.pdmodel|{folder}/*/model.json"
    return [f"{folder}/deploy.yaml", graph, f"{folder}/model.pdiparams|{folder}/*/model.pdiparams"]


def _infer_branch(result: Plan, gpu_id: str) -> None:
    recipe = result.recipe
    python = shlex.split(recipe.value(3))
    environment = {"CUDA_VISIBLE_DEVICES": gpu_id} if gpu_id else {}
    for model, export, quantised in zip(recipe.items(37), recipe.items(38), recipe.items(39)):
        about = {"trainer": "whole_infer", "gpu": gpu_id, "precision": ""}
        exported, folder = None, model
        if export != "null":
            folder = posixpath.dirname(model)
            argv = [*python, *shlex.split(export), *argument(recipe.key(29), model), *argument(recipe.key(28), folder)]
            exported = result.add(Step("export", argv, makes=_exported(folder), environment=environment, **about))
        flag = quantised == "True" or result.mode == "klquant_whole_infer"
        inferred = _inference(result, python, folder, recipe.value(48), flag, "0", exported, environment, about)
        _compare(result, python, inferred, about)


def _inference(
    result: Plan,
    python: list[str],
    model: str,
    images: str,
    quantised: bool,
    gpu: str,
    exported: int | None,
    environment: dict[str, str | None],
    about: dict[str, str],
) -> list[int]:
    """The inference loops over an exported model; numbers of the steps."""
    recipe, folder = result.recipe, result.folder
    script = [*python, *shlex.split(recipe.value(40))]
    model_argument = argument(recipe.key(47), f"{model}/deploy.yaml")
    image_argument = argument(recipe.key(48), images)
    benchmark = argument(recipe.key(50), recipe.value(50))
    name = argument(recipe.key(52), recipe.value(52))
    numbers = []

    def add(argv: list[str], log: str, results: str | None) -> None:
        needs = [exported] if exported else []
        step = Step("infer", argv, f"{folder}/{log}", False, needs, results=results, environment=environment, **about)
        step.images = images if results else None
        numbers.append(result.add(step))

    for device in recipe.items(41):
        device_flag = f"{recipe.key(41)}={device}"
        if device in ("cpu", "False"):
            for mkldnn, threads, batch, precision in _cpu_rounds(recipe, quantised):
                tail = f"usemkldnn_{mkldnn}_threads_{threads}_precision_{precision}_batchsize_{batch}"
                results = f"{folder}/python_infer_cpu_{tail}_results"
                argv = [*script, device_flag, f"{recipe.key(42)}={mkldnn}", *argument(recipe.key(43), threads)]
                argv += model_argument + argument(recipe.key(44), batch) + image_argument + benchmark
                argv += argument(recipe.key(46), precision) + argument(recipe.key(51), results) + name
                add(argv, f"python_infer_cpu_gpu_{gpu}_{tail}.log", results)
        else:
            for tensorrt, precision, batch in _gpu_rounds(recipe, quantised):
                tail = f"usetrt_{tensorrt}_precision_{precision}_batchsize_{batch}"
                argv = [*script, device_flag, *argument(recipe.key(45), tensorrt), *argument(recipe.key(46), precision)]
                argv += model_argument + argument(recipe.key(44), batch) + image_argument + benchmark + name
                add(argv, f"python_infer_gpu_gpu_{gpu}_{tail}.log", None)
    return numbers


def _cpu_rounds(recipe: Recipe, quantised: bool) -> Iterator[tuple[str, str, str, str]]:
    for mkldnn in recipe.items(42):
        if mkldnn == "False" and quantised:
            continue
        for threads in recipe.items(43):
            for batch in recipe.items(44):
                for precision in recipe.items(46):
                    if mkldnn == "False" and precision == "fp16":
                        continue
                    if precision == ("int8" if quantised else "fp32"):
                        yield mkldnn, threads, batch, precision


def _gpu_rounds(recipe: Recipe, quantised: bool) -> Iterator[tuple[str, str, str]]:
    for tensorrt in recipe.items(45):
        for precision in recipe.items(46):
            if "int8" in precision and not quantised:
                continue
            if precision != "fp32" and tensorrt == "False":
                continue
            if quantised and (tensorrt == "False" or "int8" in precision):
                continue
            for batch in recipe.items(44):
                yield tensorrt, precision, batch


def reference_glob(model_name: str, mode: str) -> str:
    """Stored figures: those of `lite_train_lite_infer` lie in `results/` itself, others in a folder of their mode."""
    folder = RESULTS if mode == "lite_train_lite_infer" else f"{RESULTS}/{mode}"
    return f"{folder}/python_{model_name}_results_*.txt"


def _compare(result: Plan, python: Sequence[str], inferred: list[int], about: dict[str, str]) -> None:
    """Compare what was inferred with stored figures, where the txt says how."""
    command = result.recipe.command("compare")
    folders = [result.steps[i - 1].results for i in inferred if result.steps[i - 1].results]
    stored = reference_glob(result.recipe.model_name, result.mode)
    expected = result.mode == "lite_train_lite_infer" or any(Path().glob(stored))
    if command is None or not folders or not expected:
        return
    argv = [*python, *shlex.split(command), f"--metric_file={stored}"]
    argv += [f"--predict_dir={result.folder}/python_infer_*_results"]
    argv += ["--write"] if os.environ.get("TIPC_ACCEPT") == "1" else []
    log = f"{result.folder}/compare_results.log"
    result.add(Step("compare", argv, log, False, inferred, **about))
