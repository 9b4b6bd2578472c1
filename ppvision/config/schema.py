"""The typed sections of a recipe. A field is a YAML key, its annotation the type, its default what omission means."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypedDict

from ppvision.config.component import Component

Natural = Annotated[int, 0]
Count = Annotated[int, 1]
NonNegative = Annotated[float, 0]
Share = Annotated[float, 0, 1]
Workers = Annotated[int, 0, 256]
Threads = Annotated[int, 1, 1024]
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Data:
    """Where the samples come from."""

    type: str | None = None  # format of the data set, for train and val alike unless they name their own
    root: str | None = None  # folder of the data set, likewise
    mean: Triple | None = None  # 0..255; only for a model named by dotted path, else the zoo entry's
    std: Triple | None = None  # likewise
    workers: Workers = 2  # loader processes
    skip_bad: Natural = 0  # so many unreadable samples are skipped before training stops
    train: Component | None = None  # what is trained on
    val: Component | None = None  # what is evaluated on; its transforms are those of deployment


@dataclass(frozen=True)
class Train:
    """One run of the trainer."""

    iters: Count | None = None  # length of the run, in updates ...
    epochs: Count | None = None  # ... or in passes over the data: one of the two
    batch_size: Count = 2  # per process and micro-batch
    accumulate: Count = 1  # micro-batches per update
    amp: Literal["O0", "O1", "O2"] = "O0"  # mixed precision: off, on, on with half-precision weights
    amp_dtype: Literal["float16", "bfloat16"] = "float16"  # of mixed precision
    loss_scale: Annotated[float, 1, 2.0**32] = 65536.0  # where float16 starts
    clip_norm: NonNegative | None = None  # largest gradient norm
    ema: NonNegative | None = None  # decay of the moving average that is evaluated and saved, below 1
    seed: Annotated[int, 0, 2**63 - 1] = 0  # of everything random
    device: Literal["cpu", "gpu"] | None = None  # null: gpu if usable, else cpu
    threads: Threads | None = None  # on a CPU; null: OMP_NUM_THREADS, else usable cores / processes
    save_interval: Count | None = None  # updates, or epochs where `epochs` counts; null: 1000 updates, 1 epoch
    keep: Count = 3  # checkpoints kept
    sync_bn: bool = False  # batch-norm statistics over all GPU processes
    recompute: bool = False  # compute activations again in backward: less memory, more time
    shard_optimizer: bool = False  # divide the optimizer's state over the processes: less memory each
    max_bad_steps: Natural = 10  # so many skipped updates in a row end the run
    resume: str | None = None  # "auto" or a checkpoint folder
    overwrite: bool = False  # allows a fresh run in a used default folder
    save_dir: str | None = None  # the run folder; null: output/<name of the recipe>
    repeats: Count = 1  # the sample list, so many times per epoch
    early_stop: Count | None = None  # stop after so many evaluations without gain
    to_static: bool = False  # train as static graph
    profiler: str | None = None  # option string, see config/profiler.py

    def __post_init__(self) -> None:
        if self.save_interval is None:
            object.__setattr__(self, "save_interval", 1 if self.epochs else 1000)


class Best(TypedDict, total=False):
    """Which metric decides what `best_model` is; without a name the first one of the first metric."""

    name: str | None
    mode: Literal["max", "min"]


class Slide(TypedDict):
    """Sliding window, [height, width] each."""

    crop: tuple[Count, Count]
    stride: tuple[Count, Count]


@dataclass(frozen=True)
class Eval:
    """Evaluation, while training and alone."""

    enabled: bool = True  # while training
    interval: Count | None = None  # null: train.save_interval
    batch_size: Count = 1  # per process
    workers: Workers | None = None  # null: data.workers
    metrics: list[str | dict[str, Any]] = field(default_factory=list)  # names, or mappings with `type`
    best: Best = field(default_factory=lambda: {"name": None, "mode": "max"})  # what `best_model` is
    task: str | None = None  # only for a model named by dotted path, else the zoo entry's
    flip: bool = False  # average with the mirrored image
    flip_vertical: bool = False  # and with the image upside down
    scales: list[Annotated[float, 1e-2, 100.0]] = field(default_factory=lambda: [1.0])  # of the input, averaged
    slide: Slide | None = None  # sliding window


@dataclass(frozen=True)
class Export:
    """What export writes and how far it may deviate."""

    input_shape: list[int] = field(default_factory=lambda: [-1, 3, -1, -1])  # N, C, H, W of the picture; -1 is free
    shapes: dict[str, list[int]] | None = None  # of inputs by name, -1 is free; null: as the network declares them
    output_op: str | None = None  # what ends the graph, one of the task's endings; null: its first
    formats: list[Literal["paddle", "onnx", "pdmodel"]] = field(
        default_factory=lambda: ["paddle", "onnx"]
    )  # what is written
    save_name: str = "model"  # stem of the files
    tolerance: NonNegative = 1.0e-4  # largest error of raw outputs against eager mode
    agreement: Share = 0.999  # smallest share of equal decisions


@dataclass(frozen=True)
class Log:
    """What a run tells."""

    interval: Count = 10  # updates
    vdl: bool = False  # write VisualDL records
    dir: str | None = None  # of the VisualDL files; null: <run folder>/vdl
