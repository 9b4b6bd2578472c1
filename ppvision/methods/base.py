"""Method: a training algorithm around deployable networks, cut into phases that the Trainer runs one after the other.

A network in `ppvision.models` is what gets deployed and nothing else. Teacher, discriminator, auxiliary head, extra
query groups and the like belong to the Method, so that no export can reach them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import paddle
from paddle import Tensor, nn

from ppvision.data.fields import field_of, is_normalised
from ppvision.models.network import promises
from ppvision.models.zoo import deployables
from ppvision.nn.normalise import normaliser_of
from ppvision.nn.promises import Promises


@dataclass(frozen=True)
class Phase:
    """One optimizer step of an update. `optimizer` names a group of `Method.param_groups`; `every` > 1 is lazy
    regularisation: the phase runs at each `every`-th step, the Trainer multiplies its loss by `every`, and its terms
    are logged without being part of `loss`."""

    name: str
    optimizer: str
    every: int = 1


class Method(Promises):
    """Base of all training algorithms; the default trains and deploys the single network `self.model`.

    Attributes:
        phases: what an update consists of, in order.
        frozen: names of sub-layers that are never trained (a teacher): kept in eval mode, without gradient, outside
            checkpoints.
        components: keyword arguments of `__init__` that recipes fill with a component, and of which kind.
        step: number of updates made so far, skipped ones included.
        seed: the recipe's.
        rng: generator of this update and rank; `shared_rng` is the same on all ranks.
        total_updates: length of the run, set before its first update, of which a ramp takes a share; 1 outside a run.
        loss: the loss that reads the data set's labels, where there is one: its `ignore_index` must be theirs.
    """

    phases: ClassVar[tuple[Phase, ...]] = (Phase("main", "model"),)
    frozen: ClassVar[tuple[str, ...]] = ()
    components: ClassVar[dict[str, str]] = {}
    loss: nn.Layer | None = None

    def __init__(self) -> None:
        super().__init__()
        self.step = self.seed = 0
        self.total_updates = 1
        self.rng = self.shared_rng = np.random.Generator(np.random.Philox(0))
        self.mean: Sequence[float] = (0.0, 0.0, 0.0)
        self.std: Sequence[float] = (255.0, 255.0, 255.0)

    def deployables(self) -> dict[str, nn.Layer]:
        """What is evaluated, saved as `model.pdparams` and exported."""
        return deployables(self.model)

    def averaged(self) -> dict[str, nn.Layer]:
        """What the EMA follows. The default: the deployables of which an optimizer trains a parameter, since a frozen
        one (an encoder) is deployed as it came. Asked in training mode.
        """
        layers = self.param_groups().values()
        trained = {id(p) for layer in layers for p in layer.parameters() if not p.stop_gradient}
        return {
            name: net for name, net in self.deployables().items() if any(id(p) in trained for p in net.parameters())
        }

    def param_groups(self) -> dict[str, nn.Layer]:
        """Optimizer name -> the layer whose parameters it trains (frozen parts excepted). The default trains
        everything.
        """
        return {self.phases[0].optimizer: self}

    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        """uint8 [B,H,W,3] -> normalised float32 [B,3,H,W], zero where `valid` is False."""
        return normalise(batch, self.mean, self.std)

    def normaliser(self, phase: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Denominators of this micro-batch (valid pixels, boxes). The Trainer averages them over micro-batches and
        ranks before the first forward and gives them back as `batch["normaliser"]`: since it averages the losses
        likewise, accumulation and several processes then equal one big batch exactly, however unevenly the counts are
        spread. Whoever calls `losses` without a Trainer adds it likewise."""
        return {}

    def losses(self, phase: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Scalar loss terms of a phase for one micro-batch, which is what `prepare` gave and `normaliser`; the Trainer
        back-propagates their sum.
        """
        raise TypeError(f"{type(self).__name__} defines no losses")

    def validate(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Terms of the validation loss (metric `loss`), each [B]: one value per image, so that their mean is exact
        however the images are spread over batches and ranks.

        Called in eval mode without gradient, for a batch as collated, on the device. Random draws come from
        `image_rngs`: the loss then is the same at every step.
        """
        raise TypeError(f"{type(self).__name__} defines no validation loss")

    def pictures(self, batch: dict[str, Any]) -> dict[str, np.ndarray]:
        """What the run shows at each evaluation, from the first validation batch: name -> RGB uint8 [H,W,3]. Called
        like `validate`, on rank 0 only.
        """
        return {}

    def image_rngs(self, batch: dict[str, Any]) -> list[np.random.Generator]:
        """A generator per image that is a function of (seed, place in the data set) and nothing else."""
        places = batch["index"].numpy().tolist() if "index" in batch else range(len(batch["image"]))
        return [np.random.Generator(np.random.Philox(key=[self.seed % 2**64, 2**63 + i])) for i in places]

    def training_graph(self) -> nn.Layer | None:
        """A layer whose forward is the training computation, for the memory planner: it takes what a deployable takes.
        None: the deployables stand for it.
        """
        return None

    def on_update(self, step: int) -> None:
        """Called after each update that was not skipped: teacher momentum, ramps."""

    def begin(self, step: int, seed: int, rank: int) -> None:
        """Called by the Trainer before each update: randomness is a function of (seed, step, rank) and nothing else."""
        self.step, self.seed = step, seed
        self.rng = np.random.Generator(np.random.Philox(key=[seed % 2**64, step * 65536 + rank + 1]))
        self.shared_rng = np.random.Generator(np.random.Philox(key=[seed % 2**64, step * 65536]))

    def train(self) -> None:
        """Training mode for everything but the frozen parts: a teacher's batch-norm statistics must not move."""
        super().train()
        for name in self.frozen:
            layer = getattr(self, name)
            layer.eval()
            for parameter in layer.parameters():
                parameter.stop_gradient = True

    def is_frozen(self, key: str) -> bool:
        """Whether a structured name belongs to a frozen part."""
        return any(key.startswith(f"{name}.") for name in self.frozen)

    def trained_state(self) -> dict[str, Tensor]:
        """State dict without the frozen parts: what `method.pdparams` holds."""
        return {k: v for k, v in self.state_dict().items() if not self.is_frozen(k)}

    def load_training_only(self, state: Mapping[str, np.ndarray]) -> list[str]:
        """Take over what a foreign weight file holds beside the network (an auxiliary head); returns the keys that
        fitted.
        """
        own = self.trained_state()
        fitting = [k for k, v in state.items() if k in own and tuple(own[k].shape) == tuple(v.shape)]
        for key in fitting:
            own[key].set_value(state[key])
        return fitting

    def frozen_sources(self) -> dict[str, dict[str, str]]:
        """Frozen part -> where its weights came from and their sha256, for `state.json`."""
        return {
            name: {
                "source": str(promises(getattr(self, name)).weights_source),
                "sha256": _digest(getattr(self, name)),
            }
            for name in self.frozen
        }


def normalise(batch: dict[str, Any], mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """A batch on the device whose pictures are float32 [B,3,H,W], normalised by `nn.Normalise`.

    Args:
        batch: uint8 [B,H,W,3] under the keys that `fields` calls pictures; `valid` (optional) bool [B,H,W], False where
            collate padded the image; `canvas_<key>` (optional) int [B,2], the sizes of pictures that are padded apart.
        mean: per channel, RGB, 0..255.
        std: per channel, RGB, 0..255.

    Returns:
        A shallow copy; a float picture (already normalised) is left alone.
    """
    layer = normaliser_of(tuple(mean), tuple(std))
    pictures = {}
    for key, value in batch.items():
        if is_normalised(key) and value.dtype == paddle.uint8:
            shared = field_of(key).collate == "canvas"
            valid = batch.get("valid") if shared else inside(batch.get(f"canvas_{key}"), value.shape[1:3])
            pictures[key] = layer(value.transpose([0, 3, 1, 2]), valid)
    return {**batch, **pictures}


def inside(sizes: Tensor | None, canvas: Sequence[int]) -> Tensor | None:
    """bool [B,H,W], True where a picture of `sizes` [B,2] is, on a canvas (H, W); None where no sizes are known."""
    if sizes is None:
        return None
    rows_BH, columns_BW = (
        paddle.arange(side, dtype=sizes.dtype).unsqueeze(0) < sizes[:, i : i + 1] for i, side in enumerate(canvas)
    )
    return paddle.logical_and(rows_BH.unsqueeze(2), columns_BW.unsqueeze(1))


def _digest(layer: nn.Layer) -> str:
    total = hashlib.sha256()
    for key, value in sorted(layer.state_dict().items()):
        total.update(key.encode())
        total.update(np.ascontiguousarray(value.numpy()).tobytes())
    return total.hexdigest()
