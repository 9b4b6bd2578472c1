"""Exponential moving average (EMA) of what a Method trains and deploys: every floating entry, batch-norm statistics
included.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np
import paddle
from paddle import Tensor, nn


class EMA:
    """value = d value + (1 - d) weight after each update, with d = min(decay, (1 + n) / (10 + n)) at update n so that
    the start counts little. Integer entries follow the weights.

    Args:
        layers: what `Method.averaged` gives, by name.
        decay: below 1.
    """

    def __init__(self, layers: Mapping[str, nn.Layer], decay: float):
        self.decay = decay
        self.updates = 0
        self._live = {f"{name}.{k}": t for name, layer in layers.items() for k, t in layer.state_dict().items()}
        self._mean = {
            k: t.detach().astype("float32").clone() if _floating(t) else t.detach().clone()
            for k, t in self._live.items()
        }

    @paddle.no_grad()
    def update(self) -> None:
        """Follow the weights after an update."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for key, live in self._live.items():
            mean = self._mean[key]
            if _floating(live):
                mean.set_value(mean * decay + live.astype("float32") * (1 - decay))
            else:
                mean.set_value(live)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The layers hold the EMA inside this context and their own weights after it."""
        kept = {k: t.detach().clone() for k, t in self._live.items()}
        try:
            for key, live in self._live.items():
                live.set_value(self._mean[key].astype(live.dtype))
            yield
        finally:
            for key, live in self._live.items():
                live.set_value(kept[key])

    def state(self) -> dict[str, np.ndarray]:
        """The means, by `<layer>.<key>`."""
        return {k: t.numpy() for k, t in self._mean.items()}

    def load(self, state: Mapping[str, np.ndarray], updates: int) -> None:
        """Put a `state` back."""
        for key, mean in self._mean.items():
            mean.set_value(state[key])
        self.updates = updates


def _floating(tensor: Tensor) -> bool:
    return paddle.is_floating_point(tensor)
