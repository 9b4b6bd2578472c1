"""Detections: which pairs of query and class, where in the original image, with and without padding, merged views."""

import numpy as np
import paddle
import pytest

from ppvision.data.collate import collate
from ppvision.data.fields import start
from ppvision.data.transforms.image import build_transforms
from ppvision.errors import UserError
from ppvision.predict.nets import on_device
from ppvision.predict.tasks.base import create_task, ending_of
from ppvision.predict.tasks.detection import Detection, _detected, detections, fuse
from tests.nets import Net

CLASSES = 3


def raw(batch=2, queries=7, classes=CLASSES, seed=0):
    rng = np.random.default_rng(seed)
    centre, size = rng.uniform(0.2, 0.8, (batch, queries, 2)), rng.uniform(0.05, 0.7, (batch, queries, 2))
    logits = rng.normal(0, 2, (batch, queries, classes)).astype(np.float32)
    return logits, np.concatenate([centre, size], axis=-1).astype(np.float32)


def picture(height, width, boxes) -> np.ndarray:
    """Grey, with each box filled in the channel of its class."""
    image = np.full((height, width, 3), 100, np.uint8)
    for k, (x1, y1, x2, y2) in enumerate(boxes):
        image[y1:y2, x1:x2, k] = 250
    return image


class Finder:
    """A perfect detector of `picture`: one query per channel, its box relative to what `valid` says is picture.

    Attributes:
        calls: (shape of the image, sum of `valid` or None).
    """

    def __init__(self):
        self.calls = []

    def __call__(self, image, valid=None):
        self.calls.append((list(image.shape), None if valid is None else int(valid.astype("int64").sum())))
        rows = []
        for i, x in enumerate(image.numpy()):
            mask = np.ones(x.shape[1:], bool) if valid is None else valid[i].numpy()
            height, width = int(mask[:, 0].sum()), int(mask[0].sum())
            for channel in x:
                y, x_ = np.nonzero(channel > 150)
                found = [x_.min(), y.min(), x_.max() + 1, y.max() + 1] if len(y) else [0, 0, 0, 0]
                x1, y1, x2, y2 = np.array(found) / [width, height, width, height]
                rows.append([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, 4.0 if len(y) else -9.0])
        rows = np.asarray(rows, np.float32).reshape(len(image), 3, 5)
        logits = np.where(np.eye(3, dtype=bool)[None], rows[..., 4:], -9).astype(np.float32)
        return {"logits": paddle.to_tensor(logits), "boxes": paddle.to_tensor(rows[..., :4].copy())}


def batch_of(samples, transforms=()):
    transform = build_transforms(list(transforms))
    return collate([transform(start(s), np.random.default_rng(0)) for s in samples])


def run(task, net, batch, mask=True):
    """The task's outputs; what is no picture is as grey as the background."""
    task.fill = (100.0,) * 3
    return task.run({"model": Net(net, mask)}, on_device(task.inputs(batch)))


