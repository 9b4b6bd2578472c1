"""Small detectors and their methods, as these tests train them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

import ppvision
from ppvision.engine.optimizer import Adam
from ppvision.engine.schedule import Constant
from ppvision.engine.trainer import Trainer
from ppvision.methods.base import Method


def network(name: str = "dab_detr_debug", seed: int = 0, **options: Any) -> nn.Layer:
    """A network of the zoo for three classes, weights drawn from the seed."""
    paddle.seed(seed)
    return ppvision.create_model(name, num_classes=3, **options)


def trainer_of(method: Method, optimizer: Callable = Adam, lr: float = 1e-3, **options: Any) -> Trainer:
    """A trainer with a constant rate; pictures are scaled to -2..2."""
    method.mean, method.std = (127.5,) * 3, (64.0,) * 3
    return Trainer(method, lambda name, p: (optimizer(p, lr=lr), Constant(lr, 100)), **options)


def prepared(method: Method, batch: dict[str, Any], step: int = 0, rank: int = 0) -> dict[str, Any]:
    """The batch as the trainer hands it to `losses` in that step."""
    method.train()
    method.begin(step, 0, rank)
    batch = method.prepare(batch)
    return {**batch, "normaliser": method.normaliser("main", batch)}


def terms_of(method: Method, batch: dict[str, Any], step: int = 0, rank: int = 0) -> dict[str, Tensor]:
    """The terms of one micro-batch that is the whole batch."""
    return method.losses("main", prepared(method, batch, step, rank))


def in_half(parts: Any) -> Any:
    """Tensors of a (nested) answer, rounded to bfloat16: what `auto_cast` leaves on a GPU. On a CPU it does nothing, so
    a test has to hand the methods what they would get there."""
    if isinstance(parts, Tensor):
        return parts.astype("bfloat16")
    return type(parts)(map(in_half, parts))


def weights_of(method: Method) -> dict[str, np.ndarray]:
    """All weights, copied."""
    return {k: np.array(v.numpy()) for k, v in method.state_dict().items()}
