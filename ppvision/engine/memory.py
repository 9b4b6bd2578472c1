"""How much memory a recipe takes to train, computed before a GPU is rented.

Nothing is run: the network is traced with fixed sizes, as the MAC counter does, and the bytes of what training keeps
are added up. Weights, gradients, accumulators, master weights and the average are exact. Activations are the tensors
of the forward graph that backward reads, by a table of operations; a framework's workspaces, fragmentation and
communication buffers are not in it.

Checked:  against the tensors of real training steps (tests/engine/test_memory.py).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import paddle
from paddle import Tensor, nn
from paddle.static import InputSpec

from ppvision.engine.recompute import sublayer
from ppvision.engine.sharding import owners
from ppvision.errors import UserError
from ppvision.models.network import inputs_of
from ppvision.models.profile import operations

ACCUMULATORS = {"sgd": 0, "momentum": 1, "lars": 1, "adam": 2, "adamw": 2}  # arrays of a parameter's size, float32
# What backward reads: the operands of some operations, the result of others. Sums, transpositions, resampling,
# concatenation read nothing but shapes.
_READS_OPERANDS = (
    *("conv2d", "depthwise_conv2d", "conv2d_transpose", "depthwise_conv2d_transpose", "matmul", "bmm", "linear"),
    *("addmm", "batch_norm", "layer_norm", "group_norm", "gelu", "silu", "swish", "hardswish", "hardsigmoid", "prelu"),
    *("multiply", "divide", "elementwise_pow", "pow", "log", "sin", "cos", "maximum", "minimum", "abs", "where"),
    *("pool2d", "grid_sample", "max", "clip", "flash_attn", "memory_efficient_attention", "gather", "topk"),
)
_READS_RESULT = ("relu", "relu6", "softmax", "log_softmax", "sigmoid", "tanh", "exp", "sqrt", "rsqrt", "max", "pool2d")
_VIEWS = ("reshape", "flatten", "squeeze", "unsqueeze")


@dataclass(frozen=True)
class Plan:
    """Bytes of one process.

    Attributes:
        weights: parameters and buffers, frozen parts included, in the type they are trained in.
        gradients: of what is trained.
        optimizer: accumulators, and master weights under O2; the largest share of any process if divided.
        average: the moving average of the deployables and the copy that is put aside while it is evaluated.
        activations: of one micro-batch.
        images: what goes into the networks with one micro-batch.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    images: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.average + self.activations + self.images

    def rows(self) -> list[tuple[str, float]]:
        """(what, GiB), the total last."""
        names = ("weights", "gradients", "optimizer", "average", "activations", "images", "total")
        return [(name, getattr(self, name) / 2**30) for name in names]


def plan(
    method: nn.Layer,
    *,
    size: tuple[int, int],
    batch_size: int,
    optimizer: str = "adamw",
    amp: str = "O0",
    ema: bool = False,
    recompute: bool = False,
    shard: int = 1,
) -> Plan:
    """Add up what one process keeps.

    Args:
        method: a Method. If it has `training_graph() -> nn.Layer`, that is traced instead of its deployables: a layer
            from image to everything the losses read.
        size: height and width of the padded batch.
        batch_size: pictures of a micro-batch.
        optimizer: type of a recipe's optimizer.
        amp: "O0", "O1" or "O2". Activations count two bytes from O1 on.
        ema: whether the deployables are averaged.
        recompute: whether the blocks that a deployable names are computed again in backward.
        shard: over how many processes the optimizer's state is divided.

    Raises:
        UserError: unknown optimizer, or a network whose sizes depend on the data.
    """
    if optimizer not in ACCUMULATORS:
        raise UserError(f"memory: optimizer '{optimizer}' is unknown (known: {', '.join(ACCUMULATORS)})")
    trained = {k: p for k, p in method.named_parameters() if p.trainable and not p.stop_gradient}
    trained = {k: p for k, p in trained.items() if not method.is_frozen(k)}
    half = 2 if amp == "O2" else 4
    weights = sum(int(t.size) * (half if paddle.is_floating_point(t) else 8) for t in method.state_dict().values())
    owner = owners({k: int(p.size) for k, p in trained.items()}, shard)
    shares = [sum(int(trained[k].size) for k, r in owner.items() if r == rank) for rank in range(shard)]
    copies = ACCUMULATORS[optimizer] + (1 if amp == "O2" else 0)
    nets = method.deployables()
    graph = method.training_graph() if hasattr(method, "training_graph") else None
    layers = [graph] if graph is not None else list(nets.values())
    blocks = [sublayer(n, b) for n in nets.values() for b in getattr(n, "recompute_blocks", ())] if recompute else []
    elements = sum(traced(layer, [spec for _, spec in _inputs(layer, size)], blocks) for layer in layers)
    given = {name: spec for net in nets.values() for name, spec in _inputs(net, size)}
    # pictures are uint8 as they come and float32 as they are used
    sizes = [math.prod(spec.shape) * (5 if len(spec.shape) == 4 else 4) for spec in given.values()]
    return Plan(
        weights=weights,
        gradients=sum(int(p.size) for p in trained.values()) * half,
        optimizer=max(shares) * copies * 4,
        average=2 * sum(int(t.size) * 4 for n in nets.values() for t in n.state_dict().values()) if ema else 0,
        activations=elements * batch_size * (4 if amp == "O0" else 2),
        images=batch_size * sum(sizes),
    )


