"""Which flags each verb takes, with the spellings of PaddleSeg, PaddleDetection, PaddleClas and Paddle3D.

A row maps spellings (and the `-o` keys of other suites) to one recipe key; what a plain key cannot say is a function.
"""

from __future__ import annotations

import os
from typing import Any

from ppvision.cli.parser import FALSE, TRUE, Flag, Parsed
from ppvision.errors import UserError

EMA_DECAY = 0.9998  # of a bare --use_ema where the recipe names none, as in PaddleDetection


def find_weights(text: str) -> str:
    """The weight file meant by a file, a folder, or a name without `.pdparams`.

    Raises:
        UserError: there is none.
    """
    tried = [text, f"{text}.pdparams", os.path.join(text, "model.pdparams")]
    for path in tried:
        if os.path.isfile(path):
            return path
    raise UserError(f"no weights at '{text}' (tried {', '.join(tried)})")


def _device(value: str, parsed: Parsed, recipe: Any) -> dict[str, Any]:
    if value.lower() not in ("cpu", "gpu"):
        card = "; choose cards with CUDA_VISIBLE_DEVICES" if value.lower().startswith("gpu") else ""
        raise UserError(f"device '{value}' is not supported; use cpu or gpu{card}")
    return {"train.device": value.lower()}


def _amp(value: Any, parsed: Parsed, recipe: Any) -> dict[str, Any]:
    """--precision, --amp and --amp_level together: the precision decides, a level alone switches AMP on."""
    on = parsed.precision != "fp32" if parsed.precision else parsed.amp is not False
    before = recipe.train.amp if recipe is not None and recipe.train.amp != "O0" else "O1"
    result = {"train.amp": (parsed.amp_level or before) if on else "O0"}
    if on and (parsed.precision or parsed.amp):
        result["train.amp_dtype"] = "bfloat16" if parsed.precision == "bf16" else "float16"
    return result


def _ema(value: bool, parsed: Parsed, recipe: Any) -> dict[str, Any]:
    if not value:
        return {"train.ema": None}
    return {"train.ema": recipe.train.ema if recipe is not None and recipe.train.ema else EMA_DECAY}


def _resume(value: str, parsed: Parsed, recipe: Any) -> dict[str, Any]:
    """A folder, or a prefix or file in it, as the checkpoint's folder."""
    if value.lower() in TRUE + FALSE + ("auto",):
        return {"train.resume": None if value.lower() in FALSE else "auto"}
    path = value.rstrip("/") or value
    if not os.path.isdir(path):
        stem = path.removesuffix(".pdparams").removesuffix(".pdopt")
        path = os.path.dirname(stem) or "." if os.path.basename(stem) in ("model", "method", "optimizer") else stem
    return {"train.resume": path}


def _augmented(value: bool, parsed: Parsed, recipe: Any) -> dict[str, Any]:
    return {} if value else {"eval.scales": [1.0], "eval.flip": False, "eval.flip_vertical": False}


def _slide(value: Any, parsed: Parsed, recipe: Any) -> dict[str, Any]:
    """Sliding window; upstream's --crop_size and --stride are width and height."""
    if (parsed.is_slide if parsed.is_slide is not None else parsed.slice_infer) is False:
        return {"eval.slide": None}
    crop = parsed.slice_size or (parsed.crop_size or [])[::-1]
    if not crop:
        if recipe is not None and recipe.eval.slide and not parsed.stride:
            return {}
        raise UserError("a sliding window needs --crop_size W H (and --stride W H)")
    crop = crop * 2 if len(crop) == 1 else crop
    stride = (parsed.stride or [])[::-1]
    if not stride and parsed.overlap_ratio:
        ratios = parsed.overlap_ratio * 2 if len(parsed.overlap_ratio) == 1 else parsed.overlap_ratio
        stride = [max(1, round(side * (1 - ratio))) for side, ratio in zip(crop, ratios, strict=False)]
    return {"eval.slide": {"crop": crop, "stride": stride or crop}}


