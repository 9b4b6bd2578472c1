"""Image classification and feature extraction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle.nn.functional as F
from paddle import Tensor

from ppvision.predict.results import Classes, Features, Result
from ppvision.predict.tasks.base import Ending, Net, Output, Task, class_agreement, first, only_net


class ClassSoftmax(Ending):
    """Probabilities of the classes."""

    def __call__(self, outputs: Any) -> dict[str, Tensor]:
        return {"probabilities": F.softmax(first(outputs), axis=1)}

    def outputs(self, given: Any) -> tuple[Output, ...]:
        return (Output("probabilities", "probabilities", "[B,K], sum 1 over the classes K"),)

    def options(self) -> dict[str, Any]:
        return {"probabilities": True}


class ClassificationTask(Task):
    """Networks give logits [B,K]; an exported graph gives probabilities.

    Args:
        class_names: by class id.
        palette: not used; every task takes it.
        top: classes listed in `predictions.json`.
        probabilities: the network's output already is a probability.
    """

    endings = {"softmax": ClassSoftmax(), "none": Ending()}
    way_back = "none: one row of scores per picture; the class is the index of the highest"

    def __init__(self, class_names: Sequence[str] = (), palette: Any = None, top: int = 5, probabilities: bool = False):
        super().__init__(class_names, palette)
        self.top = top
        self.probabilities = probabilities

    def run(self, nets: Mapping[str, Net], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{"scores": [B,K]}, probabilities."""
        output = first(only_net(nets)(**inputs))
        return {"scores": output if self.probabilities else F.softmax(output, axis=-1)}

    def results(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Any]) -> list[Result]:
        """One `Classes` per image."""
        scores = outputs["scores"].numpy()
        names = batch.get("name") or [""] * len(scores)
        return [Classes(str(name), row, self.class_names, self.top) for name, row in zip(names, scores)]

    def agreement(
        self, reference: Mapping[str, np.ndarray], product: Mapping[str, np.ndarray], tolerance: float
    ) -> tuple[float, float] | None:
        """Share of images with the same class."""
        return class_agreement(reference, product, tolerance)


class FeaturesTask(Task):
    """Networks give one tensor [B,...] or a dict of them."""

    def run(self, nets: Mapping[str, Net], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The network's outputs by name; a single one is called `features`."""
        output = only_net(nets)(**inputs)
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
