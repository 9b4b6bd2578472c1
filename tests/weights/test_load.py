"""Weight files: every format, what does not fit, and files that are hostile or damaged."""

from __future__ import annotations

import io
import json
import os
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import paddle
import pytest
from paddle import nn
from safetensors.numpy import save_file

from ppvision.errors import UserError
from ppvision.models import zoo
from ppvision.weights import create_model, load_weights, read, resolve_path, state_of


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and np.array_equal(a[k], b[k]) for k in a)


@pytest.fixture
def net():
    return zoo.create_model("rtformer_debug")


class TestPaddle:
    @pytest.mark.parametrize("protocol", [2, 3, 4])
    def test_what_paddle_saves_is_read_bit_for_bit(self, net, tmp_path, protocol):
        paddle.save(net.state_dict(), str(tmp_path / "m.pdparams"), protocol=protocol)
        assert same(read(tmp_path / "m.pdparams"), state_of(net))

    def test_loading_by_name_restores_everything(self, net, tmp_path):
        other = zoo.create_model("rtformer_debug")
        for tensor in other.state_dict().values():
            tensor.set_value(paddle.rand(tensor.shape))
        paddle.save(other.state_dict(), str(tmp_path / "m.pdparams"))
        report = load_weights(net, tmp_path / "m.pdparams")
        assert same(state_of(net), state_of(other))
        assert report.loaded == list(net.state_dict())
        assert str(report) == "260 loaded"

    def test_create_model_loads(self, net, tmp_path):
        paddle.save(net.state_dict(), str(tmp_path / "m.pdparams"))
        assert same(state_of(create_model("rtformer_debug", pretrained=tmp_path / "m.pdparams")), state_of(net))

    def test_nested_structure_and_older_numpy_names(self, tmp_path):
        """Paddle writes tensors in a nested structure as (name, array); numpy 1 called its module numpy.core."""
        array = np.arange(6, dtype="float32").reshape(2, 3)
        paddle.save({"state_dict": {"w": paddle.to_tensor(array)}, "epoch": 3}, str(tmp_path / "a.pdparams"))
        assert same(read(tmp_path / "a.pdparams"), {"w": array})
        text = pickle.dumps({"w": array, "StructuredToParameterName@@": {"w": "linear_0.w_0"}}, protocol=2)
        assert b"numpy._core.multiarray\n" in text or b"numpy.core.multiarray\n" in text
        for core in (b"numpy.core", b"numpy._core"):
            swapped = text.replace(b"numpy._core", core).replace(b"numpy.core", core)
            (tmp_path / "b.pdparams").write_bytes(swapped)
            assert same(read(tmp_path / "b.pdparams"), {"w": array})

    def test_arrays_split_for_protocol_2_are_joined(self, tmp_path):
        array = np.arange(12, dtype="float32").reshape(3, 4)
        content = {"w@@.0": array.ravel()[:7], "w@@.1": array.ravel()[7:], "b": np.ones(2, "float32")}
        content["UnpackBigParamInfor@@"] = {"w": {"OriginShape": (3, 4), "slices": ["w@@.0", "w@@.1"]}}
        (tmp_path / "m.pdparams").write_bytes(pickle.dumps(content, protocol=2))
        assert same(read(tmp_path / "m.pdparams"), {"w": array, "b": np.ones(2, "float32")})

    @pytest.mark.parametrize("dtype", ["float16", "float64", "int64", "int32", "uint8", "int8", "bool", ">f4"])
    def test_types_and_orders(self, tmp_path, dtype):
        arrays = {
            "c": np.arange(6).reshape(2, 3).astype(dtype),
            "f": np.asfortranarray(np.arange(6).reshape(2, 3).astype(dtype)),
            "scalar": np.array(1).astype(dtype),
            "empty": np.zeros([0, 3], dtype),
        }
        for protocol in (2, 4, 5):
            (tmp_path / "m.pdparams").write_bytes(pickle.dumps(arrays, protocol=protocol))
            measured = read(tmp_path / "m.pdparams")
            assert all(np.array_equal(measured[k], v) and measured[k].shape == v.shape for k, v in arrays.items())
            assert {v.dtype for v in measured.values()} == {np.dtype(dtype).newbyteorder("=")}

    def test_numpy_scalars(self, tmp_path):
        (tmp_path / "m.pdopt").write_bytes(pickle.dumps({"step": np.float32(2.5)}))
        assert read(tmp_path / "m.pdopt")["step"] == np.float32(2.5)

    def test_bfloat16(self, tmp_path):
        values = paddle.to_tensor([1.5, -2.0, 3.140625], dtype="bfloat16")
        paddle.save({"w": values}, str(tmp_path / "m.pdparams"))
        assert same(read(tmp_path / "m.pdparams"), {"w": np.array([1.5, -2.0, 3.140625], "float32")})

    def test_an_empty_state_is_a_state(self, tmp_path):
        paddle.save({}, str(tmp_path / "m.pdopt"))
        assert read(tmp_path / "m.pdopt") == {}


