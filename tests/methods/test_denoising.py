from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppvision.losses.detection import Predictions, SetLoss, Targets
from ppvision.methods.denoising import denoising_mask, denoising_terms, draw, num_denoising_groups, table
from ppvision.nn.boxes import cxcywh_to_xyxy, pairwise_iou
from tests.methods.detection_batches import batch_of


def targets_of(counts=(3, 0, 2), seed=0):
    return Targets.of(batch_of(counts, seed))


def rng(seed=0):
    return np.random.default_rng(seed)


def test_mask_of_two_objects_in_three_groups():
    mask = denoising_mask(2, 3, 2)
    noised = ["1111000000000", "0000111100000", "0000000011110"]
    expected = [[*row[:12], "1", "1"] for row in noised for _ in range(4)] + [["0"] * 12 + ["1", "1"]] * 2
    np.testing.assert_array_equal(mask, np.array(expected) == "1")


@pytest.mark.parametrize(("asked", "objects", "groups"), [(100, 7, 14), (100, 100, 1), (100, 101, 1), (5, 0, 5)])
def test_number_of_groups(asked, objects, groups):
    assert num_denoising_groups(asked, objects) == groups


class TestDraw:
    def test_places(self):
        """[copy][positive, negative][object]; padding is the last row of the table at the middle of the picture."""
        targets = targets_of()
        noised = draw(rng(), targets, 3, copies=2, label_noise=0.0, box_noise=0.0)
        assert noised.labels.shape == [3, 12] and noised.references.shape == [3, 12, 4]
        labels = noised.labels.numpy().reshape(3, 2, 2, 3)
        np.testing.assert_array_equal(labels[0], np.broadcast_to(targets.labels[0], (2, 2, 3)))
        assert (labels[1] == 3).all() and (labels[2, ..., 2] == 3).all()
        boxes = paddle.nn.functional.sigmoid(noised.references).numpy().reshape(3, 4, 3, 4)
        np.testing.assert_allclose(boxes[0], np.broadcast_to(targets.boxes[0].numpy(), (4, 3, 4)), atol=1e-5)
        np.testing.assert_array_equal(boxes[1], 0.5)

    def test_positives_are_near_and_negatives_are_not(self):
        targets = targets_of((6, 6, 6, 6), seed=3)
        noised = draw(rng(), targets, 3, copies=20)
        corners = cxcywh_to_xyxy(paddle.nn.functional.sigmoid(noised.references)).reshape([4, 20, 2, 5, 4]).numpy()
        exact = cxcywh_to_xyxy(targets.boxes).numpy()[:, None, None]
        size = np.tile(targets.boxes.numpy()[..., 2:], 2)[:, None, None]
        moved = np.abs(corners - exact) / (size / 2)
        inside = (corners > 1e-3) & (corners < 1 - 1e-3)  # where nothing was clipped
        assert moved[:, :, 0].max() <= 1.001 and moved[:, :, 0][inside[:, :, 0]].mean() == pytest.approx(0.5, abs=0.05)
        expected = np.broadcast_to(exact, corners.shape)
        overlap = np.diagonal(pairwise_iou(*(paddle.to_tensor(x.reshape(-1, 4)) for x in (corners, expected))).numpy())
        overlap = overlap.reshape(4, 20, 2, 5)
        assert overlap[:, :, 0].mean() > 2 * overlap[:, :, 1].mean()
        sides = corners[..., 2:] - corners[..., :2]
        assert (sides > 1e-3).mean() > 0.98  # a quarter of the negatives' corners cross
        assert (abs(corners - 0.5) <= 0.5001).all()

    def test_labels_are_noised_by_half_the_rate(self):
        targets = targets_of((5,) * 8)
        labels = draw(rng(), targets, 200, copies=40, label_noise=0.5).labels.numpy().reshape(8, 40, 2, 4)
        changed = (labels != targets.labels[:, None, None]).mean()
        assert changed == pytest.approx(0.25, abs=0.03) and labels.max() < 200

    def test_is_a_function_of_the_generator(self):
        a, b, c = (draw(rng(seed), targets_of(), 3, copies=2) for seed in (1, 1, 2))
        np.testing.assert_array_equal(a.references.numpy(), b.references.numpy())
        assert not np.array_equal(a.references.numpy(), c.references.numpy())


def test_queries_take_rows_of_the_table():
    classes = table(3, 8)
    noised = draw(rng(), targets_of(), 3, copies=1, label_noise=0.0)
    queries = noised.queries(classes.weight)
    rows = np.concatenate([classes.weight.numpy(), np.zeros((1, 8), "float32")])
    np.testing.assert_array_equal(queries.content.numpy(), rows[noised.labels.numpy()])


class TestTerms:
    def predictions(self, targets, copies, groups=2, layers=2):
        generator, count = rng(5), groups * copies * 2 * targets.labels.shape[1]
        logits = generator.normal(0, 1, (layers, 3, count, 3)).astype("float32")
        boxes = generator.uniform(0.2, 0.8, (layers, 3, count, 4)).astype("float32")
        return Predictions(paddle.to_tensor(logits), paddle.to_tensor(boxes), groups)

    def test_positives_learn_their_object_and_negatives_the_background(self):
        """Against a loop; what stands for padding counts nowhere."""
        targets, copies, loss = targets_of(), 2, SetLoss()
        predictions = self.predictions(targets, copies)
        terms = denoising_terms(loss, predictions, targets, copies, 5.0 * copies)
        logits, boxes = predictions.logits.numpy().astype("float64"), predictions.boxes.numpy()
        for name, layer in (("dn", 1), ("dn_aux", 0)):
            cls = l1 = 0.0
            for b in range(3):
                for n in range(logits.shape[2]):
                    place, negative = n % 3, n // 3 % 2
                    if place >= targets.counts[b]:
                        continue
                    p = 1 / (1 + np.exp(-logits[layer, b, n]))
                    present = np.arange(3) == targets.labels[b, place] if not negative else np.zeros(3, bool)
                    cls += np.where(present, -0.25 * (1 - p) ** 2 * np.log(p), -0.75 * p**2 * np.log(1 - p)).sum()
                    if not negative:
                        l1 += np.abs(boxes[layer, b, n] - targets.boxes[b, place].numpy()).sum()
            divisor = 5 * copies * 2
            assert terms[f"{name}/cls"].item() == pytest.approx(cls / divisor, rel=1e-4)
            assert terms[f"{name}/l1"].item() == pytest.approx(5 * l1 / divisor, rel=1e-4)
        assert set(terms) == {f"{a}/{b}" for a in ("dn", "dn_aux") for b in ("cls", "l1", "giou")}

    def test_perfect_answers_cost_nothing(self):
        targets, copies = targets_of(), 1
        shape = (1, 3, 2 * 3)
        boxes = np.tile(targets.boxes.numpy(), (1, 2, 1))[None]
        logits = np.full((*shape, 3), -20.0, "float32")
        for b in range(3):
            for n in range(targets.counts[b]):
                logits[0, b, n, targets.labels[b, n]] = 20.0
        predictions = Predictions(paddle.to_tensor(logits), paddle.to_tensor(boxes), 1)
        terms = denoising_terms(SetLoss(), predictions, targets, copies, 5.0)
        assert all(abs(v.item()) < 1e-5 for v in terms.values())
        logits[0, 0, 3, 0] = 20.0  # a negative that is taken for an object
        predictions = Predictions(paddle.to_tensor(logits), paddle.to_tensor(boxes), 1)
        assert denoising_terms(SetLoss(), predictions, targets, copies, 5.0)["dn/cls"].item() > 1
