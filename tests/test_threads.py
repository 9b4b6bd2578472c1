"""Kernels and threads: what is chosen for which processor, what the user keeps, and that it reaches Paddle."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from ppvision import threads
from ppvision.threads import choose_kernels, choose_threads, in_force, num_processes, usable_cores
from ppvision.weights import read

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("MKL_DEBUG_CPU_TYPE", "OMP_NUM_THREADS", "KMP_BLOCKTIME")
AVX512 = "fpu sse2 fma avx2 avx512f avx512dq avx512bw avx512vl"
AVX2 = "fpu sse2 fma avx2"

# A second processor that can do more must not be asked: MKL chooses once for all of them.
CPUINFO = """\
processor\t: 0
vendor_id\t: {vendor}
model name\t: Some: Processor
flags\t\t: {flags}
bugs\t\t: none

processor\t: 1
vendor_id\t: AuthenticAMD
flags\t\t: fma avx2 avx512f avx512dq avx512bw avx512vl
"""


def cpuinfo(folder: Path, vendor: str, flags: str) -> str:
    path = folder / "cpuinfo"
    path.write_text(CPUINFO.format(vendor=vendor, flags=flags))
    return str(path)


def fresh(code: str, **settings: str) -> str:
    """What a new process prints that has none of the variables but those given."""
    env = {k: v for k, v in os.environ.items() if k not in NAMES and not k.startswith("PADDLE_")}
    env |= {"PYTHONPATH": str(ROOT), **settings}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class TestKernels:
    @pytest.mark.parametrize(
        ("vendor", "flags", "kernels"),
        [
            ("AuthenticAMD", AVX512, "7"),
            ("HygonGenuine", AVX512, "7"),
            ("AuthenticAMD", AVX512.replace(" avx512dq", ""), "5"),
            ("AuthenticAMD", AVX512.replace(" avx512vl", ""), "5"),
            ("AuthenticAMD", AVX2, "5"),
            ("AuthenticAMD", "fpu avx2", None),
            ("AuthenticAMD", "fpu fma avx", None),
            ("GenuineIntel", AVX512, None),
            ("GenuineIntel", AVX2, None),
            ("SomebodyElse", AVX512, None),
            ("", AVX512, None),
        ],
    )
    def test_of_a_processor(self, tmp_path, vendor, flags, kernels):
        environment = {}
        choose_kernels(environment, cpuinfo(tmp_path, vendor, flags))
        assert environment.get("MKL_DEBUG_CPU_TYPE") == kernels and environment["KMP_BLOCKTIME"] == "1"

    @pytest.mark.parametrize(
        "content", [None, b"", b"CPU implementer\t: 0x41\nFeatures\t: fp asimd\n", b"\xff\xfe\x00"]
    )
    def test_of_a_machine_that_does_not_tell(self, tmp_path, content):
        if content is not None:
            (tmp_path / "cpuinfo").write_bytes(content)
        environment = {}
        choose_kernels(environment, str(tmp_path / "cpuinfo"))
        assert environment == {"KMP_BLOCKTIME": "1"}

    @pytest.mark.parametrize("value", ["5", "4", ""])
    def test_the_users_value_stays(self, tmp_path, value):
        environment = {"MKL_DEBUG_CPU_TYPE": value, "KMP_BLOCKTIME": "200"}
        choose_kernels(environment, cpuinfo(tmp_path, "AuthenticAMD", AVX512))
        assert environment == {"MKL_DEBUG_CPU_TYPE": value, "KMP_BLOCKTIME": "200"}

    def test_importing_ppvision_chooses(self):
        ours = threads.fastest_kernels(threads.first_processor("/proc/cpuinfo"))
        code = "import ppvision, os, sys; assert 'numpy' not in sys.modules; print([os.environ.get(k) for k in {}])"
        assert fresh(code.format(NAMES)) == str([ours, None, "1"])
        assert fresh(code.format(NAMES), MKL_DEBUG_CPU_TYPE="") == str(["", None, "1"])


class TestThreads:
    @pytest.fixture(autouse=True)
    def six_cores(self, monkeypatch):
        """A process with six cores that has not imported Paddle."""
        monkeypatch.delitem(sys.modules, "paddle", raising=False)
        monkeypatch.setattr(threads, "usable_cores", lambda: 6)

    @pytest.mark.parametrize(
        ("num_threads", "given", "chosen"),
        [
            (None, {}, "6"),
            (None, {"PADDLE_TRAINERS_NUM": "2"}, "3"),
            (None, {"PADDLE_TRAINERS_NUM": "8", "PADDLE_LOCAL_SIZE": "4"}, "1"),  # two machines
            (None, {"PADDLE_LOCAL_SIZE": "20"}, "1"),
            (None, {"OMP_NUM_THREADS": "5"}, "5"),
            (None, {"OMP_NUM_THREADS": "1"}, "1"),
            (None, {"OMP_NUM_THREADS": ""}, ""),
            (4, {}, "4"),
            (4, {"PADDLE_LOCAL_SIZE": "2"}, "4"),
            (4, {"OMP_NUM_THREADS": "5"}, "4"),
        ],
    )
    def test_chosen(self, num_threads, given, chosen):
        environment = dict(given)
        choose_threads(num_threads, environment)
        assert environment == {**given, "OMP_NUM_THREADS": chosen}

    def test_too_late_changes_nothing(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "paddle", threads)
        environment = {"OMP_NUM_THREADS": "1"}
        choose_threads(4, environment)
        assert environment == {"OMP_NUM_THREADS": "1"}

    @pytest.mark.parametrize(("text", "count"), [("3", 3), ("", 1), ("0", 1), ("-2", 1), ("many", 1)])
    def test_num_processes(self, text, count):
        assert num_processes({"PADDLE_LOCAL_SIZE": text}) == count

    @pytest.mark.parametrize(("users", "chosen"), [({}, "6"), ({"OMP_NUM_THREADS": "1"}, "1")])
    def test_what_the_launcher_hands_down_is_not_the_users(self, users, chosen):
        """A parent that sets the variable after its start, as Paddle does in the launcher."""
        child = "from ppvision import threads; import os; threads.usable_cores = lambda: 6; threads.choose_threads()"
        child += "; print(os.environ['OMP_NUM_THREADS'])"
        parent = "import os, subprocess, sys; os.environ.update(OMP_NUM_THREADS='1', PADDLE_LOCAL_SIZE='1')"
        assert fresh(f"{parent}; subprocess.run([sys.executable, '-c', {child!r}], check=True)", **users) == chosen


class TestCores:
    def test_affinity(self):
        code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        assert fresh(code + "from ppvision.threads import usable_cores; print(usable_cores())") == "1"

    @pytest.mark.parametrize(
        ("files", "quota"),
        [
            ({"cpu.max": "250000 100000\n"}, 2.5),
            ({"cpu.max": "max 100000\n"}, None),
            ({"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "50000\n"}, 3.0),
            ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
            ({"cpu.max": "nonsense"}, None),
            ({}, None),
        ],
    )
    def test_quota_of_a_container(self, tmp_path, files, quota):
        (tmp_path / "cpu").mkdir()
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        assert threads._quota(str(tmp_path)) == quota

    @pytest.mark.parametrize(("quota", "cores"), [(None, 8), (2.5, 2), (0.5, 1), (64.0, 8)])
    def test_the_smaller_of_both(self, monkeypatch, quota, cores):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
        monkeypatch.setattr(threads, "_quota", lambda: quota)
        assert usable_cores() == cores


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({"OMP_NUM_THREADS": "3", "MKL_DEBUG_CPU_TYPE": "7"}, (3, "7")),
        ({"OMP_NUM_THREADS": "1", "MKL_DEBUG_CPU_TYPE": ""}, (1, None)),
        ({}, (1, None)),
    ],
)
def test_in_force(environment, found):
    assert in_force(environment) == found


class TestCommandLine:
    """Real processes: Paddle computes with what was chosen, the run records it, and says nothing on stderr."""

    @pytest.fixture
    def recipe(self, tmp_path) -> Path:
        for split in ("train", "val"):
            for i in range(2):
                label = np.repeat(np.arange(96, dtype=np.uint8) // 48, 64).reshape(96, 64).T.copy()
                cv2.imwrite(str(tmp_path / f"{split}{i}.png"), np.stack([label * 90 + 20 * i] * 3, 2))
                cv2.imwrite(str(tmp_path / f"{split}{i}_label.png"), label)
            (tmp_path / f"{split}.txt").write_text("".join(f"{split}{i}.png {split}{i}_label.png\n" for i in range(2)))
        (tmp_path / "labels.txt").write_text("dark\nlight\n")
        spec = {
            "model": {"type": "rtformer_debug", "num_classes": 2},
            "data": {"type": "seg_list", "root": str(tmp_path), "workers": 1},
            "optimizer": {"type": "adamw", "lr": 1.0e-3},
            "train": {
                "iters": 2,
                "save_interval": 1,
                "batch_size": 2,
                "device": "cpu",
                "save_dir": str(tmp_path / "run"),
            },
            "eval": {"metrics": ["mIoU"], "enabled": False},
        }
        spec["data"] |= {"train": {"split": "train"}, "val": {"split": "val"}}
        (tmp_path / "x.yml").write_text(yaml.safe_dump(spec))
        return tmp_path / "x.yml"

    def ppvision(self, *argv: str, launcher: tuple[str, ...] = (), **settings: str) -> subprocess.CompletedProcess:
        env = {k: v for k, v in os.environ.items() if k not in NAMES and not k.startswith("PADDLE_")}
        env |= {"PYTHONPATH": str(ROOT), **settings}
        env.pop("CUDA_VISIBLE_DEVICES", None)
        command = [sys.executable, *(launcher or ("-m", "ppvision")), *argv]
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def state(self, recipe: Path, step: int = 2) -> tuple[int, str | None]:
        state = json.loads((recipe.parent / f"run/iter_{step}/state.json").read_text())
        return state["threads"], state["kernels"]

    def test_the_usable_cores_are_the_default(self, recipe):
        done = self.ppvision("train", "-c", str(recipe), MKL_DEBUG_CPU_TYPE="")
        assert self.state(recipe) == (usable_cores(), None)
        assert f"1 process(es), {usable_cores()} thread(s)" in done.stdout and done.stderr == ""

    def test_a_resumed_run_that_computes_otherwise_says_so_once(self, recipe):
        kernels = threads.fastest_kernels(threads.first_processor("/proc/cpuinfo"))
        self.ppvision("train", "-c", str(recipe), "--iters", "1", "--threads", "3")
        assert self.state(recipe, 1) == (3, kernels)
        again = self.ppvision("train", "-c", str(recipe), "--iters", "1", "--resume", "auto", "--threads", "3")
        assert "bit for bit" not in again.stdout
        done = self.ppvision("train", "-c", str(recipe), "--resume", "auto", OMP_NUM_THREADS="2")
        (line,) = [line for line in done.stdout.splitlines() if "bit for bit" in line]
        was = f"OMP_NUM_THREADS=3 MKL_DEBUG_CPU_TYPE={kernels or ''}"
        now = f"OMP_NUM_THREADS=2 MKL_DEBUG_CPU_TYPE={kernels or ''}"
        assert line == (
            f"warning: {recipe.parent}/run/iter_1 was made with {was} (now {now}): the run goes on, "
            f"but not bit for bit; for that set {was} before the start (or --threads 3)"
        )
        assert "train.threads" not in line and self.state(recipe) == (2, kernels)

    def test_a_resumed_run_with_as_many_threads_is_the_same_bit_for_bit(self, recipe):
        train = ("train", "-c", str(recipe), "--threads", "2")
        self.ppvision(*train)
        last = recipe.parent / "run/iter_2"
        straight = read(last / "model.pdparams")
        shutil.rmtree(last)
        self.ppvision(*train, "--resume", "auto")
        resumed = read(last / "model.pdparams")
        assert set(resumed) == set(straight) and len(straight) > 100
        for key, array in straight.items():
            np.testing.assert_array_equal(resumed[key], array, err_msg=key)

    def test_the_launcher_divides_the_cores(self, recipe, tmp_path):
        launcher = ("-m", "paddle.distributed.launch", "--nproc_per_node", "1", "--log_dir", str(tmp_path / "log"))
        self.ppvision("-c", str(recipe), launcher=(*launcher, str(ROOT / "tools/train.py")))
        assert self.state(recipe)[0] == usable_cores()

    @pytest.mark.parametrize("verb", ["eval", "predict"])
    def test_eval_and_predict(self, recipe, tmp_path, verb):
        self.ppvision("train", "-c", str(recipe), OMP_NUM_THREADS="1")
        weights = str(tmp_path / "run/latest/model.pdparams")
        extra = ("--image_path", str(tmp_path / "val0.png")) if verb == "predict" else ()
        argv = [verb, "-c", str(recipe), "--model_path", weights, "--threads", "3", *extra]
        code = f"from ppvision.cli import main; assert main({argv!r}) == 0\n"
        code += "import ctypes\npath = next(line.split()[-1] for line in open('/proc/self/maps') if 'iomp5' in line)\n"
        code += "print('threads', ctypes.CDLL(path).omp_get_max_threads())"
        done = self.ppvision(launcher=("-c", code))
        assert done.stdout.splitlines()[-1] == "threads 3" and "WISELY" not in done.stderr

    def test_what_else_paddle_says_at_import_is_kept(self, tmp_path):
        (tmp_path / "paddle.py").write_text(
            "import sys\n"
            "print('WARNING: OMP_NUM_THREADS set to 2, not 1. The', file=sys.stderr)\n"
            "print('PLEASE USE OMP_NUM_THREADS WISELY.', file=sys.stderr)\n"
            "print('no driver', file=sys.stderr)\n"
            "raise ModuleNotFoundError(name='paddle.base')\n"
        )
        code = "from ppvision.threads import import_paddle\n"
        code += "try: import_paddle()\nexcept ModuleNotFoundError as e: print(e.name)"
        done = self.ppvision(launcher=("-c", code), PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
        assert (done.stdout, done.stderr) == ("paddle.base\n", "no driver\n")

    @pytest.mark.parametrize(("flags", "where"), [(["--threads", "0"], "got 0"), (["--threads", "2000"], "got 2000")])
    def test_senseless_counts(self, recipe, capsys, flags, where):
        from ppvision.cli import main

        assert main(["train", "-c", str(recipe), *flags]) == 2
        message = capsys.readouterr().err
        assert (
            "'train.threads' must be an integer from 1 to 1024" in message
            and where in message
            and message.count("\n") == 1
        )
