"""Contrastive denoising: besides finding objects, the decoder repairs noised ones, and rejects those too far off.

Papers:   F. Li et al., "DN-DETR", arXiv:2203.01305; H. Zhang et al., "DINO", arXiv:2203.03605 (contrastive).
Checked:  mask, counts and noise statistics (tests/methods/test_denoising.py).
Deviates: objects are padded to the largest number in the batch with a query of zeros in the middle of the picture;
          upstream does so too, but puts its box at the corner. The divisor is the number of noised objects of all
          micro-batches and ranks, where upstream takes the local one. Corners of a negative that cross are swapped;
          upstream's box has a side of zero then, by which DAB-DETR would divide.

A denoising group holds each object twice: noised slightly (positive, to be repaired) and by more than the box's half
(negative, to be rejected). Names of axes: B batch, G objects (padded), R denoising groups, D = 2 R G queries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import paddle
from paddle import Tensor, nn

from ppvision.device import tensor_of
from ppvision.losses.detection import Matches, Predictions, SetLoss, Targets, objects
from ppvision.models.queries import QuerySet
from ppvision.nn.boxes import cxcywh_to_xyxy, inverse_sigmoid, xyxy_to_cxcywh

__all__ = ["Noised", "denoising_mask", "draw", "num_denoising_groups", "table"]


@dataclass
class Noised:
    """Noised objects of a batch.

    Attributes:
        labels: int64 [B,D], row of a class table; K, the last, for padding.
        references: [B,D,4], boxes as logits.
        copies: denoising groups R.
    """

    labels: Tensor
    references: Tensor
    copies: int

    def queries(self, classes: Tensor) -> QuerySet:
        """As queries; `classes` [K,d] is a class table."""
        rows = paddle.concat([classes, paddle.zeros([1, classes.shape[1]], dtype=classes.dtype)])
        content = paddle.gather(rows, self.labels.flatten()).reshape([*self.labels.shape, classes.shape[1]])
        return QuerySet(self.references, content)


def table(num_classes: int, dim: int) -> nn.Embedding:
    """A class table [K,d], standard normal."""
    return nn.Embedding(num_classes, dim, weight_attr=paddle.ParamAttr(initializer=nn.initializer.Normal()))


def num_denoising_groups(num_denoising: int, num_objects: int) -> int:
    """How many groups of `num_objects` positives `num_denoising` allows; at least 1."""
    return max(1, num_denoising // max(num_objects, 1))


def draw(
    rng: np.random.Generator,
    targets: Targets,
    num_classes: int,
    copies: int,
    label_noise: float = 0.5,
    box_noise: float = 1.0,
) -> Noised:
    """Noised objects in the order [copy][positive, negative][object].

    Args:
        rng: of all draws.
        targets: the objects.
        num_classes: K; a class is replaced by any of them.
        copies: denoising groups.
        label_noise: half of it is the probability that a class is replaced.
        box_noise: how far a corner of a positive moves at most, in half sides of its box; a negative's moves once to
            twice as far.
    """
    batch, padded = targets.labels.shape
    shape = (batch, copies, 2, padded)
    real = np.broadcast_to((np.arange(padded) < targets.counts[:, None])[:, None, None], shape)
    labels = np.broadcast_to(targets.labels[:, None, None], shape)
    labels = np.where(rng.random(shape) < label_noise * 0.5, rng.integers(num_classes, size=shape), labels)
    labels = np.where(real, labels, num_classes)
    sign = np.where(rng.random((*shape, 4)) < 0.5, -1.0, 1.0)
    magnitude = rng.random((*shape, 4)) + np.arange(2)[:, None, None]
    noise = (sign * magnitude * box_noise * real[..., None]).reshape(batch, -1, 4).astype(np.float32)
    boxes = targets.boxes.tile([1, 2 * copies, 1])
    corners = cxcywh_to_xyxy(boxes) + tensor_of(noise) * boxes[..., 2:].tile([1, 1, 2]) * 0.5
    corners = corners.clip(0.0, 1.0)
    first, second = corners[..., :2], corners[..., 2:]
    ordered = paddle.concat([paddle.minimum(first, second), paddle.maximum(first, second)], axis=-1)
    references = inverse_sigmoid(xyxy_to_cxcywh(ordered))
    centre = tensor_of(real.reshape(batch, -1, 1).astype(np.float32))
    return Noised(tensor_of(labels.reshape(batch, -1)), references * centre, copies)


def denoising_mask(num_objects: int, copies: int, num_queries: int) -> np.ndarray:
    """bool [D+N,D+N], True where a query may attend: a denoising group sees itself and the matching queries behind
    the noised ones; those see each other only.
    """
    size = 2 * num_objects
    noised = size * copies
    mask = np.zeros((noised + num_queries,) * 2, bool)
    mask[:, noised:] = True
    for i in range(copies):
        mask[i * size : (i + 1) * size, i * size : (i + 1) * size] = True
    return mask


def denoising_terms(
    loss: SetLoss, layers: Predictions, targets: Targets, copies: int, num_noised: Tensor | float
) -> dict[str, Tensor]:
    """Weighted terms `dn/*` of the last layer and `dn_aux/*` of the others.

    Args:
        loss: gives weights and focal parameters.
        layers: answers to the noised queries of all groups, [L,B,groups*D,...].
        targets: the objects.
        copies: denoising groups.
        num_noised: number of positives of one group of queries, at least 1 is taken.
    """
    num_layers, batch, count, num_classes = layers.logits.shape
    groups, padded = layers.groups, targets.labels.shape[1]
    shape = (batch, groups, copies, 2, padded)
    real = np.broadcast_to((np.arange(padded) < targets.counts[:, None])[:, None, None, None], shape)
    rows = np.flatnonzero(real & (np.arange(2)[:, None] == 0))
    columns = rows // count * padded + rows % padded
    classes = targets.labels.reshape(-1)[columns]
    matches = Matches(*(np.tile(x, (num_layers, 1)) for x in (rows, columns, classes)))
    counted = tensor_of(real.reshape(batch, count, 1).astype(np.float32))
    divisor = objects(num_noised) * groups
    terms = {}
    for name, value_L in loss.sums(layers, targets, matches, counted).items():
        value_L = loss.weights[name] / divisor * value_L
        terms[f"dn/{name}"] = value_L[-1]
        if num_layers > 1:
            terms[f"dn_aux/{name}"] = value_L[:-1].sum()
    return terms
