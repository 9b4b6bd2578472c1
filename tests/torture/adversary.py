"""A GAN in the shape of segmentation: what a Method with several phases must survive when it is killed.

The discriminator tells label maps from predictions; its gradient penalty is lazy. Two optimizers, noise, a network
that is never deployed: everything that a checkpoint of one phase would not need to hold.
"""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppvision.losses.cross_entropy import CrossEntropy
from ppvision.methods.base import Method, Phase


class Discriminator(nn.Layer):
    """[B,K,H,W] class shares and [B,3,H,W] image -> [B,1,h,w]. They are added after a convolution each: Paddle 3.3.1
    cannot differentiate a concatenation twice when one of its inputs needs no gradient.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        self.labels = nn.Conv2D(num_classes, 8, 3, stride=2, padding=1)
        self.image = nn.Conv2D(3, 8, 3, stride=2, padding=1)
        self.rest = nn.Sequential(nn.LeakyReLU(0.2), nn.Dropout2D(0.1), nn.Conv2D(8, 1, 3, stride=2, padding=1))

    def forward(self, labels: Tensor, image: Tensor) -> Tensor:
        return self.rest(self.labels(labels) + self.image(image))


class AdversarialSegmentation(Method):
    """Cross entropy plus the wish to look like a label map.

    Args:
        model: the deployable segmentation network.
        adversarial: weight of the generator's adversarial term.
        penalty: weight of the discriminator's gradient penalty.
        noise: standard deviation of what is added to both inputs of the discriminator.
    """

    phases = (Phase("d", "d"), Phase("r1", "d", every=4), Phase("g", "g"))

    def __init__(self, model: nn.Layer, adversarial: float = 0.1, penalty: float = 1.0, noise: float = 0.1):
        super().__init__()
        self.model, self.loss = model, CrossEntropy()
        self.adversarial, self.penalty, self.noise = adversarial, penalty, noise
        self.discriminator = Discriminator(model.num_classes)

    def param_groups(self) -> dict[str, nn.Layer]:
        return {"d": self.discriminator, "g": self.model}

    def normaliser(self, phase: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        return self.loss.normaliser(batch) if phase == "g" else {}

    def losses(self, phase: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        image = batch["image"]
        if phase == "g":
            logits = self.model(image)
            fooled = F.softplus(-self.discriminate(F.softmax(logits, 1), image)).mean()
            return {"ce": self.loss(logits, batch), "fool": self.adversarial * fooled}
        real = self.label_map(batch["label"])
        if phase == "r1":
            real.stop_gradient = False
            (gradient,) = paddle.grad(self.discriminate(real, image).sum(), real, create_graph=True)
            return {"r1": self.penalty * gradient.square().sum([1, 2, 3]).mean()}
        with paddle.no_grad():
            fake = F.softmax(self.model(image), 1)
        return {"d": (F.softplus(self.discriminate(fake, image)) + F.softplus(-self.discriminate(real, image))).mean()}

    def discriminate(self, labels: Tensor, image: Tensor) -> Tensor:
        """[B,K,H,W] class shares beside [B,3,H,W] -> [B,1,h,w], high where they look real."""
        noisy = labels + self.noise * paddle.randn(labels.shape)
        return self.discriminator(noisy, image)

    def label_map(self, label: Tensor) -> Tensor:
        """[B,H,W] with 255 -> [B,K,H,W] of 0 and 1, all 0 where ignored."""
        return F.one_hot(label.astype("int64"), 256)[..., : self.model.num_classes].transpose([0, 3, 1, 2])
