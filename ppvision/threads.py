"""Kernels and threads: how Paddle computes on a processor, chosen before Paddle is imported.

Paddle's wheels bring an MKL of 2019 that takes old kernels on processors that are not Intel's, and Paddle itself sets
`OMP_NUM_THREADS=1` at import where it is unset. Both are environment variables that are read once: MKL's at the first
product, the others when Paddle is imported. `import ppvision` chooses the kernels, the command line the threads as
well. A value that the user set is never changed, an empty one neither. Bits of a result depend on both, so checkpoints
record them.

Imports the standard library only.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import MutableMapping

__all__ = ["choose_kernels", "choose_threads", "import_paddle", "in_force"]

KERNELS = "MKL_DEBUG_CPU_TYPE"
THREADS = "OMP_NUM_THREADS"
SPINNING = "KMP_BLOCKTIME"  # milliseconds a thread spins after its work; the default 200 takes the core from others

NOT_INTEL = ("AuthenticAMD", "HygonGenuine")
AVX512 = {"avx512f", "avx512dq", "avx512bw", "avx512vl"}
AVX2 = {"avx2", "fma"}

PADDLE_WARNS = ("WARNING: OMP_NUM_THREADS set to", "PLEASE USE OMP_NUM_THREADS WISELY")


def choose_kernels(environment: MutableMapping[str, str] = os.environ, cpuinfo: str = "/proc/cpuinfo") -> None:
    """Set MKL's kernels and the spinning of threads, where the user did not.

    Args:
        environment: what is changed.
        cpuinfo: the file that describes the processor.
    """
    environment.setdefault(SPINNING, "1")
    if KERNELS in environment:
        return
    kernels = fastest_kernels(first_processor(cpuinfo))
    if kernels is not None:
        environment[KERNELS] = kernels


def first_processor(cpuinfo: str) -> dict[str, str]:
    """Keys and values of the first processor in `/proc/cpuinfo`; empty where there is no such file."""
    found = {}
    try:
        with open(cpuinfo, encoding="utf-8", errors="replace") as file:
            for line in file:
                key, colon, value = line.partition(":")
                if not colon:  # an empty line ends a processor
                    break
                found[key.strip()] = value.strip()
    except OSError:
        return {}
    return found


def fastest_kernels(processor: dict[str, str]) -> str | None:
    """The `MKL_DEBUG_CPU_TYPE` of the fastest kernels that this processor can run; None: MKL's own choice stays."""
    if processor.get("vendor_id") not in NOT_INTEL:
        return None
    flags = set(processor.get("flags", "").split())
    if flags >= AVX512:
        return "7"
    return "5" if flags >= AVX2 else None


def choose_threads(num_threads: int | None = None, environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the threads of this process; without effect where Paddle is imported already.

    Args:
        num_threads: `train.threads`; None keeps the user's `OMP_NUM_THREADS`, else divides the usable cores by the
            processes on this machine.
        environment: what is changed.
    """
    if "paddle" in sys.modules:
        return
    if num_threads is not None:
        environment[THREADS] = str(num_threads)
    elif THREADS not in environment or _set_by_launcher(environment):
        environment[THREADS] = str(max(1, usable_cores() // num_processes(environment)))


def usable_cores() -> int:
    """Cores this process may use: its affinity, and the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def num_processes(environment: MutableMapping[str, str] = os.environ) -> int:
    """Processes that `paddle.distributed.launch` started on this machine; 1 without it."""
    text = environment.get("PADDLE_LOCAL_SIZE") or environment.get("PADDLE_TRAINERS_NUM") or "1"
    return max(1, int(text)) if text.isdecimal() else 1


def import_paddle() -> None:
    """Import Paddle without the two lines it says to everybody who has more than one thread.

    Raises:
        ModuleNotFoundError: Paddle is not installed.
    """
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            import paddle  # noqa: F401
    finally:
        for line in messages.getvalue().splitlines():
            if not line.startswith(PADDLE_WARNS):
                print(line, file=sys.stderr)


def in_force(environment: MutableMapping[str, str] = os.environ) -> tuple[int, str | None]:
    """Threads and MKL kernels that Paddle, once imported, computes with; None: MKL's own choice of kernels."""
    threads = environment.get(THREADS, "1")
    return int(threads) if threads.isdecimal() else 1, environment.get(KERNELS) or None


def _set_by_launcher(environment: MutableMapping[str, str]) -> bool:
    """Whether the launcher handed down `OMP_NUM_THREADS=1`, which Paddle set in it, rather than the user's value:
    the environment that the launcher was started with tells."""
    if "PADDLE_LOCAL_SIZE" not in environment or environment[THREADS] != "1":
        return False
    try:
        with open(f"/proc/{os.getppid()}/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return False
    return not any(entry.startswith(f"{THREADS}=".encode()) for entry in entries)


def _quota(root: str = "/sys/fs/cgroup") -> float | None:
    """Processor time per time that the container may use, in cores; None where nothing limits it."""
    with contextlib.suppress(OSError, ValueError):
        limit, period = _read(f"{root}/cpu.max").split()
        return None if limit == "max" else int(limit) / int(period)
    with contextlib.suppress(OSError, ValueError):  # version 1 of control groups; -1 is no limit
        limit, period = (int(_read(f"{root}/cpu/cpu.cfs_{name}_us")) for name in ("quota", "period"))
        return limit / period if limit > 0 else None
    return None


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()
