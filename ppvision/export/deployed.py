"""The layer that is exported: normalisation, network, decision in one graph, so that mean and std cannot drift from the
weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppvision.errors import UserError, did_you_mean
from ppvision.predict.tasks.detection import TOP_K, detections

# What may end a graph: (name, kind) of the outputs for deploy.yaml. "none" leaves the network's own.
OUTPUT_OPS: dict[str, tuple[tuple[str, str], ...]] = {
    "argmax": (("labels", "labels"),),
    "softmax": (("probabilities", "probabilities"),),
    "detections": (("boxes", "boxes"), ("scores", "scores"), ("labels", "labels")),
    "none": (),
}


class Deployed(nn.Layer):
    """float32 `x` [B,3,H,W], RGB, 0..255 -> outputs of the network, decided.

    Args:
        net: the deployable, in evaluation mode.
        mean: per channel, on the 0..255 scale, RGB.
        std: likewise.
        output_op: "argmax" int32 class ids over axis 1, "softmax" probabilities over axis 1, "detections" the best 300
            pairs of query and class, "none" the network's outputs.
        explain: of a network that chooses queries by rank, or drops duplicates, also what it chose and kept
            (`Detr.explained`, `RetinaNet.explained`); with "none" only.
    """

    def __init__(
        self,
        net: nn.Layer,
        mean: Sequence[float],
        std: Sequence[float],
        output_op: str = "none",
        explain: bool = False,
    ):
        super().__init__()
        if output_op not in OUTPUT_OPS:
            near = did_you_mean(output_op, OUTPUT_OPS)
            raise UserError(f"no output_op '{output_op}'{near} ({', '.join(OUTPUT_OPS)})")
        self.net = net
        # Numpy, not buffers: they become constants of the graph, so that its parameters are exactly those of the
        # network.
        self.mean = np.asarray(mean, np.float32).reshape(1, -1, 1, 1)
        self.std = np.asarray(std, np.float32).reshape(1, -1, 1, 1)
        self.output_op, self.explain = output_op, explain

    def forward(self, x: Tensor, chosen: Tensor | None = None, kept: Tensor | None = None) -> Tensor | list[Tensor]:
        """[B,3,H,W] -> tensor(s) as described by `output_op`; with `explain`, `chosen` tells what to choose and `kept`
        what to keep of it.
        """
        image = (x - paddle.to_tensor(self.mean)) / paddle.to_tensor(self.std)
        if self.explain:
            output = self.net.explained(image, chosen) if kept is None else self.net.explained(image, chosen, kept)
        else:
            output = self.net(image)
        if self.output_op == "none":
            if isinstance(output, Mapping):
                return list(output.values())
            return list(output) if isinstance(output, (list, tuple)) else output
        if self.output_op == "detections":
            return list(detections(output["logits"], output["boxes"], TOP_K))
        if isinstance(output, (list, tuple)):
            output = output[0]  # networks of other packages give a list with auxiliary outputs after the logits
        if self.output_op == "softmax":
            return F.softmax(output, axis=1)
        return paddle.argmax(output, axis=1, dtype="int32")


def output_names(output: object) -> list[str]:
    """Names for the outputs of a network in the graph's order: keys of a dict, else output, output1, …"""
    if isinstance(output, Mapping):
        return list(output)
    count = len(output) if isinstance(output, (list, tuple)) else 1
    return ["output" + (str(i) if i else "") for i in range(count)]
