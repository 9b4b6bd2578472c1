"""Sessions over an exported graph: Paddle Inference, ONNX Runtime, OpenVINO; the only place that configures them.

A session is called with one float32 array [B,3,H,W] and returns the list of outputs. It says what it really runs on:
Paddle and ONNX Runtime both fall back to the CPU without a word, here that is an error.

oneDNN with PIR graphs: its placement pass is always removed. With it, 3.3.1 fails on any interpolation, all versions
read a convolution's output in a wrong memory layout before matmul, and 3.1.1 and 3.2.2 answer garbage where a map
shrinks to one pixel (U-HRNet at 25x61); without it all three are right and as fast (measured with Paddle 3.1.1,
3.2.2, 3.3.1). The in-place pass is removed as well: with it, 3.3.1 lets an activation overwrite the output of a linear
layer that something else still reads (PReLU as relu(y) - w relu(-y) between linear layers, on [B,7,C]). Memory
optimisation needs the new IR and the new executor at the same time.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ppvision.errors import UserError, did_you_mean

logger = logging.getLogger("ppvision")

BACKENDS = ("paddle", "onnx", "openvino", "tensorrt")
DEVICES = ("cpu", "gpu")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True)
class Runtime:
    """How a graph is run.

    Args:
        mkldnn: use oneDNN (CPU).
        cpu_threads: threads of a CPU session; None = the cores this process may use.
        precision: fp32; fp16 on a GPU; bf16 with oneDNN on a CPU; int8 with TensorRT and a quantised graph.
        use_trt: let TensorRT run what it can (GPU).
        min_subgraph_size: smallest part of the graph, in operators, that is given to TensorRT.
        shape_profile: {"min"|"opt"|"max": {input: shape}} for TensorRT with dynamic shapes.
        shape_file: collected shapes for TensorRT; collected into it when it does not exist, used when it does.
        gpu_id: which visible GPU.
        gpu_memory_mb: first allocation of Paddle's memory pool.
        verbose: keep Paddle's own log.
    """

    mkldnn: bool = True
    cpu_threads: int | None = None
    precision: str = "fp32"
    use_trt: bool = False
    min_subgraph_size: int = 3
    shape_profile: dict[str, dict[str, list[int]]] | None = None
    shape_file: str | None = None
    gpu_id: int = 0
    gpu_memory_mb: int = 200
    verbose: bool = False

    def threads(self) -> int:
        """The number of threads that will be used."""
        if self.cpu_threads is not None:
            if self.cpu_threads < 1:
                raise UserError(f"cpu_threads must be at least 1, got {self.cpu_threads}")
            return self.cpu_threads
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cuda_usable() -> bool:
    """Whether this Paddle is a CUDA build and sees a device."""
    import paddle

    return bool(paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0)


def choose_device(device: str | None) -> str:
    """ "cpu" or "gpu"; None means gpu where it is usable.

    Raises:
        UserError: unknown device, or gpu where there is none: Paddle itself would run on the CPU silently.
    """
    if device is None:
        return "gpu" if cuda_usable() else "cpu"
    device = device.lower()
    if device not in DEVICES:
        raise UserError(f"no device '{device}'{did_you_mean(device, DEVICES)} (devices: {', '.join(DEVICES)})")
    if device == "gpu" and not cuda_usable():
        import paddle

        why = (
            "no CUDA device is visible"
            if paddle.device.is_compiled_with_cuda()
            else "this Paddle is built without CUDA"
        )
        raise UserError(f"device gpu: {why}; use --device cpu or install paddlepaddle-gpu from Paddle's package index")
    return device


def check_runtime(device: str, backend: str, runtime: Runtime) -> None:
    """Refuse a combination that would run as something else.

    Raises:
        UserError: naming what is missing and the package that has it.
    """
    if backend not in BACKENDS:
        raise UserError(f"no backend '{backend}'{did_you_mean(backend, BACKENDS)} (backends: {', '.join(BACKENDS)})")
    if runtime.precision not in PRECISIONS:
        near = did_you_mean(runtime.precision, PRECISIONS)
        raise UserError(f"no precision '{runtime.precision}'{near} (precisions: {', '.join(PRECISIONS)})")
    if runtime.use_trt or backend == "tensorrt":
        import paddle

        if paddle.inference.get_trt_compile_version() == (0, 0, 0):
            raise UserError(
                "TensorRT: this Paddle is built without it; "
                "install a paddlepaddle-gpu wheel with TensorRT from Paddle's package index"
            )
        if device != "gpu":
            raise UserError("TensorRT runs on a GPU: use --device gpu")
    allowed = {"fp32"}
    if backend in ("paddle", "tensorrt"):
        trt = runtime.use_trt or backend == "tensorrt"
        allowed |= {"fp16", "int8"} if trt else {"fp16"} if device == "gpu" else {"bf16"} if runtime.mkldnn else set()
    if runtime.precision not in allowed:
        place = device if runtime.mkldnn or device == "gpu" else f"{device} without oneDNN"
        raise UserError(
            f"precision {runtime.precision} does not exist for backend {backend} on {place}; "
            f"use {' or '.join(sorted(allowed))}"
        )


def paddle_version() -> tuple[int, int, int]:
    """(3, 3, 1); a development build (0.0.0) counts as newest."""
    import paddle

    parts = tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in paddle.__version__.split(".")[:3])
    return parts if any(parts) else (999, 0, 0)


def paddle_config(model: str | Path, params: str | Path, device: str, runtime: Runtime) -> Any:
    """A `paddle.inference.Config` for the running version."""
    from paddle import inference

    config = inference.Config(str(model), str(params))
    if not runtime.verbose:
        config.disable_glog_info()
    config.switch_ir_optim(True)
    config.enable_new_ir(True)
    config.enable_new_executor(True)
    config.enable_memory_optim()
    if device == "gpu":
        _configure_gpu(config, inference, runtime)
        return config
    config.disable_gpu()
    config.set_cpu_math_library_num_threads(runtime.threads())
    if not runtime.mkldnn:
        config.disable_mkldnn()
        return config
    config.enable_mkldnn()
    config.set_mkldnn_cache_capacity(10)  # one entry per input shape; unbounded otherwise
    if runtime.precision == "bf16":
        config.enable_mkldnn_bfloat16()
    for name in ("onednn_placement_pass", "inplace_pass"):  # see the head of this file
        config.delete_pass(name)
    return config


def _configure_gpu(config: Any, inference: Any, runtime: Runtime) -> None:
    precision = {
        "fp32": inference.PrecisionType.Float32,
        "fp16": inference.PrecisionType.Half,
        "int8": inference.PrecisionType.Int8,
    }[runtime.precision]
    if not runtime.use_trt:
        config.enable_use_gpu(runtime.gpu_memory_mb, runtime.gpu_id, precision)
        return
    config.enable_use_gpu(runtime.gpu_memory_mb, runtime.gpu_id)
    if runtime.shape_file and not Path(runtime.shape_file).exists():
        # The first run only collects shapes; TensorRT is used from the next one on.
        config.collect_shape_range_info(runtime.shape_file)
        return
    config.enable_tensorrt_engine(
        workspace_size=1 << 30,
        max_batch_size=1,
        min_subgraph_size=runtime.min_subgraph_size,
        precision_mode=precision,
        use_static=False,
        use_calib_mode=False,
    )
    if runtime.shape_file:
        config.enable_tuned_tensorrt_dynamic_shape(runtime.shape_file, True)
    elif runtime.shape_profile:
        profile = runtime.shape_profile
        config.set_trt_dynamic_shape_info(profile["min"], profile["max"], profile["opt"])


class PaddleSession:
    """A graph in Paddle Inference.

    Raises:
        UserError: the device that was asked for is not the one Paddle chose.
    """

    def __init__(self, model: str | Path, params: str | Path, device: str, runtime: Runtime):
        from paddle import inference

        config = paddle_config(model, params, device, runtime)
        if config.use_gpu() != (device == "gpu"):
            raise UserError(
                f"device {device}: Paddle Inference would run on {'gpu' if config.use_gpu() else 'cpu'} instead"
            )
        self.device = device
        self.predictor = inference.create_predictor(config)
        self.input = self.predictor.get_input_handle(self.predictor.get_input_names()[0])
        self.outputs = [self.predictor.get_output_handle(name) for name in self.predictor.get_output_names()]

    def __call__(self, x: np.ndarray) -> list[np.ndarray]:
        """Outputs in the graph's order; names differ between formats and are not used."""
        self.input.reshape(x.shape)
        self.input.copy_from_cpu(np.ascontiguousarray(x))
        self.predictor.run()
        return [output.copy_to_cpu() for output in self.outputs]


