"""What the Trainer needs of several processes: started by `python -m paddle.distributed.launch`, gloo on CPU, NCCL on
GPU.

Gradients are reduced by hand after accumulation, so that any Method works without a wrapper around its networks, and
every rank sees the same gradient norm and decides alike. With one process everything here is the identity.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import Tensor


def rank() -> int:
    """Index of this process among the launched ones."""
    return int(os.environ.get("PADDLE_TRAINER_ID", 0))


def world_size() -> int:
    """Number of launched processes."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM", 1))


def start() -> None:
    """Join the other processes, once."""
    if world_size() > 1 and not dist.is_initialized():
        dist.init_parallel_env()


@paddle.no_grad()
def average_(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over the ranks. One message per data type; sums run in float32."""
    if world_size() == 1:
        return
    by_type: dict[object, list[Tensor]] = {}
    for tensor in tensors:
        by_type.setdefault(tensor.dtype, []).append(tensor)
    for group in by_type.values():
        flat = paddle.concat([t.astype("float32").reshape([-1]) for t in group])
        dist.all_reduce(flat)
        parts = paddle.split(flat / world_size(), [t.size for t in group])
        for tensor, part in zip(group, parts, strict=True):
            tensor.set_value(part.reshape(tensor.shape).astype(tensor.dtype))


@paddle.no_grad()
def broadcast_(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by rank 0's."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def sum_arrays(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sum of each array over the ranks, exact for integers: how metrics are merged."""
    if world_size() == 1:
        return dict(state)
    gathered: list[dict[str, np.ndarray]] = []
    dist.all_gather_object(gathered, dict(state))
    return {k: np.sum([g[k] for g in gathered], axis=0) for k in state}


def barrier() -> None:
    """Wait for the other ranks."""
    if world_size() > 1:
        dist.barrier()
