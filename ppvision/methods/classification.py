"""Training of image classifiers with soft targets: mixup, cutmix, label smoothing, and token labels as an option.

Papers:   H. Zhang et al., "mixup: Beyond Empirical Risk Minimization", arXiv:1710.09412; S. Yun et al., "CutMix",
          arXiv:1905.04899; C. Szegedy et al., arXiv:1512.00567 (label smoothing); Z. Jiang et al., "All Tokens Matter:
          Token Labeling for Training Better Vision Transformers", arXiv:2104.10858.
Checked:  pixel by pixel against NumPy in the tests. An image is mixed with the one at the mirrored place of its batch,
          one share per batch, as timm does by default; CutMix's share is that of the area actually pasted.
Deviates: the box of MixToken is drawn on the coarsest grid and enlarged, so that it covers whole final tokens; LV-ViT
          has a single resolution. The class logits come from the mean of the tokens, LV-ViT has a class token; their
          target is the data set's label, not the predicted map read as a whole.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppvision.data.batch import to_device
from ppvision.errors import UserError, at_least, within
from ppvision.losses.base import loss_promises
from ppvision.losses.soft_cross_entropy import SoftCrossEntropy, smoothed
from ppvision.methods.base import Method
from ppvision.models.network import promises

__all__ = ["Classification", "TokenLabelling", "box_of_area"]


def box_of_area(rng: np.random.Generator, height: int, width: int, share: float) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of a box with the image's proportions and `share` of its area around a random centre,
    cut at the border: the area may end up smaller.
    """
    h, w = int(height * math.sqrt(share)), int(width * math.sqrt(share))
    y, x = int(rng.integers(height)), int(rng.integers(width))
    return (
        min(max(y - h // 2, 0), height),
        min(max(y + h // 2, 0), height),
        min(max(x - w // 2, 0), width),
        min(max(x + w // 2, 0), width),
    )


def inside(box: tuple[int, int, int, int], height: int, width: int) -> np.ndarray:
    """Bool [height,width], True in the box."""
    mask = np.zeros((height, width), bool)
    mask[box[0] : box[1], box[2] : box[3]] = True
    return mask


class Classification(Method):
    """Cross entropy of one network's logits [B,K] against soft targets.

    The targets are `label` (integers) smoothed, or `soft_label` [B,K] where the data set gives probabilities.

    Args:
        model: the classifier; its `num_classes` is K.
        loss: called as `loss(logits, batch)` with `soft_label`; default soft cross entropy.
        mixup: alpha of the Beta distribution mixup's share is drawn from; 0 is off.
        cutmix: likewise for cutmix.
        mix_probability: of mixing a batch at all.
        switch_probability: of cutmix where both are on.
        label_smoothing: share of a target that is spread over all classes.

    Raises:
        UserError: a number out of range, or a network without `num_classes`.
    """

    components = {"loss": "loss"}

    def __init__(
        self,
        model: nn.Layer,
        loss: nn.Layer | None = None,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        mix_probability: float = 1.0,
        switch_probability: float = 0.5,
        label_smoothing: float = 0.0,
    ):
        super().__init__()
        at_least(0, mixup=mixup, cutmix=cutmix)
        within(0, 1, below=True, label_smoothing=label_smoothing)
        within(0, 1, mix_probability=mix_probability, switch_probability=switch_probability)
        if not promises(model).num_classes:
            raise UserError(f"method: {type(model).__name__} has no num_classes, so it is no classifier")
        self.model = model
        self.loss = loss if loss is not None else SoftCrossEntropy()
        self.mixup = mixup
        self.cutmix = cutmix
        self.label_smoothing = label_smoothing
        self.mix_probability, self.switch_probability = mix_probability, switch_probability

    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Normalised images, mixed, and their `soft_label` [B,K]."""
        batch = super().prepare(batch)
        return self.mixed({**batch, "soft_label": self.targets(batch)})

    def targets(self, batch: dict[str, Any]) -> Tensor:
        """Probabilities [B,K] before mixing."""
        if "soft_label" in batch:
            return batch["soft_label"].astype("float32")
        return smoothed(batch["label"], self.model.num_classes, self.label_smoothing)

    def mixed(self, batch: dict[str, Any]) -> dict[str, Any]:
        """`image` and `soft_label` mixed with the batch in reverse order; draws from `self.rng`."""
        if not (self.mixup or self.cutmix) or self.rng.random() >= self.mix_probability:
            return batch
        image, target = batch["image"], batch["soft_label"]
        if self.cutmix and (not self.mixup or self.rng.random() < self.switch_probability):
            height, width = image.shape[2:]
            box = box_of_area(self.rng, height, width, 1.0 - self.rng.beta(self.cutmix, self.cutmix))
            mask = inside(box, height, width)
            image = paddle.where(to_device({"mask": mask[None, None]})["mask"], image.flip(0), image)
            share = 1.0 - float(mask.mean())
        else:
            share = float(self.rng.beta(self.mixup, self.mixup))
            image = image * share + image.flip(0) * (1.0 - share)
        return {**batch, "image": image, "soft_label": target * share + target.flip(0) * (1.0 - share)}

    def normaliser(self, phase: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        return loss_promises(self.loss).normaliser(batch)

    def losses(self, phase: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {"main": self.loss(self.model(batch["image"]), batch)}


class TokenLabelling(Classification):
    """Adds the loss of a token head against a label for every token of the last stage, and MixToken.

    Labels come with the batch, as `token_label` [B,T,T] (classes, not moved by transforms) or, predicted by a stronger
    network, as `token_ids` and `token_scores` [B,n,h,w]: the n best classes and their scores at each place of a map
    over the original image. The map is read at the places the transforms brought the tokens from, so crops and flips
    move it exactly.

    Args:
        model: offers `embed`, `tokens`, `classify`, `num_features` and `num_classes` (MAFormer).
        beta: weight of the token loss. LV-ViT's code uses 1, its paper 0.5.
        mix_token: paste a box of tokens of another image after the stem; takes the place of mixup and cutmix.
        label_smoothing: of image and token labels.
    """

    def __init__(self, model: nn.Layer, beta: float = 0.5, mix_token: bool = True, label_smoothing: float = 0.1):
        at_least(0, beta=beta)
        super().__init__(model, label_smoothing=label_smoothing)
        if not promises(model).offers("embed", "tokens", "classify", "num_features"):
            raise UserError(f"method: {type(model).__name__} has no tokens to label (MAFormer has)")
        self.beta, self.mix_token = beta, mix_token
        # A network that votes with its tokens owns the head; otherwise it exists only while training.
        owned = promises(model).token_head is not None
        self.token_head = None if owned else nn.Linear(model.num_features, model.num_classes)

    def losses(self, phase: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        model, target = self.model, batch["soft_label"]
        x_BHWC = model.embed(batch["image"])
        box, sides = None, self.final_sides(x_BHWC.shape[1:3])
        if self.mix_token:
            box = box_of_area(self.rng, *sides, 1.0 - self.rng.beta(1.0, 1.0))
            mask = inside(box, *sides)
            grown = mask.repeat(-(-x_BHWC.shape[1] // sides[0]), 0).repeat(-(-x_BHWC.shape[2] // sides[1]), 1)
            x_BHWC = swapped(x_BHWC, grown[: x_BHWC.shape[1], : x_BHWC.shape[2]])
            share = 1.0 - float(mask.mean())
            target = target * share + target.flip(0) * (1.0 - share)
        tokens_BLC = model.tokens(x_BHWC)
        head = model.token_head if self.token_head is None else self.token_head
        logits_BHWK = head(tokens_BLC).reshape([0, *sides, model.num_classes])
        if box is not None:
            logits_BHWK = swapped(logits_BHWK, inside(box, *sides))
        token_target = self.token_targets(batch, sides)
        return {
            "class": self.loss(model.classify(tokens_BLC), {**batch, "soft_label": target}),
            "token": self.beta * self.loss(logits_BHWK, {**batch, "soft_label": token_target}),
        }

    def final_sides(self, sides: list[int]) -> tuple[int, int]:
        """Height and width of the last stage for those of the stem: every merge halves and rounds up."""
        h, w = sides
        for _ in range(len(self.model.feature_strides) - 1):
            h, w = (h + 1) // 2, (w + 1) // 2
        return h, w

    def token_targets(self, batch: dict[str, Any], sides: tuple[int, int]) -> Tensor:
        """Probabilities [B,T,T,K].

        Raises:
            UserError: the batch has no token labels, or labels of another grid.
        """
        num_classes = self.model.num_classes
        if "token_label" in batch:
            if tuple(batch["token_label"].shape[1:]) != sides:
                have = list(batch["token_label"].shape[1:])
                raise UserError(f"token_labelling: labels are {have}, the last stage has {list(sides)} tokens")
            return smoothed(batch["token_label"], num_classes, self.label_smoothing)
        if "token_ids" not in batch:
            raise UserError("token_labelling: the data set gives no token labels (data.train.label_maps of list_file)")
        dense = dense_scores(batch["token_ids"], batch["token_scores"], num_classes)
        height, width = batch["image"].shape[2:]
        scores = read_at(dense, batch["geometry"], batch["size"], sides, (height, width))
        hard = F.softmax(scores, axis=-1)
        return hard * (1.0 - self.label_smoothing) + self.label_smoothing / num_classes


def swapped(x_BHWC: Tensor, mask: np.ndarray) -> Tensor:
    """Where `mask` [H,W] is True the values come from the batch in reverse order; twice is nothing."""
    return paddle.where(to_device({"mask": mask[None, :, :, None]})["mask"], x_BHWC.flip(0), x_BHWC)


def dense_scores(ids: Tensor, scores: Tensor, num_classes: int) -> Tensor:
    """[B,n,h,w] class numbers and scores -> [B,num_classes,h,w], 0 for classes that are not named."""
    b, _, h, w = ids.shape
    empty = paddle.zeros([b, num_classes, h, w], "float32")
    return paddle.put_along_axis(empty, ids.astype("int64"), scores.astype("float32"), axis=1)


def read_at(
    dense: Tensor, geometry: Tensor, size: Tensor, sides: tuple[int, int], image: tuple[int, int], samples: int = 2
) -> Tensor:
    """Means of a map over the original image in the cells of the transformed one (RoIAlign under any affine map).

    Args:
        dense: [B,K,h,w] over the original image.
        geometry: [B,3,3], coordinates in the original image -> in the transformed one.
        size: [B,2] height and width of the original image.
        sides: rows and columns of cells.
        image: height and width of the transformed image.
        samples: points per side of a cell.

    Returns:
        [B,rows,columns,K].
    """
    rows, columns = sides[0] * samples, sides[1] * samples
    y = (paddle.arange(rows, dtype="float32") + 0.5) * (image[0] / rows)
    x = (paddle.arange(columns, dtype="float32") + 0.5) * (image[1] / columns)
    y, x = (g.flatten() for g in paddle.meshgrid(y, x))
    back = paddle.inverse(geometry.astype("float64")).astype("float32")
    points = paddle.matmul(back, paddle.stack([x, y, paddle.ones_like(x)]).unsqueeze(0).expand([back.shape[0], 3, -1]))
    side = size.astype("float32")
    grid = paddle.stack([2 * points[:, 0] / side[:, 1:] - 1, 2 * points[:, 1] / side[:, :1] - 1], axis=-1)
    grid = grid.reshape([-1, rows, columns, 2])
    read = F.grid_sample(dense, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return F.avg_pool2d(read, samples, samples).transpose([0, 2, 3, 1])
