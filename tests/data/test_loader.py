from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ppvision.data import loader as loader_module
from ppvision.data.formats.seg_list import SegList
from ppvision.data.loader import Loader
from ppvision.data.transforms.image import ColorJitter, Compose, RandomCrop, RandomFlip, RandomScale
from ppvision.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def recipe() -> Compose:
    return Compose([RandomScale(), RandomCrop([24, 32]), RandomFlip(), ColorJitter()])


def make(root: Path, **kwargs) -> Loader:
    defaults = dict(batch_size=4, shuffle=True, seed=7, keep_target=True)
    return Loader(SegList(str(root), "train"), recipe(), **{**defaults, **kwargs})


def take(stream, count: int) -> list[dict]:
    try:
        return [next(stream) for _ in range(count)]
    finally:
        stream.close()


def assert_same(a, b) -> None:
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_same(x, y)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and a.flags.writeable and b.flags.writeable
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b


def assert_no_children() -> None:
    assert multiprocessing.active_children() == []
    with pytest.raises(ChildProcessError):  # not even a zombie
        os.waitpid(-1, os.WNOHANG)


@pytest.fixture
def killed(monkeypatch) -> list[str]:
    """Names of the workers that had to be killed. A busy machine may take its time to end one that was asked to."""
    names, process = [], multiprocessing.get_context("fork").Process
    join, kill = process.join, process.kill
    monkeypatch.setattr(process, "join", lambda self, timeout=None: join(self, 300))
    monkeypatch.setattr(process, "kill", lambda self: (names.append(self.name), kill(self)))
    return names


class Numbers:
    """A data set without files: sample i is an image full of i. `act` may do something to chosen ones."""

    def __init__(self, count: int = 20, act=None):
        self.count, self.act = count, act or (lambda i: None)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> dict:
        self.act(i)
        return {"image": np.full((4, 6, 3), i, np.uint8), "name": self.name(i)}

    def name(self, i: int) -> str:
        return f"numbers/{i}.png"


def bad(*indices: int):
    def act(i: int) -> None:
        if i in indices:
            raise UserError(f"numbers/{i}.png: image is truncated")

    return act


class TestStream:
    def test_batches_are_as_the_contract_says(self, seg_root):
        loader = make(seg_root)
        (batch,) = take(loader.stream(), 1)
        assert len(loader) == 4
        assert batch["image"].shape == (4, 24, 32, 3) and batch["image"].dtype == np.uint8
        assert batch["label"].shape == batch["valid"].shape == (4, 24, 32)
        assert batch["size"].tolist() == [[20 + 3 * i, 40 - 2 * i] for i in batch["index"]]
        assert [Path(n).stem for n in batch["name"]] == [str(i) for i in batch["index"]]
        for i, target in zip(batch["index"], batch["target"]):
            assert target.keys() == {"label"}
            np.testing.assert_array_equal(target["label"], loader.dataset[i]["label"])

    @pytest.mark.parametrize("workers", [1, 2, 3])
    def test_any_worker_count_gives_the_same(self, seg_root, workers):
        expected = take(make(seg_root).stream(), 9)
        assert_same(take(make(seg_root, workers=workers).stream(), 9), expected)
        assert_no_children()

    @pytest.mark.parametrize(("workers", "threads"), [(0, 7), (1, 1)])
    def test_a_worker_has_one_thread(self, monkeypatch, workers, threads):
        monkeypatch.setenv("OMP_NUM_THREADS", "7")

        def with_threads(sample: dict, rng: np.random.Generator) -> dict:
            return {**sample, "threads": int(os.environ["OMP_NUM_THREADS"])}

        (batch,) = take(Loader(Numbers(4), with_threads, batch_size=2, shuffle=False, workers=workers).stream(), 1)
        assert list(batch["threads"]) == [threads, threads] and os.environ["OMP_NUM_THREADS"] == "7"

    def test_large_batches_travel_unchanged(self, tmp_path):
        images = Numbers(8)
        images.__class__ = type("Large", (Numbers,), {"__getitem__": large})
        a, b = (take(Loader(images, None, batch_size=4, shuffle=True, workers=w).stream(), 3) for w in (0, 2))
        assert a[0]["image"].nbytes > loader_module._COPIED
        assert_same(a, b)

    @pytest.mark.parametrize("workers", [0, 2])
    @pytest.mark.parametrize("start", [1, 4, 6, 401])
    def test_starts_anywhere(self, seg_root, workers, start):
        if start < 100:
            expected = take(make(seg_root).stream(), start + 2)[start:]
        else:  # far away, and at once: nothing is replayed
            expected = take(make(seg_root).stream(start - 1), 3)[1:]
        assert_same(take(make(seg_root, workers=workers).stream(start), 2), expected)

    def test_two_ranks_see_what_one_does(self, seg_root):
        one = take(make(seg_root, batch_size=6).stream(), 7)
        ranks = [take(make(seg_root, batch_size=3, rank=r, world_size=2).stream(), 7) for r in (0, 1)]
        for whole, *parts in zip(one, *ranks):
            for key in ("image", "label", "index", "geometry"):
                np.testing.assert_array_equal(np.concatenate([p[key] for p in parts]), whole[key])
        assert len(make(seg_root, batch_size=3, rank=1, world_size=2)) == len(make(seg_root, batch_size=6)) == 3

    def test_a_sample_depends_on_seed_pass_and_index_only(self, seg_root):
        def by_index(loader, count):
            return {int(i): image for b in take(loader.stream(), count) for i, image in zip(b["index"], b["image"])}

        one, other = by_index(make(seg_root, batch_size=1), 13), by_index(make(seg_root, batch_size=13), 1)
        assert one.keys() == other.keys() == set(range(13))
        assert all(np.array_equal(one[i], other[i]) for i in one)
        seed = by_index(make(seg_root, seed=8), 4)
        assert not any(np.array_equal(one[i], seed[i]) for i in one)
        first, second = (b["image"] for b in take(make(seg_root, batch_size=13, shuffle=False).stream(), 2))
        assert not any(np.array_equal(a, b) for a, b in zip(first, second))

    def test_the_global_generator_is_left_alone(self, seg_root):
        before = np.random.get_state()[1].copy()
        take(make(seg_root).stream(), 2)
        assert np.array_equal(np.random.get_state()[1], before)