class TestSafetensors:
    def test_types(self, tmp_path):
        arrays = {
            t: np.arange(6).reshape(2, 3).astype(t) for t in ("float32", "float16", "float64", "int64", "uint8", "bool")
        }
        save_file(arrays, tmp_path / "m.safetensors")
        assert same(read(tmp_path / "m.safetensors"), arrays)

    def test_bfloat16(self, tmp_path):
        values = np.array([[1.5, -2.0], [0.0, 3.140625]], "float32")
        bits = (values.view("u4") >> 16).astype("<u2").tobytes()
        header = json.dumps({"w": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}).encode()
        (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bits)
        assert same(read(tmp_path / "m.safetensors"), {"w": values})

    def test_loading(self, net, tmp_path):
        other = zoo.create_model("rtformer_debug")
        save_file(state_of(other), tmp_path / "m.safetensors")
        load_weights(net, tmp_path / "m.safetensors")
        assert same(state_of(net), state_of(other))


class Named:
    """Pickled as the global `module.name`, which need not exist."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name


class Call:
    """Pickled as a call of `function` with `args`."""

    def __init__(self, function: Named, *args):
        self.function, self.args = function, args


class Storage:
    def __init__(self, kind: str, key: str, numel: int, view: bool):
        self.pid = ("storage", Named("torch", kind), key, "cpu", numel) + ((None,) if view else ())


class TorchPickler(pickle._Pickler):
    """torch's way to write tensors, without torch."""

    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, Storage) else None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Named):
            return self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())
        if isinstance(obj, Call):
            self.save(obj.function)
            self.save(obj.args)
            return self.write(pickle.REDUCE)
        return super().save(obj, save_persistent_id)


def torch_pickle(obj) -> bytes:
    stream = io.BytesIO()
    TorchPickler(stream, 2).dump(obj)
    return stream.getvalue()


KINDS = {
    "f4": "FloatStorage",
    "f8": "DoubleStorage",
    "f2": "HalfStorage",
    "i8": "LongStorage",
    "i4": "IntStorage",
    "u1": "ByteStorage",
}


def torch_file(arrays: dict[str, np.ndarray], legacy: bool = False, wrap=lambda state: state) -> bytes:
    """The bytes torch writes for a state dict."""
    state, blocks = OrderedDict(), {}
    for i, (name, array) in enumerate(arrays.items()):
        kind = "BFloat16Storage" if name.startswith("bf16") else KINDS[array.dtype.str[1:]]
        raw = (array.view("u4") >> 16).astype("u2") if name.startswith("bf16") else array
        blocks[str(i)] = np.ascontiguousarray(raw).tobytes()
        stride = tuple(int(np.prod(array.shape[d + 1 :])) for d in range(array.ndim))
        storage = Storage(kind, str(i), array.size, legacy)
        tensor = (storage, 0, array.shape, stride, False, Call(Named("collections", "OrderedDict")))
        state[name] = Call(Named("torch._utils", "_rebuild_tensor_v2"), *tensor)
    content = torch_pickle(wrap(state))
    stream = io.BytesIO()
    if legacy:
        for head in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}):
            stream.write(pickle.dumps(head, 2))
        stream.write(content + pickle.dumps(list(blocks), 2))
        for array, block in zip(arrays.values(), blocks.values(), strict=True):
            stream.write(struct.pack("<q", array.size) + block)
        return stream.getvalue()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", "little")
        for key, block in blocks.items():
            archive.writestr(f"archive/data/{key}", block)
        archive.writestr("archive/version", "3\n")
    return stream.getvalue()


