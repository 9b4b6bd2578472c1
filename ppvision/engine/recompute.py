"""Activations that are dropped in the forward pass and computed again in backward: less memory for a second forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle
from paddle import Tensor

from ppvision.errors import UserError
from ppvision.methods.base import Method


def enable_recompute(method: Method) -> None:
    """Wrap the blocks that the deployables name in `recompute_blocks`.

    Raises:
        UserError: a deployable names none.
    """
    from paddle.distributed.fleet.utils import recompute

    for net in method.deployables().values():
        blocks = getattr(net, "recompute_blocks", ())
        if not blocks:
            raise UserError(f"train.recompute: {type(net).__name__} names no blocks to recompute; set it to false")
        for name in blocks:
            block = sublayer(net, name)
            block.forward = _recomputing(block, block.forward, recompute)


def _recomputing(block: Any, forward: Callable[..., Any], recompute: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        tensors = paddle.utils.flatten(args)
        # without an input that needs a gradient the re-entrant form would give the block's parameters none
        if not block.training or all(t.stop_gradient for t in tensors):
            return forward(*args)
        kind: list[type] = []

        def run(*inputs: Tensor) -> Any:
            out = forward(*paddle.utils.pack_sequence_as(args, list(inputs)))
            kind.append(type(out))
            return tuple(out) if isinstance(out, list) else out

        # the re-entrant form takes and gives tensors only, but the other one crashes Paddle 3.1.1 and 3.2.2
        out = recompute(run, *tensors, use_reentrant=True)
        return list(out) if kind[0] is list else out

    return call


def sublayer(net: Any, name: str) -> Any:
    """The part of a network called "blocks.3.attn"."""
    for part in name.split("."):
        net = getattr(net, part) if not part.isdigit() else net[int(part)]
    return net
