"""Distillation from a DETR into a dense detector: which anchors, what the teacher is asked, what is compared."""

from __future__ import annotations

import collections
import re

import numpy as np
import paddle
import pytest

import ppvision
from ppvision.errors import UserError
from ppvision.methods.dense_detection import DenseDetection
from ppvision.methods.kd_dense import KdDense
from ppvision.models import zoo
from ppvision.nn.boxes import cxcywh_to_xyxy
from tests.methods.detection_batches import batch_of, part
from tests.methods.detectors import in_half, terms_of, trainer_of

TEACHERS = {
    "dab_detr_debug": {},
    "deformable_detr_debug": {"two_stage": True},
    "dino_debug": {"dim": 32},  # no width need agree
}


def network(name="retinanet_debug", seed=1, **options):
    paddle.seed(seed)
    return ppvision.create_model(name, num_classes=3, **options)


def method_of(teacher="dino_debug", **options):
    return KdDense(network(), network(teacher, 2, **TEACHERS[teacher]), **{"points": 24, **options})


def recorded(method, monkeypatch):
    """What the teacher is asked and answers, and what is compared with what."""
    seen = {"asked": [], "answered": [], "compared": []}
    decode, compare = method.teacher.decode, method.point_loss.forward

    def asked(context, queries):
        seen["asked"].append(queries)
        seen["answered"].append(decode(context, queries))
        return seen["answered"][-1]

    def compared(student, teacher, counted):
        seen["compared"].append((student, teacher, counted))
        return compare(student, teacher, counted)

    monkeypatch.setattr(method.teacher, "decode", asked)
    monkeypatch.setattr(method.point_loss, "forward", compared)
    return seen


def padded_batch():
    """The pictures of `batch_of` on a larger canvas, the second one whole."""
    batch = batch_of((2, 1))
    image = np.zeros((2, 96, 128, 3), "uint8")
    image[:, :64, :64] = batch["image"].numpy()
    image[1] = np.random.default_rng(4).integers(0, 256, (96, 128, 3))
    valid = np.zeros((2, 96, 128), bool)
    valid[0, :64, :64], valid[1] = True, True
    inner = np.array([[64, 64], [96, 128]], "int32")
    return {**batch, **{k: paddle.to_tensor(v) for k, v in (("image", image), ("valid", valid), ("inner", inner))}}


@pytest.mark.parametrize("teacher", TEACHERS)
def test_the_teacher_is_asked_about_the_anchors_the_student_answers_at(teacher, monkeypatch):
    """Anchor by anchor, by loops, in a padded and a whole picture: the query's box is the anchor's, what the student
    says is what it says there, both relative to the picture.
    """
    method, batch = method_of(teacher), padded_batch()
    method.train()
    seen = recorded(method, monkeypatch)
    terms = terms_of(method, batch)
    assert {k for k in terms if k.startswith("anchors/")} == {"anchors/cls", "anchors/l1", "anchors/giou"}
    ((logits, boxes), (teacher_logits, teacher_boxes), counted), queries = seen["compared"][0], seen["asked"][0]
    predictions = method.model.dense(method.prepare(batch)["image"])
    index = method.chosen(predictions).numpy()
    anchors, deltas = predictions.anchors.numpy(), predictions.deltas.numpy()
    size = batch["inner"].numpy()
    left_out = 0
    for i in range(2):
        for m, a in enumerate(index[i]):
            pixels = anchors[a] * [128, 96, 128, 96]
            box = pixels / [size[i, 1], size[i, 0], size[i, 1], size[i, 0]]
            reference = 1 / (1 + np.exp(-queries.references.numpy()[i, m]))
            np.testing.assert_allclose(reference, np.clip(box, 1e-5, 1 - 1e-5), atol=2e-5)
            np.testing.assert_array_equal(logits.numpy()[i, m], predictions.logits.numpy()[i, a])
            centre = pixels[:2] + deltas[i, a, :2] * pixels[2:]
            moved = np.concatenate([centre, pixels[2:] * np.exp(deltas[i, a, 2:])]) / np.tile(size[i, ::-1], 2)
            np.testing.assert_allclose(boxes.numpy()[i, m], moved, rtol=1e-4, atol=1e-5)
            inside = (pixels[:2] < size[i, ::-1]).all()
            assert counted.numpy()[i, m] == inside
            left_out += not inside
    assert 0 < left_out < index.size / 2
    last = seen["answered"][0][-1]  # the last layer's
    assert teacher_logits is last[0] and teacher_boxes is last[1]
    assert teacher_logits.stop_gradient and teacher_boxes.stop_gradient