def large(self, i: int) -> dict:
    return {"image": np.full((300, 400, 3), i, np.uint8), "name": self.name(i)}


class Proportions(Numbers):
    """Every third picture is upright, and `groups` says so."""

    def __init__(self, count: int = 20):
        super().__init__(count)
        self.groups = (np.arange(count) % 3 > 0).astype(np.uint8)

    def __getitem__(self, i: int) -> dict:
        shape = (4, 6, 3) if i % 3 else (6, 4, 3)
        return {"image": np.full(shape, i, np.uint8), "name": self.name(i)}


class TestGroups:
    def test_batches_of_one_group_waste_no_padding(self):
        plain, grouped = Proportions(48), Proportions(48)
        plain.groups = None
        batches = {d: take(Loader(d, None, batch_size=4, shuffle=True).stream(), 24) for d in (plain, grouped)}
        assert not all(b["valid"].all() for b in batches[plain])
        assert all(b["valid"].all() for b in batches[grouped])
        for first in (0, 12):  # everything once an epoch, as ever
            assert sorted(i for b in batches[grouped][first : first + 12] for i in b["index"]) == list(range(48))

    @pytest.mark.parametrize("workers", [0, 2])
    def test_resumes_and_is_shared_by_ranks(self, workers):
        def batches(start: int, count: int, **kwargs) -> list[dict]:
            loader = Loader(Proportions(), None, shuffle=True, seed=3, workers=workers, drop_last=True, **kwargs)
            return take(loader.stream(start), count)

        straight = batches(0, 9, batch_size=4)
        assert_same(batches(6, 3, batch_size=4), straight[6:])
        ranks = [batches(0, 9, batch_size=2, rank=r, world_size=2) for r in range(2)]
        for k, one in enumerate(straight):
            assert np.array_equal(np.concatenate([r[k]["index"] for r in ranks]), one["index"])

    def test_evaluation_keeps_the_order(self):
        loader = Loader(Proportions(), None, batch_size=4, shuffle=False)
        assert [i for b in loader for i in b["index"]] == list(range(20))


