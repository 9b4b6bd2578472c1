"""Weight files that want to run something, to take all memory, or are simply broken: each must be refused on one line.

Every hostile file would create a marker file if anything in it ran. A file is checked in a process of its own, forked
from one that has only imported the reader: it must raise a UserError naming the file, within a time and memory limit
(of address space, which the kernel holds, and of resident memory, which is measured), and leave no marker.

    python tests/torture/hostile.py FOLDER     # checks every file of a folder, one JSON line each
"""

from __future__ import annotations

import io
import json
import os
import pickle
import pickletools
import resource
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

ADDRESSES = 6 << 30  # bytes of address space a reader may have
RESIDENT = 400 << 20  # bytes it may use beyond what it used before
SECONDS = 30
TORCH_MAGIC = 0x1950A86A20F9469CFC6C

# ---- pickles, written opcode by opcode: no module that they name needs to exist here


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def glob(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def call(name: str, *args: bytes) -> bytes:
    return glob(name) + b"(" + b"".join(args) + b"tR"


def entry(value: bytes, key: str = "conv.weight") -> bytes:
    """A pickle of {key: value}."""
    return b"\x80\x02}" + text(key) + value + b"s."


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def pair(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def torch_tensor(key: str = "0", numel: int = 4, size: int = 4) -> bytes:
    """What torch writes for a float tensor of one axis."""
    pid = pair(text("storage"), glob("torch.FloatStorage"), text(key), text("cpu"), number(numel)) + b"Q"
    hooks = glob("collections.OrderedDict") + b")R"
    return call("torch._utils._rebuild_tensor_v2", pid, number(0), pair(number(size)), pair(number(1)), b"\x89", hooks)


def torch_zip(index: bytes, members: dict[str, bytes] | None = None) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", index)
        for name, raw in (members or {"archive/data/0": np.ones(4, "f4").tobytes()}).items():
            archive.writestr(name, raw)
    return stream.getvalue()


def torch_legacy(content: bytes, tail: bytes = b"") -> bytes:
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    return b"".join(pickle.dumps(head, 2) for head in (TORCH_MAGIC, 1001, system)) + content + tail


def good_paddle() -> bytes:
    rng = np.random.default_rng(0)
    return pickle.dumps({f"conv{i}.weight": rng.standard_normal([8, 3, 3, 3]).astype("f4") for i in range(4)}, 4)


def good_legacy() -> bytes:
    block = struct.pack("<q", 4) + np.ones(4, "f4").tobytes()
    return torch_legacy(entry(torch_tensor()), pickle.dumps(["0"], 2) + block)


def safetensors(header: object, body: bytes = bytes(16), length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + body


class Reduced:
    """Pickled by numpy inside an object array: a call of a function with arguments."""

    def __init__(self, function, *args):
        self.value = function, args

    def __reduce__(self):
        return self.value


def files(marker: Path, rng: np.random.Generator) -> dict[str, bytes]:
    """File name -> content. `marker` is what a file would create if anything in it ran."""
    shell, python = f"touch {marker}", f"open({str(marker)!r}, 'w').close()"
    system = call("os.system", text(shell))
    evil = entry(system)
    paddle_file, legacy = good_paddle(), good_legacy()
    zipped = torch_zip(entry(torch_tensor()))
    one = {"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}
    tensors = safetensors(one)
    opened = call("builtins.open", text(str(marker)), text("w"))
    ordered = glob("collections.OrderedDict") + b")R"
    objects = io.BytesIO()
    np.save(objects, np.array([Reduced(os.system, shell)], dtype=object), allow_pickle=True)
    found = {
        # names that run something
        "os_system.pdparams": evil,
        "posix_system.pdparams": entry(call("posix.system", text(shell))),
        "nt_system.pdparams": entry(call("nt.system", text(shell))),
        "subprocess.pdparams": entry(call("subprocess.Popen", pair(text("touch"), text(str(marker))))),
        "check_output.pdparams": entry(call("subprocess.check_output", pair(text("touch"), text(str(marker))))),
        "eval.pdparams": entry(call("builtins.eval", text(python))),
        "exec.pdparams": entry(call("builtins.exec", text(python))),
        "exec_python2.pdparams": entry(call("__builtin__.exec", text(python))),
        "compile.pdparams": entry(call("builtins.compile", text(python), text("x"), text("exec"))),
        "open.pdparams": entry(opened),
        "import.pdparams": entry(call("builtins.__import__", text("antigravity"))),
        "getattr_chain.pdparams": entry(
            call("builtins.getattr", call("builtins.__import__", text("os")), text("system")) + pair(text(shell)) + b"R"
        ),
        "getattr_of_admitted.pdparams": entry(
            call("builtins.getattr", glob("collections.OrderedDict"), text("__init__"))
        ),
        "attrgetter.pdparams": entry(call("operator.attrgetter", text("__globals__"))),
        "methodcaller.pdparams": entry(call("operator.methodcaller", text("system"), text(shell))),
        "map.pdparams": entry(call("builtins.map", glob("os.system"), pair(text(shell)))),
        "runpy.pdparams": entry(call("runpy._run_code", text(python), b"}")),
        "timeit.pdparams": entry(call("timeit.timeit", text(python))),
        "pty.pdparams": entry(call("pty.spawn", pair(text("touch"), text(str(marker))))),
        "pip.pdparams": entry(call("pip.main", pair(text("install"), text("x")))),
        "paddle_load.pdparams": entry(call("paddle.load", text(str(marker)))),
        "numpy_load.pdparams": entry(call("numpy.load", text(str(marker)))),
        "numpy_runstring.pdparams": entry(call("numpy.testing._private.utils.runstring", text(python), b"}")),
        "numpy_f2py.pdparams": entry(call("numpy.f2py.crackfortran.getlincoef", text(python), b"}")),
        "torch_exec_wrapper.pth": torch_zip(
            entry(call("torch.jit.unsupported_tensor_ops.execWrapper", text(python), b"}", b"}"))
        ),
        # other ways to get at a name or to call it
        "stack_global.pdparams": b"\x80\x04\x8c\x02os\x8c\x06system\x93(" + text(shell) + b"tR.",
        "dotted_global.pdparams": b"\x80\x04\x8c\x0bcollections\x8c\x20OrderedDict.__init__.__globals__\x93.",
        "dotted_os.pdparams": b"\x80\x04\x8c\x02os\x8c\x0bpath.os.sys\x93.",
        "inst.pdparams": b"\x80\x02(" + text(shell) + b"ios\nsystem\n.",
        "obj.pdparams": b"\x80\x02(" + glob("os.system") + text(shell) + b"o.",
        "newobj.pdparams": b"\x80\x02" + glob("subprocess.Popen") + pair(text(shell)) + b"\x81.",
        "newobj_ex.pdparams": b"\x80\x04" + glob("subprocess.Popen") + pair(text(shell)) + b"}\x92.",
        "extension.pdparams": b"\x80\x02\x82\x01.",
        "copyreg.pdparams": entry(call("copyreg._reconstructor", glob("os.system"), glob("builtins.object"), b"N")),
        "copyreg_add.pdparams": entry(call("copyreg.add_extension", text("os"), text("system"), number(1))),
        "protocol_0.pdparams": f"cos\nsystem\n(S'{shell}'\ntR.".encode(),
        "second_pickle.pdparams": torch_legacy(entry(number(1)), evil),
        # data that is not what it seems
        "object_array.pdparams": pickle.dumps({"w": np.array([Reduced(os.system, shell)], dtype=object)}, 4),
        "object_dtype.pdparams": entry(
            call("numpy._core.multiarray._reconstruct", glob("numpy.ndarray"), pair(number(0)), text("b"))
            + pair(number(1), pair(number(1)), call("numpy.dtype", text("O8"), b"\x89", b"\x88"), b"\x89", system)
            + b"b"
        ),
        "structured_dtype.pdparams": pickle.dumps({"w": np.zeros(2, [("a", "f4"), ("b", "O")])}, 4),
        "object_array.npy.pdparams": objects.getvalue(),
        "setstate_on_a_function.pdparams": entry(
            glob("collections.OrderedDict")
            + b"}"
            + text("_make")
            + glob("os.system")
            + b"sb"
            + pair(text(shell))
            + b"R"
        ),
        "setstate_slots.pdparams": entry(
            glob("numpy.dtype") + b"N}" + text("_make") + glob("os.system") + b"s\x86b" + pair(text(shell)) + b"R"
        ),
        "setstate_on_a_storage_type.pth": torch_zip(entry(glob("torch.FloatStorage") + b"}" + text("x") + b"Nsb")),
        "nested_in_an_ordered_dict.pdparams": b"\x80\x02" + ordered + text("w") + b"}" + text("x") + system + b"ss.",
        "beside_good_arrays.pdparams": paddle_file[:-2] + text("zz") + system + b"su.",
        "torch_zip.pth": torch_zip(evil),
        "torch_zip_two_indices.pth": torch_zip(entry(torch_tensor()), {"other/data.pkl": evil}),
        "torch_zip_nested_path.pth": torch_zip(entry(torch_tensor(f"../../../{marker}"))),
        "torch_legacy.pth": torch_legacy(evil),
        "torch_legacy_keys.pth": torch_legacy(entry(torch_tensor()), b"\x80\x02" + system + b"."),
        "torch_rebuild_from_type.pth": torch_zip(
            entry(call("torch._tensor._rebuild_from_type_v2", glob("os.system"), glob("torch.Tensor"), pair(), b"N"))
        ),
        "script.pdparams": f"#!/bin/sh\n{shell}\n".encode(),
        "python.pth": f"import os\nos.system({shell!r})\n".encode(),
        # sizes
        "claims_100_gb.pdparams": b"\x80\x04}"
        + text("w")
        + b"\x8e"
        + struct.pack("<Q", 100 << 30)
        + b"x" * 100
        + b"s.",
        "claims_a_frame.pdparams": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"}.",
        "claims_a_long.pdparams": b"\x80\x02}" + text("w") + b"\x8b" + struct.pack("<i", 0x7FFFFFFF) + b"\x01s.",
        "memo_bomb.pdparams": entry(number(1) + b"r" + struct.pack("<I", 0x0FFFFFFF)),
        "memo_bomb_of_text.pdparams": entry(number(1) + b"p268435455\n"),
        "memo_bomb_without_end.pdparams": entry(number(1) + b"r" + struct.pack("<I", 0xFFFFFFFF)),
        "tuples_doubled_60_times.pdparams": entry(b")" + b"2\x86" * 60),
        "a_million_lists.pdparams": entry(b"]" * 1_000_000 + b"a" * 999_999),
        "array_of_a_trillion.pdparams": entry(
            call("numpy._core.multiarray._reconstruct", glob("numpy.ndarray"), pair(number(0)), text("b"))
            + pair(
                number(1),
                pair(b"\x8a\x06" + (1 << 40).to_bytes(6, "little")),
                call("numpy.dtype", text("f4"), b"\x89", b"\x88"),
                b"\x89",
                text("xxxx"),
            )
            + b"b"
        ),
        "storage_of_2_billion.pth": torch_zip(entry(torch_tensor(numel=0x7FFFFFFF, size=0x7FFFFFFF))),
        "tensor_beyond_its_storage.pth": torch_zip(entry(torch_tensor(numel=4, size=4000))),
        "zip_bomb.pth": zip_bomb(),
        "zip_that_lies.pth": lying_zip(zipped),
        "zip_path_traversal.pth": torch_zip(evil, {"../../../../tmp/evil": b"x", "/etc/evil": b"x"}),
        # broken
        "empty.pdparams": b"",
        "random.pdparams": b"\x80\x04" + rng.bytes(20_000),
        "random_all.pth": b"\x93" + rng.bytes(20_000),
        "web_page.pdparams": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "lfs_pointer.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "archive.pth": tar_of(evil),
        "compressed.pdparams": b"\x1f\x8b" + zlib.compress(paddle_file),
        "cut_at_the_start.pdparams": paddle_file[: int(rng.integers(1, 100))],
        "cut_in_the_middle.pdparams": paddle_file[: int(rng.integers(200, len(paddle_file) - 200))],
        "cut_at_the_end.pdparams": paddle_file[:-1],
        "cut.pth": zipped[: int(rng.integers(len(zipped) // 4, len(zipped) * 3 // 4))],
        "cut_legacy.pth": legacy[:-1],
        "cut_legacy_early.pth": legacy[: int(rng.integers(40, len(legacy) - 40))],
        "missing_storage.pth": torch_zip(entry(torch_tensor("7"))),
        "cut.safetensors": tensors[:-1],
        "cut_header.safetensors": tensors[:20],
        "header_of_100_gb.safetensors": safetensors(one, length=100 << 30),
        "header_not_json.safetensors": safetensors(b"{" + rng.bytes(100)),
        "header_nested.safetensors": safetensors(b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
        "overlapping.safetensors": safetensors({**one, "v": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}),
        "negative.safetensors": safetensors({"w": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}}),
        "oversized.safetensors": safetensors({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 1 << 40]}}),
        "overflowing_shape.safetensors": safetensors(
            {"w": {"dtype": "F32", "shape": [1 << 32, 1 << 32], "data_offsets": [0, 16]}}
        ),
        "shape_against_size.safetensors": safetensors({"w": {"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}}),
        "unknown_type.safetensors": safetensors({"w": {"dtype": "PY", "shape": [4], "data_offsets": [0, 16]}}),
        "hole.safetensors": safetensors({"w": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}),
    }
    return found


def zip_bomb(megabytes: int = 512) -> bytes:
    """An index that unpacks to half a gigabyte."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("archive/data.pkl", "w", force_zip64=True) as member:
            for _ in range(megabytes):
                member.write(bytes(1 << 20))
    return stream.getvalue()


def lying_zip(whole: bytes) -> bytes:
    """An archive whose directory says that the index has 3 GB."""
    start = whole.index(b"PK\x01\x02")
    return whole[: start + 20] + struct.pack("<II", 3 << 30, 3 << 30) + whole[start + 28 :]


def tar_of(content: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("pickle")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def control() -> dict[str, bytes]:
    """Files of the same making without a fault, which must be read: else every refusal above would be worthless."""
    return {
        "good.pdparams": good_paddle(),
        "good.pth": torch_zip(entry(torch_tensor())),
        "good_legacy.pth": good_legacy(),
        "good.safetensors": safetensors({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}),
        "good_protocol_2.pdparams": pickletools.optimize(pickle.dumps(OrderedDict(w=np.ones(3, "f4")), 2)),
    }


# ---- the check


def check(path: Path) -> dict[str, object]:
    """Read one file in a forked process; how that ended."""
    reading, writing = os.pipe()
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os._exit(attempt(path, writing))
    os.close(writing)
    with os.fdopen(reading, errors="replace") as stream:
        message = stream.read()
    _, status, usage = os.wait4(pid, 0)
    kind, _, message = message.partition("\n")
    if os.WIFSIGNALED(status):
        kind, message = f"killed by {signal.Signals(os.WTERMSIG(status)).name}", message
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "file": path.name,
        "kind": kind,
        "message": message,
        "seconds": round(time.monotonic() - started, 2),
        "memory": max(usage.ru_maxrss - before, 0) << 10,
    }


def attempt(path: Path, out: int) -> int:
    """The child's part: read, and say how it went."""
    from ppvision.errors import UserError
    from ppvision.weights import read

    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(SECONDS)
    try:
        message = f"read\n{len(read(path))} arrays"
    except UserError as error:
        message = f"refused\n{error}"
    except BaseException as error:
        message = f"{type(error).__name__}\n{error}"
    os.write(out, message.encode(errors="replace")[:4000])
    return 0


def check_all(folder: Path) -> list[dict[str, object]]:
    """Judge every file of a folder from a fresh process."""
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(
        [sys.executable, __file__, str(folder)], cwd=root, capture_output=True, text=True, timeout=1800
    )
    if run.returncode:
        raise RuntimeError(run.stderr[-2000:])
    return [json.loads(line) for line in run.stdout.splitlines()]


def faults(found: dict[str, object], marker: Path) -> list[str]:
    """What is wrong with the way a hostile file was met."""
    name, kind, message = str(found["file"]), str(found["kind"]), str(found["message"])
    wrong = []
    if marker.exists():
        marker.unlink()
        wrong.append("ran what the file asks for")
    if kind == "read":
        wrong.append(f"was read ({message})")
    elif kind != "refused":
        wrong.append(f"{kind} {message[:150]}")
    elif name not in message or len(message.splitlines()) != 1:
        wrong.append(f"not one line that names the file: {message[:150]!r}")
    if int(found["memory"]) > RESIDENT:
        wrong.append(f"took {int(found['memory']) >> 20} MB of memory")
    return wrong


def run(count, seed, folder, say):
    """All hostile files, `count` at least."""
    from outcome import Outcome

    outcome = Outcome(
        "hostile and broken weight files: anything read, run or asked for but a one-line refusal in bounded memory", ""
    )
    outcome.model = "any"
    marker = folder / "ran"
    content = files(marker, np.random.default_rng(seed))
    (folder / "files").mkdir(parents=True)
    (folder / "control").mkdir()
    for part, made in (("files", content), ("control", control())):
        for name, raw in made.items():
            (folder / part / name).write_bytes(raw)
    for found in check_all(folder / "control"):
        if found["kind"] != "read":
            outcome.broken.append(f"control, {found['file']}: {found['kind']} {found['message']}")
    memory = seconds = 0.0
    for found in check_all(folder / "files"):
        wrong = faults(found, marker)
        outcome.tried += 1
        outcome.count("refused", int(found["kind"] == "refused"))
        outcome.count("code executed", int("ran what the file asks for" in wrong))
        memory, seconds = max(memory, float(found["memory"])), max(seconds, float(found["seconds"]))
        for fault in wrong:
            outcome.broken.append(f"{found['file']}: {fault}")
            say(outcome.broken[-1])
    if outcome.tried < count:
        outcome.broken.append(f"only {outcome.tried} files, {count} were asked for")
    outcome.metrics |= {"largest extra memory MB": round(memory / 2**20, 1), "longest seconds": seconds}
    return outcome


def main(argv: list[str]) -> int:
    import ppvision.weights  # before the first fork, so that what it takes does not count  # noqa: F401

    try:
        import safetensors  # noqa: F401
    except ImportError:
        pass
    for path in sorted(Path(argv[0]).iterdir()):
        print(json.dumps(check(path)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