@pytest.mark.parametrize("teacher", TEACHERS)
def test_what_a_query_has_beside_its_box(teacher):
    method = method_of(teacher)
    references = paddle.randn([2, 5, 4])
    queries = method.asked(references)
    np.testing.assert_array_equal(queries.references.numpy(), references.numpy())
    if teacher.startswith("dab"):
        assert queries.content is None
    elif teacher.startswith("dino"):
        mean = method.teacher.queries.tgt_embed.weight.numpy().mean(0)
        assert queries.content.shape == [1, 5, 32] and queries.positions is None
        np.testing.assert_allclose(queries.content.numpy()[0], [mean] * 5, atol=1e-6)
    else:
        of_boxes = method.teacher.queries.of_boxes(references)
        np.testing.assert_array_equal(queries.content.numpy(), of_boxes.content.numpy())
        np.testing.assert_array_equal(queries.positions.numpy(), of_boxes.positions.numpy())


def test_half_of_the_points_are_the_students_best_without_duplicates():
    method = method_of(points=30, nms_iou=0.2)  # strict, so that an untrained student's best are not all different
    method.begin(0, 0, 0)
    predictions = method.model.dense(method.prepare(batch_of())["image"])
    index = method.chosen(predictions).numpy()
    assert index.shape == (3, 30)
    from ppvision.nn.anchors import decode_boxes

    boxes = cxcywh_to_xyxy(decode_boxes(predictions.deltas, predictions.anchors)).numpy()
    scores = predictions.logits.numpy().max(-1)
    dropped = 0
    for i in range(3):
        kept, order = [], np.argsort(-scores[i], kind="stable")
        for a in order[:60]:
            if all(iou(boxes[i, a], boxes[i, b]) <= 0.2 for b in kept):
                kept.append(a)
        dropped += len(set(order[:15].tolist()) - set(kept))
        assert len(kept) >= 15
        assert set(index[i, :15].tolist()) == set(kept[:15])
    assert dropped > 0
    assert (index[0, 15:] == index[1, 15:]).all()  # those drawn are the same for all pictures
    drawn = (method.draw() * scores.shape[1]).astype(int)
    np.testing.assert_array_equal(index[0, 15:], drawn)


def iou(a, b):
    w, h = (max(min(a[k + 2], b[k + 2]) - max(a[k], b[k]), 0.0) for k in (0, 1))
    return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


def test_only_drawn_only_best_and_more_points_than_anchors():
    for random, count in ((0.0, 10), (1.0, 10)):
        method = method_of(points=10, random=random)
        method.begin(0, 0, 0)
        assert method.chosen(method.model.dense(paddle.randn([2, 3, 64, 64]))).shape == [2, count]
    method = method_of(points=2000)
    method.begin(0, 0, 0)
    index = method.chosen(method.model.dense(paddle.randn([1, 3, 16, 16])))  # 189 anchors
    assert index.shape == [1, 189 + 1000] and set(index.numpy()[0, :189].tolist()) == set(range(189))
    assert all(v.isfinite().item() for v in terms_of(method_of(points=2000), batch_of()).values())


def test_new_anchors_for_every_update_the_same_on_every_rank():
    method, draws = method_of(), []
    for step, rank in ((3, 0), (3, 1), (4, 0)):
        method.begin(step, 11, rank)
        draws.append(method.draw().copy())
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


def test_accumulation_equals_one_batch():
    whole, results = batch_of((2, 1, 3, 1)), []
    for batches in ([whole], [part(whole, 0, 2), part(whole, 2, 4)]):
        trainer = trainer_of(method_of())
        results.append(trainer.update(batches))
        assert trainer.skipped == 0
    assert any(k.startswith("anchors/") for k in results[0])
    for key, value in results[0].items():
        np.testing.assert_allclose(results[1][key], value, rtol=2e-4, err_msg=key)


def test_detection_terms_do_not_depend_on_the_teacher():
    method = method_of()
    plain = DenseDetection(network())
    a, b = terms_of(method, batch_of()), terms_of(plain, batch_of())
    assert set(b) < set(a)
    for key, value in b.items():
        assert value.item() == a[key].item(), key


def test_a_student_that_answers_as_its_teacher_has_nothing_to_learn(monkeypatch):
    method = method_of()
    seen = recorded(method, monkeypatch)
    terms_of(method, batch_of())
    _, teacher, counted = seen["compared"][0]
    same = method.point_loss(teacher, teacher, counted)
    assert all(abs(v.item()) < 1e-3 for v in same.values())