class TestSinglePass:
    @pytest.mark.parametrize("workers", [0, 2])
    @pytest.mark.parametrize("count, world_size", [(13, 1), (13, 2), (9, 4), (1, 3)])
    def test_ranks_together_see_everything_once(self, workers, count, world_size):
        ranks = [
            Loader(Numbers(count), None, batch_size=2, shuffle=False, rank=r, world_size=world_size, workers=workers)
            for r in range(world_size)
        ]
        seen = [i for loader in ranks for batch in loader for i in batch["index"].tolist()]
        assert sorted(seen) == list(range(count))
        assert_no_children()

    def test_again_and_again(self):
        loader = Loader(Numbers(5), None, batch_size=2, shuffle=False, workers=1)
        for _ in range(3):
            assert [b["index"].tolist() for b in loader] == [[0, 1], [2, 3], [4]]

    def test_many_batches_can_be_kept(self):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(120, soft), hard))
        try:
            assert len(list(Loader(Numbers(200), None, batch_size=1, shuffle=False, workers=2))) == 200
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class TestBadSamples:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_the_reason_is_the_message(self, seg_root, workers, message):
        (seg_root / "b/5.png").unlink()
        loader = make(seg_root, shuffle=False, workers=workers)
        assert message(lambda: list(loader)) == f"{seg_root}/train.txt:6: label 'b/5.png' does not exist"
        assert_no_children()

    @pytest.mark.parametrize("workers", [0, 1, 2])
    def test_replaced_by_the_next_good_one_in_training(self, workers, caplog):
        loader = Loader(Numbers(8, bad(2, 3, 7)), None, batch_size=4, shuffle=False, workers=workers, skip_bad=3)
        with caplog.at_level(logging.WARNING, "ppvision.data"):
            batches = take(loader.stream(), 4)
        assert [b["index"].tolist() for b in batches] == [[0, 1, 4, 4], [4, 5, 6, 0]] * 2
        assert loader.bad == {i: f"numbers/{i}.png: image is truncated" for i in (2, 3, 7)}
        assert [r.getMessage() for r in caplog.records] == [
            f"bad sample {n} of 3 allowed, skipped: numbers/{i}.png: image is truncated"
            for n, i in enumerate((2, 3, 7), 1)
        ]

    @pytest.mark.parametrize("workers", [0, 2])
    def test_left_out_in_evaluation(self, workers):
        loader = Loader(Numbers(8, bad(1, 4, 5)), None, batch_size=2, shuffle=False, workers=workers, skip_bad=3)
        assert [b["index"].tolist() for b in loader] == [[0], [2, 3], [6, 7]]

    @pytest.mark.parametrize("workers", [0, 1, 2])
    def test_one_more_than_allowed(self, workers, message):
        loader = Loader(Numbers(8, bad(1, 6)), None, batch_size=2, shuffle=False, workers=workers, skip_bad=1)
        stream, seen = loader.stream(), []

        def run():
            while True:
                seen.append(next(stream)["index"].tolist())

        expected = "numbers/6.png: image is truncated (data.skip_bad allows 1, this is one more)"
        assert message(run) == expected
        assert seen == [[0, 2], [2, 3], [4, 5]]

    def test_all_bad(self, message):
        loader = Loader(Numbers(3, bad(0, 1, 2)), None, batch_size=2, shuffle=False, skip_bad=2)
        assert message(lambda: next(loader.stream())).endswith("(data.skip_bad allows 2, this is one more)")

    def test_a_transform_may_refuse_a_sample(self):
        def refuse(sample, rng):
            raise UserError("no: nothing in it")

        with pytest.raises(UserError, match="^no: nothing in it$"):
            next(Loader(Numbers(), refuse, batch_size=2, shuffle=False, workers=1).stream())


