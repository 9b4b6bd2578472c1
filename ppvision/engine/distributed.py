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
from paddle import Tensor, nn

from ppvision.errors import UserError


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
def all_reduce_mean(tensors: Iterable[Tensor]) -> None:
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


def gather(state: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The state of every rank, in their order; lengths may differ. How metrics are merged."""
    if world_size() == 1:
        return [dict(state)]
    gathered: list[dict[str, np.ndarray]] = []
    dist.all_gather_object(gathered, dict(state))
    return gathered


def join_arrays(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Union of the arrays of all ranks, whose keys differ."""
    return {k: v for part in gather(state) for k, v in part.items()}


def synchronise_batch_norm(method: nn.Layer) -> list[str]:
    """Batch-norm layers of a Method, in place, by such whose statistics are those of all processes together.

    Returns:
        Lines worth telling.

    Raises:
        UserError: several processes without GPUs; Paddle has the layer for GPUs only.
    """
    if world_size() == 1:
        return ["train.sync_bn changes nothing with one process"]
    if paddle.device.get_device() == "cpu":
        raise UserError("train.sync_bn: Paddle has it for GPUs only; set it to false to train on CPU")
    nn.SyncBatchNorm.convert_sync_batchnorm(method)
    return []


def barrier() -> None:
    """Wait for the other ranks."""
    if world_size() > 1:
        dist.barrier()