class TestPairs:
    @pytest.mark.parametrize("top_k", [1, 5, 21, 300])
    def test_the_best_of_all(self, top_k):
        logits, boxes = raw()
        corners, scores, labels = (t.numpy() for t in detections(*map(paddle.to_tensor, (logits, boxes)), top_k))
        count = min(top_k, 21)
        assert (
            corners.shape == (2, count, 4) and scores.shape == labels.shape == (2, count) and labels.dtype == np.int32
        )
        for i in range(2):
            pairs = sorted((-logits[i, q, c], q, c) for q in range(7) for c in range(CLASSES))[:count]
            for j, (value, q, c) in enumerate(pairs):
                assert labels[i, j] == c and scores[i, j] == pytest.approx(1 / (1 + np.exp(value)), rel=1e-5)
                x, y, w, h = boxes[i, q]
                expected = np.clip([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 0, 1)
                assert corners[i, j] == pytest.approx(expected, abs=1e-6)

    def test_scores_near_one_keep_their_order(self):
        logits = np.full((1, 3, 1), 30.0, np.float32)
        logits[0, 1] = 40.0  # both sigmoids are 1
        found = detections(paddle.to_tensor(logits), paddle.to_tensor(raw(1, 3)[1]), 1)
        assert found[0].numpy()[0, 0] == pytest.approx(_detected(logits, raw(1, 3)[1], 1)[0][0, 0])

    def test_in_numpy_the_same(self):
        logits, boxes = raw(3, 11)
        ours = detections(paddle.to_tensor(logits), paddle.to_tensor(boxes), 20)
        for a, b in zip(ours, _detected(logits, boxes, 20)):
            assert a.numpy() == pytest.approx(b, abs=1e-6)


class TestEnding:
    def test_gives_the_best_300_by_the_names_that_are_told(self):
        logits, boxes = (paddle.to_tensor(array) for array in raw(2, 130))  # 390 pairs
        name, ending = ending_of(create_task("detection"), None)
        found = ending({"logits": logits, "boxes": boxes})
        assert name == "detections" and [output.name for output in ending.outputs(found)] == list(found)
        assert [output.dtype for output in ending.outputs(found)] == ["float32", "float32", "int32"]
        for key, wanted in zip(("boxes", "scores", "labels"), detections(logits, boxes, 300), strict=True):
            assert found[key].shape[1] == 300
            np.testing.assert_array_equal(found[key].numpy(), wanted.numpy())

    def test_the_task_reads_such_a_graph_and_the_raw_one_alike(self):
        logits, boxes = (paddle.to_tensor(array) for array in raw(2, 130))
        task, image = create_task("detection", top_k=40), {"image": paddle.zeros([2, 3, 4, 6])}
        plain = {"logits": logits, "boxes": boxes}
        ended = ending_of(task, None)[1](plain)
        one, other = (task.run({"model": Net(lambda _, out=out: out)}, image) for out in (plain, ended))
        for key, value in one.items():
            assert value.shape[1] == 40
            np.testing.assert_array_equal(value.numpy(), other[key].numpy())


def test_a_reader_of_the_outputs_is_told_the_thresholds():
    options = {"top_k": 40, "threshold": 0.125, "draw_threshold": 0.75}
    assert create_task("detection", **options).defaults() == options
    assert create_task("segmentation").defaults() == {}


class TestResults:
    boxes = [[10, 5, 40, 25], [50, 30, 90, 60], [0, 50, 20, 70]]

    def found(self, samples, transforms=(), **options):
        net, task = Finder(), Detection(list("abc"), **options)
        batch = batch_of(samples, transforms)
        outputs = run(task, net, batch)
        return task.results(outputs, batch), net, outputs

    @pytest.mark.parametrize(
        ("transforms", "padded"),
        [
            ([], False),
            ([{"type": "Resize", "size": [140, 200]}], False),
            ([{"type": "PadTo", "size": [96, 160]}], True),
            ([{"type": "Resize", "short": 140, "max": 200}, {"type": "PadTo", "multiple": 64}], True),
        ],
    )
    def test_boxes_come_back_to_the_original_image(self, transforms, padded):
        image = picture(70, 100, self.boxes)
        (result,), net, _ = self.found([{"image": image, "name": "a.png"}], transforms, threshold=0.5)
        assert result.name == "a.png" and result.class_names == list("abc")
        order = np.argsort(result.classes)
        assert result.boxes[order] == pytest.approx(np.asarray(self.boxes, np.float32), abs=1.1)
        assert result.classes[order].tolist() == [0, 1, 2] and (result.scores > 0.9).all()
        assert result.boxes.dtype == np.float32 and result.classes.dtype == np.int64
        assert (net.calls[0][1] is not None) == padded

    def test_images_of_two_sizes_in_one_batch(self):
        small = [[3, 4, 20, 20], [30, 10, 40, 28]]
        samples = [{"image": picture(70, 100, self.boxes)}, {"image": picture(30, 45, small)}]
        results, net, _ = self.found(samples, threshold=0.5)
        assert net.calls == [([2, 3, 70, 100], 70 * 100 + 30 * 45)]
        order = np.argsort(results[1].classes)
        assert results[1].boxes[order] == pytest.approx(np.asarray(small, np.float32), abs=1e-4)  # nothing was resized
        assert results[0].boxes[np.argsort(results[0].classes)] == pytest.approx(np.asarray(self.boxes), abs=1e-4)

    def test_a_mirrored_geometry_is_undone_and_boxes_stay_in_the_image(self):
        task = Detection()
        mirror = np.array([[-2.0, 0, 80], [0, 2, 0], [0, 0, 1]])  # 40 pixels wide, doubled and turned
        outputs = {
            "boxes": paddle.to_tensor(np.array([[[0.0, 0.25, 0.5, 0.5], [0.5, 0.5, 1, 1]]], np.float32)),
            "scores": paddle.to_tensor(np.array([[0.9, 0.8]], np.float32)),
            "labels": paddle.to_tensor(np.array([[1, 0]], np.int32)),
        }
        batch = {
            "image": np.zeros([1, 64, 80, 3], np.uint8),
            "inner": np.array([[64, 80]]),
            "size": np.array([[30, 40]]),
        }
        (result,) = task.results(outputs, {**batch, "geometry": mirror[None]})
        assert result.boxes.tolist() == [[20, 8, 40, 16], [0, 16, 20, 30]]  # the second one ended at row 32

    def test_threshold_and_top_k(self):
        sample = {"image": picture(70, 100, self.boxes)}
        assert len(self.found([sample])[0][0].scores) == 9  # all pairs: AP wants them
        assert len(self.found([sample], top_k=4)[0][0].scores) == 4
        assert len(self.found([sample], threshold=0.5)[0][0].scores) == 3

    def test_a_network_without_a_mask_is_not_told_of_padding(self):
        """Its boxes are relative to the padded image; they come back to the same pixels."""
        finder = Finder()

        def graph(x):
            corners, scores, labels = detections(*finder(x).values(), 300)
            return {"boxes": corners, "scores": scores, "labels": labels}

        task = Detection(threshold=0.5, top_k=5)
        batch = batch_of([{"image": picture(70, 100, self.boxes)}], [{"type": "PadTo", "size": [128, 160]}])
        outputs = run(task, graph, batch, mask=False)
        assert outputs["boxes"].shape == [1, 5, 4]
        (result,) = task.results(outputs, batch)
        assert finder.calls == [([1, 3, 128, 160], None)]
        assert result.boxes[np.argsort(result.classes)] == pytest.approx(np.asarray(self.boxes, np.float32), abs=1e-3)

    def test_other_networks_are_refused(self):
        batch = {"image": paddle.zeros([1, 3, 8, 8])}
        for output, message in ((paddle.zeros([1, 3]), "Tensor"), ({"boxes": paddle.zeros([1, 3, 4])}, "gives boxes,")):
            with pytest.raises(UserError, match=message):
                Detection().run({"model": Net(lambda x, given=output: given)}, batch)


class TestViews:
    boxes = [[10, 5, 40, 25], [50, 30, 90, 60], [2, 50, 20, 68]]

    @pytest.mark.parametrize(
        ("options", "shapes"),
        [
            ({"flip": True}, [(70, 100)] * 2),
            ({"scales": [0.5, 1.0]}, [(35, 50), (70, 100)]),
            ({"scales": [1.0, 2.0], "flip": True}, [(70, 100)] * 2 + [(140, 200)] * 2),
        ],
    )
    @pytest.mark.parametrize("second", [[], [{"image": picture(40, 60, boxes[:1])}]])
    def test_views_agree_on_what_is_there(self, options, shapes, second):
        net, task = Finder(), Detection(threshold=0.5, **options)
        batch = batch_of([{"image": picture(70, 100, self.boxes)}, *second])
        outputs = run(task, net, batch)
        results = task.results(outputs, batch)
        assert [tuple(shape[2:]) for shape, _ in net.calls] == shapes
        assert all((valid is not None) == bool(second) for _, valid in net.calls)
        order = np.argsort(results[0].classes)
        assert results[0].classes[order].tolist() == [0, 1, 2]
        assert results[0].boxes[order] == pytest.approx(np.asarray(self.boxes, np.float32), abs=1.0)
        assert (results[0].scores > 0.9).all()  # every view found them: no score was lowered
        if second:
            assert results[1].boxes == pytest.approx(np.asarray(self.boxes[:1], np.float32), abs=1.0)

    def test_off_by_default(self):
        net = Finder()
        run(Detection(), net, batch_of([{"image": picture(70, 100, self.boxes)}]))
        assert len(net.calls) == 1

    def test_fusion_by_hand(self):
        boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 11], [50, 50, 60, 60], [0, 0, 10, 10]], np.float32)
        scores, labels = np.array([0.8, 0.4, 0.6, 0.5], np.float32), np.array([1, 1, 1, 0])
        fused, score, label = fuse(boxes, scores, labels, 2)
        assert label.tolist() == [1, 1, 0] and score == pytest.approx([0.6, 0.3, 0.25])
        assert fused[0] == pytest.approx([0, 0, 10, (0.8 * 10 + 0.4 * 11) / 1.2])
        assert fused[1] == pytest.approx([50, 50, 60, 60]) and fused[2] == pytest.approx([0, 0, 10, 10])
        assert [len(part) for part in fuse(boxes, np.zeros(4, np.float32), labels, 2)] == [0, 0, 0]


