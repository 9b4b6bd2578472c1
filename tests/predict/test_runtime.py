"""How sessions are configured, and that no device is claimed that is not used."""

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from ppvision.device import choose_device
from ppvision.errors import UserError
from ppvision.exporting import convert_onnx
from ppvision.exporting.deployed import Deployed
from ppvision.exporting.graph import resolved, save_static
from ppvision.models.network import IMAGE, Input, Network
from ppvision.predict import runtime as module
from ppvision.predict.runtime import Runtime, check_runtime, open_session, paddle_config
from tests.exporting.samples import exported, exported_detector

NO_CUDA = not paddle.device.is_compiled_with_cuda()


class Recorder:
    """A `paddle.inference.Config` that writes down what is asked of it."""

    def __init__(self, *files):
        self.files, self.calls = files, {}

    def delete_pass(self, name):
        self.calls["delete_pass"] = (*self.calls.get("delete_pass", ()), name)

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args, **kwargs: self.calls.__setitem__(name, args or kwargs or True)


@pytest.fixture
def recorded(monkeypatch):
    monkeypatch.setattr(paddle.inference, "Config", Recorder)

    def configure(device, **options):
        return paddle_config("m.json", "m.pdiparams", device, Runtime(**options)).calls

    return configure


class TestConfig:
    def test_memory_optimisation_never_comes_alone(self, recorded):
        calls = recorded("cpu")
        assert {"enable_memory_optim", "enable_new_ir", "enable_new_executor"} <= set(calls)

    def test_onednn_runs_without_the_passes_that_break_it(self, recorded):
        calls = recorded("cpu")
        assert "enable_mkldnn" in calls and calls["set_mkldnn_cache_capacity"] == (10,)
        assert calls["delete_pass"] == ("onednn_placement_pass", "inplace_pass")

    def test_onednn_is_on_by_default_in_paddle_so_off_is_said(self, recorded):
        calls = recorded("cpu", mkldnn=False, cpu_threads=3)
        assert "disable_mkldnn" in calls and "enable_mkldnn" not in calls and "delete_pass" not in calls
        assert calls["set_cpu_math_library_num_threads"] == (3,)

    def test_bfloat16(self, recorded):
        assert "enable_mkldnn_bfloat16" in recorded("cpu", precision="bf16")

    def test_gpu(self, recorded):
        calls = recorded("gpu", precision="fp16", gpu_id=1)
        assert calls["enable_use_gpu"] == (200, 1, paddle.inference.PrecisionType.Half)
        assert "enable_tensorrt_engine" not in calls and "enable_mkldnn" not in calls

    def test_tensorrt(self, recorded, tmp_path):
        profile = {key: {"x": [1, 3, side, side]} for key, side in (("min", 64), ("opt", 128), ("max", 256))}
        calls = recorded("gpu", use_trt=True, precision="fp16", min_subgraph_size=5, shape_profile=profile)
        assert calls["enable_tensorrt_engine"]["precision_mode"] == paddle.inference.PrecisionType.Half
        assert calls["enable_tensorrt_engine"]["min_subgraph_size"] == 5
        assert calls["set_trt_dynamic_shape_info"] == (profile["min"], profile["max"], profile["opt"])

    def test_tensorrt_shapes_are_collected_first_and_used_then(self, recorded, tmp_path):
        file = tmp_path / "shapes.pbtxt"
        calls = recorded("gpu", use_trt=True, shape_file=str(file))
        assert calls["collect_shape_range_info"] == (str(file),) and "enable_tensorrt_engine" not in calls
        file.write_text("x")
        calls = recorded("gpu", use_trt=True, shape_file=str(file))
        assert calls["enable_tuned_tensorrt_dynamic_shape"] == (str(file), True) and "enable_tensorrt_engine" in calls


