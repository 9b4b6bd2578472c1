"""Sessions over an exported graph: Paddle Inference, ONNX Runtime, OpenVINO; the only place that configures them.

A session is called with arrays by the names of the graph's inputs (one array is legal where there is one input) and
returns arrays by the names of its outputs. It says what it really runs on: Paddle and ONNX Runtime both fall back to
the CPU without a word, here that is an error.

oneDNN with PIR graphs: its placement pass is always removed. With it, 3.3.1 fails on any interpolation, all versions
read a convolution's output in a wrong memory layout before matmul, and 3.1.1 and 3.2.2 answer garbage where a map
shrinks to one pixel (U-HRNet at 25x61); without it all three are right and as fast (measured with Paddle 3.1.1,
3.2.2, 3.3.1). The in-place pass is removed as well: with it, 3.3.1 lets an activation overwrite the output of a linear
layer that something else still reads (PReLU as relu(y) - w relu(-y) between linear layers, on [B,7,C]). Memory
optimisation needs the new IR and the new executor at the same time.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ppvision.errors import UserError, brief, did_you_mean

logger = logging.getLogger("ppvision")

BACKENDS = ("paddle", "onnx", "openvino", "tensorrt")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
ONNX_TYPES = {
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


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


class Session:
    """A graph made ready to run.

    Attributes:
        inputs: names of its inputs -> (dtype, shape with None for a free side), as the runtime tells them.
        outputs: names of its outputs, in order.
        device: where it runs.
    """

    inputs: dict[str, tuple[np.dtype, list[int | None]]]
    outputs: list[str]
    device: str

    def __call__(self, inputs: Mapping[str, np.ndarray] | np.ndarray) -> dict[str, np.ndarray]:
        """Outputs by name, in the graph's order.

        Raises:
            UserError: a wrong, missing or surplus name, or an array whose type or shape the graph does not take.
        """
        arrays = self._checked(inputs)
        try:
            outputs = self._run(arrays)
        except Exception as error:
            # Whatever an engine throws at shapes that do not go together is told in one line.
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
            raise UserError(f"the graph cannot be run on {shapes}: {brief(error)}") from error
        return dict(zip(self.outputs, outputs, strict=True))

    def _run(self, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        raise NotImplementedError

    def _checked(self, inputs: Mapping[str, np.ndarray] | np.ndarray) -> dict[str, np.ndarray]:
        known = ", ".join(self.inputs)
        if not isinstance(inputs, Mapping):
            if len(self.inputs) != 1:
                raise UserError(f"this graph takes {len(self.inputs)} inputs ({known}): give a dict of arrays by name")
            inputs = {next(iter(self.inputs)): inputs}
        for name in inputs:
            if name not in self.inputs:
                raise UserError(f"this graph has no input '{name}'{did_you_mean(name, self.inputs)} (inputs: {known})")
        arrays = {}
        for name, (dtype, shape) in self.inputs.items():
            if name not in inputs:
                raise UserError(f"input '{name}' of the graph is missing (inputs: {known})")
            arrays[name] = fitted(name, np.asarray(inputs[name]), dtype, shape)
        return arrays


def fitted(name: str, array: np.ndarray, dtype: np.dtype, shape: Sequence[int | None]) -> np.ndarray:
    """The array in the type of a graph's input, contiguous.

    Raises:
        UserError: another number of axes, a fixed side of another length, or a type that would lose something.
    """
    sides = ", ".join("any" if side is None else str(side) for side in shape)
    if array.ndim != len(shape) or any(s is not None and s != n for s, n in zip(shape, array.shape)):
        raise UserError(f"input '{name}' has shape {list(array.shape)}, the graph takes [{sides}]")
    if 0 in array.shape:  # an engine may end the process at it
        raise UserError(f"input '{name}' has shape {list(array.shape)}: there is nothing to run")
    if not np.can_cast(array.dtype, dtype, "same_kind") and array.dtype != dtype:
        raise UserError(f"input '{name}' is {array.dtype}, the graph takes {dtype}")
    return np.ascontiguousarray(array, dtype)


class PaddleSession(Session):
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
        self.handles = {name: self.predictor.get_input_handle(name) for name in self.predictor.get_input_names()}
        self.inputs = graph_inputs(Path(model))
        self.outputs = list(self.predictor.get_output_names())
        self.results = [self.predictor.get_output_handle(name) for name in self.outputs]

    def _run(self, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        for name, array in arrays.items():
            self.handles[name].reshape(array.shape)
            self.handles[name].copy_from_cpu(array)
        self.predictor.run()
        return [result.copy_to_cpu() for result in self.results]


def graph_inputs(model: Path) -> dict[str, tuple[np.dtype, list[int | None]]]:
    """Inputs of a `.json` graph, in order, which Paddle's predictor does not tell the types of."""
    program = json.loads(model.read_bytes())["program"]
    inputs = {}
    for op in program["regions"][0]["blocks"][0]["ops"]:
        if op["#"].partition(".")[2] != "data":
            continue
        attributes = {attribute["N"]: attribute["AT"]["D"] for attribute in op["A"]}
        shape = [None if side < 0 else side for side in attributes["shape"]]
        inputs[attributes["name"]] = (np.dtype(attributes["dtype"]), shape)
    return inputs


class OnnxSession(Session):
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
        self.inputs = {}
        for node in self.session.get_inputs():
            shape = [side if isinstance(side, int) else None for side in node.shape]
            self.inputs[node.name] = (np.dtype(ONNX_TYPES[node.type]), shape)
        self.outputs = [node.name for node in self.session.get_outputs()]

    def _run(self, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        return self.session.run(None, arrays)


class OpenVinoSession(Session):
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
        self.inputs = {
            node.any_name: (
                node.element_type.to_dtype(),
                [side.get_length() if side.is_static else None for side in node.partial_shape],
            )
            for node in self.compiled.inputs
        }
        self.outputs = [node.any_name for node in self.compiled.outputs]

    def _run(self, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        outputs = self.compiled(arrays)
        return [outputs[output] for output in self.compiled.outputs]


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