def activations(layer: nn.Layer, shape: Sequence[int], recomputed: Sequence[nn.Layer] = ()) -> int:
    """Elements that the forward pass of a picture of `shape`, batch axis included, leaves for backward; see
    `traced`."""
    return traced(layer, [InputSpec(list(shape), "float32")], recomputed)


def _inputs(layer: nn.Layer, size: tuple[int, int]) -> list[tuple[str, InputSpec]]:
    """What a layer must be given for one sample whose picture is of `size`; free sides of other inputs are 16 long."""
    free = {"B": 1, "H": size[0], "W": size[1]}
    found = []
    for name, spec in inputs_of(layer).items():
        if not spec.optional:
            shape = [free.get(side, 16) if isinstance(side, str) else side for side in spec.shape]
            found.append((name, InputSpec(shape, spec.dtype, name)))
    return found


def traced(layer: nn.Layer, specs: Sequence[InputSpec], recomputed: Sequence[nn.Layer] = ()) -> int:
    """Elements that a forward pass leaves for backward.

    Args:
        layer: from inputs to outputs.
        specs: of its inputs, with fixed sides.
        recomputed: blocks of which only the inputs stay, and of one at a time everything.
    """
    inputs: dict[int, list[Any]] = {}  # as nested as the block takes them
    hooks = [
        block.register_forward_pre_hook(lambda block, args: inputs.setdefault(id(block), _specs(args)) and None)
        for block in recomputed
    ]
    try:
        total = _elements(layer, list(specs))
    finally:
        for hook in hooks:
            hook.remove()
    inside = [_elements(block, inputs[id(block)]) for block in recomputed if id(block) in inputs]
    kept = sum(math.prod(s.shape) for specs in inputs.values() for s in paddle.utils.flatten(specs))
    return total - sum(inside) + kept + max(inside, default=0)


def _specs(args: tuple[Any, ...]) -> list[Any]:
    return list(paddle.utils.map_structure(lambda t: InputSpec(list(t.shape), t.dtype), args))


def _elements(layer: nn.Layer, specs: list[Any]) -> int:
    training = layer.training
    layer.eval()  # batch statistics and dropout add vectors and masks; the graph of inference is what exports
    forward = layer.forward
    try:
        with warnings.catch_warnings():  # tracing complains of what it does itself
            warnings.simplefilter("ignore")
            program = paddle.jit.to_static(forward, input_spec=specs, full_graph=True).concrete_program.main_program
    finally:
        layer.forward = forward
        if training:
            layer.train()
    kept: dict[Any, int] = {}
    for op in operations(program.global_block()):
        name = op.name().removeprefix("pd_op.").removesuffix("_")
        values = op.operands_source() if name in _READS_OPERANDS else []
        for value in [*values, *(op.results()[:1] if name in _READS_RESULT else [])]:
            source = _source(value)
            if source is None:
                continue
            if any(side < 0 for side in source.shape):
                raise UserError(f"cannot plan {type(layer).__name__}: the size of a {name} depends on the data")
            kept[source] = math.prod(source.shape)
    return sum(kept.values())


def _source(value: Any) -> Any:
    """The tensor that a view shows, or None for a parameter, a constant, a list."""
    while value.initialized() and value.is_dense_tensor_type():
        op = value.get_defining_op()
        name = "" if op is None else op.name().removeprefix("pd_op.").removesuffix("_")
        if name in _VIEWS:
            value = op.operand_source(0)
        elif name in ("builtin.parameter", "full", "full_int_array", "assign_value", "builtin.constant"):
            return None
        else:
            return value
    return None


def bytes_of(tensors: Mapping[str, Tensor]) -> int:
    """What tensors really take."""
    return sum(int(t.size) * t.element_size() for t in tensors.values())