class TestDeviceTruth:
    def test_choose(self):
        assert choose_device("CPU") == "cpu"
        assert choose_device(None) == ("cpu" if NO_CUDA else choose_device(None))
        with pytest.raises(UserError, match="no device 'xpu'"):
            choose_device("xpu")

    @pytest.mark.skipif(not NO_CUDA, reason="this Paddle has CUDA")
    def test_gpu_without_cuda_is_an_error(self):
        with pytest.raises(UserError, match="built without CUDA.*paddlepaddle-gpu"):
            choose_device("gpu")

    def test_cuda_build_without_a_card_is_an_error(self, monkeypatch):
        monkeypatch.setattr(paddle.device, "is_compiled_with_cuda", lambda: True)
        monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: 0)
        with pytest.raises(UserError, match="no CUDA device is visible"):
            choose_device("gpu")

    def test_tensorrt_without_the_library_names_the_wheel(self, monkeypatch):
        monkeypatch.setattr(paddle.inference, "get_trt_compile_version", lambda: (0, 0, 0))
        for runtime, backend in ((Runtime(use_trt=True), "paddle"), (Runtime(), "tensorrt")):
            with pytest.raises(UserError, match="paddlepaddle-gpu wheel with TensorRT"):
                check_runtime("gpu", backend, runtime)
        monkeypatch.setattr(paddle.inference, "get_trt_compile_version", lambda: (10, 0, 0))
        with pytest.raises(UserError, match="--device gpu"):
            check_runtime("cpu", "paddle", Runtime(use_trt=True))
        check_runtime("gpu", "paddle", Runtime(use_trt=True, precision="int8"))

    def test_a_session_that_would_run_elsewhere_is_refused(self, monkeypatch):
        monkeypatch.setattr(module, "paddle_config", lambda *_: SimpleNamespace(use_gpu=lambda: False))
        with pytest.raises(UserError, match="would run on cpu"):
            open_session("paddle", "gpu", Runtime(), model="m", params="p")

    @pytest.mark.parametrize(
        "device, backend, options, message",
        [
            ("cpu", "pytorch", {}, "no backend"),
            ("cpu", "paddle", {"precision": "fp61"}, "did you mean 'fp16'"),
            ("cpu", "paddle", {"precision": "fp16"}, "use bf16 or fp32"),
            ("cpu", "paddle", {"precision": "bf16", "mkldnn": False}, "without oneDNN"),
            ("cpu", "onnx", {"precision": "fp16"}, "use fp32"),
            ("gpu", "paddle", {"precision": "int8"}, "use fp16 or fp32"),
        ],
    )
    def test_combinations_that_would_run_as_something_else(self, device, backend, options, message):
        with pytest.raises(UserError, match=message):
            check_runtime(device, backend, Runtime(**options))

    def test_threads(self):
        assert Runtime(cpu_threads=2).threads() == 2 and Runtime().threads() >= 1
        with pytest.raises(UserError, match="at least 1"):
            Runtime(cpu_threads=0).threads()

    def test_development_builds_count_as_newest(self, monkeypatch):
        monkeypatch.setattr(paddle, "__version__", "0.0.0")
        assert module.paddle_version() > (3, 3, 1)
        monkeypatch.setattr(paddle, "__version__", "3.2.0rc1")
        assert module.paddle_version()[:2] == (3, 2)


class ReadTwice(paddle.nn.Layer):
    """Two activations of one linear layer's output: what Paddle's in-place pass breaks under oneDNN (3.3.1)."""

    def __init__(self):
        super().__init__()
        self.stem, self.linear = paddle.nn.Conv2D(3, 32, 3, 4, 1), paddle.nn.Linear(32, 64)
        self.queries = self.create_parameter([1, 7, 32])

    def forward(self, x):
        tokens = self.stem(x).flatten(2).transpose([0, 2, 1])
        share = paddle.nn.functional.softmax(paddle.matmul(self.queries, tokens, transpose_y=True))
        y = self.linear(paddle.matmul(share, tokens))
        return paddle.nn.functional.relu(y) + paddle.nn.functional.sigmoid(y)


