"""Optimizer state cut over the processes: each rank steps the parameters it owns and sends them to the others.

Source:   S. Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models",
          arXiv:1910.02054, stage 1: accumulators and master weights are divided, weights and gradients are not.
Deviates: whole parameters are owned, not slices of them, so that every optimizer works unchanged (a norm over one
          parameter, as in LARS, is still a norm over all of it).

An optimizer makes accumulators for the parameters it is given gradients of, and only for these. So a rank hides the
gradients of the others' parameters from its optimizer, and their state never comes to be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import paddle
import paddle.distributed as dist
from paddle import Tensor

from ppvision.engine import distributed


def owners(sizes: Mapping[str, int], world_size: int) -> dict[str, int]:
    """Parameter -> the rank that owns it: the largest first, each to the rank that has least so far."""
    load = [0] * world_size
    out = {}
    for key in sorted(sizes, key=lambda k: (-sizes[k], k)):
        rank = load.index(min(load))
        out[key] = rank
        load[rank] += sizes[key]
    return out


class Sharded:
    """The parameters of one optimizer, divided.

    Args:
        parameters: by structured name, the same on every rank.

    Attributes:
        own: the part this rank steps; its optimizer state is the only one this rank has.
    """

    def __init__(self, parameters: Mapping[str, Tensor]):
        rank, world_size = distributed.rank(), distributed.world_size()
        owner = owners({k: p.size for k, p in parameters.items()}, world_size)
        self.own = {k: p for k, p in parameters.items() if owner[k] == rank}
        self._others = [p for k, p in parameters.items() if owner[k] != rank]
        self._of_rank = [[p for k, p in parameters.items() if owner[k] == r] for r in range(world_size)]

    def step(self, optimizer: paddle.optimizer.Optimizer) -> None:
        """Step the own parameters, then take over everybody else's. Gradients of the others' are gone afterwards."""
        for parameter in self._others:
            parameter.clear_gradient(False)  # by position: as a keyword it is ignored and the gradient zeroed
        optimizer.step()
        for rank, parameters in enumerate(self._of_rank):
            _send(parameters, rank)


@paddle.no_grad()
def _send(parameters: Sequence[Tensor], source: int) -> None:
    """Every rank gets `source`'s values, one message per data type."""
    if distributed.world_size() == 1:
        return
    for dtype in sorted({p.dtype for p in parameters}, key=str):
        group = [p for p in parameters if p.dtype == dtype]
        flat = paddle.concat([p.reshape([-1]) for p in group])
        dist.broadcast(flat, src=source)
        if distributed.rank() != source:
            for parameter, part in zip(group, paddle.split(flat, [p.size for p in group]), strict=True):
                parameter.set_value(part.reshape(parameter.shape))
