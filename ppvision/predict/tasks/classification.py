"""Image classification and feature extraction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle.nn.functional as F
from paddle import Tensor

from ppvision.predict.results import Classes, Features, Result
from ppvision.predict.tasks.base import Net, Task, class_agreement, only_net


class ClassificationTask(Task):
    """Networks give logits [B,K]; an exported graph gives probabilities.

    Args:
        class_names: by class id.
        palette: not used; every task takes it.
        top: classes listed in `predictions.json`.
        probabilities: the network's output already is a probability.
    """

    output_ops = ("softmax", "none")

    def __init__(self, class_names: Sequence[str] = (), palette: Any = None, top: int = 5, probabilities: bool = False):
        super().__init__(class_names, palette)
        self.top = top
        self.probabilities = probabilities

    def run(self, nets: Mapping[str, Net], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """{"scores": [B,K]}, probabilities."""
        output = only_net(nets)(batch["image"])
        return {"scores": output if self.probabilities else F.softmax(output, axis=-1)}

    def results(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Any]) -> list[Result]:
        """One `Classes` per image."""
        scores = outputs["scores"].numpy()
        names = batch.get("name") or [""] * len(scores)
        return [Classes(str(name), row, self.class_names, self.top) for name, row in zip(names, scores)]

    def agreement(
        self, reference: Sequence[np.ndarray], product: Sequence[np.ndarray], tolerance: float
    ) -> tuple[float, float] | None:
        """Share of images with the same class."""
        return class_agreement(reference, product, tolerance)

    def deploy_options(self, output_op: str) -> dict[str, Any]:
        """A graph that ends with softmax gives probabilities."""
        return {"probabilities": True} if output_op == "softmax" else {}


class FeaturesTask(Task):
    """Networks give one tensor [B,...] or a dict of them."""

    def run(self, nets: Mapping[str, Net], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The network's outputs by name; a single one is called `features`."""
        output = only_net(nets)(batch["image"])
        if isinstance(output, Mapping):
            return dict(output)
        outputs = output if isinstance(output, (list, tuple)) else [output]
        return {"features" + str(i) * (len(outputs) > 1): value for i, value in enumerate(outputs)}

    def results(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Any]) -> list[Result]:
        """One `Features` per image."""
        arrays = {key: value.numpy().astype(np.float32) for key, value in outputs.items()}
        count = len(next(iter(arrays.values())))
        names = batch.get("name") or [""] * count
        return [Features(str(names[i]), {key: value[i] for key, value in arrays.items()}) for i in range(count)]
