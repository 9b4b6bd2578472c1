"""Training at anchors: what the terms are, exact accumulation, padding, crowds, and that it learns."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

import ppvision
from ppvision.engine.optimizer import SGD
from ppvision.errors import UserError
from ppvision.losses.dense_detection import DenseLoss
from ppvision.methods.dense_detection import DenseDetection
from tests.methods.detection_batches import batch_of, part
from tests.methods.detectors import terms_of, trainer_of, weights_of
from tests.nets import Net


def network(seed=0, **options):
    paddle.seed(seed)
    return ppvision.create_model("retinanet_debug", num_classes=3, **options)


def test_terms_are_those_of_the_loss():
    method, batch = DenseDetection(network()), batch_of()
    terms = terms_of(method, batch)
    assert set(terms) == {"main/cls", "main/box"}
    assert all(v.ndim == 0 and v.dtype == paddle.float32 and v.item() > 0 for v in terms.values())
    prepared = method.prepare(batch)
    targets, assigned = prepared["targets"], prepared["assigned"]
    np.testing.assert_array_equal(prepared["canvas_boxes"].numpy(), targets.boxes.numpy())  # nothing is padded
    positives = (assigned.numpy() >= 0).sum()
    assert method.normaliser("main", prepared)["num_positives"].item() == positives > 5
    predictions = method.model.dense(prepared["image"])
    other = method.loss(predictions, targets.boxes, targets, assigned, float(positives))
    assert {k: v.item() for k, v in other.items()} == {k: v.item() for k, v in terms.items()}


def test_updates_lower_the_loss_and_change_every_parameter():
    warnings = []
    trainer = trainer_of(DenseDetection(network()), warn=warnings.append)
    batch, before = batch_of((2, 1, 3)), weights_of(trainer.method)
    logs = [trainer.update([batch]) for _ in range(6)]
    assert not warnings and logs[-1]["loss"] < logs[0]["loss"]
    learnt = [k for k, p in trainer.method.named_parameters() if not p.stop_gradient]
    assert not [k for k in learnt if np.array_equal(before[k], weights_of(trainer.method)[k])]


def test_accumulation_with_unequal_numbers_of_objects_equals_one_batch():
    """5, 0, 1 and 2 objects (one of the 5 a crowd), in one batch and in two."""
    batch, states, logs = batch_of((5, 0, 1, 2)), [], []
    for cuts in ((0, 4), (0, 2, 4)):
        trainer = trainer_of(DenseDetection(network()), SGD, lr=0.05)
        logs.append(trainer.update([part(batch, a, b) for a, b in zip(cuts, cuts[1:])]))
        states.append(weights_of(trainer.method))
    assert logs[0] == pytest.approx(logs[1], rel=2e-4, abs=1e-5)
    for key, value in states[0].items():
        np.testing.assert_allclose(value, states[1][key], atol=2e-5, err_msg=key)


def test_a_batch_without_objects():
    trainer = trainer_of(DenseDetection(network()))
    logs = trainer.update([batch_of((0, 0))])
    assert logs["main/box"] == 0 and 0 < logs["main/cls"] < 100 and trainer.skipped == 0


def test_crowds_are_left_out():
    method, with_crowd, without = DenseDetection(network()), batch_of((4, 1)), batch_of((4, 1))
    keep = paddle.to_tensor([0, 1, 2, 4])
    for key in ("boxes", "classes", "crowd"):
        without[key] = paddle.gather(without[key], keep)
    without["boxes_offsets"] = paddle.to_tensor([0, 3, 4])
    a, b = (terms_of(method, batch) for batch in (with_crowd, without))
    assert {k: v.item() for k, v in a.items()} == {k: v.item() for k, v in b.items()}


def test_targets_are_where_the_picture_is_on_its_canvas():
    """The same pictures at the corner of a larger canvas: in pixels the same boxes, and the same anchors stand for
    them.
    """
    batch = batch_of((2, 1))
    padded = {**batch, "image": paddle.nn.functional.pad(batch["image"].astype("float32"), [0, 0, 0, 32, 0, 64, 0, 0])}
    padded["image"] = padded["image"].astype("uint8")
    padded["valid"] = paddle.zeros([2, 96, 128], "bool")
    padded["valid"][:, :64, :64] = True
    method = DenseDetection(network())
    alone, corner = (method.prepare(b) for b in (batch, padded))
    np.testing.assert_allclose(
        corner["canvas_boxes"].numpy()[1, 0] * [128, 96, 128, 96], alone["canvas_boxes"].numpy()[1, 0] * 64, rtol=1e-5
    )
    stands = []
    for prepared, size in ((alone, (64, 64)), (corner, (96, 128))):
        anchors = method.model.anchors(*size).numpy() * np.array([size[1], size[0]] * 2)
        assigned = prepared["assigned"].numpy()
        rows = [(i, *np.round(anchors[a], 3), assigned[i, a]) for i, a in zip(*np.nonzero(assigned >= 0))]
        stands.append({tuple(map(float, row)) for row in rows})
    assert stands[0] <= stands[1] and len(stands[0]) > 3  # the larger canvas has anchors beyond the picture's rim
    assert len(stands[1]) - len(stands[0]) <= 2


def test_learns_a_few_pictures_by_heart():
    """The two best of what the network says of a picture are its two objects, after 120 updates."""
    from ppvision.predict.tasks.detection import Detection

    rng = np.random.default_rng(3)
    image = np.full((4, 64, 64, 3), 90, "uint8")
    boxes, classes = [], []
    for i in range(4):
        for k in range(2):
            x, y, side = 4 + 30 * k + int(rng.integers(0, 6)), int(rng.integers(4, 36)), int(rng.integers(14, 22))
            image[i, y : y + side, x : x + side] = (250, 30, 30) if k ^ (i % 2) else (30, 30, 250)
            boxes.append([x, y, x + side, y + side])
            classes.append(k ^ (i % 2))
    batch = batch_of((2, 2, 2, 2))
    batch |= {"image": paddle.to_tensor(image), "boxes": paddle.to_tensor(np.array(boxes, "float32"))}
    batch["classes"] = paddle.to_tensor(np.array(classes))
    trainer = trainer_of(DenseDetection(network()), lr=2e-3)
    for _ in range(120):
        trainer.update([batch])
    with trainer.evaluating() as nets, paddle.no_grad():
        prepared, task = trainer.method.prepare(batch), Detection()
        outputs = task.run({"model": Net(nets["model"], mask=True)}, {key: prepared[key] for key in ("image", "valid")})
        found = task.results(outputs, prepared)
    for i, result in enumerate(found):
        assert result.scores[1] > 0.5
        for box, label in zip(boxes[2 * i : 2 * i + 2], classes[2 * i : 2 * i + 2]):
            near = np.abs(result.boxes[:2] - box).max(-1)
            assert near.min() < 3 and result.classes[near.argmin()] == label


def test_the_recipe_names_the_loss():
    method = DenseDetection(network(), DenseLoss(class_weight=2.0))
    plain = terms_of(DenseDetection(network()), batch_of())
    assert terms_of(method, batch_of())["main/cls"].item() == pytest.approx(2 * plain["main/cls"].item(), rel=1e-5)


def test_refusals():
    with pytest.raises(UserError, match="model: Dino answers at no anchors: it has no anchors, dense"):
        DenseDetection(ppvision.create_model("dino_debug"))
    method = DenseDetection(network())
    batch = batch_of()
    batch["classes"] = batch["classes"] + 3
    with pytest.raises(UserError, match="but the network has 3 classes"):
        terms_of(method, batch)