def _input_shape(value: list[int], parsed: Parsed, recipe: Any) -> dict[str, Any]:
    if len(value) not in (3, 4):
        raise UserError(
            f"--input_shape takes N C H W or C H W, -1 is free; got {' '.join(map(str, value)) or 'nothing'}"
        )
    return {"export.input_shape": value if len(value) == 4 else [-1, *value]}


def _stem(value: str, parsed: Parsed, recipe: Any) -> dict[str, Any]:
    """All files of an export have one stem."""
    return {"export.save_name": os.path.splitext(os.path.basename(value))[0]}


def _opset(value: int, parsed: Parsed, recipe: Any) -> dict[str, Any]:
    if value != 17:
        raise UserError(f"{parsed.spellings['opset_version']}: export writes opset 17 and no other")
    return {}


def _rows(group: str, *rows: Flag) -> list[Flag]:
    return [Flag(**{**row.__dict__, "group": group}) for row in rows]


CONFIG = Flag("--config -c", help="the recipe, a YAML file", required=True, metavar="FILE")
OPTS = Flag(
    "--opts --opt --override -o",
    "overrides",
    "change the recipe: data.root=/data train.iters=20 data.train.transforms.0.scale=2",
)
HELP = Flag("--help -h", bool, "this text")
DEVICE = [
    Flag("--device", help="cpu or gpu; default: gpu if usable", to=_device, opts="Global.device", metavar="cpu|gpu"),
    Flag("--use_gpu", bool, opts="use_gpu", to=lambda v, p, r: {"train.device": "gpu" if v else "cpu"}),
]
THREADS = _rows(
    "machine", Flag("--threads", int, "of the processor; default: usable cores / processes", "train.threads")
)
COMMON = [*_rows("recipe", CONFIG, OPTS), *_rows("machine", *DEVICE), *_rows("other", HELP)]
WEIGHTS_OPTS = "weights pretrain_weights Global.pretrained_model"
WEIGHTS = _rows(
    "recipe",
    Flag(
        "--model_path --weights --model",
        help="weights: a file, a folder, or a name without .pdparams",
        opts=WEIGHTS_OPTS,
        metavar="PATH",
    ),
)
FOREIGN = [  # of every verb
    Flag("--data_format", choices=("NCHW",)),
    Flag("--use_multilabel", bool, refuse="one label per pixel only; use data with index labels"),
    Flag("--use_wandb --wandb", bool, refuse="use --use_vdl, or read the run folder's log.jsonl"),
    Flag("--slim_config", refuse="int8 models come from ppvision export; pruning needs PaddleSlim"),
    Flag("--quant_config", refuse="int8 models come from ppvision export"),
    Flag(
        "--uniform_output_enabled",
        bool,
        opts="uniform_output_enabled Global.uniform_output_enabled",
        refuse="the run folder has one layout; point your tool at output/<recipe>/best_model",
    ),
]
EXTRA = Flag(
    "--extra",
    [str],
    "what the task takes besides its input: source=face.jpg scale=2.5",
    metavar="NAME=VALUE",
)
TRUST = Flag(
    "--trust",
    [str],
    "modules of your own that an export may name; they are imported, so name only what you trust",
    metavar="MODULE",
)
TTA = _rows(
    "test-time augmentation",
    Flag("--aug_eval --aug_pred", bool, "false switches the recipe's off", to=_augmented),
    Flag("--scales", [float], "scales of the input, averaged", "eval.scales"),
    Flag("--flip_horizontal --flip", bool, "add the mirrored image", "eval.flip"),
    Flag("--flip_vertical", bool, "add the image upside down", "eval.flip_vertical"),
    Flag("--is_slide", bool, "sliding window", to=_slide),
    Flag("--slice_infer", bool, to=_slide),
    Flag("--crop_size", [int], "of the window", to=_slide, metavar="W H"),
    Flag("--stride", [int], "of the window; default: crop_size", to=_slide, metavar="W H"),
    Flag("--slice_size", [int], to=_slide),
    Flag("--overlap_ratio", [float], to=_slide),
)