class TestTorch:
    arrays = {
        "conv.weight": np.random.default_rng(0).standard_normal([4, 3, 2]).astype("float32"),
        "half": np.array([0.5, 2.0], "float16"),
        "double": np.array([[1e-300]], "float64"),
        "bf16": np.array([1.5, -2.0, 3.140625], "float32"),
        "long": np.array(7, "int64"),
        "int": np.array([1, -2], "int32"),
        "byte": np.array([1, 200], "uint8"),
    }

    @pytest.mark.parametrize("legacy", [False, True])
    def test_both_formats(self, tmp_path, legacy):
        (tmp_path / "m.pth").write_bytes(torch_file(self.arrays, legacy))
        assert same(read(tmp_path / "m.pth"), self.arrays)

    @pytest.mark.parametrize("legacy", [False, True])
    @pytest.mark.parametrize("key", ["state_dict", "model", "params"])
    def test_a_checkpoint_around_the_state(self, tmp_path, legacy, key):
        (tmp_path / "m.pth").write_bytes(torch_file(self.arrays, legacy, lambda s: {"epoch": 3, key: s, "name": "x"}))
        assert same(read(tmp_path / "m.pth"), self.arrays)

    def test_strided_and_shared_storage(self, tmp_path):
        storage = Storage("FloatStorage", "0", 6, False)
        rebuild = Named("torch._utils", "_rebuild_tensor_v2")
        hooks = Call(Named("collections", "OrderedDict"))
        parameter = Call(
            Named("torch._utils", "_rebuild_parameter"), Call(rebuild, storage, 1, (2,), (1,), True, hooks), True, hooks
        )
        content = torch_pickle({"t": Call(rebuild, storage, 0, (3, 2), (1, 3), False, hooks), "p": parameter})
        with zipfile.ZipFile(tmp_path / "m.pth", "w") as archive:
            archive.writestr("x/data.pkl", content)
            archive.writestr("x/data/0", np.arange(6, dtype="f4").tobytes())
        state = read(tmp_path / "m.pth")
        assert np.array_equal(state["t"], np.arange(6).reshape(2, 3).T)
        assert np.array_equal(state["p"], [1, 2])

    def test_names_and_linear_layers_become_paddles(self, tmp_path):
        layer = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1D(3))
        rng = np.random.default_rng(0)
        foreign = {
            "module.0.weight": rng.standard_normal([3, 3]).astype("float32"),
            "module.0.bias": rng.standard_normal(3).astype("float32"),
            "module.1.weight": np.ones(3, "float32"),
            "module.1.bias": np.zeros(3, "float32"),
            "module.1.running_mean": np.array([1.0, 2.0, 3.0], "float32"),
            "module.1.running_var": np.array([4.0, 5.0, 6.0], "float32"),
            "module.1.num_batches_tracked": np.array(5, "int64"),
        }
        (tmp_path / "m.pth").write_bytes(torch_file(foreign))
        report = load_weights(layer, tmp_path / "m.pth")
        assert report.ignored == ["1.num_batches_tracked"]
        assert np.array_equal(layer[0].weight, foreign["module.0.weight"].T)
        assert layer[1]._mean.tolist() == [1, 2, 3]
        assert layer[1]._variance.tolist() == [4, 5, 6]