class OnnxSession:
    """A graph in ONNX Runtime.

    Raises:
        UserError: onnxruntime is missing, or has no CUDA provider when a GPU is asked for.
    """

    def __init__(self, model: str | Path, device: str, runtime: Runtime):
        try:
            import onnxruntime
        except ImportError:
            raise UserError("backend onnx: onnxruntime is not installed; pip install 'ppvision[onnx]'") from None
        provider = "CUDAExecutionProvider" if device == "gpu" else "CPUExecutionProvider"
        if provider not in onnxruntime.get_available_providers():
            raise UserError(
                f"backend onnx: this onnxruntime has no {provider}; install onnxruntime-gpu or use --device cpu"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = runtime.threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 2 if runtime.verbose else 3
        self.session = onnxruntime.InferenceSession(str(model), options, providers=[provider])
        if self.session.get_providers()[0] != provider:
            raise UserError(f"device {device}: ONNX Runtime chose {self.session.get_providers()[0]} instead")
        self.device = device
        self.input = self.session.get_inputs()[0].name

    def __call__(self, x: np.ndarray) -> list[np.ndarray]:
        """Outputs in the graph's order."""
        return self.session.run(None, {self.input: np.ascontiguousarray(x)})


class OpenVinoSession:
    """The ONNX graph in OpenVINO.

    Raises:
        UserError: openvino is missing.
    """

    def __init__(self, model: str | Path, device: str, runtime: Runtime):
        try:
            import openvino
        except ImportError:
            raise UserError("backend openvino: openvino is not installed; pip install 'ppvision[openvino]'") from None
        self.device = device
        options = {"INFERENCE_NUM_THREADS": runtime.threads()} if device == "cpu" else {}
        self.compiled = openvino.Core().compile_model(str(model), device.upper(), options)

    def __call__(self, x: np.ndarray) -> list[np.ndarray]:
        """Outputs in the graph's order."""
        outputs = self.compiled([np.ascontiguousarray(x)])
        return [outputs[output] for output in self.compiled.outputs]


Session = PaddleSession | OnnxSession | OpenVinoSession


def open_session(
    backend: str,
    device: str,
    runtime: Runtime,
    *,
    model: str | Path | None = None,
    params: str | Path | None = None,
    onnx: str | Path | None = None,
) -> Session:
    """The session of a backend; `check_runtime` is applied first."""
    check_runtime(device, backend, runtime)
    if backend == "tensorrt":
        from dataclasses import replace

        backend, runtime = "paddle", replace(runtime, use_trt=True)
    if backend == "paddle":
        return PaddleSession(model, params, device, runtime)
    return (OnnxSession if backend == "onnx" else OpenVinoSession)(onnx, device, runtime)
