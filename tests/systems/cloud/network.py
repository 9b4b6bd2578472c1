"""A network without a picture: rows of points of all samples, and where each sample begins."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppvision.models.network import Input, Network


class CloudNet(Network):
    """Points -> logits of the sample, by the mean of what each point says.

    Args:
        num_classes: K.
        width: channels.
    """

    def __init__(self, num_classes: int = 3, width: int = 12):
        super().__init__()
        self.num_classes = num_classes
        self.first, self.second = nn.Linear(3, width), nn.Linear(width, 2 * width)
        self.head = nn.Linear(2 * width, num_classes)

    def inputs(self) -> dict[str, Input]:
        """Ragged rows."""
        return {
            "points": Input(("P", 3), kind="points"),
            "offsets": Input(("B+1",), "int64", "offsets"),
        }

    def forward(self, points: Tensor, offsets: Tensor) -> Tensor:
        """
        Args:
            points: [P,3] of all samples.
            offsets: int64 [B+1].

        Returns:
            Logits [B,K].
        """
        said_PC = F.relu(self.second(F.relu(self.first(points))))
        # sum of the rows before each place, then the difference of two places
        before = paddle.concat([paddle.zeros_like(said_PC[:1]), paddle.cumsum(said_PC, axis=0)], axis=0)
        sums_BC = paddle.gather(before, offsets[1:]) - paddle.gather(before, offsets[:-1])
        counts_B1 = (offsets[1:] - offsets[:-1]).astype("float32").unsqueeze(1)
        return self.head(sums_BC / paddle.clip(counts_B1, min=1.0))
