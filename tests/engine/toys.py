"""Small Methods that prove the loop: plain regression, a distillation with a frozen teacher, a GAN with a lazy
phase.
"""

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ppvision.engine.optimizer import SGD, Adam, Momentum
from ppvision.engine.schedule import Poly
from ppvision.engine.trainer import Trainer
from ppvision.losses.cross_entropy import CrossEntropy
from ppvision.methods.base import Method, Phase


class Segmenter(nn.Layer):
    """[B,3,H,W] -> [B,4,H,W], with batch norm and dropout so that buffers and randomness matter."""

    num_classes = 4
    recompute_blocks = ("block",)

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.stem = nn.Conv2D(3, 8, 1)
        self.block = nn.Sequential(nn.Conv2D(8, 8, 3, padding=1), nn.BatchNorm2D(8), nn.ReLU(), nn.Dropout2D(dropout))
        self.head = nn.Conv2D(8, 4, 1)

    def forward(self, x):
        return self.head(self.block(self.stem(x)))


class ToySupervised(Method):
    def __init__(self, model):
        super().__init__()
        self.model, self.loss = model, CrossEntropy()

    def normaliser(self, phase, batch):
        return self.loss.normaliser(batch)

    def losses(self, phase, batch):
        return {"ce": self.loss(self.model(batch["image"]), batch)}


class ToyDistillation(Method):
    frozen = ("teacher",)

    def __init__(self, model, teacher):
        super().__init__()
        self.model, self.teacher = model, teacher
        self.adapter = nn.Conv2D(4, 4, 1)  # trained, never exported

    def losses(self, phase, batch):
        with paddle.no_grad():
            target = F.softmax(self.teacher(batch["image"]), 1)
        logits = self.model(batch["image"])
        return {
            "kd": -(target * F.log_softmax(self.adapter(logits), 1)).sum(1).mean(),
            "size": 1e-3 * logits.square().mean(),
        }


class ToyGan(Method):
    phases = (Phase("d", "d"), Phase("r1", "d", every=3), Phase("g", "g"))

    def __init__(self):
        super().__init__()
        self.generator = nn.Sequential(nn.Conv2D(3, 8, 3, padding=1), nn.BatchNorm2D(8), nn.ReLU(), nn.Conv2D(8, 3, 1))
        self.discriminator = nn.Sequential(nn.Conv2D(3, 8, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2D(8, 1, 1))
        self.updates = []

    def deployables(self):
        return {"generator": self.generator}

    def param_groups(self):
        return {"d": self.discriminator, "g": self.generator}

    def on_update(self, step):
        self.updates.append(step)

    def losses(self, phase, batch):
        real = batch["image"]
        noise = paddle.randn(real.shape)
        if phase == "g":
            return {"g": F.softplus(-self.discriminator(self.generator(noise))).mean()}
        if phase == "r1":
            real = real.detach()
            real.stop_gradient = False
            (gradient,) = paddle.grad(self.discriminator(real).sum(), real, create_graph=True)
            return {"r1": 5.0 * gradient.square().sum([1, 2, 3]).mean()}
        with paddle.no_grad():
            fake = self.generator(noise)
        return {"d": (F.softplus(self.discriminator(fake)) + F.softplus(-self.discriminator(real))).mean()}


OPTIMIZERS = {"sgd": SGD, "momentum": Momentum, "adam": Adam}


def trainer_of(method, optimizer="adam", lr=0.01, total=100, **options):
    def make(name, parameters):
        return OPTIMIZERS[optimizer](parameters, lr=lr), Poly(lr, total)

    return Trainer(method, make, **options)


def batch_of(seed, size=4, hw=(6, 7), ignored=None):
    """uint8 images and labels; `ignored[i]` of the pixels of image i are 255."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 4, (size, *hw)).astype("uint8")
    for i, share in enumerate(ignored or [0.0] * size):
        label[i][rng.random(hw) < share] = 255
    image = rng.integers(0, 256, (size, *hw, 3)).astype("uint8")
    return {
        "image": paddle.to_tensor(image),
        "label": paddle.to_tensor(label),
        "name": [f"{seed}-{i}.png" for i in range(size)],
    }


def part(batch, start, stop):
    return {k: v[start:stop] for k, v in batch.items()}


def build_toy(kind, seed=0, **options):
    """A Trainer over one of the toys, initialised the same for the same seed."""
    paddle.seed(seed)
    if kind == "supervised":
        return trainer_of(ToySupervised(Segmenter(dropout=0.2)), **options)
    if kind == "distillation":
        return trainer_of(ToyDistillation(Segmenter(), Segmenter()), **options)
    return trainer_of(ToyGan(), **options)


def weights_of(trainer):
    return {k: np.array(v.numpy()) for k, v in trainer.method.state_dict().items()}  # numpy() may share memory on CPU
