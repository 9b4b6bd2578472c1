"""A small GAN as a recipe names it, by dotted paths: colours grey pictures with the help of a frozen encoder.

Its discriminator has a lazy gradient penalty and an optimizer of its own; its generator and its encoder are deployed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
import paddle.nn.functional as F
import yaml
from paddle import Tensor, nn

from ppvision.methods.base import Method, Phase


class Generator(nn.Layer):
    """Grey pictures [B,1,H,W] and codes [B,3] -> pictures [B,3,H,W]."""

    def __init__(self, width: int = 6, norm: bool = True):
        super().__init__()
        self.stem = nn.Conv2D(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2D(width) if norm else nn.Identity()
        self.code = nn.Linear(3, width)
        self.head = nn.Conv2D(width, 3, 1)

    def forward(self, grey: Tensor, code: Tensor) -> Tensor:
        x = self.norm(self.stem(grey)) + self.code(code).unsqueeze([2, 3])
        return self.head(F.relu(x))


class Encoder(nn.Layer):
    """Pictures [B,3,H,W] -> codes [B,3]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 3, 3, stride=2, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.conv(image).mean([2, 3])


class Adversarial(Method):
    """Colouring against a discriminator.

    Args:
        model: the generator.
        encoder: gives the code of a picture; never trained.
        noise: standard deviation of what is added to what the discriminator sees, fading over the run.
        penalty: weight of the discriminator's gradient penalty.
        faithful: weight of the distance to the true colours.
    """

    phases = (Phase("d", "d"), Phase("r1", "d", every=3), Phase("g", "g"))
    frozen = ("encoder",)
    components = {"encoder": "model"}

    def __init__(
        self, model: nn.Layer, encoder: nn.Layer, noise: float = 0.0, penalty: float = 5.0, faithful: float = 0.5
    ):
        super().__init__()
        self.model, self.encoder = model, encoder
        self.noise, self.penalty, self.faithful = noise, penalty, faithful
        self.discriminator = nn.Sequential(nn.Conv2D(3, 8, 3, stride=2, padding=1), nn.LeakyReLU(0.2))
        self.discriminator.add_sublayer("2", nn.Conv2D(8, 1, 3, padding=1))

    def deployables(self) -> dict[str, nn.Layer]:
        return {"generator": self.model, "encoder": self.encoder}

    def param_groups(self) -> dict[str, nn.Layer]:
        return {"d": self.discriminator, "g": self.model}

    def losses(self, phase: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        real = batch["image"]
        if phase == "r1":
            real = real.detach()
            real.stop_gradient = False
            (gradient,) = paddle.grad(self.score(real).sum(), real, create_graph=True)
            return {"r1": self.penalty * gradient.square().sum([1, 2, 3]).mean()}
        if phase == "g":
            fake = self.coloured(real)
            fooled = F.softplus(-self.score(self.noisy(fake))).mean()
            return {"fool": fooled, "colour": self.faithful * (fake - real).abs().mean()}
        with paddle.no_grad():
            fake = self.coloured(real)
        of_fake = self.score(self.noisy(fake))
        of_real = self.score(self.noisy(real))
        return {"d": (F.softplus(of_fake) + F.softplus(-of_real)).mean()}

    def score(self, image: Tensor) -> Tensor:
        """[B,3,H,W] -> [B], high where a picture looks real."""
        return self.discriminator(image).mean([1, 2, 3])

    def coloured(self, real: Tensor) -> Tensor:
        """Pictures of the grey version of real ones."""
        with paddle.no_grad():
            code = self.encoder(real)
        return self.model(real.mean(1, keepdim=True), code)

    def noisy(self, image: Tensor) -> Tensor:
        """With this step's share of the noise."""
        share = 1.0 - self.step / self.total_updates
        return image + self.noise * share * paddle.randn(image.shape)


def write_recipe(folder: Path, **sections: dict[str, Any]) -> Path:
    """A recipe over `folder`/data: ten pictures of two coloured bars on noise; `sections` update its sections."""
    rng = np.random.default_rng(0)
    (folder / "data").mkdir(parents=True)
    for i in range(10):
        image = rng.integers(0, 80, (12, 16, 3)).astype("uint8")
        image[:, rng.integers(0, 8) :][:, :4, 2] += 120
        image[rng.integers(0, 6) :][:3, :, 0] += 90
        cv2.imwrite(str(folder / f"data/{i}.png"), image)
    spec: dict[str, Any] = {
        "model": {"type": "gan.Generator"},
        "method": {"type": "gan.Adversarial", "encoder": {"type": "gan.Encoder"}, "noise": 0.2},
        "data": {
            "type": "images",
            "root": str(folder / "data"),
            "workers": 0,
            "mean": [60.0, 40.0, 70.0],
            "std": [50.0, 30.0, 60.0],
            "train": {"transforms": [{"type": "RandomFlip"}]},
        },
        "optimizer": {"type": "adam", "lr": 2.0e-3, "d": {"lr": 5.0e-3, "betas": [0.0, 0.99]}},
        "schedule": {"type": "constant"},
        "train": {"iters": 8, "batch_size": 4, "save_interval": 4, "ema": 0.9, "seed": 5},
        "eval": {"enabled": False},
        "log": {"interval": 1},
    }
    for name, values in sections.items():
        spec[name] = {**spec[name], **values}
    path = folder / "gan.yml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path
