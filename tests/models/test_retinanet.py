"""RetinaNet: pyramid, anchors, candidates, suppression, padding, starts, sizes, names, export."""

from __future__ import annotations

import json
import math

import numpy as np
import paddle
import pytest

from ppvision.errors import UserError
from ppvision.exporting.exporter import Spec, export_layer
from ppvision.models import zoo
from ppvision.models.retinanet import LOW, RetinaNet
from ppvision.predict.tasks.base import create_task
from ppvision.weights import load_weights, state_of
from tests.graphs import write_graphs
from tests.models.golden import fill
from tests.models.variants import builder
from tests.nets import Net

retinanet = builder(RetinaNet)


def net_of(name: str = "retinanet_debug", **options) -> RetinaNet:
    """The network with weights that make every part matter, and scores that spread."""
    net = zoo.create_model(name, **options)
    fill(net)
    net.head.classification_head.cls_logits.weight.set_value(3.0 * net.head.classification_head.cls_logits.weight)
    net.eval()
    return net


def picture(batch: int = 2, height: int = 72, width: int = 104) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(5).standard_normal([batch, 3, height, width]).astype("float32"))


def overlap(a, b):
    w, h = (max(min(a[k + 2], b[k + 2]) - max(a[k], b[k]), 0.0) for k in (0, 1))
    return w * h / max((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h, 1e-12)


def by_hand(net, image, candidates):
    """(score, label, xyxy) of the detections of one picture, by loops: sort, decode, clip, suppress."""
    logits, deltas, anchors = (x.numpy() for x in net.dense(image))
    pairs = [(logits[0, a, k], a, k) for a in range(logits.shape[1]) for k in range(logits.shape[2])]
    kept = []
    for score, a, k in sorted(pairs, key=lambda p: -p[0])[:candidates]:
        cx, cy, w, h = anchors[a]
        dx, dy, dw, dh = deltas[0, a]
        cx, cy, w, h = cx + dx * w, cy + dy * h, w * math.exp(dw), h * math.exp(dh)
        box = np.clip([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 0, 1)
        if all(label != k or overlap(box, other) <= 0.5 for _, label, other in kept):
            kept.append((score, k, box))
    return kept


def corners(boxes):
    return np.concatenate([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)


class TestCandidates:
    @pytest.mark.parametrize("size", [(72, 104), (37, 61)])
    def test_against_loops(self, size):
        net = net_of(candidates=400)
        image = picture(1, *size)
        y = net(image)
        logits, boxes = y["logits"].numpy()[0], corners(y["boxes"].numpy()[0])
        rows, labels = np.nonzero(logits > LOW)
        expected = by_hand(net, image, 400)
        assert 100 < len(expected) < 390  # some are duplicates
        np.testing.assert_allclose(logits[rows, labels], [score for score, _, _ in expected], atol=1e-5)
        assert labels.tolist() == [label for _, label, _ in expected]
        np.testing.assert_allclose(boxes[rows], [box for _, _, box in expected], atol=1e-5)

    def test_a_row_stands_for_one_class_or_none(self):
        y = net_of()(picture())
        assert y["logits"].shape == [2, 100, 4] and y["boxes"].shape == [2, 100, 4]
        standing = (y["logits"].numpy() > LOW).sum(-1)
        assert set(standing.reshape(-1).tolist()) == {0, 1}
        assert (y["logits"].numpy()[standing == 0] == LOW).all()
        assert np.float16(LOW) == LOW and 1 / (1 + math.exp(-LOW)) < 1e-8

    def test_one_anchor_may_stand_for_two_classes(self):
        net = net_of(candidates=2000)
        chosen = net.explained(picture())["chosen"].numpy()
        assert len(set((chosen[0] // 4).tolist())) < len(chosen[0]) == len(set(chosen[0].tolist()))

    def test_fewer_anchors_than_candidates(self):
        net = net_of(candidates=5000)
        y = net(picture(1, 16, 16))
        assert y["logits"].shape == [1, 9 * (16 + 4 + 1) * 4, 4] and y["boxes"].isfinite().all().item()

    def test_explained_is_forward_and_can_be_told(self):
        net, image = net_of(), picture()
        explained, plain = net.explained(image), net(image)
        for key, value in plain.items():
            np.testing.assert_array_equal(explained[key].numpy(), value.numpy())
        assert explained["scores"].shape == [2, net.anchors(72, 104).shape[0] * 4]
        again = net.explained(image, explained["chosen"], explained["kept"])
        np.testing.assert_array_equal(again["logits"].numpy(), plain["logits"].numpy())
        turned = net.explained(image, explained["chosen"].flip([1]))
        np.testing.assert_array_equal(turned["chosen"].numpy(), explained["chosen"].numpy()[:, ::-1])
        everything = net.explained(image, explained["chosen"], paddle.ones_like(explained["kept"]))
        assert ((everything["logits"].numpy() > LOW).sum(-1) == 1).all()


class TestPadding:
    def test_boxes_are_relative_to_the_picture(self):
        """What is said is that of the whole canvas; boxes end where the picture does."""
        net, image = net_of(), picture()
        valid = np.zeros([2, 72, 104], bool)
        valid[0], valid[1, :36, :52] = True, True
        plain = net.explained(image)
        kept = paddle.ones_like(plain["kept"])  # clipping changes overlaps
        whole = corners(net.explained(image, plain["chosen"], kept)["boxes"].numpy())
        masked = net.explained(image, plain["chosen"], kept, paddle.to_tensor(valid))
        np.testing.assert_allclose(corners(masked["boxes"].numpy())[0], whole[0], atol=1e-6)
        np.testing.assert_allclose(corners(masked["boxes"].numpy())[1], np.clip(2 * whole[1], 0, 1), atol=1e-5)
        assert net(image, paddle.to_tensor(valid))["boxes"].shape == [2, 100, 4]

    def test_a_padded_batch_through_the_task(self):
        """`Detection` brings them to pixels of the picture, told of the padding or not."""
        from ppvision.predict.tasks.detection import Detection

        net = net_of(candidates=1000, nms_iou=1.0)
        image = picture(1)
        image[:, :, 48:], image[:, :, :, 64:] = 0.0, 0.0
        valid = np.zeros(image.shape[:1] + image.shape[2:], bool)
        valid[:, :48, :64] = True
        batch = {"image": image, "inner": np.array([[48, 64]]), "name": ["a"]}
        task, inputs = Detection(), {"image": image, "valid": paddle.to_tensor(valid)}
        with paddle.no_grad():
            # once it takes the mask, once it is a network with one input
            outputs = [task.run({"model": Net(net, mask)}, inputs) for mask in (True, False)]
        masked, unmasked = (task.results(each, batch)[0] for each in outputs)
        inside = (unmasked.boxes[:, 2] < 63) & (unmasked.boxes[:, 3] < 47)
        assert inside.sum() > 20
        np.testing.assert_allclose(masked.scores, unmasked.scores, atol=1e-6)
        np.testing.assert_allclose(masked.boxes[inside], unmasked.boxes[inside], atol=1e-3)
        assert masked.boxes[:, 2].max() <= 64 and masked.boxes[:, 3].max() <= 48


class TestParts:
    def test_anchors_of_a_size_are_those_of_the_maps(self):
        net = net_of()
        for size in ((64, 64), (37, 61), (33, 130), (8, 9)):
            np.testing.assert_array_equal(net.dense(picture(1, *size)).anchors.numpy(), net.anchors(*size).numpy())

    def test_an_answer_stands_at_its_anchor(self):
        """One bright cell of one channel reaches the anchor of that cell and number, and no other."""
        net = net_of(convs=0)
        levels = [paddle.zeros([1, 48, h, w]) for h, w in ((3, 5), (2, 3), (1, 2))]
        levels[1][0, 7, 1, 2] = 1.0
        head = net.head.classification_head
        weight = np.zeros(head.cls_logits.weight.shape, "float32")
        weight[5 * 4 + 3, 7, 1, 1] = 2.0  # anchor 5, class 3
        head.cls_logits.weight.set_value(weight)
        head.cls_logits.bias.set_value(paddle.zeros([36]))
        logits = net.head(levels)[0].numpy()[0]
        at = 9 * (15 + 1 * 3 + 2) + 5
        assert logits[at, 3] == 2.0 and np.count_nonzero(logits) == 1

    @pytest.mark.parametrize("source", ["map", "pyramid"])
    def test_pyramid_by_hand(self, source):
        """Nearest neighbours from coarse to fine at odd sizes, and where the extra levels come from."""
        net = net_of(backbone="resnet_debug", levels=("c3", "c4", "c5"), extra_levels=2, extra_from=source)
        maps = [net.features(picture(1, 72, 104))[level] for level in ("c3", "c4", "c5")]
        assert [tuple(m.shape[2:]) for m in maps] == [(9, 13), (5, 7), (3, 4)]
        fpn = net.backbone.fpn
        levels = fpn(maps)
        inner = [block(m).numpy() for block, m in zip(fpn.inner_blocks, maps)]
        total = inner[2]
        for i in (1, 0):
            rows, columns = (np.arange(n) * m // n for n, m in zip(inner[i].shape[2:], total.shape[2:]))
            total = inner[i] + total[:, :, rows][:, :, :, columns]
        np.testing.assert_allclose(levels[0].numpy(), fpn.layer_blocks[0](paddle.to_tensor(total)).numpy(), atol=1e-4)
        p6 = fpn.extra_blocks.p6(maps[2] if source == "map" else levels[2])
        np.testing.assert_allclose(levels[3].numpy(), p6.numpy(), atol=1e-5)
        p7 = fpn.extra_blocks.p7(paddle.nn.functional.relu(p6))
        np.testing.assert_allclose(levels[4].numpy(), p7.numpy(), atol=1e-5)
        assert net.strides == (8, 16, 32, 64, 128)

    def test_start(self):
        net = retinanet("debug", width=64, convs=2, start_std=0.01)
        cls, box = net.head.classification_head, net.head.regression_head
        np.testing.assert_allclose(cls.cls_logits.bias.numpy(), -math.log(99), rtol=1e-6)
        assert not box.bbox_reg.bias.any() and not cls.conv[0][0].bias.any()
        for conv in (cls.conv[0][0], box.conv[1][0], cls.cls_logits, box.bbox_reg):
            assert conv.weight.std().item() == pytest.approx(0.01, rel=0.1)
        bound = (3 / (64 * 9)) ** 0.5
        assert 0.9 * bound < net.backbone.fpn.layer_blocks[0][0].weight.abs().max().item() <= bound
        scores = paddle.nn.functional.sigmoid(net.dense(picture()).logits)
        assert scores.mean().item() == pytest.approx(0.01, rel=0.1)

    def test_every_parameter_receives_a_gradient(self):
        net = net_of()
        predictions = net.dense(picture())
        (predictions.logits.square().sum() + predictions.deltas.square().sum()).backward()
        assert not [k for k, p in net.named_parameters() if p.trainable and (p.grad is None or not p.grad.any())]

    @pytest.mark.parametrize(
        ("key", "value"),
        [("width", 0), ("octaves", 0), ("candidates", 0), ("nms_iou", 1.5), ("anchor_scale", 0.0), ("ratios", (0.0,))],
    )
    def test_arguments_that_cannot_be(self, key, value):
        with pytest.raises(UserError, match=f"'{key}'"):
            retinanet("debug", **{key: value})

    @pytest.mark.parametrize("backbone", ["resnet_debug", "maformer_debug"])
    def test_other_backbones_fit(self, backbone):
        net = zoo.create_model("retinanet_debug", backbone=backbone, levels=("c3", "c4", "c5"))
        net.eval()
        for size in ((64, 96), (61, 37)):
            y = net(picture(1, *size))
            assert y["boxes"].isfinite().all().item()
            assert net.dense(picture(1, *size)).anchors.shape == net.anchors(*size).shape


class TestSizes:
    @staticmethod
    def count(layer: paddle.nn.Layer) -> int:
        return sum(math.prod(p.shape) for k, p in layer.named_parameters() if not k.endswith(("_mean", "_variance")))

    def test_as_torchvision_counts(self):
        """34,014,999 parameters with 91 classes, its frozen batch norms (buffers there) left out."""
        with paddle.LazyGuard():
            net = zoo.create_model("retinanet_r50", num_classes=91, extra_from="pyramid")
        norms = sum(
            math.prod(p.shape)
            for k, p in net.backbone.body.named_parameters()
            if ".bn" in f".{k}" or ".downsample.1" in k
        )
        statistics = sum(math.prod(p.shape) for k, p in net.named_parameters() if k.endswith(("_mean", "_variance")))
        assert self.count(net) - (norms - statistics) == 34_014_999

    @pytest.mark.parametrize(
        ("name", "millions"), [("retinanet_r18", 21.5), ("retinanet_r50", 38.0), ("retinanet_r101", 57.0)]
    )
    def test_on_resnets(self, name, millions):
        with paddle.LazyGuard():
            net = zoo.create_model(name)
        assert self.count(net) / 1e6 == pytest.approx(millions, abs=0.5)
        frozen = {k.split(".")[0] for k, p in net.backbone.body.named_parameters() if not p.trainable and p.ndim == 4}
        assert frozen == {"conv1", "layer1"} and net.candidates == 1000
        assert net.recompute_blocks == ("backbone.body.layer2", "backbone.body.layer3", "backbone.body.layer4")

    def test_debug_size(self):
        net = zoo.create_model("retinanet_debug")
        assert self.count(net) < 300_000 and net.anchors(64, 64).shape == [9 * (256 + 64 + 16), 4]


def test_weights_by_name_and_of_a_bare_backbone():
    net, other = net_of(), zoo.create_model("retinanet_debug")
    load_weights(other, state_of(net))
    for key, value in state_of(net).items():
        np.testing.assert_array_equal(state_of(other)[key], value, err_msg=key)
    options = dict(backbone="resnet_debug", levels=("c3", "c4", "c5"))
    classifier, net = zoo.create_model("resnet_debug"), zoo.create_model("retinanet_debug", **options)
    fill(classifier)
    report = load_weights(net, state_of(classifier), strict=False)
    assert sorted(report.loaded) == sorted(f"backbone.body.{k}" for k in net.backbone.body.state_dict())
    assert set(report.ignored) == {"fc.weight", "fc.bias"} and not report.unexpected
    weight = net.backbone.body.layer3[0].conv1.weight
    np.testing.assert_array_equal(weight.numpy(), classifier.layer3[0].conv1.weight.numpy())


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network and the stem of its static graph and ONNX file, batch, height and width free."""
    net = net_of()
    return net, write_graphs(net, tmp_path_factory.mktemp("retinanet"))


class TestExport:
    SHAPES = ((1, 64, 64), (3, 72, 104), (2, 37, 61), (1, 33, 130))

    @staticmethod
    def assert_same(out, net, image):
        y = net(image)
        for ours, theirs in zip(out, [y[key].numpy() for key in sorted(y)], strict=True):  # a static graph sorts them
            np.testing.assert_allclose(ours, theirs, atol=1e-4)

    def test_static_graph(self, exported):
        net, stem = exported
        graph = paddle.jit.load(stem)
        for shape in self.SHAPES:
            image = picture(*shape)
            self.assert_same([x.numpy() for x in graph(image)], net, image)
        assert sum(p.size for p in graph.parameters()) == sum(p.size for p in net.state_dict().values())

    def test_onnx(self, exported):
        import onnxruntime

        net, stem = exported
        session = onnxruntime.InferenceSession(f"{stem}.onnx", providers=["CPUExecutionProvider"])
        for shape in self.SHAPES:
            image = picture(*shape)
            self.assert_same(session.run(None, {"image": image.numpy()}), net, image)

    @pytest.mark.parametrize("onednn", [False, True])
    def test_paddle_inference(self, exported, onednn, paddle_predictor):
        net, stem = exported
        predictor = paddle_predictor(stem, onednn)
        for shape in self.SHAPES:
            image = picture(*shape)
            self.assert_same([x.numpy() for x in predictor.run([image])], net, image)

    def test_the_suites_exporter(self, tmp_path):
        """Three levels of a backbone, so that maps are resampled; decisions inside the graph, every backend."""
        net = net_of(backbone="resnet_debug", levels=("c3", "c4", "c5"), candidates=300)
        mean, std = zoo.entry("retinanet_debug").mean_std
        task = create_task("detection")
        spec = Spec(
            "retinanet_debug", "detection", task, mean, std, output_op="detections", example=(64, 96), strict=True
        )
        export_layer(net, tmp_path, spec)
        rows = json.loads((tmp_path / "parity.json").read_text())["rows"]
        assert {row["backend"] for row in rows} == {"eager", "paddle", "paddle-onednn", "onnx"}
        assert all(row["agreement"] == 1.0 and row["max_error"] < 1e-4 for row in rows)
        graph = paddle.jit.load(str(tmp_path / "model"))
        outputs = graph(picture(2, 48, 56) * 50 + 120, paddle.ones([2, 48, 56], "bool"))
        boxes, scores, labels = (x.numpy() for x in outputs)
        assert boxes.shape == (2, 300, 4) and scores.shape == labels.shape == (2, 300) and labels.dtype == np.int32
        assert (np.diff(scores) <= 0).all() and 0 <= labels.min() and labels.max() < 4
