"""Optimizers from a recipe: parameter groups by name patterns, and a state that survives a restart.

Paddle names accumulators by a global counter, so that its own `set_state_dict` fails silently as soon as any layer
was built before; here they are keyed by structured parameter name. `AdamW(lr_ratio=...)` raises on CPU; per-parameter
rates are parameter groups, whose `learning_rate` is a multiplier of the optimizer's.
"""

from __future__ import annotations

import collections
import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import paddle
from paddle import Tensor, nn

from ppvision.errors import ArgumentError, UserError, at_least, require, within

Parameters = Mapping[str, Tensor]


class LayerDecay(TypedDict):
    """`rate` to the power of the distance from the end, for the patterns in `layers`, first to last."""

    rate: float
    layers: list[str]


def trainable(layer: nn.Layer, skip: Callable[[str], bool] = lambda key: False) -> dict[str, Tensor]:
    """Structured name -> parameter, without batch-norm statistics (Paddle lists them as parameters) and without what
    `skip` names.
    """
    return {k: p for k, p in layer.named_parameters() if p.trainable and not p.stop_gradient and not skip(k)}


def parameter_groups(
    parameters: Parameters,
    weight_decay: float,
    lr_mult: Mapping[str, float] | None = None,
    no_decay: Sequence[str] = (),
    layer_decay: LayerDecay | None = None,
) -> list[dict[str, Any]]:
    """Group parameters of equal rate multiplier and decay.

    Args:
        parameters: by structured name. Patterns match with and without a leading `model.`.
        weight_decay: of every parameter that `no_decay` does not name.
        lr_mult: pattern (as in a shell) -> multiplier; several matches multiply.
        no_decay: patterns; the word `1d` stands for all vectors (biases, norm scales).
        layer_decay: {"rate": 0.75, "layers": ["patch_embed.*|cls_token", "blocks.0.*", ...]}: a parameter of entry i
            of n gets
            rate^(n - i), anything not listed 1.

    Raises:
        UserError: a pattern matches nothing, or a decay or multiplier is negative.
    """
    at_least(0, weight_decay=weight_decay)
    for pattern, multiplier in (lr_mult or {}).items():
        require(
            0 <= multiplier < math.inf, "lr_mult", f"'{pattern}' needs a multiplier of at least 0, got {multiplier}"
        )
    if layer_decay is not None:
        rate = layer_decay["rate"]
        require(0 < rate <= 1, "layer_decay.rate", f"must be above 0 and at most 1, got {rate}")
    used: set[str] = set()

    def matches(key: str, pattern: str) -> bool:
        hit = any(fnmatch.fnmatchcase(k, p) for p in pattern.split("|") for k in (key, key.removeprefix("model.")))
        if hit:
            used.add(pattern)
        return hit

    layers = list((layer_decay or {}).get("layers", ()))
    groups: dict[tuple[float, float], list[Tensor]] = collections.defaultdict(list)
    for key, parameter in parameters.items():
        factor = 1.0
        for pattern, multiplier in (lr_mult or {}).items():
            factor *= multiplier if matches(key, pattern) else 1.0
        for i, pattern in enumerate(layers):
            factor *= layer_decay["rate"] ** (len(layers) - i) if matches(key, pattern) else 1.0
        vector = "1d" in no_decay and parameter.ndim <= 1
        # every pattern is tried, so that the check below sees all that match
        exempt = any([matches(key, pattern) for pattern in no_decay if pattern != "1d"])
        groups[factor, 0.0 if vector or exempt else weight_decay].append(parameter)
    for name, patterns in (("lr_mult", lr_mult or {}), ("no_decay", no_decay), ("layer_decay.layers", layers)):
        for pattern in patterns:
            if pattern not in used and pattern != "1d":
                example = next(iter(parameters), "")
                raise ArgumentError(name, f"'{pattern}' matches no parameter (for example '{example}')")
    return [{"params": ps, "learning_rate": f, "weight_decay": d} for (f, d), ps in groups.items()]


def check_rates(
    lr: float, momentum: float = 0.0, betas: tuple[float, float] = (0.0, 0.0), epsilon: float = 1.0
) -> None:
    at_least(0, lr=lr)
    within(0, 1, below=True, momentum=momentum, betas=betas)
    require(0 < epsilon < math.inf, "epsilon", f"must be above 0, got {epsilon}")