TRAIN = [
    *COMMON,
    *THREADS,
    *_rows(
        "recipe",
        Flag(
            "--model_path --weights --model",
            help="starting weights: a file, a folder, or a name without .pdparams",
            to=lambda v, p, r: {"model.weights": find_weights(v)},
            opts=WEIGHTS_OPTS,
            metavar="PATH",
        ),
    ),
    *_rows(
        "length and rate",
        Flag("--iters", int, "updates", "train.iters", opts="iters"),
        Flag("--epochs", int, "passes over the data, instead of updates", "train.epochs", opts="epoch Global.epochs"),
        Flag(
            "--batch_size",
            int,
            "samples per process and update",
            "train.batch_size",
            opts="batch_size TrainReader.batch_size DataLoader.Train.sampler.batch_size",
        ),
        Flag(
            "--learning_rate --lr",
            float,
            "base learning rate",
            "optimizer.lr",
            opts="LearningRate.base_lr Optimizer.lr.learning_rate",
        ),
        Flag("--early_stop_intervals", int, "stop after so many evaluations without gain", "train.early_stop"),
        Flag("--repeats", int, "go over the sample list so many times per epoch", "train.repeats"),
        Flag("--use_ema", bool, "evaluate and save the moving average", to=_ema, opts="use_ema"),
        Flag("--ema_decay", float, "decay of the moving average", "train.ema", opts="EMA.decay"),
        Flag("--seed", int, "seed of everything random", "train.seed", opts="Global.seed"),
    ),
    *_rows(
        "run folder",
        Flag(
            "--save_dir",
            help="the run folder itself",
            key="train.save_dir",
            opts="save_dir Global.output_dir",
            metavar="DIR",
        ),
        Flag(
            "--resume_model --resume -r",
            help="continue from a checkpoint; alone: from the latest of the run folder",
            to=_resume,
            opts="Global.checkpoints",
            optional="auto",
            metavar="DIR",
        ),
        Flag("--overwrite", bool, "replace an earlier run in the default folder", "train.overwrite"),
        Flag(
            "--save_interval",
            int,
            "checkpoint and evaluate every so many updates (epochs where the recipe counts epochs)",
            "train.save_interval",
            opts="snapshot_epoch Global.save_interval",
        ),
        Flag("--keep_checkpoint_max", int, "checkpoints kept", "train.keep"),
        Flag("--do_eval --eval", bool, "evaluate while training", "eval.enabled", opts="Global.eval_during_train"),
        Flag(
            "--eval_batch_size", int, "batch size of that evaluation", "eval.batch_size", opts="EvalReader.batch_size"
        ),
        Flag(
            "--log_iters --log_interval",
            int,
            "a line every so many updates",
            "log.interval",
            opts="log_iter Global.print_batch_step",
        ),
        Flag("--use_vdl", bool, "write VisualDL records", "log.vdl", opts="Global.use_visualdl"),
        Flag("--vdl_log_dir", help="where", key="log.dir", metavar="DIR"),
    ),
    *_rows(
        "machine",
        Flag(
            "--num_workers",
            int,
            "loader processes",
            "data.workers",
            opts="worker_num DataLoader.Train.loader.num_workers",
        ),
        Flag("--precision", help="automatic mixed precision", choices=("fp32", "fp16", "bf16"), to=_amp),
        Flag("--amp", bool, "the same as --precision fp16", to=_amp, opts="AMP.use_amp"),
        Flag("--amp_level", help="default O1", choices=("O1", "O2"), to=_amp, opts="amp_level AMP.level"),
        Flag(
            "--to_static_training --to_static",
            bool,
            "train as static graph",
            "train.to_static",
            opts="to_static_training Global.to_static",
        ),
        Flag(
            "--profiler_options -p", help="'batch_range=[10,20];state=GPU;...'", key="train.profiler", metavar="K=V;..."
        ),
        Flag("--fleet", bool),  # several processes always train together
    ),
    Flag("--do_bind", bool, refuse="bind processes from outside (numactl, taskset)"),
    *FOREIGN,
]

