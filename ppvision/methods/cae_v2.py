"""CAE v2 pre-training: from the visible patches of an image predict the features a frozen teacher gives the whole one.

Paper:    X. Zhang et al., "CAE v2: Context Autoencoder with CLIP Latent Alignment", arXiv:2211.09799; the block mask is
          that of BEiT, arXiv:2106.08254.
Checked:  equations and shapes against the authors' release as described in its state dict (Atten4Vis/CAE,
          project/CAEv2); a pre-training checkpoint loads whole (`model.weights`).
Deviates: the mask sampler ends after 1000 failed rounds by drawing single patches, where the release loops on; the
          cosine has 1e-6 in its denominators.

Encoder, then regressor (queries: mask tokens; keys and values: visible and current masked latents), then one norm and
linear head for class token, visible and masked patches alike; the loss is one minus the cosine to the teacher.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import paddle
from paddle import Tensor, nn

from ppvision.data.batch import to_device
from ppvision.errors import UserError, at_least, require
from ppvision.methods import similarity
from ppvision.methods.base import Method, normalise
from ppvision.models.cae_v2 import CaeV2
from ppvision.models.clip_vision import ClipVision
from ppvision.models.network import promises
from ppvision.models.zoo import IMAGENET
from ppvision.nn.drop import DropPath
from ppvision.nn.resize import resize
from ppvision.nn.vit import CrossAttention, Mlp, init_xavier, parameter, sincos_table, take_tokens

__all__ = ["CaeV2Pretraining", "Regressor", "Target", "TargetCache", "block_mask", "cosine_distance", "random_mask"]

ASPECT = math.log(1 / 0.3)  # blocks are 0.3 to 1 / 0.3 times as high as wide
PICTURES = 8  # images drawn at each evaluation
ROUNDS = 1000  # without a block that fits, before single patches end the mask


def block_mask(rng: np.random.Generator, height: int, width: int, num_masked: int, min_block: int = 16) -> np.ndarray:
    """Boolean [height,width] with exactly `num_masked` True, in rectangles of at least about `min_block` patches."""
    mask = np.zeros((height, width), bool)
    count = failures = 0
    while count < num_masked and failures < ROUNDS:
        budget = num_masked - count
        failures += 1
        for _ in range(10):
            # With less than min_block left the ends are reversed on purpose: smaller blocks finish the mask.
            area = min_block + (budget - min_block) * rng.random()
            aspect = math.exp(rng.uniform(-ASPECT, ASPECT))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if not (0 < h < height and 0 < w < width):
                continue
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            window = mask[top : top + h, left : left + w]
            new = h * w - int(window.sum())
            if 0 < new <= budget:
                window[:] = True
                count, failures = count + new, 0
                break
    if count < num_masked:
        free = np.flatnonzero(~mask)
        mask.flat[rng.choice(free, num_masked - count, replace=False)] = True
    return mask


def random_mask(rng: np.random.Generator, height: int, width: int, num_masked: int, min_block: int = 0) -> np.ndarray:
    """Boolean [height,width] with exactly `num_masked` True, anywhere."""
    mask = np.zeros(height * width, bool)
    mask[rng.choice(height * width, num_masked, replace=False)] = True
    return mask.reshape(height, width)


def cosine_distance(output: Tensor, target: Tensor) -> Tensor:
    """One minus the cosine along the last axis, 0..2, in float32 whatever comes in."""
    output, target = output.astype("float32"), target.astype("float32")
    norms = (output.norm(axis=-1) + 1e-6) * (target.norm(axis=-1) + 1e-6)
    return 1.0 - (output * target).sum(-1) / norms


class RegressorBlock(nn.Layer):
    """Cross-attention of masked positions to visible and masked ones. What `norm2_cross` gives is the residual: the
    release is built that way, its weights need it.
    """

    def __init__(self, dim: int, num_heads: int, layer_scale: float, drop_path: float):
        super().__init__()
        self.norm1_q, self.norm1_k, self.norm1_v, self.norm2_cross = (nn.LayerNorm(dim, epsilon=1e-6) for _ in range(4))
        self.cross_attn = CrossAttention(dim, num_heads)
        self.mlp_cross = Mlp(dim, 4 * dim)
        self.gamma_1_cross, self.gamma_2_cross = (parameter(self, [dim], layer_scale) for _ in range(2))
        self.drop_path = DropPath(drop_path)

    def forward(self, masked_BMD: Tensor, visible_BVD: Tensor, masked_pos: Tensor, visible_pos: Tensor) -> Tensor:
        context = paddle.concat([visible_BVD, masked_BMD], axis=1)
        positions = paddle.concat([visible_pos, masked_pos], axis=1)
        attended = self.cross_attn(
            self.norm1_q(masked_BMD + masked_pos), self.norm1_k(context + positions), self.norm1_v(context)
        )
        x_BMD = self.norm2_cross(masked_BMD + self.drop_path(self.gamma_1_cross * attended))
        return x_BMD + self.drop_path(self.gamma_2_cross * self.mlp_cross(x_BMD))


class Regressor(nn.LayerList):
    """Blocks in a row; the visible latents stay as they are."""

    def __init__(self, dim: int, depth: int, num_heads: int, layer_scale: float = 0.1, drop_path: float = 0.0):
        rates = np.linspace(0.0, drop_path, depth)  # of a single block: none, as in the released runs
        super().__init__([RegressorBlock(dim, num_heads, layer_scale, float(rate)) for rate in rates])

    def forward(self, masked_BMD: Tensor, visible_BVD: Tensor, masked_pos: Tensor, visible_pos: Tensor) -> Tensor:
        """[B,M,dim] latents of the masked positions."""
        for block in self:
            masked_BMD = block(masked_BMD, visible_BVD, masked_pos, visible_pos)
        return masked_BMD


class Target(nn.Layer):
    """A frozen network's features as one vector per patch of the student's grid, and one for the whole image.

    CLIP's tower (and any network that gives {"cls", "tokens"}) is taken as it is. Of other networks a map is used:
    entry `level` of the dict that `features` returns, or, where `features` is a sequence of layers (paddle.vision),
    what its first `level` layers give; the map is resized to the grid and its mean is the vector of the image.

    Args:
        net: the network.
        grid: rows and columns of the student's patches.
        level: which map; null: the last one.
        size: side of the square image the network sees; null: such that CLIP's patches match the grid, else the size of
            the student's image.

    Raises:
        UserError: the network has no such map.
    """

    def __init__(self, net: nn.Layer, grid: int, level: str | int | None = None, size: int | None = None):
        super().__init__()
        layers = promises(net).features if promises(net).offers("features") else None
        if isinstance(layers, nn.Sequential) and level is not None:
            if isinstance(level, str) or not 0 < level <= len(layers):
                raise UserError(
                    f"method.teacher_level: {type(net).__name__} is a sequence of {len(layers)} layers; give a number "
                    f"of them, not {level!r}"
                )
        self.net = net
        self.grid = grid
        self.level = level
        self.size = size or (net.patch_size * grid if isinstance(net, ClipVision) else None)
        self.weights_source = promises(net).weights_source

    def forward(self, image: Tensor) -> Tensor:
        """[B,3,H,W] in the network's own normalisation -> [B,1+N,C], class token first."""
        return self.tokens(self.raw(image))

    def raw(self, image: Tensor) -> Tensor:
        """What the network itself gives: tokens [B,1+N,C], or a map [B,C,h,w]."""
        if self.size is not None and image.shape[2:] != [self.size, self.size]:
            image = resize(image, [self.size, self.size])
        features = promises(self.net).features if promises(self.net).offers("features") else None
        if isinstance(features, nn.Sequential):
            maps = image
            for i, layer in enumerate(features):
                if self.level is not None and i >= self.level:
                    break
                maps = layer(maps)
        else:
            maps = features(image) if features is not None else self.net(image)
        if isinstance(maps, dict):
            if self.level is None and "tokens" in maps:
                return paddle.concat([maps["cls"].unsqueeze(1), maps["tokens"]], axis=1)
            level = self.level if self.level is not None else list(maps)[-1]
            if level not in maps:
                raise UserError(f"method.teacher_level: no feature '{level}' (there is: {', '.join(maps)})")
            maps = maps[level]
        if maps.ndim != 4:
            raise UserError(
                f"method.teacher: {type(self.net).__name__} gives {list(maps.shape)}, no map [B,C,h,w]; name a network "
                "with features"
            )
        return maps

    def tokens(self, maps: Tensor) -> Tensor:
        """[B,1+N,C] on the student's grid, from `raw`."""
        if maps.ndim == 3:
            return maps
        tokens = resize(maps, [self.grid, self.grid]).flatten(2).transpose([0, 2, 1])
        return paddle.concat([maps.mean([2, 3]).unsqueeze(1), tokens], axis=1)


