"""Assignment of anchors and dense losses against loops."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from ppvision.errors import UserError
from ppvision.losses.dense_detection import DenseLoss
from ppvision.losses.detection import Targets
from ppvision.nn.anchors import Dense, grid_anchors


def boxes_of(counts, seed=0):
    """cxcywh [B,G,4], padded with the whole picture, as `Targets` are."""
    rng = np.random.default_rng(seed)
    boxes = np.tile(np.array([0.5, 0.5, 1.0, 1.0]), (len(counts), max(*counts, 1), 1))
    for i, count in enumerate(counts):
        boxes[i, :count] = np.concatenate([rng.uniform(0.2, 0.8, (count, 2)), rng.uniform(0.08, 0.6, (count, 2))], 1)
    return boxes.astype("float32")


def iou(a, b):
    low = [max(a[k] - a[k + 2] / 2, b[k] - b[k + 2] / 2) for k in (0, 1)]
    high = [min(a[k] + a[k + 2] / 2, b[k] + b[k + 2] / 2) for k in (0, 1)]
    shared = max(high[0] - low[0], 0) * max(high[1] - low[1], 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def assigned_by_hand(anchors, boxes, count, positive=0.5, negative=0.4):
    table = np.array([[iou(a, b) for a in anchors] for b in boxes[:count]]).reshape(count, len(anchors))
    out = np.full(len(anchors), -1)
    for a in range(len(anchors)) if count else ():
        best = table[:, a].argmax()
        out[a] = best if table[best, a] >= positive else -1 if table[best, a] < negative else -2
    owner = {}
    for g in range(count):
        a = table[g].argmax()
        if table[g, a] > 0 and (a not in owner or table[g, a] > table[owner[a], a]):
            owner[a] = g
    for a, g in owner.items():
        out[a] = g
    return out


# a little out of place: anchors inside one object overlap it equally, and a loop may then choose another one
ANCHORS = grid_anchors([(5, 7), (3, 4)], (8, 16), (40, 56), 1.5, (0.5, 1.0, 2.0), 2)
ANCHORS = ANCHORS * paddle.to_tensor(np.random.default_rng(9).uniform(0.95, 1.05, ANCHORS.shape).astype("float32"))


def case(counts, classes=3, seed=0):
    rng = np.random.default_rng(seed + 1)
    boxes = boxes_of(counts, seed)
    labels = rng.integers(0, classes, boxes.shape[:2])
    targets = Targets(paddle.to_tensor(boxes), paddle.to_tensor(labels), np.array(counts), labels)
    shape = [len(counts), len(ANCHORS)]
    logits, deltas = (rng.standard_normal([*shape, n]).astype("float32") for n in (classes, 4))
    return targets, Dense(paddle.to_tensor(logits), paddle.to_tensor(deltas), ANCHORS)


def terms_of(loss, targets, predictions, divisor=None):
    assigned = loss.assign(predictions.anchors, targets.boxes, targets.counts)
    divisor = (assigned >= 0).sum().item() if divisor is None else divisor
    return {
        k: v.item() for k, v in loss(predictions, targets.boxes, targets, assigned, divisor).items()
    }, assigned.numpy()


@pytest.mark.parametrize("counts", [(3, 0, 5), (0, 0), (1, 6)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_assignment_against_loops(counts, seed):
    boxes = boxes_of(counts, seed)
    ours = DenseLoss().assign(ANCHORS, paddle.to_tensor(boxes), np.array(counts)).numpy()
    for i, count in enumerate(counts):
        np.testing.assert_array_equal(ours[i], assigned_by_hand(ANCHORS.numpy(), boxes[i], count))
        assert set(range(count)) <= set(ours[i].tolist())  # no object goes without an anchor


def test_an_object_keeps_its_best_anchor_however_badly_it_fits():
    anchors = paddle.to_tensor([[0.2, 0.2, 0.1, 0.1], [0.8, 0.8, 0.1, 0.1], [0.5, 0.5, 0.1, 0.1]])
    boxes = paddle.to_tensor([[[0.24, 0.2, 0.1, 0.3], [0.2, 0.2, 0.1, 0.12], [0.05, 0.95, 0.01, 0.01]]])
    ours = DenseLoss().assign(anchors, boxes, np.array([3])).numpy()[0]
    # both first objects like anchor 0 best; the second overlaps it more; nothing overlaps the third
    assert ours.tolist() == [1, -1, -1]
    alone = DenseLoss().assign(anchors, boxes[:, :1], np.array([1])).numpy()[0]
    assert alone.tolist() == [0, -1, -1]


@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_terms_against_loops(beta):
    targets, predictions = case((3, 0, 4))
    loss = DenseLoss(class_weight=1.5, box_weight=0.5, alpha=0.3, gamma=1.5, beta=beta)
    terms, assigned = terms_of(loss, targets, predictions)
    logits, deltas, anchors = (x.numpy().astype("float64") for x in predictions)
    boxes = targets.boxes.numpy()
    classes = distance = 0.0
    for b in range(3):
        for a, g in enumerate(assigned[b]):
            if g == -2:
                continue
            for k in range(3):
                p = 1 / (1 + math.exp(-logits[b, a, k]))
                if g >= 0 and targets.labels[b, g] == k:
                    classes -= 0.3 * (1 - p) ** 1.5 * math.log(p)
                else:
                    classes -= 0.7 * p**1.5 * math.log(1 - p)
            if g >= 0:
                target_deltas = [(boxes[b, g, k] - anchors[a, k]) / anchors[a, k + 2] for k in (0, 1)]
                target_deltas += [math.log(boxes[b, g, k] / anchors[a, k]) for k in (2, 3)]
                for x in np.abs(deltas[b, a] - target_deltas):
                    distance += x if not beta else 0.5 * x * x / beta if x < beta else x - beta / 2
    positives = (assigned >= 0).sum()
    assert positives > 7 and (assigned == -2).any()
    assert terms["main/cls"] == pytest.approx(1.5 * classes / positives, rel=1e-4)
    assert terms["main/box"] == pytest.approx(0.5 * distance / positives, rel=1e-4)


def test_what_is_between_does_not_count():
    targets, predictions = case((3,))
    loss = DenseLoss()
    before, assigned = terms_of(loss, targets, predictions)
    for value, changes in ((-2, False), (-1, True)):
        logits = predictions.logits.numpy().copy()
        logits[0, np.flatnonzero(assigned[0] == value)[0]] += 3.0
        after, _ = terms_of(loss, targets, predictions._replace(logits=paddle.to_tensor(logits)))
        assert (abs(after["main/cls"] - before["main/cls"]) > 1e-4) == changes
        assert after["main/box"] == before["main/box"]


def test_nothing_to_see():
    """A batch without objects: background alone, a divisor of 1, and a gradient everywhere."""
    targets, predictions = case((0, 0))
    for x in predictions[:2]:
        x.stop_gradient = False
    loss = DenseLoss()
    assigned = loss.assign(predictions.anchors, targets.boxes, targets.counts)
    assert (assigned == -1).all().item()
    terms = loss(predictions, targets.boxes, targets, assigned, 0.0)
    assert terms["main/box"].item() == 0 and terms["main/cls"].item() > 0
    sum(terms.values()).backward()
    assert (
        predictions.deltas.grad is not None
        and (predictions.deltas.grad == 0).all().item()
        and predictions.logits.grad.any().item()
    )


def test_refusals():
    targets, predictions = case((2,))
    loss = DenseLoss()
    assigned = loss.assign(predictions.anchors, targets.boxes, targets.counts)
    with pytest.raises(UserError, match="answers at 282 anchors and names 100"):
        loss(predictions, targets.boxes, targets, assigned[:, :100], 1.0)
    with pytest.raises(UserError, match="but the network has 1 classes"):
        targets.labels[:] = 1
        loss(predictions._replace(logits=predictions.logits[..., :1]), targets.boxes, targets, assigned, 1.0)
    for key, value in (("negative", 0.6), ("alpha", 1.5), ("beta", -1.0), ("positive", 2.0)):
        with pytest.raises(UserError, match=f"'{key}'"):
            DenseLoss(**{key: value})