def SGD(
    parameters: Parameters,
    *,
    lr: float,
    weight_decay: float = 0.0,
    lr_mult: Mapping[str, float] | None = None,
    no_decay: Sequence[str] = (),
    layer_decay: LayerDecay | None = None,
) -> paddle.optimizer.Optimizer:
    """Plain gradient descent, L2 decay added to the gradient."""
    check_rates(lr=lr)
    groups = parameter_groups(parameters, weight_decay, lr_mult, no_decay, layer_decay)
    return paddle.optimizer.SGD(learning_rate=lr, parameters=groups)


def Momentum(
    parameters: Parameters,
    *,
    lr: float,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    lr_mult: Mapping[str, float] | None = None,
    no_decay: Sequence[str] = (),
    layer_decay: LayerDecay | None = None,
) -> paddle.optimizer.Optimizer:
    """Gradient descent with momentum, L2 decay added to the gradient: what most papers call SGD."""
    check_rates(lr=lr, momentum=momentum)
    groups = parameter_groups(parameters, weight_decay, lr_mult, no_decay, layer_decay)
    return paddle.optimizer.Momentum(learning_rate=lr, momentum=momentum, parameters=groups, use_nesterov=nesterov)


def Adam(
    parameters: Parameters,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
    lr_mult: Mapping[str, float] | None = None,
    no_decay: Sequence[str] = (),
    layer_decay: LayerDecay | None = None,
) -> paddle.optimizer.Optimizer:
    """Adam, L2 decay added to the gradient."""
    check_rates(lr=lr, betas=betas, epsilon=epsilon)
    groups = parameter_groups(parameters, weight_decay, lr_mult, no_decay, layer_decay)
    return paddle.optimizer.Adam(learning_rate=lr, beta1=betas[0], beta2=betas[1], epsilon=epsilon, parameters=groups)


def AdamW(
    parameters: Parameters,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
    weight_decay: float = 0.01,
    lr_mult: Mapping[str, float] | None = None,
    no_decay: Sequence[str] = (),
    layer_decay: LayerDecay | None = None,
) -> paddle.optimizer.Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101)."""
    check_rates(lr=lr, betas=betas, epsilon=epsilon)
    groups = parameter_groups(parameters, weight_decay, lr_mult, no_decay, layer_decay)
    return paddle.optimizer.AdamW(learning_rate=lr, beta1=betas[0], beta2=betas[1], epsilon=epsilon, parameters=groups)


def optimizer_state(parameters: Parameters, optimizer: paddle.optimizer.Optimizer) -> dict[str, np.ndarray]:
    """Accumulators and master weights as `<structured name>|<accumulator>` -> array."""
    key = {p.name: k for k, p in parameters.items()}
    state = {
        f"{key[name]}|{accumulator}": tensor.numpy()
        for accumulator, tensors in optimizer._accumulators.items()
        for name, tensor in tensors.items()
    }
    masters = getattr(optimizer, "_master_weights", None) or {}
    return state | {f"{key[name]}|master_weight": tensor.numpy() for name, tensor in masters.items()}


def load_optimizer_state(
    parameters: Parameters,
    optimizer: paddle.optimizer.Optimizer,
    state: Mapping[str, np.ndarray],
    source: str = "optimizer state",
    own: Parameters | None = None,
) -> None:
    """Put a state of `optimizer_state` back.

    Args:
        parameters: all that the state may speak of.
        optimizer: gets the values.
        state: accumulators of all parameters.
        source: of the state, for messages.
        own: the parameters this optimizer keeps a state of, when it is divided over processes; None: all.

    Raises:
        UserError: the state belongs to other parameters or another optimizer.
    """
    if not state:  # plain SGD keeps nothing; neither does a run saved before its first step
        return
    own = parameters if own is None else own
    optimizer._create_accumulators(paddle.static.default_main_program().global_block(), list(own.values()))
    kept = {entry: value for entry, value in state.items() if entry.rsplit("|", 1)[0] not in parameters.keys() - own}
    masters = getattr(optimizer, "_master_weights", None) or {}
    for entry, value in kept.items():
        key, accumulator = entry.rsplit("|", 1)
        table = masters if accumulator == "master_weight" else optimizer._accumulators.get(accumulator, {})
        slot = table.get(own[key].name) if key in own else None
        if slot is None or tuple(slot.shape) != tuple(value.shape):
            raise UserError(
                f"{source}: '{entry}' does not fit this recipe's optimizer; the checkpoint was made by another recipe"
            )
        slot.set_value(value)
    expected = sum(len(tensors) for tensors in optimizer._accumulators.values()) + len(masters)
    if expected != len(kept):
        raise UserError(f"{source}: holds {len(kept)} accumulators, this recipe's optimizer has {expected}")