class TestSessions:
    def test_onednn_reads_a_linear_layer_twice(self, tmp_path):
        net = ReadTwice()
        net.eval()
        spec = paddle.static.InputSpec([None, 3, None, None], "float32", "x")
        paddle.jit.save(net, str(tmp_path / "m"), input_spec=[spec])
        x = np.random.default_rng(0).uniform(-1, 1, (2, 3, 64, 96)).astype(np.float32)
        files = {"model": tmp_path / "m.json", "params": tmp_path / "m.pdiparams"}
        (output,) = open_session("paddle", "cpu", Runtime(mkldnn=True), **files)(x).values()
        assert output == pytest.approx(net(paddle.to_tensor(x)).numpy(), abs=1e-5)

    @pytest.mark.parametrize("backend, mkldnn", [("paddle", False), ("paddle", True), ("onnx", True)])
    def test_shapes_may_change_between_calls(self, backend, mkldnn):
        _, _, folder = exported()
        files = {"model": folder / "model.json", "params": folder / "model.pdiparams", "onnx": folder / "model.onnx"}
        session = open_session(backend, "cpu", Runtime(mkldnn=mkldnn, cpu_threads=1), **files)
        x = np.random.default_rng(0).uniform(0, 255, (2, 3, 40, 56)).astype(np.float32)
        first = session(x)["labels"]
        assert session.device == "cpu" and first.shape == (2, 40, 56) and first.dtype == np.int32
        assert session(x[:1, :, ::-1])["labels"].shape == (1, 40, 56)
        assert np.array_equal(session(x)["labels"], first)

    @pytest.mark.parametrize("backend, package", [("onnx", "onnxruntime"), ("openvino", "openvino")])
    def test_a_missing_package_names_its_extra(self, backend, package, monkeypatch):
        import sys

        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=f"ppvision\\[{backend}\\]"):
            open_session(backend, "cpu", Runtime(), onnx="m.onnx")

    def test_onnx_on_a_gpu_it_cannot_use(self):
        import onnxruntime

        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            pytest.skip("this onnxruntime has CUDA")
        with pytest.raises(UserError, match="onnxruntime-gpu"):
            open_session("onnx", "gpu", Runtime(), onnx="m.onnx")


class Shifted(Network):
    """Two inputs: a picture, and three numbers that are added to its channels."""

    def __init__(self):
        super().__init__()
        self.factor = self.create_parameter([1], default_initializer=paddle.nn.initializer.Constant(2.0))

    def inputs(self):
        return {"image": IMAGE, "shift": Input(("B", 3), "float32", "vector")}

    def forward(self, image, shift):
        return {"moved": image * self.factor + shift.unsqueeze([2, 3]), "mean": image.mean([2, 3])}


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """A graph of two inputs whose picture has four rows."""
    stem = tmp_path_factory.mktemp("graph") / "model"
    layer = Deployed(Shifted(), (0.0, 10.0, 20.0), (1.0, 1.0, 1.0))
    layer.eval()
    save_static(layer, stem, resolved(layer.inputs, {"x": [-1, 3, 4, -1]}), ["moved", "mean"])
    files = {
        name: stem.with_suffix(suffix)
        for name, suffix in (("model", ".json"), ("params", ".pdiparams"), ("onnx", ".onnx"))
    }
    convert_onnx.convert([(files["model"], files["params"], files["onnx"])])
    return files


X = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
SHIFT = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


