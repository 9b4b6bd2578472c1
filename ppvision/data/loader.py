"""Batches from a data set: in this process or in worker processes, the same ones either way.

Worker processes are our own rather than `paddle.io.DataLoader`'s, which cannot keep four promises made here: batches
stay numpy arrays (and may hold strings and lists), a stream starts anywhere without replaying data, a worker that dies
names the sample it was reading, and a container's small /dev/shm does not matter. A batch travels in an anonymous
memory file (`memfd`) whose descriptor is sent over a socket: it has no name, needs no /dev/shm, is mapped instead of
copied, and the kernel frees it when the last array is dropped or the last process is killed, so that nothing can be
left behind.

Randomness: batch k is a function of (seed, k, rank) (see `sampler`), the generator that transforms get is keyed by
(seed, pass, index).
"""

from __future__ import annotations

import gc
import json
import logging
import mmap
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import struct
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

from ppvision.data.base import adapted
from ppvision.data.collate import collate
from ppvision.data.fields import targets
from ppvision.data.sampler import Order, generator
from ppvision.data.transforms.image import Compose
from ppvision.errors import UserError

log = logging.getLogger("ppvision.data")

PREFETCH = 2  # batches each worker may be ahead
PATIENCE = 60.0  # seconds of waiting for a batch after which the sample being read is named in the log
_ORPHAN_CHECK = 1.0  # seconds between a waiting worker's looks at whether its parent still lives
_HEADER = struct.Struct("<qq")  # task: number, exact; reply: bytes of the whole message, bytes of its JSON part
_MAX_BATCH = 4096  # a task is one packet, and the kernel's default limit for one is about 200 kB
_MAX_PACKET = _HEADER.size + 16 * _MAX_BATCH
_COPIED = 1 << 20  # bytes; mapping keeps a file descriptor, of which a caller who collects small batches would run out