class TestWhatDoesNotFit:
    def test_strict_names_five_of_each_and_changes_nothing(self, net):
        before = state_of(net)
        state = {k: v + 1 for k, v in before.items() if not k.startswith("conv1.")}
        state["seghead.conv2.weight"] = np.zeros([150, 32, 1, 1], "float32")
        state["extra"] = np.zeros(1, "float32")
        with pytest.raises(UserError) as caught:
            load_weights(net, state)
        message = str(caught.value)
        assert "12 missing (conv1.0.weight, conv1.0.bias, conv1.1.weight, conv1.1.bias, conv1.1._mean, …)" in message
        assert "1 unexpected (extra)" in message
        assert "1 mismatched (seghead.conv2.weight is [150,32,1,1], expected [19,32,1,1])" in message
        assert "RTFormer" in message
        assert same(state_of(net), before)

    def test_not_strict_loads_what_fits_and_reports_the_rest(self, net):
        before = state_of(net)
        state = {k: v + 1 for k, v in before.items()}
        state["seghead.conv2.weight"] = np.zeros([150, 32, 1, 1], "float32")
        del state["conv1.0.bias"]
        state["extra"] = np.zeros(1, "float32")
        report = load_weights(net, state, strict=False)
        assert report.mismatched == {"seghead.conv2.weight": ((150, 32, 1, 1), (19, 32, 1, 1))}
        assert (report.missing, report.unexpected) == (["conv1.0.bias"], ["extra"])
        assert str(report) == "258 loaded, 1 missing, 1 unexpected, 1 mismatched"
        after = state_of(net)
        untouched = {"seghead.conv2.weight", "conv1.0.bias"}
        assert {k for k in after if np.array_equal(after[k], before[k])} == untouched

    def test_nothing_that_fits_is_an_error_even_when_not_strict(self, net):
        with pytest.raises(UserError, match="none of its 1 names fits RTFormer"):
            load_weights(net, {"x": np.zeros(1)}, strict=False)

    def test_training_only_parts_are_handed_over(self, net):
        state = {**state_of(net), "seghead_extra.conv2.bias": np.arange(19, dtype="float32")}
        report = load_weights(net, state)
        assert list(report.training_only) == ["aux.0.conv2.bias"]
        assert report.training_only["aux.0.conv2.bias"][18] == 18
        assert not report.unexpected

    def test_half_precision_is_converted(self, net):
        state = {k: v.astype("float16") for k, v in state_of(net).items()}
        load_weights(net, state)
        assert {t.dtype for t in net.state_dict().values()} == {paddle.float32}
        assert np.array_equal(net.conv1[0].weight, state["conv1.0.weight"].astype("float32"))

    def test_tensors_are_accepted_and_state_of_copies(self, net):
        load_weights(net, {k: paddle.to_tensor(v) for k, v in state_of(net).items()})
        copy = state_of(net)
        copy["conv1.0.bias"] += 1
        assert not np.array_equal(copy["conv1.0.bias"], state_of(net)["conv1.0.bias"])


class TestPaths:
    def test_suffix_and_folder(self, tmp_path):
        (tmp_path / "run").mkdir()
        for file in ("x.pdparams", "run/model.pdparams", "t.safetensors"):
            (tmp_path / file).write_bytes(b"x")
        for given, found in (
            ("x", "x.pdparams"),
            ("x.pdparams", "x.pdparams"),
            ("run", "run/model.pdparams"),
            ("t", "t.safetensors"),
        ):
            assert resolve_path(tmp_path / given) == tmp_path / found

    def test_missing(self, tmp_path):
        with pytest.raises(UserError, match=r"nothing: no such weight file \(also tried nothing\.pdparams and"):
            read(tmp_path / "nothing")

    def test_folder_without_weights(self, tmp_path):
        with pytest.raises(UserError, match="folder without model.pdparams"):
            read(tmp_path)


MARK = "marker"  # what hostile files would create in the working folder