class TargetCache:
    """What a frozen `Target` gives, remembered by the content of the image it is shown, in half precision.

    Worth its memory where images come again unchanged: without augmentation, or with few variants of each, all epochs
    after the first are spared the teacher. Missing images are always computed in whole batches, so that a value does
    not depend on what was known before (a resumed run starts with nothing).

    Args:
        target: the teacher.
        megabytes: once so much is held nothing is added.
    """

    def __init__(self, target: Target, megabytes: int):
        self.target, self.room = target, megabytes * 2**20
        self.known: dict[bytes, np.ndarray] = {}

    def __call__(self, image: Tensor) -> Tensor:
        """As `Target.forward`, rounded to half precision on the way."""
        keys = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in image.numpy()]
        missing = [i for i, key in enumerate(keys) if key not in self.known]
        fresh: dict[bytes, np.ndarray] = {}
        if missing:
            rows = to_device({"rows": np.array((missing * len(keys))[: len(keys)])})["rows"]
            values = self.target.raw(paddle.gather(image, rows)).astype("float16").numpy()
            fresh = {keys[i]: np.array(values[n]) for n, i in enumerate(missing)}
        maps = np.stack([self.known[key] if key in self.known else fresh[key] for key in keys])
        for key, value in fresh.items():
            if value.nbytes <= self.room:
                self.known[key], self.room = value, self.room - value.nbytes
        return self.target.tokens(to_device({"maps": maps.astype(np.float32)})["maps"])


