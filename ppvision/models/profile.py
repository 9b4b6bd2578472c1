"""Parameters, multiply-adds and activations of a network, counted on the traced graph.

`paddle.flops` fails on NumPy 2 and sees layers only: a product of two activations, which is what attention is, costs
nothing there. Here `forward` is traced with fixed sizes and every operation of the graph is looked at, however it was
called. Counted are multiply-adds of convolutions (transposed ones too), matrix products, einsum and fused
attention; normalisation, activations, sums and resampling are not, as in most published tables.

Checked:  against the figures of PaddleSeg's networks and closed formulas of MAFormer (tests).
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import paddle
from paddle import nn

from ppvision.errors import UserError
from ppvision.models import zoo

__all__ = ["Profile", "operations", "parameters", "profile", "profile_model"]

Shape = Sequence[int]


@dataclass(frozen=True)
class Profile:
    """What one forward pass costs.

    Attributes:
        params: trainable parameters.
        macs: multiply-adds.
        activations: elements of the outputs of the operations counted.
        by_operation: multiply-adds of each kind of operation.
    """

    params: int
    macs: int
    activations: int
    by_operation: dict[str, int] = field(default_factory=dict)


def parameters(net: nn.Layer) -> int:
    """Trainable parameters: without batch-norm statistics, which Paddle lists among them."""
    return sum(int(p.size) for p in net.parameters() if p.trainable)


def profile(net: nn.Layer, inputs: dict[str, tuple[Shape, str]]) -> Profile:
    """Count a network in evaluation mode; its mode is left as it was.

    Args:
        net: any layer that exports.
        inputs: argument name of `forward` -> (shape, dtype).

    Raises:
        UserError: the size of an operation depends on the data.
    """
    spec = [paddle.static.InputSpec(list(shape), dtype, name) for name, (shape, dtype) in inputs.items()]
    training = net.training
    net.eval()
    try:
        static = paddle.jit.to_static(net.forward, input_spec=spec, full_graph=True)
        program = static.concrete_program.main_program
    finally:
        if training:
            net.train()
    count: collections.Counter[str] = collections.Counter()
    activations = 0
    for op in operations(program.global_block()):
        name = op.name().removeprefix("pd_op.").removesuffix("_")
        if name not in _COUNTS:
            continue
        operands = _shapes(op)
        result = list(op.results()[0].shape)
        if any(side < 0 for shape in [*operands, result] for side in shape):
            raise UserError(f"cannot count {type(net).__name__}: the size of a {name} depends on the data")
        count[name] += _COUNTS[name](operands, result, op.attrs())
        activations += math.prod(result)
    return Profile(parameters(net), sum(count.values()), activations, dict(count))


def profile_model(name: str, size: tuple[int, int] | None = None, **kwargs: Any) -> Profile:
    """Count a network of the zoo at batch size 1.

    Args:
        name: of the zoo.
        size: height and width; default: the entry's example.
        kwargs: arguments of the network class.
    """
    row = zoo.entry(name)
    free = dict(zip("BHW", (1, *(size or row.example)), strict=True))
    inputs = {k: ([free.get(s, s) for s in v.shape], v.dtype) for k, v in row.inputs.items() if not v.optional}
    return profile(zoo.create_model(name, **kwargs), inputs)


def operations(block: Any) -> Iterator[Any]:
    """Operations of a block and of the blocks inside them (branches, loops: each counted once)."""
    for op in block.ops:
        yield op
        for inner in op.blocks():
            yield from operations(inner)


def _shapes(op: Any) -> list[Shape]:
    """Shapes of the operands; an absent one has none, the members of a list stand one by one."""
    shapes: list[Shape] = []
    for value in op.operands_source():
        source = value.get_defining_op() if value.initialized() else None
        if source is not None and source.name() == "builtin.combine":
            shapes += _shapes(source)
        else:
            shapes.append(list(value.shape) if value.initialized() else [])
    return shapes


def _convolution(operands: list[Shape], result: Shape, attributes: dict[str, Any]) -> int:
    """Each output element is a sum over the input channels of its group and the kernel."""
    return math.prod(result) * math.prod(operands[1][1:])


def _deformable(operands: list[Shape], result: Shape, attributes: dict[str, Any]) -> int:
    return math.prod(result) * math.prod(operands[2][1:])


def _transposed(operands: list[Shape], result: Shape, attributes: dict[str, Any]) -> int:
    """Each input element goes to the output channels of its group and the kernel."""
    return math.prod(operands[0]) * math.prod(operands[1][1:])


def _matmul(operands: list[Shape], result: Shape, attributes: dict[str, Any]) -> int:
    x = operands[0]
    transposed = attributes.get("transpose_x", False) and len(x) > 1
    return math.prod(result) * (x[-2] if transposed else x[-1])


def _addmm(operands: list[Shape], result: Shape, attributes: dict[str, Any]) -> int:
    return math.prod(result) * operands[1][-1]


def _attention(operands: list[Shape], result: Shape, attributes: dict[str, Any]) -> int:
    """Scores and weighted sum; queries and keys are [B,L,heads,D]."""
    (b, length, heads, dim), keys = operands[0], operands[1][1]
    return b * heads * length * keys * (dim + operands[2][-1])


def _einsum(operands: list[Shape], result: Shape, attributes: dict[str, Any]) -> int:
    """Every combination of the indices, once."""
    sides: dict[str, int] = {}
    for term, shape in zip(attributes["equation"].replace(" ", "").split("->")[0].split(","), operands):
        sides.update(zip(term, shape))
    return math.prod(sides.values())


_COUNTS: dict[str, Callable[[list[Shape], Shape, dict[str, Any]], int]] = {
    **dict.fromkeys(("conv2d", "conv3d", "depthwise_conv2d"), _convolution),
    **dict.fromkeys(("conv2d_transpose", "conv3d_transpose", "depthwise_conv2d_transpose"), _transposed),
    "conv2d_transpose_bias": _transposed,
    "deformable_conv": _deformable,
    **dict.fromkeys(("matmul", "bmm", "mv", "dot", "fused_gemm_epilogue", "linear"), _matmul),
    "addmm": _addmm,
    "einsum": _einsum,
    **dict.fromkeys(("flash_attn", "memory_efficient_attention"), _attention),
}