def test_anchors_in_the_padding_do_not_count(monkeypatch):
    """Whatever the student says there, the terms stay."""
    method, batch = method_of(random=1.0), padded_batch()
    before = terms_of(method, batch)
    dense = method.model.dense

    def changed(image):
        predictions = dense(image)
        outside = (predictions.anchors.numpy()[:, :2] * [128, 96] >= 64).any(-1)
        deltas = predictions.deltas.numpy().copy()
        deltas[0, outside] += 1.0
        return predictions._replace(deltas=paddle.to_tensor(deltas))

    monkeypatch.setattr(method.model, "dense", changed)
    after = terms_of(method, batch)
    for key in ("anchors/l1", "anchors/giou"):
        assert after[key].item() == pytest.approx(before[key].item(), rel=1e-6)


@pytest.mark.parametrize("teacher", TEACHERS)
def test_teacher_stays_as_it_is_and_out_of_checkpoint_and_export(teacher):
    method = method_of(teacher)
    before = {k: v.numpy().copy() for k, v in method.teacher.state_dict().items()}
    trainer = trainer_of(method)
    trainer.update([batch_of()])
    assert trainer.skipped == 0 and all(p.grad is None for p in method.teacher.parameters())
    for key, value in method.teacher.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[key])
    files = trainer.files()
    assert not any("teacher" in key for part in files.values() for key in part)
    assert files["model.pdparams"].keys() == network().state_dict().keys()
    assert set(method.deployables()) == {"model"} and method.frozen_sources()["teacher"]["sha256"]


def test_distillation_reaches_the_student():
    """Imitation alone moves every part of it, and brings it closer to the teacher."""
    method = method_of(weights=(1.0, 5.0, 2.0))
    method.loss.class_weight = method.loss.box_weight = 0.0
    trainer = trainer_of(method)
    before = {k: v.numpy().copy() for k, v in method.model.state_dict().items()}
    logs = [trainer.update([batch_of()]) for _ in range(8)]
    assert not [k for k, v in method.model.state_dict().items() if np.array_equal(before[k], v.numpy())]
    assert logs[-1]["loss"] < 0.9 * logs[0]["loss"]


def test_mixed_precision_needs_no_line_of_its_own(monkeypatch):
    """Answers in half precision, as on a GPU, are compared in single precision; the trainer does the rest."""
    method, batch = method_of(random=1.0), batch_of()  # the best anchors might change places
    full = {k: v.item() for k, v in terms_of(method, batch).items()}
    dense, decode = method.model.dense, method.teacher.decode
    monkeypatch.setattr(method.model, "dense", lambda x: (y := dense(x))._replace(logits=in_half(y.logits)))
    monkeypatch.setattr(method.teacher, "decode", lambda *given: in_half(decode(*given)))
    terms = terms_of(method, batch)
    assert all(v.dtype == paddle.float32 for v in terms.values())
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(full, rel=5e-2, abs=5e-4)
    trainer = trainer_of(method, amp="O1", amp_dtype="bfloat16")
    assert np.isfinite(trainer.update([batch])["loss"]) and trainer.skipped == 0


def test_refusals():
    with pytest.raises(UserError, match="answers 5 classes, the student 3"):
        KdDense(network(), ppvision.create_model("dino_debug", num_classes=5))
    with pytest.raises(UserError, match="cannot be asked about a box alone"):
        KdDense(network(), network("deformable_detr_debug"))
    with pytest.raises(UserError, match="cannot be asked about a box alone"):
        KdDense(network(), network("dab_detr_debug", num_patterns=2))
    with pytest.raises(UserError, match=r"method.teacher: RetinaNet is no DETR host"):
        KdDense(network(), network())
    with pytest.raises(UserError, match="model: Dino answers at no anchors"):
        KdDense(network("dino_debug"), network("dino_debug"))
    for key, value in (("points", 0), ("random", 1.5), ("nms_iou", -1.0), ("weights", (1.0, 2.0))):
        with pytest.raises(UserError, match=f"'{key}'"):
            method_of(**{key: value})


def test_the_export_is_that_of_the_plain_student(tmp_path):
    from ppvision.exporting import export_layer
    from ppvision.exporting.exporter import Spec
    from ppvision.predict.tasks.base import create_task

    files = []
    for name, net in (("distilled", method_of().deployables()["model"]), ("plain", network())):
        net.eval()
        task, statistics = create_task("detection"), zoo.entry("retinanet_debug").mean_std
        spec = Spec("x", "detection", task, *statistics, example=(64, 64), formats=("paddle",))
        export_layer(net, tmp_path / name, spec)
        graph = (tmp_path / name / "model.json").read_text()
        operations = collections.Counter(re.findall(r'\{"#":"([^"]+)"', graph))
        files.append((operations, (tmp_path / name / "model.pdiparams").stat().st_size))
    assert files[0] == files[1] and files[0][0]["1.conv2d"] > 5