class Runs:
    """Unpickles into a call."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def touch(path: str) -> None:
    open(path, "w").close()


def protocol_0(command: str) -> bytes:
    return f"cos\nsystem\n(S'{command}'\ntR.".encode()


def zipped(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    return stream.getvalue()


def compressed() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", torch_pickle({"a": 1}))
    return stream.getvalue()


def reduce_of(module: str, name: str, *args, protocol: int = 2) -> bytes:
    return torch_pickle({"w": Call(Named(module, name), *args)})


def stack_global(module: str, name: str, argument: str) -> bytes:
    """The way protocol 4 names a function."""
    strings = b"".join(b"\x8c" + bytes([len(s)]) + s.encode() for s in (module, name))
    return b"\x80\x04" + strings + b"\x93\x8c" + bytes([len(argument)]) + argument.encode() + b"\x85R."


def attributes_on(module: str, name: str, attribute: str) -> bytes:
    """BUILD on something the reader hands out, by the state for slots: would change it for later files."""
    key = b"X" + struct.pack("<I", len(attribute)) + attribute.encode()
    return b"\x80\x02" + f"c{module}\n{name}\n".encode() + b"N}" + key + b"K\x01s\x86b."


def tensor_beyond_storage(offset: int, size: tuple, stride: tuple) -> bytes:
    hooks = Call(Named("collections", "OrderedDict"))
    tensor = Call(
        Named("torch._utils", "_rebuild_tensor_v2"),
        Storage("FloatStorage", "0", 2, False),
        offset,
        size,
        stride,
        False,
        hooks,
    )
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x/data.pkl", torch_pickle({"t": tensor}))
        archive.writestr("x/data/0", bytes(8))
    return stream.getvalue()


def array_state(shape, code: str, raw, flags=None) -> bytes:
    """A pickled array with chosen internals."""
    dtype = Call(Named("numpy", "dtype"), code, False, True)
    stream = io.BytesIO()
    pickler = TorchPickler(stream, 2)
    stream.write(b"\x80\x02}X\x01\x00\x00\x00w")
    pickler.save(Call(Named("numpy.core.multiarray", "_reconstruct"), Named("numpy", "ndarray"), (0,), b"b"))
    stream.write(b"(")
    for part in (1, shape, dtype, False, raw):
        pickler.save(part)
    stream.write(b"tbs.")
    return stream.getvalue()


HOSTILE = {
    "os.system": lambda: pickle.dumps({"w": Runs(os.system, f"touch {MARK}")}),
    "protocol 0": lambda: protocol_0(f"touch {MARK}"),
    "protocol 0 in a zip": lambda: zipped(protocol_0(f"touch {MARK}")),
    "stack global": lambda: stack_global("os", "system", f"touch {MARK}"),
    "eval": lambda: pickle.dumps(Runs(eval, f"open('{MARK}', 'w')")),
    "exec in a torch zip": lambda: zipped(pickle.dumps({"w": Runs(exec, f"open('{MARK}', 'w')")})),
    "our own function": lambda: pickle.dumps(Runs(touch, MARK)),
    "numpy.load": lambda: reduce_of("numpy", "load", MARK),
    "numpy.f2py": lambda: reduce_of("numpy.testing._private.utils", "runstring", f"open('{MARK}', 'w')", {}),
    "getattr": lambda: reduce_of("builtins", "getattr", "x", "__class__"),
    "dotted name": lambda: stack_global("builtins", "tuple.__class__", "x"),
    "torch.load": lambda: zipped(reduce_of("torch", "load", MARK)),
    "second pickle of a legacy file": lambda: (
        pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(Runs(os.system, f"touch {MARK}"), 2)
    ),
    "attributes on a function": lambda: attributes_on("numpy", "dtype", "_make"),
    "attributes on a type": lambda: attributes_on("torch", "FloatStorage", "dtype"),
    "extension registry": lambda: b"\x80\x02\x82\x01.",
    "persistent id in a paddle file": lambda: torch_pickle({"w": Storage("FloatStorage", "0", 1, False)}),
    "object array": lambda: array_state((1,), "O8", [b"x"]),
    "object array with raw pointers": lambda: array_state((1,), "O8", b"\x41" * 8),
    "structured array": lambda: pickle.dumps({"w": np.zeros(2, [("a", "f4"), ("b", "O")])}),
    "array larger than its bytes": lambda: array_state((1 << 40,), "f4", b"\0" * 8),
    "array of negative shape": lambda: array_state((-1,), "f4", b""),
    "tensor beyond its storage": lambda: tensor_beyond_storage(0, (1 << 40,), (1,)),
    "tensor behind its storage": lambda: tensor_beyond_storage(1 << 40, (1,), (1,)),
    "tensor repeated without end": lambda: tensor_beyond_storage(0, (1 << 40,), (0,)),
    "tensor before its storage": lambda: tensor_beyond_storage(0, (2,), (-1,)),
    "compressed zip": compressed,
}


def truncated(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def paddle_file() -> bytes:
    return pickle.dumps({"w": np.arange(1000, dtype="float32")}, 4)


def safetensors_file(header: dict, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


DAMAGED = {
    "empty": (lambda: b"", "is empty"),
    "web page": (lambda: b"<!DOCTYPE html><html>404</html>", "is a web page"),
    "web page after blanks": (lambda: b"\xef\xbb\xbf\n  <html>", "is a web page"),
    "lfs pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    "gzip": (lambda: b"\x1f\x8b\x08" + bytes(20), "is an archive; unpack it"),
    "other zip": (lambda: zipped(b"").replace(b"data.pkl", b"data.txt"), "not a torch file; unpack it"),
    "text": (lambda: b"hello world", "is not a weight file"),
    "pdiparams": (lambda: bytes(64), "looks like .pdiparams"),
    "paddle file cut": (lambda: truncated(paddle_file(), 0.5), "is truncated or damaged"),
    "paddle file cut early": (lambda: paddle_file()[:3], "is truncated or damaged"),
    "torch zip cut": (lambda: truncated(torch_file(TestTorch.arrays), 0.6), "is truncated or damaged"),
    "torch legacy cut": (lambda: torch_file(TestTorch.arrays, True)[:-3], "is truncated"),
    "torch zip without a storage": (
        lambda: torch_file(TestTorch.arrays).replace(b"archive/data/3", b"archive/dota/3"),
        r"'data/3' is missing",
    ),
    "torch zip with a flipped bit": (
        lambda: torch_file(TestTorch.arrays).replace(TestTorch.arrays["half"].tobytes(), b"\0\0\0\1"),
        "is truncated or damaged",
    ),
    "safetensors cut": (
        lambda: safetensors_file({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, bytes(8)),
        "is truncated or damaged",
    ),
    "safetensors of unknown type": (
        lambda: safetensors_file({"w": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}, bytes(4)),
        "not supported",
    ),
    "a list": (lambda: pickle.dumps([1, 2]), "holds no state dict"),
    "no arrays": (lambda: pickle.dumps({"epoch": 3}), "holds no state dict.*epoch"),
}


class TestHostileAndDamaged:
    @pytest.mark.parametrize("case", HOSTILE)
    def test_hostile_files_are_refused_and_run_nothing(self, case, tmp_path, monkeypatch, net):
        monkeypatch.chdir(tmp_path)
        content = HOSTILE[case]()
        (tmp_path / "w.pdparams").write_bytes(content)
        before = sorted(os.listdir())
        with pytest.raises(UserError) as caught:
            load_weights(net, tmp_path / "w.pdparams")
        assert str(caught.value).startswith(f"{tmp_path}/w.pdparams: ")
        assert len(str(caught.value)) < 500
        assert sorted(os.listdir()) == before

    def test_the_marker_would_be_made_by_an_ordinary_unpickler(self, tmp_path, monkeypatch):
        """Otherwise the test above proves nothing."""
        monkeypatch.chdir(tmp_path)
        for case in ("os.system", "stack global", "eval"):
            pickle.Unpickler(io.BytesIO(HOSTILE[case]())).load()
            assert os.path.exists(MARK)
            os.remove(MARK)

    def test_a_hostile_file_does_not_change_the_reader(self, tmp_path):
        good = tmp_path / "good.pdparams"
        good.write_bytes(paddle_file())
        (tmp_path / "good.pth").write_bytes(torch_file(TestTorch.arrays))
        for case, make in HOSTILE.items():
            (tmp_path / "bad.pdparams").write_bytes(make())
            with pytest.raises(UserError):
                read(tmp_path / "bad.pdparams")
            assert np.array_equal(read(good)["w"], np.arange(1000)), case
            assert same(read(tmp_path / "good.pth"), TestTorch.arrays), case

    @pytest.mark.parametrize("case", DAMAGED)
    def test_damaged_files_say_what_they_are(self, case, tmp_path):
        make, message = DAMAGED[case]
        (tmp_path / "w.pdparams").write_bytes(make())
        with pytest.raises(UserError, match=message) as caught:
            read(tmp_path / "w.pdparams")
        assert "\n" not in str(caught.value)

    def test_every_cut_of_a_file_is_a_user_error(self, tmp_path):
        for data in (
            paddle_file()[:600],
            torch_file({"a": np.ones(3, "f4")}),
            torch_file({"a": np.ones(3, "f4")}, True),
        ):
            for end in range(0, len(data), 7):
                (tmp_path / "w.pth").write_bytes(data[:end])
                with pytest.raises(UserError):
                    read(tmp_path / "w.pth")

    def test_random_opcodes_never_run_anything_and_end_in_a_user_error(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        rng = np.random.default_rng(0)
        codes = [
            c.code.encode("latin1")
            for c in pickletools.opcodes
            if c.name not in ("LONG_BINPUT", "BINBYTES8", "BYTEARRAY8")
        ]
        for _ in range(300):
            body = b"".join(codes[i] + rng.bytes(2) for i in rng.integers(0, len(codes), 12))
            (tmp_path / "w.pdparams").write_bytes(b"\x80\x04" + body)
            with pytest.raises(UserError):
                read("w.pdparams")
        assert os.listdir() == ["w.pdparams"]