class Loader:
    """Batches of a data set.

    Args:
        dataset: a `Dataset`, or what `ppvision.data.base.adapted` makes one of: `len()` and `[i] -> dict`.
        transform: called with (sample, generator); None for none. A `Compose`, usually.
        batch_size: samples per batch and rank.
        shuffle: permute every pass.
        seed: of order and transforms.
        rank: this process.
        world_size: processes sharing the data.
        workers: processes that read; 0 reads in this one.
        drop_last: in `stream`, drop the incomplete last global batch of an epoch instead of completing it from the
            epoch's start.
        skip_bad: how many different samples of this rank may raise UserError. In `stream` a bad sample is replaced by
            the next good one of the data set, in a single pass it is left out; `bad` holds them with their reasons.
        repeats: passes over the data that count as one epoch (`stream` only).
        keep_target: add `target`, the annotations as read.

    Raises:
        UserError: empty data set, batch sizes that do not fit, or workers where the system has none.
    """

    def __init__(
        self,
        dataset: Any,
        transform: Callable[[dict, np.random.Generator], dict] | None,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        drop_last: bool = False,
        skip_bad: int = 0,
        repeats: int = 1,
        keep_target: bool = False,
    ):
        if workers < 0 or skip_bad < 0:
            raise UserError(f"data.workers and data.skip_bad must be at least 0, not {workers} and {skip_bad}")
        if workers and not (hasattr(os, "memfd_create") and hasattr(socket, "send_fds")):
            raise UserError("data.workers needs Linux (fork and memfd); set data.workers=0")
        if workers and batch_size > _MAX_BATCH:
            raise UserError(
                f"batch_size {batch_size} is more than workers are sent at once ({_MAX_BATCH}); set data.workers=0"
            )
        self.dataset = adapted(dataset)
        self.transform = transform if isinstance(transform, Compose) else Compose([transform] if transform else [])
        self.workers, self.seed, self.skip_bad, self.keep_target = workers, seed, skip_bad, keep_target
        self.order = Order(
            len(self.dataset),
            batch_size,
            shuffle=shuffle,
            seed=seed,
            rank=rank,
            world_size=world_size,
            drop_last=drop_last,
            repeats=repeats,
            groups=self.dataset.groups,
        )
        self.bad: dict[int, str] = {}

    def __len__(self) -> int:
        """Batches per epoch of `stream`, the same on every rank.

        A single pass (`__iter__`) gives `ceil(samples / (world_size * batch_size))`, one less on ranks whose part of
        the last is empty.
        """
        return self.order.batches

    def stream(self, start: int = 0) -> Iterator[dict[str, Any]]:
        """Endless batches for training from number `start` on; the epoch of number k is `k // len(self)`.

        Closing the iterator (or dropping it) ends the workers.
        """
        return self._run(_count(start), replace=True)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """One pass for evaluation: this rank's share, nothing twice. `repeats` and `drop_last` do not apply."""
        return self._run(iter(range(self.order.parts)), replace=False)

    def _run(self, numbers: Iterator[int], replace: bool) -> Iterator[dict[str, Any]]:
        share = self.order.batch if replace else self.order.part
        tasks = ((number, *share(number)) for number in numbers)
        tasks = (t for t in tasks if len(t[1]))  # the last part of a pass may be empty
        if self.workers == 0:
            results = (self._read(indices, passes, replace) for _, indices, passes in tasks)
        else:
            results = _Workers(self, replace).run(tasks)
        try:
            for batch, bad in results:
                self._note(bad)
                if batch is not None:
                    yield batch
        finally:
            results.close()

    def _note(self, bad: list[tuple[int, str]]) -> None:
        """Count bad samples.

        In the order of batches, so that the same run stops at the same place for any worker count.
        """
        for index, message in bad:
            if index in self.bad:
                continue
            if len(self.bad) >= self.skip_bad:
                allowed = f" (data.skip_bad allows {self.skip_bad}, this is one more)" if self.skip_bad else ""
                raise UserError(message + allowed)
            self.bad[index] = message
            log.warning("bad sample %d of %d allowed, skipped: %s", len(self.bad), self.skip_bad, message)

    def _read(
        self, indices: np.ndarray, passes: np.ndarray, replace: bool, progress: np.ndarray | None = None
    ) -> tuple[dict[str, Any] | None, list[tuple[int, str]]]:
        """The batch of these samples (None if none is left) and the bad ones met, at most `skip_bad` + 1 of them."""
        samples, bad = [], {}
        for first, number in zip(indices.tolist(), passes.tolist()):
            for step in range(len(self.dataset) if replace else 1):
                index = (first + step) % len(self.dataset)
                if index in bad:
                    continue
                if progress is not None:
                    progress[0] = index
                try:
                    samples.append(self.sample(index, number))
                    break
                except UserError as error:
                    bad[index] = str(error)
                    if len(bad) > self.skip_bad:
                        return None, list(bad.items())
        if progress is not None:
            progress[0] = -1
        return (collate(samples) if samples else None), list(bad.items())

    def sample(self, index: int, number: int = 0) -> dict[str, Any]:
        """Sample `index` as transformed in pass `number`; what collate gets."""
        raw = self.dataset[index]
        sample = self.transform(raw, generator(b"sample", self.seed, number, index))
        sample["index"] = index
        if self.keep_target:
            sample["target"] = targets(raw)
        return sample


def _count(start: int) -> Iterator[int]:
    if start < 0:
        raise ValueError(f"a stream starts at batch 0 or later, not {start}")
    while True:
        yield start
        start += 1


