"""Two networks that are deployed apart: one reads a picture and a reference, one marks what is alike at any size."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppvision.models.network import Input, Network


class Encoder(Network):
    """A picture and a picture of another size -> a map and a vector of `width` channels."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.near = nn.Conv2D(3, width, 3, stride=2, padding=1)
        self.far = nn.Conv2D(width, width, 3, padding=1)
        self.reference = nn.Conv2D(3, width, 3, padding=1)
        self.weigh = nn.Linear(width, width)

    def inputs(self) -> dict[str, Input]:
        """The reference has sides of its own."""
        return {"image": Input(("B", 3, "H", "W")), "crop_ref": Input(("B", 3, "P", "Q"))}

    def forward(self, image: Tensor, crop_ref: Tensor) -> dict[str, Tensor]:
        """
        Args:
            image: [B,3,H,W].
            crop_ref: [B,3,P,Q].

        Returns:
            `features` [B,C,H/2,W/2] and `reference` [B,C].
        """
        features_BCHW = F.relu(self.far(F.relu(self.near(image))))
        reference_BC = F.relu(self.reference(crop_ref)).mean([2, 3])
        return {"features": features_BCHW, "reference": self.weigh(reference_BC)}


class Decoder(Network):
    """What the encoder gives, and a size -> logits of that size."""

    num_classes = 2

    def __init__(self, width: int = 8):
        super().__init__()
        self.width = width
        self.mix = nn.Conv2D(2 * width, width, 1)
        self.head = nn.Conv2D(width, 2, 3, padding=1)

    def inputs(self) -> dict[str, Input]:
        """M and N are half the sides of the picture; the size is free of them."""
        return {
            "features": Input(("B", self.width, "M", "N"), kind="vector"),
            "reference": Input(("B", self.width), kind="vector"),
            "size": Input((2,), "int32", "size"),
        }

    def example(self, batch: int, size: tuple[int, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Features of a picture of that size, and a size that is not its own."""
        height, width = size
        return {
            "features": rng.gamma(1.0, size=[batch, self.width, height // 2, width // 2]).astype("float32"),
            "reference": rng.normal(size=[batch, self.width]).astype("float32"),
            "size": np.array([height * 3 // 4, width + 5], "int32"),
        }

    def forward(self, features: Tensor, reference: Tensor, size: Tensor) -> Tensor:
        """
        Args:
            features: [B,C,M,N].
            reference: [B,C].
            size: int32 [2], height and width of the answer.

        Returns:
            Logits [B,2,height,width].
        """
        alike_BCMN = features * reference.unsqueeze(-1).unsqueeze(-1)
        mixed_BCMN = F.relu(self.mix(paddle.concat([alike_BCMN, features], axis=1)))
        return F.interpolate(self.head(mixed_BCMN), size=size, mode="bilinear")


class PairNet(Network):
    """Both, trained as one.

    Args:
        width: channels.
    """

    num_classes = 2

    def __init__(self, width: int = 8):
        super().__init__()
        self.encode, self.decode = Encoder(width), Decoder(width)

    def deployables(self) -> dict[str, nn.Layer]:
        """Two graphs."""
        return {"encode": self.encode, "decode": self.decode}

    def forward(self, image: Tensor, crop_ref: Tensor, size: Tensor) -> Tensor:
        """Logits [B,2,height,width]."""
        return self.decode(**self.encode(image, crop_ref), size=size)