@pytest.mark.parametrize("backend", ["paddle", "onnx"])
class TestNamedInputs:
    @pytest.fixture
    def session(self, graph, backend):
        return open_session(backend, "cpu", Runtime(cpu_threads=1), **graph)

    def test_a_dict_by_name_in_any_order(self, session):
        outputs = session({"shift": SHIFT, "x": X})
        assert list(outputs) == ["moved", "mean"] and list(session.inputs) == ["x", "shift"]
        normalised = X - np.array([0, 10, 20], np.float32).reshape(1, 3, 1, 1)
        assert outputs["moved"] == pytest.approx(normalised * 2 + SHIFT[:, :, None, None], abs=1e-5)
        assert outputs["mean"] == pytest.approx(normalised.mean((2, 3)), abs=1e-4)

    def test_types_that_lose_nothing_are_cast(self, session):
        right = session({"x": X, "shift": SHIFT})["moved"]
        assert np.array_equal(session({"x": X.astype(np.uint8), "shift": SHIFT.astype(np.float64)})["moved"], right)
        assert np.array_equal(session({"x": X[:, :, :, ::-1], "shift": SHIFT})["moved"], right[:, :, :, ::-1])

    @pytest.mark.parametrize(
        "given, message",
        [
            (X, r"this graph takes 2 inputs \(x, shift\): give a dict of arrays by name"),
            ({"x": X}, r"input 'shift' of the graph is missing \(inputs: x, shift\)"),
            ({"image": X, "shift": SHIFT}, r"this graph has no input 'image' \(inputs: x, shift\)"),
            ({"x": X, "shfit": SHIFT}, "no input 'shfit'; did you mean 'shift'"),
            ({"x": X, "shift": SHIFT, "valid": X}, r"no input 'valid' \(inputs: x, shift\)"),
            ({"x": X[0], "shift": SHIFT}, r"'x' has shape \[3, 4, 5\], the graph takes \[any, 3, 4, any\]"),
            ({"x": X[:, :, :3], "shift": SHIFT}, r"'x' has shape \[2, 3, 3, 5\], the graph takes \[any, 3, 4, any\]"),
            ({"x": X, "shift": SHIFT[:, :2]}, r"'shift' has shape \[2, 2\], the graph takes \[any, 3\]"),
            ({"x": X.astype(complex), "shift": SHIFT}, "input 'x' is complex128, the graph takes float32"),
            ({"x": X, "shift": np.array([["a"] * 3] * 2)}, "input 'shift' is <U1, the graph takes float32"),
        ],
    )
    def test_refused(self, session, given, message):
        with pytest.raises(UserError, match=message) as caught:
            session(given)
        assert "\n" not in str(caught.value)

    def test_one_array_for_a_graph_of_one_input(self, backend):
        folder = exported()[2]
        files = {"model": folder / "model.json", "params": folder / "model.pdiparams", "onnx": folder / "model.onnx"}
        session, x = open_session(backend, "cpu", Runtime(cpu_threads=1), **files), noise()
        assert np.array_equal(session(x)["labels"], session({"x": x})["labels"])
        with pytest.raises(UserError, match="no input 'image'"):
            session({"image": x})
        with pytest.raises(UserError, match=r"'x' has shape \[40, 56\], the graph takes \[any, 3, any, any\]"):
            session(x[0, 0])


def noise():
    return np.random.default_rng(0).uniform(0, 255, (1, 3, 40, 56)).astype(np.float32)


class TestWhatAnEngineCannotRun:
    @pytest.mark.parametrize("backend", ["paddle", "onnx"])
    def test_is_one_line(self, backend):
        """Nothing at all (Paddle ends the process at a batch of none), and shapes that do not go together."""
        folder = exported_detector()[2]
        files = {"model": folder / "model.json", "params": folder / "model.pdiparams", "onnx": folder / "model.onnx"}
        session = open_session(backend, "cpu", Runtime(cpu_threads=1), **files)
        with pytest.raises(UserError, match=r"input 'x' has shape \[0, 3, 32, 48\]: there is nothing to run"):
            session({"x": np.zeros((0, 3, 32, 48), np.float32), "valid": np.ones((0, 32, 48), bool)})
        with pytest.raises(
            UserError, match=r"the graph cannot be run on x \[1, 3, 32, 48\], valid \[1, 20, 48\]"
        ) as caught:
            session({"x": np.zeros((1, 3, 32, 48), np.float32), "valid": np.ones((1, 20, 48), bool)})
        assert "\n" not in str(caught.value)