class _Workers:
    """Worker processes of one iterator. Task t goes to worker t mod n and results are taken in that order."""

    def __init__(self, loader: Loader, replace: bool):
        self.loader, self.replace = loader, replace
        self.processes: list[multiprocessing.Process] = []
        self.sockets: list[socket.socket] = []
        # Anonymous shared pages: index of the sample that each worker is reading, -1 between batches.
        self.progress = np.frombuffer(mmap.mmap(-1, 8 * loader.workers), np.int64)
        self.progress[:] = -1

    def run(self, tasks: Iterator[tuple[int, np.ndarray, np.ndarray]]) -> Iterator[tuple[dict | None, list]]:
        """Results of all tasks, in order."""
        sent = received = 0
        try:
            self._start()
            while True:
                while sent - received < PREFETCH * len(self.processes):
                    task = next(tasks, None)
                    if task is None:
                        break
                    number, indices, passes = task
                    packet = (
                        _HEADER.pack(number, len(indices))
                        + indices.astype("<i8").tobytes()
                        + passes.astype("<i8").tobytes()
                    )
                    self._send(sent % len(self.processes), packet)
                    sent += 1
                if received == sent:
                    return
                yield self._receive(received % len(self.processes))
                received += 1
        finally:
            self._stop()

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        for i in range(self.loader.workers):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.sockets.append(ours)
            args = (self.loader, self.replace, theirs, list(self.sockets), self.progress[i : i + 1], os.getpid())
            process = context.Process(target=_work, args=args, name=f"ppvision-data-{i}", daemon=True)
            with warnings.catch_warnings():
                # Python 3.12 warns of fork in a process with threads. The child runs numpy and OpenCV without threads
                # only.
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            theirs.close()
            self.processes.append(process)

    def _send(self, worker: int, packet: bytes) -> None:
        try:
            self.sockets[worker].sendall(packet)
        except (BrokenPipeError, ConnectionResetError):
            self._died(worker)

    def _receive(self, worker: int) -> tuple[dict | None, list]:
        process, sock = self.processes[worker], self.sockets[worker]
        while True:
            ready = multiprocessing.connection.wait([sock, process.sentinel], timeout=PATIENCE)
            if ready:
                break
            log.warning("waiting %.0f s for data worker %d, which is %s", PATIENCE, worker, self._doing(worker))
        try:
            packet, fds, _, _ = socket.recv_fds(sock, _HEADER.size, 1) if sock in ready else (b"", [], 0, None)
        except ConnectionResetError:
            packet, fds = b"", []
        if not packet:
            self._died(worker)
        size, head = _HEADER.unpack(packet)
        try:
            memory = mmap.mmap(fds[0], size)
        finally:
            os.close(fds[0])
        if size < _COPIED:
            with memory as mapped:
                memory = bytearray(mapped)
        reply = _load(memory, head)
        if "error" in reply:
            raise RuntimeError(f"data worker {worker}, {reply['doing']}: {reply['error']}\n{reply['traceback']}")
        if "user_error" in reply:
            raise UserError(reply["user_error"])
        return reply["batch"], [(i, m) for i, m in reply["bad"]]

    def _doing(self, worker: int) -> str:
        index = int(self.progress[worker])
        return f"reading '{self.loader.dataset.name(index)}' (sample {index})" if index >= 0 else "between two samples"

    def _died(self, worker: int) -> None:
        process = self.processes[worker]
        process.join(5)
        code, doing = process.exitcode, self._doing(worker)
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
            how = f"was killed by {name}" + (
                " (out of memory? lower data.workers or the batch size)" if name == "SIGKILL" else ""
            )
        else:
            how = f"ended with status {code}"
        raise UserError(
            f"data worker {worker} {how} while {doing}; data.workers=0 reads in the main process and shows more"
        )

    def _stop(self) -> None:
        for process in self.processes:
            if process.is_alive():
                process.terminate()
        for sock in self.sockets:
            sock.close()
        for process in self.processes:
            process.join(2)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
        self.processes.clear()
        self.sockets.clear()


