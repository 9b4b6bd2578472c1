"""The class of a point cloud, and its training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppvision.errors import UserError
from ppvision.methods.base import Method
from ppvision.metrics.classification import TopK
from ppvision.predict.results import Classes, Result
from ppvision.predict.tasks.base import Ending, Net, Output, Task, class_agreement, named, only_net


class CloudMethod(Method):
    """Cross entropy; there is no picture in the batch."""

    def __init__(self, model: nn.Layer):
        super().__init__()
        self.model = model

    def losses(self, phase: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        """`main`."""
        return {"main": F.cross_entropy(self.model(batch["points"], batch["points_offsets"]), batch["label"])}


class CloudTopK(TopK):
    """Of the results of any task that gives classes."""

    tasks = ()


class Shares(Ending):
    """Logits -> `shares` of the classes."""

    def __call__(self, outputs: Any) -> dict[str, Tensor]:
        return {"shares": F.softmax(outputs, axis=1)}

    def outputs(self, given: Any) -> tuple[Output, ...]:
        """One."""
        return (Output("shares", "probabilities", "[batch, classes]"),)


class CloudTask(Task):
    """A file of points -> its class."""

    suffixes = frozenset({".bin"})
    endings: ClassVar[Mapping[str, Ending]] = {"shares": Shares(), "none": Ending()}

    def read(self, source: Any) -> dict[str, Any]:
        """float32 rows x, y, z of a file, or an array of them."""
        points = source if isinstance(source, np.ndarray) else np.fromfile(source, np.float32)
        if points.dtype != np.float32 or points.size % 3 or not points.size:
            raise UserError(f"{source}: not rows of three float32 numbers")
        name = {} if isinstance(source, np.ndarray) else {"name": os.fspath(source)}
        return {"points": points.reshape(-1, 3), **name}

    def inputs(self, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """`points` and `offsets`."""
        return {"points": batch["points"], "offsets": batch["points_offsets"]}

    def run(self, nets: Mapping[str, Net], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Shares of the classes."""
        outputs = only_net(nets)(**inputs)
        return named(outputs) if isinstance(outputs, Mapping) else {"scores": outputs}

    def results(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Any]) -> list[Result]:
        """Scores per sample."""
        scores = next(iter(outputs.values()))
        return [Classes(name, row, self.class_names) for name, row in zip(batch["name"], scores.numpy())]

    def agreement(
        self, reference: Mapping[str, np.ndarray], product: Mapping[str, np.ndarray], tolerance: float
    ) -> tuple[float, float] | None:
        """Of the best class."""
        return class_agreement(reference, product, tolerance)
