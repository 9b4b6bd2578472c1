"""Against loops over single predictions and objects; `test_against_transformers.py` compares with upstream."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest
from scipy.optimize import linear_sum_assignment

from ppvision.errors import ArgumentError, RunError, UserError
from ppvision.losses.detection import Matcher, Predictions, SetLoss, Targets, focal_cost, sigmoid_focal

SIZE = np.array([[40, 80], [64, 64], [20, 20]])  # height and width of three pictures
COUNTS = (3, 0, 2)


def batch_of(counts=COUNTS, seed=0, crowd=(), classes=4):
    """A collated batch of objects; `crowd` are rows that are crowds."""
    rng = np.random.default_rng(seed)
    total = sum(counts)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype("int64")
    low = rng.uniform(0, 10, (total, 2))
    flags = np.isin(np.arange(total), crowd)
    arrays = {
        "boxes": np.concatenate([low, low + rng.uniform(2, 9, (total, 2))], 1).astype("float32"),
        "classes": rng.integers(0, classes, total),
        "crowd": flags,
        "boxes_offsets": offsets,
        "inner": SIZE[: len(counts)].astype("int32"),
    }
    tensors = {k: paddle.to_tensor(v) if v.size else paddle.zeros(v.shape, str(v.dtype)) for k, v in arrays.items()}
    return {**tensors, "name": [f"{i}.jpg" for i in range(len(counts))]}


def layers_of(num_layers=2, batch=3, count=8, classes=4, seed=1):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (num_layers, batch, count, classes)).astype("float32")
    boxes = rng.uniform(0.1, 0.9, (num_layers, batch, count, 4)).astype("float32")
    return [(paddle.to_tensor(x), paddle.to_tensor(y)) for x, y in zip(logits, boxes)]


def focal(x: float, present: bool) -> float:
    """By the book, in float64."""
    p = 1 / (1 + math.exp(-x))
    return -0.25 * (1 - p) ** 2 * math.log(p) if present else -0.75 * p**2 * math.log(1 - p)


def overlap(a, b) -> float:
    """GIoU of two cxcywh."""
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = ((x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in (a, b))
    shared = max(min(ax1, bx1) - max(ax0, bx0), 0) * max(min(ay1, by1) - max(ay0, by0), 0)
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - shared
    hull = (max(ax1, bx1) - min(ax0, bx0)) * (max(ay1, by1) - min(ay0, by0))
    return shared / union - (hull - union) / hull


class TestTargets:
    def test_boxes_are_relative_to_the_picture_without_padding(self):
        batch = batch_of()
        targets = Targets.of(batch)
        assert targets.boxes.shape == [3, 3, 4]
        assert targets.counts.tolist() == list(COUNTS) and targets.total == 5
        x0, y0, x1, y1 = batch["boxes"].numpy()[4]
        expected = [(x0 + x1) / 40, (y0 + y1) / 40, (x1 - x0) / 20, (y1 - y0) / 20]  # the last picture is 20x20
        np.testing.assert_allclose(targets.boxes[2, 1].numpy(), expected, rtol=1e-6)
        x0, y0, x1, y1 = batch["boxes"].numpy()[0]
        np.testing.assert_allclose(targets.boxes[0, 0].numpy()[2:], [(x1 - x0) / 80, (y1 - y0) / 40], rtol=1e-6)
        assert targets.labels[0].tolist() == batch["classes"].numpy()[:3].tolist()
        np.testing.assert_array_equal(targets.labels, targets.classes.numpy())
        assert targets.boxes[1, 2].tolist() == [0.5, 0.5, 1.0, 1.0]
        assert targets.names == ["0.jpg", "1.jpg", "2.jpg"]

    def test_crowds_are_left_out(self):
        whole, without = Targets.of(batch_of()), Targets.of(batch_of(crowd=[0, 4]))
        assert without.counts.tolist() == [2, 0, 1]
        np.testing.assert_array_equal(without.boxes[0, :2].numpy(), whole.boxes[0, 1:].numpy())
        np.testing.assert_array_equal(without.labels[0, :2], whole.labels[0, 1:])

    @pytest.mark.parametrize("kind", ["no boxes", "crowds only"])
    def test_nothing_to_find(self, kind):
        targets = Targets.of(batch_of((0, 0)) if kind == "no boxes" else batch_of((2, 1), crowd=[0, 1, 2]))
        assert targets.total == 0 and targets.boxes.shape[1] >= 1 and np.isfinite(targets.boxes.numpy()).all()

    def test_a_data_set_without_boxes_is_refused(self):
        with pytest.raises(UserError, match="trained on boxes and classes"):
            Targets.of({"image": paddle.zeros([1, 3, 8, 8])})


class TestFocal:
    def test_by_the_book(self):
        x = np.array([-6.0, -1.0, 0.0, 0.5, 4.0], "float32")
        for present in (True, False):
            ours = sigmoid_focal(paddle.to_tensor(x), present).numpy()
            np.testing.assert_allclose(ours, [focal(float(v), present) for v in x], rtol=1e-4)
        cost = focal_cost(paddle.to_tensor(x)).numpy()
        np.testing.assert_allclose(cost, [focal(float(v), True) - focal(float(v), False) for v in x], rtol=1e-4)

    def test_extremes_are_finite(self):
        x = paddle.to_tensor([-1e4, 1e4], stop_gradient=False)
        total = sigmoid_focal(x, True).sum() + sigmoid_focal(x, False).sum()
        total.backward()
        assert np.isfinite(total.item()) and np.isfinite(x.grad.numpy()).all()
        assert np.isfinite(focal_cost(x).numpy()).all()


class TestMatcher:
    def test_costs(self):
        targets, layers = Targets.of(batch_of()), layers_of()
        cost = Matcher(1.5, 4.0, 3.0).costs(Predictions.of(layers), targets).numpy()
        logits, boxes = layers[1][0].numpy(), layers[1][1].numpy()
        for b, n, g in ((0, 0, 0), (0, 7, 2), (2, 3, 1)):
            x, box, target = float(logits[b, n, targets.labels[b, g]]), boxes[b, n], targets.boxes[b, g].numpy()
            expected = 1.5 * (focal(x, True) - focal(x, False)) + 4 * np.abs(box - target).sum()
            assert cost[1, b, n, g] == pytest.approx(expected - 3 * overlap(box, target), rel=1e-4)

    def test_every_object_once_in_each_group(self):
        targets = Targets.of(batch_of())
        predictions = Predictions.of(layers_of(count=12), groups=3)
        matcher = Matcher()
        (matches,) = matcher([predictions], targets)
        cost = matcher.costs(predictions, targets).numpy()
        assert matches.rows.shape == (2, 3 * 5)
        for layer in range(2):
            image, place = np.divmod(matches.rows[layer], 12)
            owner, found = np.divmod(matches.columns[layer], 3)
            assert (image == owner).all()
            pairs = sorted(zip(image, place // 4, found))
            assert pairs == sorted((b, g, n) for b, count in enumerate(COUNTS) for g in range(3) for n in range(count))
            np.testing.assert_array_equal(matches.classes[layer], targets.labels[owner, found])
            for b, count in enumerate(COUNTS):  # no exchange of two objects of a group is cheaper
                for g in range(3):
                    chosen = {f: p for i, p, f in zip(image, place, found) if i == b and p // 4 == g}
                    best = sum(cost[layer, b, p, f] for f, p in chosen.items())
                    for f in range(count - 1):
                        other = {**chosen, f: chosen[f + 1], f + 1: chosen[f]}
                        assert sum(cost[layer, b, p, k] for k, p in other.items()) >= best - 1e-6

    def test_more_objects_than_predictions(self):
        (matches,) = Matcher()([Predictions.of(layers_of(count=2))], Targets.of(batch_of()))
        assert matches.rows.shape == (2, 2 + 0 + 2)

    def test_several_predictions_for_each_object(self):
        targets = Targets.of(batch_of())
        predictions, matcher = Predictions.of(layers_of(count=8)), Matcher(per_object=2)
        (matches,) = matcher([predictions], targets)
        cost = matcher.costs(predictions, targets).numpy()
        for layer in range(2):
            assert len(set(matches.rows[layer])) == 2 * targets.total
            assert (np.unique(matches.columns[layer], return_counts=True)[1] == 2).all()
            chosen = sum(
                cost[layer, row // 8, row % 8, column % 3]
                for row, column in zip(matches.rows[layer], matches.columns[layer])
            )
            doubled = [np.repeat(cost[layer, b, :, :n], 2, axis=1) for b, n in enumerate(COUNTS)]
            assert chosen == pytest.approx(sum(c[linear_sum_assignment(c)].sum() for c in doubled), rel=1e-5)

    def test_binary_proposals_are_all_of_class_0(self):
        logits, boxes = layers_of(1, classes=1)[0]
        (matches,) = Matcher()([Predictions.of_groups([(logits, boxes)], binary=True)], Targets.of(batch_of()))
        assert matches.rows.size == 5 and not matches.classes.any()

    @pytest.mark.parametrize("what", ["logits", "boxes"])
    @pytest.mark.parametrize("image", [1, 2])
    def test_a_cost_that_is_not_finite_names_the_picture(self, what, image):
        layers = layers_of()
        broken = layers[1][0 if what == "logits" else 1]
        broken[image, 3, 0 if what == "boxes" else slice(None)] = float("nan")
        with pytest.raises(RunError, match=rf"^{image}\.jpg: the predictions are not finite"):
            SetLoss()(layers, Targets.of(batch_of()), 5.0)

    def test_one_copy_to_the_host(self, monkeypatch):
        copies = []
        targets, layers = Targets.of(batch_of()), layers_of()
        original = paddle.Tensor.numpy
        monkeypatch.setattr(paddle.Tensor, "numpy", lambda self: (copies.append(self.shape), original(self))[1])
        Matcher()([Predictions.of(layers), Predictions.of_groups(layers_of(1, count=20, seed=3))], targets)
        assert copies == [[2 * 3 * 8 * 3 + 3 * 20 * 3]]


class TestSetLoss:
    def test_against_loops(self):
        targets, layers = Targets.of(batch_of()), layers_of(3, count=12)
        loss = SetLoss(class_weight=3.0, l1_weight=0.5, giou_weight=0.25)
        terms = {k: v.item() for k, v in loss(layers, targets, 5.0, groups=2).items()}
        (matches,) = loss.matcher([Predictions.of(layers, 2)], targets)
        expected = {f"{part}/{term}": 0.0 for part in ("main", "aux") for term in ("cls", "l1", "giou")}
        for name, layer in (("aux", 0), ("aux", 1), ("main", 2)):
            logits, boxes = layers[layer][0].numpy(), layers[layer][1].numpy()
            matched = dict(zip(matches.rows[layer], zip(matches.columns[layer], matches.classes[layer])))
            for row in range(3 * 12):
                b, n = divmod(row, 12)
                column, label = matched.get(row, (None, None))
                cls = sum(focal(float(x), k == label) for k, x in enumerate(logits[b, n]))
                expected[f"{name}/cls"] += 3.0 * cls / 10
                if column is not None:
                    target = targets.boxes[column // 3, column % 3].numpy()
                    expected[f"{name}/l1"] += 0.5 * np.abs(boxes[b, n] - target).sum() / 10
                    expected[f"{name}/giou"] += 0.25 * (1 - overlap(boxes[b, n], target)) / 10
        assert terms == pytest.approx(expected, rel=1e-4)

    def test_groups_are_averaged(self):
        targets = Targets.of(batch_of())
        one, two = layers_of(seed=1), layers_of(seed=2)
        both = [tuple(paddle.concat(p, axis=1) for p in zip(a, b)) for a, b in zip(one, two)]
        loss = SetLoss()
        joint = loss(both, targets, 5.0, groups=2)
        apart = [loss(layers, targets, 5.0) for layers in (one, two)]
        for key, value in joint.items():
            assert value.item() == pytest.approx((apart[0][key].item() + apart[1][key].item()) / 2, rel=1e-5)

    def test_proposals(self):
        targets, layers = Targets.of(batch_of()), layers_of()
        proposed = layers_of(1, count=9, classes=1, seed=5)[0]
        terms = SetLoss()(layers, targets, 5.0, proposals=Predictions.of_groups([proposed], binary=True))
        assert set(terms) == {f"{part}/{term}" for part in ("main", "aux", "enc") for term in ("cls", "l1", "giou")}
        binary = Targets(targets.boxes, targets.classes * 0, targets.counts, targets.labels * 0, targets.names)
        alone = SetLoss()([proposed], binary, 5.0)
        for term in ("cls", "l1", "giou"):
            assert terms[f"enc/{term}"].item() == pytest.approx(alone[f"main/{term}"].item(), rel=1e-6)

    def test_without_objects_only_the_background_is_learnt_and_all_get_a_gradient(self):
        layers = layers_of(batch=2)
        for pair in layers:
            for x in pair:
                x.stop_gradient = False
        terms = SetLoss()(layers, Targets.of(batch_of((0, 0))), 0.0)
        sum(terms.values()).backward()
        expected = sum(focal(float(x), False) for x in layers[1][0].numpy().flatten())
        assert terms["main/cls"].item() == pytest.approx(expected, rel=1e-4)
        assert terms["main/l1"].item() == terms["aux/giou"].item() == 0
        for logits, boxes in layers:
            assert logits.grad.numpy().any() and not boxes.grad.numpy().any()

    def test_more_classes_in_the_data_than_in_the_network(self):
        targets = Targets.of(batch_of())
        assert targets.labels.max() >= 1
        with pytest.raises(UserError, match=r"class \d in the data, but the network has 1 classes"):
            SetLoss()(layers_of(classes=1), targets, 5.0)

    @pytest.mark.parametrize(
        "wrong", [{"alpha": 1.5}, {"l1_weight": -1}, {"per_object": 0}, dict(cost_class=0, cost_l1=0, cost_giou=0)]
    )
    def test_refuses_arguments(self, wrong):
        with pytest.raises(ArgumentError, match=next(iter(wrong))):
            SetLoss(**wrong)