def _work(
    loader: Loader,
    replace: bool,
    sock: socket.socket,
    parents: list[socket.socket],
    progress: np.ndarray,
    parent: int,
) -> None:
    """Main function of a worker process: read tasks until the parent is gone."""
    # Handlers inherited from a trainer (save on SIGTERM, say) are not for this process; ctrl-C is the parent's to
    # handle.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()  # a collection would write to every inherited object, and so copy every inherited page
    os.environ["OMP_NUM_THREADS"] = "1"  # for what a data set loads here; the trainer's threads are not for workers
    cv2.setNumThreads(0)
    for inherited in parents:
        inherited.close()
    sock.settimeout(_ORPHAN_CHECK)
    while True:
        try:
            packet = sock.recv(_MAX_PACKET)
        except TimeoutError:
            if os.getppid() != parent:
                return
            continue
        except OSError:
            return
        if not packet:
            return
        _, count = _HEADER.unpack_from(packet)
        numbers = np.frombuffer(packet, "<i8", offset=_HEADER.size).reshape(2, count)
        try:
            batch, bad = loader._read(numbers[0], numbers[1], replace, progress)
            reply = {"batch": batch, "bad": [list(b) for b in bad]}
        except Exception as error:
            index = int(progress[0])
            doing = f"reading '{loader.dataset.name(index)}' (sample {index})" if index >= 0 else "making a batch"
            reply = {"error": f"{type(error).__name__}: {error}", "doing": doing, "traceback": traceback.format_exc()}
        try:
            fd, size, head = _dump(reply)
        except OSError as error:
            reason = f"no memory for a batch ({error.strerror}); lower data.workers or the batch size"
            reply = {"user_error": f"data worker: {reason}"}
            fd, size, head = _dump(reply)
        try:
            sock.settimeout(None)
            socket.send_fds(sock, [_HEADER.pack(size, head)], [fd])
        except OSError:
            return
        finally:
            os.close(fd)
            sock.settimeout(_ORPHAN_CHECK)


# ---- a message: a tree of dicts, lists, strings, numbers and arrays in one memory file, JSON first, then the arrays


def _dump(tree: Any) -> tuple[int, int, int]:
    """Write a tree into a new memory file. Returns its descriptor, its size and the size of its JSON part."""
    arrays: list[np.ndarray] = []
    head = json.dumps(_encode(tree, arrays)).encode()
    offsets = np.cumsum([_align(len(head)), *(_align(a.nbytes) for a in arrays)])
    size = int(offsets[-1]) or 1
    fd = os.memfd_create("ppvision-batch", os.MFD_CLOEXEC)
    try:
        os.posix_fallocate(fd, 0, size)  # an error here instead of SIGBUS at the first write
        with mmap.mmap(fd, size) as memory:
            memory[: len(head)] = head
            for array, offset in zip(arrays, offsets.tolist()):
                if array.nbytes:
                    memory[offset : offset + array.nbytes] = memoryview(array.reshape(-1).view(np.uint8))
    except BaseException:
        os.close(fd)
        raise
    return fd, size, len(head)


def _load(memory: mmap.mmap | bytearray, head: int) -> Any:
    """The tree of a message. Its arrays are writable views that keep the memory mapped."""
    return _decode(json.loads(bytes(memory[:head])), memory, [_align(head)])


# Module functions: a closure that calls itself is a reference cycle and would hold a batch until the next collection.


def _encode(value: Any, arrays: list[np.ndarray]) -> Any:
    """`value` as JSON, one letter telling the type; its arrays are appended to `arrays`, in order."""
    if isinstance(value, dict):
        return {"d": {str(k): _encode(v, arrays) for k, v in value.items()}}
    if isinstance(value, (list, tuple)):
        return {"l" if isinstance(value, list) else "t": [_encode(v, arrays) for v in value]}
    if isinstance(value, np.ndarray):
        arrays.append(np.ascontiguousarray(value))
        return {"a": [value.dtype.str, list(value.shape)]}
    return {"n": [value.dtype.str, value.item()]} if isinstance(value, np.generic) else {"v": value}


def _decode(node: dict[str, Any], memory: mmap.mmap | bytearray, offset: list[int]) -> Any:
    """Inverse of `_encode`; `offset[0]` is where the next array begins."""
    ((kind, value),) = node.items()
    if kind == "d":
        return {k: _decode(v, memory, offset) for k, v in value.items()}
    if kind in "lt":
        items = [_decode(v, memory, offset) for v in value]
        return items if kind == "l" else tuple(items)
    if kind == "n":
        return np.dtype(value[0]).type(value[1])
    if kind == "a":
        dtype, shape = np.dtype(value[0]), value[1]
        array = np.ndarray(shape, dtype, memory, offset[0]) if 0 not in shape else np.empty(shape, dtype)
        offset[0] += _align(array.nbytes)
        return array
    return value


def _align(size: int) -> int:
    return -(-size // 64) * 64
