"""Training on arrays in memory with the suite's own Method and Trainer, for experiments too small for files."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import paddle
from paddle import nn

from ppvision.device import use_device
from ppvision.engine.optimizer import AdamW
from ppvision.engine.schedule import Cosine
from ppvision.engine.trainer import Trainer
from ppvision.methods.base import Method


def fit(
    method: Method,
    data: Mapping[str, np.ndarray],
    *,
    updates: int,
    batch_size: int,
    lr: float,
    seed: int,
    weight_decay: float = 0.05,
    warmup: int | None = None,
) -> None:
    """Train with AdamW and a cosine after a warm-up.

    Args:
        method: holds the network.
        data: `image` uint8 [N,H,W,3] and whatever else the method reads, by first axis.
        updates: optimizer steps.
        batch_size: images per step; epochs are permutations drawn from the seed.
        lr: highest rate.
        seed: of order and augmentation.
        weight_decay: of matrices.
        warmup: its updates; None: a twentieth of all.
    """
    use_device(paddle.get_device())
    method.mean, method.std = (127.5,) * 3, (64.0,) * 3

    def group(name, parameters):
        rate = Cosine(lr, updates, warmup_iters=max(updates // 20, 1) if warmup is None else warmup)
        return AdamW(parameters, lr=lr, weight_decay=weight_decay, no_decay=["1d"]), rate

    trainer = Trainer(method, group, seed=seed, clip_norm=5.0)
    rng, order, count = np.random.default_rng([seed, 1]), np.zeros(0, np.int64), len(data["image"])
    for _ in range(updates):
        if len(order) < batch_size:
            order = np.concatenate([order, rng.permutation(count)])
        chosen, order = order[:batch_size], order[batch_size:]
        trainer.update([{key: paddle.to_tensor(value[chosen]) for key, value in data.items()}])


def accuracy(method: Method, data: Mapping[str, np.ndarray], batch_size: int = 250) -> float:
    """Share of images whose label has the highest logit."""
    net: nn.Layer = method.model
    method.eval()
    hits = 0
    with paddle.no_grad():
        for i in range(0, len(data["image"]), batch_size):
            x = (data["image"][i : i + batch_size].astype(np.float32) - 127.5) / 64.0
            logits = net(paddle.to_tensor(x.transpose(0, 3, 1, 2)))
            hits += int((logits.numpy().argmax(1) == data["label"][i : i + batch_size]).sum())
    method.train()
    return hits / len(data["image"])