EVAL = [
    *COMMON,
    *THREADS,
    *WEIGHTS,
    *_rows(
        "evaluation",
        Flag(
            "--batch_size",
            int,
            "images per batch and process",
            "eval.batch_size",
            opts="batch_size EvalReader.batch_size",
        ),
        Flag(
            "--train_batch_size",
            int,
            key="train.batch_size",
            opts="TrainReader.batch_size DataLoader.Train.sampler.batch_size",
        ),
        Flag("--num_workers", int, "loader processes", "eval.workers", opts="worker_num"),
        Flag("--train_num_workers", int, key="data.workers", opts="DataLoader.Train.loader.num_workers"),
        Flag(
            "--output_eval",
            help="write the figures there, as metrics.json, and what the metrics add: detections, curves, pictures",
            metavar="DIR",
        ),
        Flag("--classwise", bool),  # the table with a row per class is always printed
    ),
    *TTA,
    Flag("--json_eval", bool, refuse="evaluate the weights themselves (--model_path)"),
    Flag("--save_prediction_only", bool, refuse="use ppvision predict --image_path ... --save_dir ..."),
    *FOREIGN,
]

PREDICT = [
    *COMMON,
    *THREADS,
    *WEIGHTS,
    *_rows(
        "input and output",
        Flag("--image_path", help="an image, a folder, or a list of images", opts="Infer.infer_imgs", metavar="PATH"),
        Flag("--infer_img", help="one image", metavar="FILE"),
        Flag("--infer_dir", help="a folder of images", metavar="DIR"),
        Flag("--infer_list", help="a list of images", metavar="FILE"),
        Flag(
            "--save_dir --output_dir",
            help="results folder; default output/<recipe>/predictions",
            opts="Infer.save_dir",
            metavar="DIR",
        ),
        Flag("--batch_size", int, "images per batch"),
        EXTRA,
    ),
    *TTA,
    *_rows(
        "drawing",
        Flag("--custom_color", [int], "colours of the classes", metavar="R G B"),
        Flag("--draw_threshold", float, "draw what scores above"),
        Flag("--save_threshold", float, "write what scores above"),
        Flag("--save_results", bool, "write the results, not only pictures"),
        Flag("--visualize", bool, "write pictures"),
    ),
    *FOREIGN,
]

EXPORT = [
    *COMMON,
    *WEIGHTS,
    *_rows(
        "export",
        Flag(
            "--save_dir",
            help="export folder; default output/<recipe>/export",
            opts="Global.save_inference_dir",
            metavar="DIR",
        ),
        Flag("--output_dir", help="the same, with the recipe's name added", metavar="DIR"),
        Flag("--save_name", help="stem of the files; default model", key="export.save_name"),
        Flag(
            "--for_fd",
            bool,
            "files named inference.*",
            to=lambda v, p, r: {"export.save_name": "inference"} if v else {},
        ),
        Flag(
            "--input_shape",
            [int],
            "fixed sides of the picture; -1 (default) is free",
            to=_input_shape,
            opts="TestReader.inputs_def.image_shape Global.image_shape",
            metavar="N C H W",
        ),
        Flag(
            "--output_op",
            help="what ends the graph; default: the task's own",
            key="export.output_op",
            metavar="NAME",
        ),
        Flag("--formats", [str], "files to write", "export.formats", choices=("paddle", "onnx", "pdmodel")),
    ),
    *_rows(
        "as paddle2onnx",
        Flag("--save_file", help="the ONNX file; the rest of the export lies beside it", to=_stem, metavar="FILE"),
        Flag("--model_filename", to=_stem),
        Flag("--params_filename", to=_stem),
        Flag("--opset_version", int, to=_opset),
        Flag("--enable_onnx_checker", bool),  # the parity table always runs what was written
    ),
    Flag("--export_serving_model", bool, refuse="deploy/serving reads the exported folder as it is"),
    Flag("--export_for_apollo", bool, refuse="use the exported model.json and deploy.yaml"),
    *FOREIGN,
]

VERBS = {"train": TRAIN, "eval": EVAL, "predict": PREDICT, "export": EXPORT}