class TestAgreement:
    tolerance = 1e-4

    def shares(self, reference, product):
        names = ("logits", "boxes") if len(product) == 2 else ("boxes", "scores", "labels")
        given = dict(zip(names, product, strict=True))
        return Detection(top_k=20).agreement(dict(zip(("logits", "boxes"), reference)), given, self.tolerance)

    def product(self, reference):
        return [a.astype(np.float32) for a in _detected(*reference, 20)]

    def test_the_same_whatever_ends_the_graph(self):
        reference = raw(3, 30)
        assert self.shares(reference, reference) == self.shares(reference, self.product(reference)) == (1.0, 1.0)

    def test_near_ties_may_change_places(self):
        reference = raw(1, 30)
        reference[0][0] = np.where(np.arange(30) < 6, 3 + 1e-6 * np.arange(30), -5)[:, None]  # 18 pairs, all alike
        corners, scores, labels = self.product(reference)
        order = np.append(np.random.default_rng(0).permutation(18), [18, 19])
        equal, exact = self.shares(reference, [corners[:, order], scores, labels[:, order]])
        assert equal == 1.0 and exact < 0.5

    def test_the_end_of_the_list_may_differ(self):
        logits, boxes = raw(1, 30)
        logits[0, 0] = logits[0, 1] = 0.0
        logits[0, 2:8] = 2.0  # 18 pairs ahead; of the 6 with 0 only two are listed
        logits[0, 8:] = -8.0
        corners, scores, labels = self.product((logits, boxes))
        other = _detected(logits[:, ::-1], boxes[:, ::-1], 20)
        assert not np.allclose(np.sort(corners[0, 18:], 0), np.sort(other[0][0, 18:], 0))
        assert self.shares((logits, boxes), list(other))[0] == 1.0

    @pytest.mark.parametrize("what", ["box", "label", "score", "lost", "shape"])
    def test_what_differs_is_seen(self, what):
        reference = raw(1, 30)
        corners, scores, labels = (a.copy() for a in self.product(reference))
        if what == "box":
            corners[0, 3, 0] += 0.05
        elif what == "label":
            labels[0, 3] = (labels[0, 3] + 1) % CLASSES
        elif what == "score":
            scores[0, 3] -= 0.02
        elif what == "lost":
            corners, scores, labels = (np.concatenate([a[:, 1:], a[:, -1:]], 1) for a in (corners, scores, labels))
        else:
            corners, scores, labels = corners[:, :19], scores[:, :19], labels[:, :19]
        equal, _ = self.shares(reference, [corners, scores, labels])
        assert equal < 0.999 and (equal > 0.9 or what == "shape")

    def test_untrained_scores_are_judged_too(self):
        """None above 0.05: the ten best count."""
        logits, boxes = raw(1, 30)
        reference = (logits - 12, boxes)
        assert self.shares(reference, self.product(reference)) == (1.0, 1.0)
        corners, scores, labels = self.product(reference)
        assert self.shares(reference, [corners + 0.1, scores, labels])[0] < 0.2


def test_options():
    task = create_task("detection", class_names=["a"], flip=True, scales=[1.0], flip_vertical=False, slide=None)
    assert isinstance(task, Detection) and task.mirrors == (False, True) and next(iter(task.endings)) == "detections"
    for options, message in (
        ({"flip_vertical": True}, "no option 'flip_vertical'"),
        ({"scales": [0.0]}, "positive"),
        ({"top_k": 0}, "top_k"),
        ({"threshold": 1.5}, "threshold"),
    ):
        with pytest.raises(UserError, match=message):
            create_task("detection", **options)