class TestWorkers:
    @pytest.mark.parametrize(
        "how, cause", [(signal.SIGKILL, "was killed by SIGKILL (out of memory?"), (None, "ended with status 3")]
    )
    def test_a_death_names_the_sample(self, how, cause, message):
        def act(i: int) -> None:
            if i == 11:
                os.kill(os.getpid(), how) if how else os._exit(3)

        loader = Loader(Numbers(20, act), None, batch_size=2, shuffle=False, workers=2)
        text = message(lambda: list(loader))
        assert cause in text and "while reading 'numbers/11.png' (sample 11)" in text and "data.workers=0" in text
        assert_no_children()

    def test_a_mistake_in_the_code_shows_where(self):
        def act(i: int) -> None:
            if i == 3:
                raise KeyError("missing")

        with pytest.raises(
            RuntimeError, match=r"(?s)reading 'numbers/3.png' \(sample 3\): KeyError: 'missing'.*in act"
        ):
            list(Loader(Numbers(20, act), None, batch_size=2, shuffle=False, workers=2))
        with pytest.raises(KeyError):
            list(Loader(Numbers(20, act), None, batch_size=2, shuffle=False))
        assert_no_children()

    def test_waiting_long_is_said(self, monkeypatch, caplog):
        monkeypatch.setattr(loader_module, "PATIENCE", 0.1)
        loader = Loader(Numbers(2, lambda i: time.sleep(0.5)), None, batch_size=2, shuffle=False, workers=1)
        with caplog.at_level(logging.WARNING, "ppvision.data"):
            assert len(list(loader)) == 1
        assert "for data worker 0, which is reading 'numbers/0.png' (sample 0)" in caplog.text

    def test_end_with_their_iterator(self):
        loader = Loader(Numbers(), None, batch_size=2, shuffle=True, workers=2)
        stream = loader.stream()
        next(stream)
        assert len(multiprocessing.active_children()) == 2
        stream.close()
        assert_no_children()
        for _ in loader:
            break
        stream = loader.stream()
        next(stream)
        del stream
        assert_no_children()

    def test_do_not_outwait_a_stuck_sample(self, killed):
        loader = Loader(Numbers(9, lambda i: time.sleep(3600 * (i > 1))), None, batch_size=2, shuffle=False, workers=1)
        stream = loader.stream()
        next(stream)
        stream.close()
        assert_no_children()
        assert not killed  # SIGTERM was enough

    def test_one_that_ignores_sigterm_is_killed(self):
        def act(i: int) -> None:
            if i > 1:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(3600)

        loader = Loader(Numbers(9, act), None, batch_size=2, shuffle=False, workers=1)
        stream = loader.stream()
        next(stream)
        time.sleep(0.2)
        stream.close()
        assert_no_children()

    def test_ctrl_c_and_the_trainers_handlers_are_not_for_them(self, killed):
        got = []
        old = signal.signal(signal.SIGTERM, lambda *_: got.append(1))
        try:
            stream = Loader(Numbers(), None, batch_size=2, shuffle=True, workers=2).stream()
            for _ in range(2):  # one batch of each worker, so that both have set their handlers
                next(stream)
            for process in multiprocessing.active_children():
                os.kill(process.pid, signal.SIGINT)
            for _ in range(10):
                next(stream)
            stream.close()
            assert not killed and not got
        finally:
            signal.signal(signal.SIGTERM, old)

    def test_leave_no_shared_memory(self):
        gc.disable()  # batches must go when the last reference does, not at some later collection
        before, held = set(os.listdir("/dev/shm")), descriptors()
        batches = take(Loader(Numbers(), large_transform, batch_size=4, shuffle=True, workers=2).stream(), 4)
        assert set(os.listdir("/dev/shm")) == before
        try:
            assert descriptors() == held + 4
            del batches
            assert descriptors() == held
        finally:
            gc.enable()

    def test_interleaved_streams(self):
        train = Loader(Numbers(), None, batch_size=2, shuffle=True, workers=2)
        stream = train.stream()
        expected = take(train.stream(), 4)
        got = [next(stream)]
        assert len(list(Loader(Numbers(7), None, batch_size=2, shuffle=False, workers=2))) == 4
        got += [next(stream) for _ in range(3)]
        stream.close()
        assert_same(got, expected)

    def test_refusals(self, monkeypatch, message):
        assert "must be at least 0, not -1 and 0" in message(
            lambda: Loader(Numbers(), None, batch_size=1, shuffle=False, workers=-1)
        )
        expected = "batch_size 4097 is more than workers are sent at once (4096); set data.workers=0"
        assert message(lambda: Loader(Numbers(), None, batch_size=4097, shuffle=False, workers=1)) == expected
        (batch,) = take(Loader(Numbers(), None, batch_size=4096, shuffle=True, workers=1).stream(), 1)
        assert batch["image"].shape == (4096, 4, 6, 3)
        monkeypatch.delattr(os, "memfd_create")
        expected = "data.workers needs Linux (fork and memfd); set data.workers=0"
        assert message(lambda: Loader(Numbers(), None, batch_size=1, shuffle=False, workers=1)) == expected

    def test_no_memory_for_a_batch_is_said(self, monkeypatch, message):
        real, calls = os.posix_fallocate, []

        def full(fd, offset, size):
            calls.append(size)
            if len(calls) == 1:
                raise OSError(28, "No space left on device")
            real(fd, offset, size)

        monkeypatch.setattr(os, "posix_fallocate", full)
        loader = Loader(Numbers(), None, batch_size=2, shuffle=False, workers=1)
        expected = "data worker: no memory for a batch (No space left on device); lower data.workers or the batch size"
        assert message(lambda: list(loader)) == expected


def large_transform(sample, rng):
    image = np.repeat(np.repeat(sample["image"], 60, 0), 60, 1)
    return {**sample, "image": image, "inner": image.shape[:2]}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


PARENT = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to it
import numpy as np
from ppvision.data.loader import Loader

class Slow:
    def __len__(self): return 1000
    def __getitem__(self, i):
        time.sleep(0.01)
        return {"image": np.zeros((4, 4, 3), np.uint8), "name": str(i)}
    def name(self, i): return str(i)

stream = Loader(Slow(), None, batch_size=2, shuffle=True, workers=2).stream()
next(stream)
import multiprocessing
print(*[p.pid for p in multiprocessing.active_children()], flush=True)
for _ in stream: pass
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_do_not_outlive_their_parent(how):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
    )
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    parent.send_signal(how)
    try:
        assert parent.wait(300) != 0
    finally:
        parent.kill()
    until = time.monotonic() + 300
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < until, "a worker outlived its parent"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not waited for (by whoever adopted it) does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