class CaeV2Pretraining(Method):
    """Masked image modelling in a teacher's feature space.

    Args:
        model: the encoder (`cae_v2_*` with `num_classes: 0`); all that is deployed.
        teacher: a frozen network, see `Target`.
        teacher_level: which of its maps is the target; not for CLIP.
        teacher_size: side of the image it sees.
        teacher_mean: statistics of its input, 0..255; null: its own (CLIP), else ImageNet's.
        teacher_std: likewise.
        teacher_cache: megabytes for remembering what the teacher gave an image, see `TargetCache`; 0 asks it every
            time.
        center: subtract from each target channel a running mean over images and patches and divide by a running
            deviation, so that channels of a stand-in that are always on do not decide the cosine. Not for CLIP.
        mask: "block" or "random".
        num_masked: patches hidden, or
        mask_ratio: share of patches hidden; one of the two.
        min_block: smallest block, in patches.
        regressor_dim: width of regressor and head; null: the encoder's.
        regressor_depth: its number of blocks.
        regressor_heads: its heads; null: the encoder's.
        loss_positions: which patches are supervised. With "visible" the regressor is not run.
        loss_reduction: "token": mean over all supervised tokens; "branch": sum of the means over class token, visible
            and masked patches, which gives the class token a third of the weight.
        supervise_cls: whether the class token counts; with "masked" it never does.

    Raises:
        UserError: the model is not an encoder, or the mask leaves nothing visible or hides nothing.
    """

    frozen = ("teacher",)
    components = {"teacher": "model"}

    def __init__(
        self,
        model: nn.Layer,
        teacher: nn.Layer,
        *,
        teacher_level: str | int | None = None,
        teacher_size: int | None = None,
        teacher_mean: tuple[float, float, float] | None = None,
        teacher_std: tuple[float, float, float] | None = None,
        teacher_cache: int = 0,
        center: bool = False,
        mask: Literal["block", "random"] = "block",
        num_masked: int | None = None,
        mask_ratio: float | None = None,
        min_block: int = 16,
        regressor_dim: int | None = None,
        regressor_depth: int = 4,
        regressor_heads: int | None = None,
        loss_positions: Literal["visible", "masked", "both"] = "both",
        loss_reduction: Literal["token", "branch"] = "token",
        supervise_cls: bool = True,
    ):
        super().__init__()
        if not isinstance(model, CaeV2) or model.num_classes:
            raise UserError("method cae_v2 trains an encoder: model must be cae_v2_* with num_classes 0")
        self.model = model
        grid = model.grid
        dim = regressor_dim or model.dim
        if (num_masked is None) == (mask_ratio is None):
            raise UserError("method cae_v2: give one of num_masked and mask_ratio")
        self.num_masked = num_masked if num_masked is not None else round(mask_ratio * grid**2)
        given = "num_masked" if num_masked is not None else "mask_ratio"
        reason = f"masks {self.num_masked} of {grid**2} patches; need at least one of each"
        require(0 < self.num_masked < grid**2, given, reason)
        at_least(0, teacher_cache=teacher_cache)
        at_least(1, min_block=min_block, teacher_size=teacher_size, regressor_dim=regressor_dim)
        at_least(1, regressor_depth=regressor_depth, regressor_heads=regressor_heads)
        require(dim % 4 == 0, "regressor_dim", f"must be a multiple of 4 for fixed positions, got {dim}")
        per_head = dim % (regressor_heads or model.num_heads)
        require(per_head == 0, "regressor_heads", f"must divide the width {dim}, got {regressor_heads}")
        both = (teacher_mean is None) == (teacher_std is None)
        require(both, "teacher_mean", "and teacher_std are given together or not at all")
        require(teacher_std is None or min(teacher_std) > 0, "teacher_std", f"must be above 0, got {teacher_std}")
        first = isinstance(teacher_level, str) or teacher_level is None or teacher_level >= 1
        require(first, "teacher_level", f"counts layers from 1, got {teacher_level}")
        self.draw, self.min_block = block_mask if mask == "block" else random_mask, min_block
        self.positions = loss_positions
        self.reduction = loss_reduction
        self.supervise_cls = supervise_cls
        statistics = promises(teacher).mean_std or IMAGENET
        self.teacher_mean, self.teacher_std = teacher_mean or statistics[0], teacher_std or statistics[1]
        self.teacher = Target(teacher, grid, teacher_level, teacher_size)
        self.teacher.eval()
        self.cache = TargetCache(self.teacher, teacher_cache) if teacher_cache else None
        with paddle.no_grad():
            side = grid * model.patch_size
            channels = self.teacher(paddle.zeros([1, 3, side, side])).shape[-1]
        self.projection = None
        if dim != model.dim:
            self.projection = nn.Sequential(nn.Linear(model.dim, dim), nn.LayerNorm(dim, epsilon=1e-6))
        self.mask_token = parameter(self, [1, 1, dim], None)
        self.register_buffer("pos_embed", paddle.to_tensor(sincos_table(dim, grid, grid)))
        heads = regressor_heads or model.num_heads
        self.regressor = Regressor(dim, regressor_depth, heads, drop_path=model.drop_path)
        self.head_norm = nn.LayerNorm(dim, epsilon=1e-6)
        self.head = nn.Linear(dim, channels)
        for layer in (self.projection, self.regressor, self.head):
            if layer is not None:
                init_xavier(layer)
        self.center = center
        if center:
            self.register_buffer("target_mean", paddle.zeros([channels]))
            self.register_buffer("target_square", paddle.ones([channels]))

    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Adds the teacher's view of the same pixels, and which patches of each image are visible and masked."""
        return self._views(batch, [self.rng] * batch["image"].shape[0])

    def _views(self, batch: dict[str, Any], rngs: Sequence[np.random.Generator]) -> dict[str, Any]:
        grid = self.model.grid
        masks = [self.draw(rng, grid, grid, self.num_masked, self.min_block).flatten() for rng in rngs]
        patches = {
            "visible": np.stack([np.flatnonzero(~m) for m in masks]),
            "masked": np.stack([np.flatnonzero(m) for m in masks]),
        }
        return {
            **super().prepare(batch),
            "teacher_image": normalise(batch, self.teacher_mean, self.teacher_std)["image"],
            **to_device(patches),
        }

    def target(self, teacher_image: Tensor) -> Tensor:
        """[B,1+N,C]: what the head should point at, class token first, patches in row-major order."""
        with paddle.no_grad():
            target_BNC = (self.cache or self.teacher)(teacher_image)
            if self.center:
                if self.training:
                    share = max(0.01, 1.0 / (self.step + 1))
                    for buffer, value in ((self.target_mean, target_BNC), (self.target_square, target_BNC.square())):
                        buffer.set_value(buffer * (1 - share) + value[:, 1:].mean([0, 1]) * share)
                deviation = (self.target_square - self.target_mean.square()).clip(min=1e-6).sqrt()
                target_BNC = (target_BNC - self.target_mean) / deviation
        return target_BNC

    def encode(self, image: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Class token [B,1,dim] and visible patches [B,V,dim] in the width of regressor and head."""
        maps = self.model.features(image, visible)
        x_BND = paddle.concat([maps["cls"].unsqueeze(1), maps["tokens"]], axis=1)
        if self.projection is not None:
            x_BND = self.projection(x_BND)
        return x_BND[:, :1], x_BND[:, 1:]

    def regress(self, visible_BVD: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
        """Latents [B,M,dim] of the masked patches."""
        batch, dim = visible_BVD.shape[0], visible_BVD.shape[2]
        table = self.pos_embed[:, 1:].expand([batch, -1, -1])
        start = self.mask_token.expand([batch, masked.shape[1], dim])
        return self.regressor(start, visible_BVD, take_tokens(table, masked), take_tokens(table, visible))

    def losses(self, phase: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {name: values.mean() for name, values in self._terms(batch).items()}

    def validate(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The terms of `losses` per image, each image with a mask of its own that never changes."""
        return self._terms(self._views(batch, self.image_rngs(batch)))

    def _terms(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        visible, masked = batch["visible"], batch["masked"]
        target = self.target(batch["teacher_image"])
        cls, seen = self.encode(batch["image"], visible)
        groups: dict[str, tuple[Tensor, Tensor]] = {}  # name -> (latents, targets), in the same order of patches
        if self.positions != "masked":
            if self.supervise_cls:
                groups["cls"] = cls, target[:, :1]
            groups["visible"] = seen, take_tokens(target[:, 1:], visible)
        if self.positions != "visible":
            groups["masked"] = self.regress(seen, visible, masked), take_tokens(target[:, 1:], masked)
        latents = paddle.concat([latent for latent, _ in groups.values()], axis=1)
        output = self.head(self.head_norm(latents))
        with paddle.amp.auto_cast(enable=False):
            distance = cosine_distance(output, paddle.concat([t for _, t in groups.values()], axis=1))
            counts = {name: latent.shape[1] for name, (latent, _) in groups.items()}
            parts = dict(zip(counts, distance.split(list(counts.values()), axis=1)))
            total = distance.shape[1]
            divisors = counts if self.reduction == "branch" else dict.fromkeys(counts, total)
            return {name: part.sum(1) / divisors[name] for name, part in parts.items()}

    def pictures(self, batch: dict[str, Any]) -> dict[str, np.ndarray]:
        """Of the first images what was hidden, the similarity of all patches to a hidden one for teacher and head, and
        how well each prediction agrees with its target (see `similarity.panel`).
        """
        few = {k: batch[k][:PICTURES] for k in ("image", "valid", "index") if k in batch}
        return {f"similarity_{place}": picture for place, picture in self.panels(few).items()}

    def panels(self, batch: dict[str, Any], size: int = 224) -> dict[int, np.ndarray]:
        """`similarity.panel` of every image of a batch, by its place in the data set; pictures of `size` pixels."""
        found = self.inspect(self._views(batch, self.image_rngs(batch)))
        places = batch["index"].numpy().tolist() if "index" in batch else range(len(batch["image"]))
        panels = {}
        for place, image, *parts in zip(places, batch["image"].numpy(), *(found[k] for k in found)):
            panels[place] = similarity.panel(image, *parts, similarity.salient(image, parts[0]), size)
        return panels

    def inspect(self, batch: dict[str, Any]) -> dict[str, np.ndarray]:
        """What a picture of the method shows, for a prepared batch: `masked` bool [B,N], `target` [B,N,C] of the
        teacher and `output` [B,N,C] of the head, both of length 1 per patch.
        """
        visible, masked = batch["visible"], batch["masked"]
        with paddle.no_grad():
            target = self.target(batch["teacher_image"])[:, 1:]
            _, seen = self.encode(batch["image"], visible)
            latents = paddle.concat([seen, self.regress(seen, visible, masked)], axis=1)
            order = paddle.argsort(paddle.concat([visible, masked], axis=1), axis=1)
            output = take_tokens(self.head(self.head_norm(latents)), order)
        hidden = np.zeros(target.shape[:2], bool)
        np.put_along_axis(hidden, masked.numpy(), True, axis=1)
        unit = [t / (t.norm(axis=-1, keepdim=True) + 1e-6) for t in (target, output)]
        return {"masked": hidden, "target": unit[0].numpy(), "output": unit[1].numpy()}
