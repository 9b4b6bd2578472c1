"""`ppvision infer` = deploy/python/infer.py: run an exported folder; and deploy/python/infer_onnx.py.

Writes the files of each result (a mask: `<stem>.png`, class ids with a palette, and `<stem>_overlay.jpg`) and
`predictions.json`. With `--benchmark` it makes five warm-up calls first and prints AutoLog's block. Times are per call
of the network, so per batch.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ppvision.cli import guarded
from ppvision.cli.parser import Flag, Override, Parsed, extras_of, help_text, parse_args
from ppvision.cli.tables import EXTRA, TRUST
from ppvision.errors import UserError

if TYPE_CHECKING:
    from ppvision.predict.predictor import Predictor

ABOUT = "Run an exported model on images."
ABOUT_ONNX = "Run the model.onnx of an export; its deploy.yaml must lie beside it."
SAVE_DIR = "output"
WARM_UP = 5
AUTO_TUNE_IMAGES = 10
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
RUN_MODES = ("paddle", "trt_fp32", "trt_fp16", "trt_int8")
NO_VIDEO = "extract the frames first (ffmpeg -i video.mp4 frames/%06d.png) and give --image_path frames"

INFER = (
    Flag(
        "--config -c --model_dir",
        help="folder of an export, or its deploy.yaml",
        opts="Global.inference_model_dir",
        required=True,
        metavar="PATH",
    ),
    Flag(
        "--image_path --image_file --image_dir",
        help="an image, a folder, or a list of images",
        opts="Global.infer_imgs",
        required=True,
        metavar="PATH",
    ),
    Flag("--video_file", refuse=NO_VIDEO),
    Flag("--save_dir --output_dir", help="results folder; default output", metavar="DIR"),
    Flag("--device", help="cpu or gpu; default gpu if usable", metavar="cpu|gpu"),
    Flag("--use_gpu", bool, opts="Global.use_gpu"),
    Flag("--backend", help="what runs the graph; default paddle", choices=("paddle", "onnx", "openvino", "tensorrt")),
    Flag("--batch_size", int, help="images per call; sizes are never mixed; default 1", opts="Global.batch_size"),
    Flag("--save_images --visualize", bool, help="also draw over the images; default true"),
    Flag("--save_results", bool),
    Flag("--threshold", float),
    Flag("--with_argmax", bool),
    Flag("--print_detail", bool, help="keep Paddle's own log"),
    Flag("--enable_mkldnn", bool, help="use oneDNN; default true", opts="Global.enable_mkldnn", group="CPU"),
    Flag("--enable_mkldnn_bfloat16", bool, help="compute in bfloat16", group="CPU"),
    Flag(
        "--cpu_threads", int, help="default: all cores this process may use", opts="Global.cpu_num_threads", group="CPU"
    ),
    Flag(
        "--use_trt --use_tensorrt", bool, help="let TensorRT run what it can", opts="Global.use_tensorrt", group="GPU"
    ),
    Flag("--precision", help="default fp32", choices=PRECISIONS, group="GPU"),
    Flag("--use_fp16", bool, opts="Global.use_fp16"),
    Flag("--run_mode", choices=RUN_MODES),
    Flag("--min_subgraph_size", int, help="smallest part given to TensorRT; default 3", group="GPU"),
    Flag(
        "--enable_auto_tune --collect_trt_shape_info", bool, help="collect TensorRT shapes from the images", group="GPU"
    ),
    Flag(
        "--auto_tuned_shape_file --tuned_trt_shape_file",
        help="where; default <export>/shapes.pbtxt",
        metavar="FILE",
        group="GPU",
    ),
    Flag("--trt_min_shape", int, help="least side of the input, square", group="GPU"),
    Flag("--trt_opt_shape", int, help="usual side", group="GPU"),
    Flag("--trt_max_shape", int, help="largest side", group="GPU"),
    Flag(
        "--benchmark --run_benchmark",
        bool,
        help="warm up, then print times and memory",
        opts="Global.benchmark",
        group="benchmark",
    ),
    Flag(
        "--model_name",
        help="name in the benchmark's block; default that of the export",
        metavar="NAME",
        group="benchmark",
    ),
    EXTRA,
    TRUST,
    Flag("--opts -o --opt --override", "overrides"),
)

INFER_ONNX = (
    Flag("--onnx_file", help="model.onnx of an export", required=True, metavar="FILE"),
    Flag("--img_path --image_path", help="an image, a folder, or a list of images", required=True, metavar="PATH"),
    Flag("--save_dir --output_dir", help="results folder; default output", metavar="DIR"),
    Flag("--device", help="cpu or gpu; default cpu", metavar="cpu|gpu"),
    Flag("--batch_size", int, help="images per call; default 1"),
    Flag("--cpu_threads", int, help="default: all cores this process may use"),
    Flag("--save_images --visualize", bool, help="also draw over the images; default true"),
)


def main(argv: Sequence[str]) -> int:
    """Exit status of `ppvision infer`."""
    parsed = _parse("infer", ABOUT, INFER, argv)
    if parsed is None:
        return 0
    device, backend = device_of(parsed), parsed.backend or "paddle"
    options = runtime_options(parsed)
    task_options = {} if parsed.threshold is None else {"draw_threshold": parsed.threshold}

    from ppvision.device import choose_device
    from ppvision.predict.deployment import deploy_file, trust
    from ppvision.predict.inputs import find_inputs
    from ppvision.predict.predictor import Predictor
    from ppvision.predict.runtime import Runtime, check_runtime
    from ppvision.predict.saving import check_targets, suffixes_of

    trust(*(parsed.trust or ()))
    if deploy_file(parsed.config) is None:
        if not os.path.isfile(parsed.config):
            raise UserError(f"{parsed.config}: no such file or folder; give the folder of an export")
        raise UserError(
            f"{parsed.config}: not an export but a recipe or another file; run `ppvision export --config "
            f"{parsed.config} --model_path <weights> --save_dir <folder>` first and give --config <folder>"
        )
    images = find_inputs(parsed.image_path, suffixes_of(parsed.config))
    check_targets(images, parsed.save_dir or SAVE_DIR)
    check_runtime(choose_device(device), backend, Runtime(**options))

    def predictor() -> Predictor:
        return Predictor(
            parsed.config,
            device,
            backend,
            batch_size=1 if parsed.batch_size is None else parsed.batch_size,
            runtime=Runtime(**options),
            **task_options,
        )

    if "shape_file" in options and not os.path.exists(options["shape_file"]):
        collector = predictor()
        for _ in collector.stream(images[:AUTO_TUNE_IMAGES], **extras_of(parsed)):
            pass
        del collector  # Paddle writes the shapes when the session ends
        say(f"TensorRT shapes collected in {options['shape_file']}")
    return infer(predictor(), images, parsed)


def main_onnx(argv: Sequence[str]) -> int:
    """Exit status of deploy/python/infer_onnx.py."""
    parsed = _parse("infer_onnx", ABOUT_ONNX, INFER_ONNX, argv)
    if parsed is None:
        return 0
    if not os.path.isfile(parsed.onnx_file):
        raise UserError(f"{parsed.onnx_file}: no such file")

    from ppvision.predict.deployment import Deployment
    from ppvision.predict.inputs import find_inputs
    from ppvision.predict.predictor import Predictor
    from ppvision.predict.runtime import Runtime
    from ppvision.predict.saving import check_targets, suffixes_of

    folder, name = os.path.split(os.path.abspath(parsed.onnx_file))
    described = Deployment.read(os.path.join(folder, "deploy.yaml")).only.file(".onnx").name
    if name != described:
        raise UserError(f"{parsed.onnx_file}: the deploy.yaml beside it describes {described}")
    images = find_inputs(parsed.img_path, suffixes_of(folder))
    check_targets(images, parsed.save_dir or SAVE_DIR)
    runtime = Runtime(cpu_threads=parsed.cpu_threads)
    device = (parsed.device or "cpu").lower()
    predictor = Predictor(
        folder, device, "onnx", batch_size=1 if parsed.batch_size is None else parsed.batch_size, runtime=runtime
    )
    return infer(predictor, images, parsed)


def infer(predictor: Predictor, images: Sequence[Any], parsed: Parsed) -> int:
    """Predict, save, report."""
    from ppvision.predict.saving import save_results

    extras = extras_of(parsed)
    if parsed.benchmark:
        for _ in predictor.stream([images[0]] * (WARM_UP * predictor.batch_size), **extras):
            pass
        predictor.reset_timings()
    begin = time.perf_counter()
    save_dir = parsed.save_dir or SAVE_DIR
    overlay = parsed.save_images is not False
    records = save_results(predictor, images, save_dir, overlay=overlay, extras=extras)
    if parsed.benchmark:
        for line in benchmark_block(predictor, len(records), time.perf_counter() - begin, parsed.model_name):
            say(line)
    say(f"{len(records)} image{'s' if len(records) != 1 else ''} -> {save_dir}")
    say("Finish")
    return 0


def device_of(parsed: Parsed) -> str | None:
    """ "cpu", "gpu", or None for gpu where usable: --device, else --use_gpu."""
    if parsed.device:
        if parsed.device.lower() not in ("cpu", "gpu"):
            raise UserError(f"device '{parsed.device}' is not supported; use cpu or gpu")
        return parsed.device.lower()
    return None if parsed.use_gpu is None else "gpu" if parsed.use_gpu else "cpu"


def runtime_options(parsed: Parsed) -> dict[str, Any]:
    """Arguments of `predict.runtime.Runtime`.

    Raises:
        UserError: flags that contradict each other or mean nothing here.
    """
    for item in parsed.overrides:
        if isinstance(item, Override):
            raise UserError(
                "infer: an export cannot be changed by -o; export again (known: Global.* of PaddleClas, see --help)"
            )
    if parsed.save_results is False:
        raise UserError(
            "--save_results false is not supported: results are always written; --save_images false omits the drawings"
        )
    mode = parsed.run_mode or "paddle"
    precision = parsed.precision or (mode.removeprefix("trt_") if mode != "paddle" else None)
    precision = precision or ("bf16" if parsed.enable_mkldnn_bfloat16 else "fp16" if parsed.use_fp16 else "fp32")
    options: dict[str, Any] = {
        "precision": precision,
        "use_trt": parsed.use_trt if parsed.use_trt is not None else mode != "paddle",
        "verbose": bool(parsed.print_detail),
        "cpu_threads": parsed.cpu_threads,
    }
    if parsed.enable_mkldnn is not None:
        options["mkldnn"] = parsed.enable_mkldnn
    if parsed.min_subgraph_size is not None:
        options["min_subgraph_size"] = parsed.min_subgraph_size
    sides = {key: parsed.values.get(f"trt_{key}_shape") for key in ("min", "opt", "max")}
    if any(side is not None for side in sides.values()):
        if None in sides.values() or not 0 < sides["min"] <= sides["opt"] <= sides["max"]:
            raise UserError("--trt_min_shape, --trt_opt_shape and --trt_max_shape go together, 0 < min <= opt <= max")
        options["shape_profile"] = {key: {"x": [1, 3, side, side]} for key, side in sides.items()}
    if options["use_trt"] and (parsed.enable_auto_tune or parsed.auto_tuned_shape_file):
        folder = parsed.config if os.path.isdir(parsed.config) else os.path.dirname(parsed.config)
        options["shape_file"] = parsed.auto_tuned_shape_file or os.path.join(folder, "shapes.pbtxt")
    return options


def benchmark_block(predictor: Predictor, num_images: int, seconds: float, model_name: str | None) -> list[str]:
    """AutoLog's block (PaddlePaddle's AutoLog 1.2), as CI scripts parse it."""
    import paddle

    runtime, cpu = predictor.runtime, predictor.device == "cpu"
    paddle_backend = predictor.backend in ("paddle", "tensorrt")
    sides = predictor.input_shape[1:]
    shape = "x".join(map(str, sides)) if sides and min(sides) > 0 else "dynamic"
    per_call = {key: 1000 * value / max(predictor.calls, 1) for key, value in predictor.timings.items()}
    gpu = None if cpu else round(paddle.device.cuda.max_memory_reserved() / 2**20, 1)
    return [
        "---------------------- Paddle info ----------------------",
        f"paddle_version: {paddle.__version__}",
        f"paddle_commit: {paddle.version.commit}",
        "log_api_version: 1.0",
        "----------------------- Conf info -----------------------",
        f"runtime_device: {predictor.device}",
        f"ir_optim: {paddle_backend}",
        f"enable_memory_optim: {paddle_backend}",
        f"enable_tensorrt: {runtime.use_trt or predictor.backend == 'tensorrt'}",
        f"enable_mkldnn: {cpu and paddle_backend and runtime.mkldnn}",
        f"cpu_math_library_num_threads: {runtime.threads()}",
        "----------------------- Model info ----------------------",
        f"model_name: {model_name or predictor.model_name}",
        f"precision: {runtime.precision}",
        "----------------------- Data info -----------------------",
        f"batch_size: {predictor.batch_size}",
        f"input_shape: {shape}",
        f"data_num: {num_images}",
        "----------------------- Perf info -----------------------",
        f"cpu_rss(MB): {_memory_mb()}, gpu_rss(MB): {gpu}, gpu_util: None%",
        f"total time spent(s): {seconds:.4f}",
        ", ".join(f"{key}_time(ms): {value:.4f}" for key, value in per_call.items()),
    ]


def say(message: str) -> None:
    """One line of the log, at once: harnesses read it through a pipe."""
    print(time.strftime("[%Y/%m/%d %H:%M:%S]"), f"INFO: {message}", flush=True)


def script(entry: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Run `main` or `main_onnx` as a program, with the exit statuses of `ppvision`."""
    return guarded(entry, sys.argv[1:] if argv is None else argv)


def _parse(verb: str, about: str, table: Sequence[Flag], argv: Sequence[str]) -> Parsed | None:
    if any(token in ("-h", "--help") for token in argv):
        sys.stdout.write(help_text(verb, about, table))
        return None
    return parse_args(verb, table, argv)


def _memory_mb() -> float | None:
    """Peak resident memory of this process; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
