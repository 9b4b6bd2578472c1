"""Training from measurements at points: the picture itself is never labelled."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppvision.methods.base import Method


class PairMethod(Method):
    """Cross entropy at the points, and how many of a sample's points are alike.

    With PAIR_KILLED_AT=n in the environment the process is killed after its n-th update, as by a machine that dies.

    Args:
        model: a PairNet.
        share: weight of the second term.
    """

    def __init__(self, model: nn.Layer, share: float = 0.5):
        super().__init__()
        self.model, self.share = model, share

    def normaliser(self, phase: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Points of the micro-batch."""
        return {"points": paddle.to_tensor(float(max(batch["points"].shape[0], 1)))}

    def losses(self, phase: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        """`points` and `share`."""
        height, width = batch["image"].shape[2:]
        logits_B2HW = self.model(batch["image"], batch["crop_ref"], paddle.to_tensor([height, width], dtype="int32"))
        scores_B2 = logits_B2HW.transpose([0, 2, 3, 1]).reshape([-1, 2])
        sample_P = owners(batch["points_offsets"].numpy())
        at_P2 = paddle.gather(scores_B2, places(batch, sample_P, height, width))
        measured_P = batch["points"][:, 2]
        entropy = F.cross_entropy(at_P2, measured_P.astype("int64"), reduction="sum")
        # mean over the points of each sample, however many it has
        member_BP = paddle.to_tensor((np.arange(len(batch["inner"]))[:, None] == sample_P).astype("float32"))
        member_BP = member_BP / member_BP.sum(1, keepdim=True)
        difference_B = paddle.matmul(member_BP, F.softmax(at_P2, 1)[:, 1] - measured_P)
        return {
            "points": entropy / batch["normaliser"]["points"],
            "share": self.share * difference_B.square().mean(),
        }

    def on_update(self, step: int) -> None:
        """The machine that dies."""
        if str(step) == os.environ.get("PAIR_KILLED_AT"):
            os.kill(os.getpid(), signal.SIGKILL)


def owners(offsets: np.ndarray) -> np.ndarray:
    """Which sample each row belongs to, int64 [P]."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def places(batch: dict[str, Any], sample: np.ndarray, height: int, width: int) -> Tensor:
    """Number of the pixel [P] under each point, in a batch of [B,height,width] whose pictures end at `inner`."""
    inner_P2 = batch["inner"].numpy()[sample]
    pixel_P2 = np.floor(batch["points"].numpy()[:, :2] * inner_P2).astype(np.int64)
    return paddle.to_tensor((sample * height + pixel_P2[:, 0]) * width + pixel_P2[:, 1])
