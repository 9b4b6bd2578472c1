"""Deformable DETR: sizes, queries from inside and outside, refinement, two stages, padding, backbones, weights, export.

What `transformers` computes is in test_against_transformers_deformable_detr.py.
"""

from __future__ import annotations

import json
import math

import numpy as np
import paddle
import pytest

from ppvision.data.collate import collate
from ppvision.errors import UserError
from ppvision.exporting.exporter import Spec, export_layer
from ppvision.models import zoo
from ppvision.models.deformable_detr import DeformableDetr
from ppvision.models.detr import check_detector
from ppvision.models.profile import parameters
from ppvision.models.queries import QuerySet
from ppvision.models.resnet import ResNet
from ppvision.predict.tasks.base import create_task
from ppvision.weights import load_weights, state_of, to_theirs
from ppvision.weights.names import convert, names_of
from ppvision.weights.names.classes import COCO_IDS
from tests.graphs import write_graphs
from tests.models.golden import fill
from tests.models.variants import builder

deformable_detr = builder(DeformableDetr)
resnet = builder(ResNet)

KINDS = {"plain": dict(refine=False), "refined": {}, "two_stage": dict(two_stage=True)}
SIZES = {"plain": 40_122_785, "refined": 40_902_780, "two_stage": 41_234_649}  # published: 40, 41 and 41 M


def net_of(kind: str = "refined", **overrides) -> DeformableDetr:
    net = zoo.create_model("deformable_detr_debug", **{"num_classes": 5, **KINDS[kind], **overrides})
    fill(net)
    for p in net.parameters():  # matrices large enough for answers that differ
        if p.ndim == 2:
            p.set_value(p * 2)
    net.eval()
    return net


def image(*shape: int, seed: int = 0) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(seed).standard_normal(shape).astype("float32"))


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_those_published(kind):
    options = {"plain": {}, "refined": {"refine": True}, "two_stage": {"refine": True, "two_stage": True}}[kind]
    free = {"frozen_bn": False, "freeze_at": 0}  # upstream counts what is frozen too
    assert parameters(deformable_detr("r50", num_classes=91, backbone_options=free, **options)) == SIZES[kind]


def test_debug_size_is_small():
    assert all(parameters(deformable_detr("debug", **options)) < 500_000 for options in KINDS.values())


@pytest.mark.parametrize("name", zoo.list_models("deformable_detr_*"))
def test_zoo_row(name):
    row = zoo.entry(name)
    assert row.task == "detection" and zoo.network_class(name) is DeformableDetr
    assert all(0 < value < 100 and source for value, source in row.published.values())
    assert (row.weights is None) == (row.license is None)


class TestForward:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("shape", [(1, 64, 96), (3, 37, 61), (2, 97, 131)])
    def test_logits_and_boxes(self, kind, shape):
        net = net_of(kind)
        out = net(image(shape[0], 3, *shape[1:]))
        assert list(out) == ["logits", "boxes"]
        assert out["logits"].shape == [shape[0], 20, 5] and out["boxes"].shape == [shape[0], 20, 4]
        assert all(v.isfinite().all().item() for v in out.values())
        assert 0 <= out["boxes"].min().item() and out["boxes"].max().item() <= 1 and out["boxes"].std().item() > 0.05

    @pytest.mark.parametrize("kind", KINDS)
    def test_it_is_encode_own_queries_decode(self, kind):
        net, x = net_of(kind), image(2, 3, 64, 96)
        check_detector(net)
        context = net.encode(x)
        assert context.memory.shape == [2, 96 + 24, 48]
        outputs = net.decode(context, net.own_queries(context))
        assert len(outputs) == 2
        out = net(x)
        assert np.array_equal(out["logits"], outputs[-1][0]) and np.array_equal(out["boxes"], outputs[-1][1])

    def test_a_picture_of_few_tokens_gets_few_queries(self):
        out = net_of("two_stage")(image(1, 3, 16, 24))
        assert out["boxes"].shape == [1, 8, 4]  # 2 x 3 + 1 x 2 tokens

    @pytest.mark.parametrize("kind", KINDS)
    def test_padding_changes_nothing(self, kind):
        """At sizes that divide by the strides a padded picture is answered like the picture alone."""
        net = net_of(kind)
        small, big = image(1, 3, 64, 96), image(1, 3, 96, 128, seed=1)
        valid = np.zeros((1, 96, 128), bool)
        valid[:, :64, :96] = True
        # the stem's maps near the rim see the padding, so the levels are compared from the projection on
        maps = net.input_proj([net.features(small)["c3"]])
        padded = net.input_proj([net.features(big)["c3"]])
        for whole, part in zip(padded, maps):
            whole[:, :, : part.shape[2], : part.shape[3]] = part
        alone = net.encoder(maps)
        context = net.encoder(padded, paddle.to_tensor(valid))
        expected = net.decode(alone, net.own_queries(alone))
        for got, want in zip(net.decode(context, net.own_queries(context)), expected):
            np.testing.assert_allclose(got[0].numpy(), want[0].numpy(), atol=1e-4)
            np.testing.assert_allclose(got[1].numpy(), want[1].numpy(), atol=1e-4)


class TestQueries:
    @pytest.mark.parametrize("kind", ["plain", "refined"])
    def test_groups_are_answered_as_if_alone(self, kind):
        net, x = net_of(kind), image(2, 3, 64, 96)
        other = net.new_queries()
        context = net.encode(x)
        sets = [net.own_queries(context), other(context)]
        both = net.decode(context, QuerySet.stack(sets, 2))
        for (logits, boxes), *alone in zip(both, *(net.decode(context, s) for s in sets)):
            assert boxes.shape == [2, 40, 4]
            np.testing.assert_allclose(logits.numpy(), np.concatenate([a[0].numpy() for a in alone], 1), atol=1e-5)
            np.testing.assert_allclose(boxes.numpy(), np.concatenate([a[1].numpy() for a in alone], 1), atol=1e-5)

    def test_two_stage_groups(self):
        net, x = net_of("two_stage"), image(2, 3, 64, 96)
        other = net.new_queries()
        fill(other)
        other.class_embed.weight.set_value(-other.class_embed.weight)
        context = net.encode(x)
        sets = [net.own_queries(context), other(context)]
        assert not np.array_equal(sets[0].references, sets[1].references)
        both = net.decode(context, QuerySet.stack(sets, 2))[-1][1].numpy()
        alone = [net.decode(context, s)[-1][1].numpy() for s in sets]
        np.testing.assert_allclose(both, np.concatenate(alone, axis=1), atol=1e-5)

    def test_a_mask_hides_queries(self):
        net, x = net_of(), image(1, 3, 64, 96)
        context = net.encode(x)
        own = net.own_queries(context)
        extra = QuerySet(own.references[:, :3] + 1, own.content[:, :3] * 2, own.positions[:, :3])
        mask = np.ones((23, 23), bool)
        mask[3:, :3] = False  # the own ones do not see the others
        joined = QuerySet.join([extra, own], 1, mask=paddle.to_tensor(mask))
        expected = net.decode(context, own)[-1][0].numpy()
        np.testing.assert_allclose(net.decode(context, joined)[-1][0].numpy()[:, 3:], expected, atol=1e-5)
        open_ = QuerySet.join([extra, own], 1)
        assert not np.allclose(net.decode(context, open_)[-1][0].numpy()[:, 3:], expected, atol=1e-3)

    def test_boxes_from_outside_are_references_too(self):
        net, x = net_of(), image(1, 3, 64, 96)
        context = net.encode(x)
        own = net.own_queries(context)
        assert own.references.shape == [1, 20, 2]
        boxes = paddle.to_tensor(np.random.default_rng(0).standard_normal((1, 20, 4)).astype("float32"))
        logits, out = net.decode(context, QuerySet(boxes, own.content, own.positions))[0]
        delta = out - paddle.nn.functional.sigmoid(boxes)
        assert out.shape == [1, 20, 4] and delta.abs().max().item() > 0.01

    def test_content_and_positions_are_needed(self):
        net = net_of()
        with pytest.raises(ValueError, match="content and positions"):
            net.decode(net.encode(image(1, 3, 64, 96)), QuerySet(paddle.zeros([1, 3, 4])))

    def test_new_queries_are_like_the_own_ones(self):
        for kind in KINDS:
            net = net_of(kind)
            a, b = net.queries.state_dict(), net.new_queries().state_dict()
            assert {k: list(v.shape) for k, v in a.items()} == {k: list(v.shape) for k, v in b.items()}
            assert not any(k.startswith("queries.") for k in net.new_queries().state_dict())


class TestTwoStages:
    def test_the_best_useful_tokens_become_queries(self):
        net, x = net_of("two_stage"), image(2, 3, 64, 96)
        context = net.encode(x)
        queries = net.own_queries(context)
        proposals = queries.proposals
        assert proposals.binary and proposals.logits.shape == [2, 120, 5] and proposals.boxes.shape == [2, 120, 4]
        assert queries.references.stop_gradient
        score = proposals.logits.numpy()[..., 0]
        for b in range(2):
            best = np.argsort(-score[b], kind="stable")[:20]
            chosen = 1 / (1 + np.exp(-queries.references.numpy()[b]))
            np.testing.assert_allclose(chosen, proposals.boxes.numpy()[b][best], atol=1e-5)

    def test_no_query_starts_in_the_padding(self):
        net = net_of("two_stage", num_queries=12)
        valid = np.zeros((1, 64, 96), bool)
        valid[:, :40, :48] = True
        net.queries.class_embed.weight.set_value(net.queries.class_embed.weight * -1)
        net.queries.class_embed.bias.set_value(net.queries.class_embed.bias * 0)
        for sign in (1, -1):  # whatever the classifier thinks of an empty token
            net.queries.enc_output_norm.bias.set_value(net.queries.enc_output_norm.bias + sign)
            context = net.encode(image(1, 3, 64, 96), paddle.to_tensor(valid))
            queries = net.own_queries(context)
            assert (queries.references < 12).all().item()

    def test_it_needs_refinement(self):
        with pytest.raises(UserError, match="'two_stage' needs refine"):
            deformable_detr("debug", refine=False, two_stage=True)


class TestGradient:
    @pytest.mark.parametrize("kind", KINDS)
    def test_every_parameter_receives_one(self, kind):
        net = net_of(kind)
        net.train()
        context = net.encode(image(2, 3, 64, 96))
        queries = net.own_queries(context)
        loss = sum((logits**2).mean() + (boxes**2).mean() for logits, boxes in net.decode(context, queries))
        if queries.proposals is not None:
            loss = loss + (queries.proposals.logits**2).mean() + (queries.proposals.boxes**2).mean()
        loss.backward()
        trained = {k: p for k, p in net.named_parameters() if p.trainable}
        assert not [k for k, p in trained.items() if p.grad is None or not p.grad.isfinite().all()]
        assert not [k for k, p in trained.items() if not p.grad.any()]

    def test_a_layers_boxes_do_not_train_the_head_before(self):
        net = net_of()
        context = net.encode(image(1, 3, 64, 96))
        net.decode(context, net.own_queries(context))[1][1].sum().backward()
        assert net.bbox_embed[0].layers[2].weight.grad is None
        assert net.bbox_embed[1].layers[2].weight.grad.any().item()

    def test_two_updates_lower_the_loss(self):
        net = zoo.create_model("deformable_detr_debug", num_classes=5)
        net.train()
        optimizer = paddle.optimizer.Adam(1e-3, parameters=[p for p in net.parameters() if p.trainable])
        x, losses = image(2, 3, 64, 96), []
        target = paddle.to_tensor(np.random.default_rng(0).uniform(0.2, 0.8, (2, 20, 4)).astype("float32"))
        for _ in range(3):
            context = net.encode(x)
            loss = sum((boxes - target).abs().mean() for _, boxes in net.decode(context, net.own_queries(context)))
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
            losses.append(loss.item())
        assert losses[2] < losses[1] < losses[0]


class TestRefinement:
    def test_a_layer_adds_to_the_boxes_before(self):
        """With the second layer's head silent its boxes are those of the first."""
        for kind in ("refined", "two_stage"):
            net = net_of(kind)
            for p in net.bbox_embed[1].layers[2].parameters():
                p.set_value(p * 0)
            context = net.encode(image(1, 3, 64, 96))
            outputs = net.decode(context, net.own_queries(context))
            np.testing.assert_allclose(outputs[1][1].numpy(), outputs[0][1].numpy(), atol=1e-5)

    def test_without_it_every_layer_starts_from_the_references(self):
        net = net_of("plain")
        assert len(net.class_embed) == len(net.bbox_embed) == 1
        last = net.bbox_embed[0].layers[2]
        last.weight.set_value(last.weight * 0)
        last.bias.set_value(paddle.to_tensor([0.5, -0.3, 1.0, -1.0]))
        context = net.encode(image(1, 3, 64, 96))
        queries = net.own_queries(context)
        points = queries.references.numpy() + np.array([0.5, -0.3])
        for _, boxes in net.decode(context, queries):
            np.testing.assert_allclose(boxes.numpy()[..., :2], 1 / (1 + np.exp(-points)), atol=1e-5)
            sides = 1 / (1 + np.exp([-1.0, 1.0]))
            np.testing.assert_allclose(boxes.numpy()[..., 2:], np.broadcast_to(sides, (1, 20, 2)), atol=1e-6)


def test_it_starts_as_published():
    for kind, sides in (("plain", [-2.0]), ("refined", [-2.0, 0.0]), ("two_stage", [0.0, 0.0])):
        net = deformable_detr("debug", **KINDS[kind])
        assert [h.layers[2].bias.tolist() for h in net.bbox_embed] == [[0, 0, s, s] for s in sides]
        assert not any(h.layers[2].weight.numpy().any() for h in net.bbox_embed)
        for head in net.class_embed:
            np.testing.assert_allclose(head.bias.numpy(), -math.log(99), rtol=1e-6)
    table = deformable_detr("debug", num_queries=300).queries
    assert table.query_embed.weight.std().item() == pytest.approx(1, rel=0.05)
    assert not table.reference_points.bias.numpy().any()


class TestBackbones:
    @pytest.mark.parametrize(
        "options",
        [
            dict(backbone="resnet_debug", levels=("c3", "c4", "c5"), num_levels=4),
            dict(backbone="maformer_debug", levels=("c2", "c3"), backbone_options=dict(gld="conv"), num_levels=3),
        ],
    )
    def test_by_name(self, options):
        net = net_of(**options)
        out = net(image(2, 3, 97, 131))
        assert out["boxes"].shape == [2, 20, 4] and out["boxes"].isfinite().all().item()

    def test_built(self):
        backbone = resnet("debug", num_classes=0)
        net = net_of(backbone=backbone, levels=("c4", "c5"))
        assert net.backbone is backbone
        assert net.feature_strides["c5"] == 32

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (dict(heads=5), "'heads' must divide the width 48"),
            (dict(num_levels=1, levels=("c3", "c4"), backbone="resnet_debug"), "'num_levels' must be at least"),
            (dict(levels=("c6",), backbone="resnet_debug"), "no level c6"),
            (dict(num_queries=0), "num_queries"),
        ],
    )
    def test_impossible_arguments_are_refused(self, options, message):
        with pytest.raises(UserError, match=message):
            deformable_detr("debug", **options)


class TestWeights:
    def test_own_names_load_as_they_are(self):
        for kind in KINDS:
            source, net = net_of(kind), deformable_detr("debug", num_classes=5, **KINDS[kind])
            load_weights(net, state_of(source))
            assert all(np.array_equal(v, state_of(source)[k]) for k, v in state_of(net).items())

    def test_a_methods_file(self):
        source, net = net_of(), deformable_detr("debug", num_classes=5)
        file = {f"model.{k}": v for k, v in state_of(source).items()} | {
            "groups.0.query_embed.weight": np.ones((20, 96))
        }
        report = load_weights(net, file)
        assert list(report.training_only) == ["groups.0.query_embed.weight"]
        assert all(np.array_equal(v, state_of(source)[k]) for k, v in state_of(net).items())

    def test_a_classifier_starts_the_backbone(self):
        classifier = resnet("debug")
        fill(classifier)
        net = net_of(backbone="resnet_debug", levels=("c3", "c4", "c5"), num_levels=3)
        report = load_weights(net, state_of(classifier), strict=False)
        assert sorted(report.ignored) == ["fc.bias", "fc.weight"]
        assert not report.unexpected and all(not k.startswith("backbone.") for k in report.missing)
        assert np.array_equal(net.backbone.layer3[0].conv1.weight, classifier.layer3[0].conv1.weight)

    def test_of_91_slots_80_classes_are_used(self):
        assert len(COCO_IDS) == 80 and COCO_IDS[:12] == (*range(1, 12), 13) and COCO_IDS[-1] == 90
        options = dict(num_classes=91, two_stage=True)
        source = deformable_detr("debug", **options)
        fill(source)
        net = deformable_detr("debug", two_stage=True)
        load_weights(net, to_theirs(source, "transformers", state_of(source)))
        for ours, theirs in zip(
            [*net.class_embed, net.queries.class_embed], [*source.class_embed, source.queries.class_embed]
        ):
            assert np.array_equal(ours.weight.numpy(), theirs.weight.numpy()[:, COCO_IDS])
            assert np.array_equal(ours.bias.numpy(), theirs.bias.numpy()[list(COCO_IDS)])

    @pytest.mark.parametrize(
        ("theirs", "ours"),
        [
            ("backbone.0.body.layer1.0.bn1._mean", "backbone.layer1.0.bn1._mean"),
            ("model.backbone.conv_encoder.model.layer4.2.conv3.weight", "backbone.layer4.2.conv3.weight"),
            ("model.backbone.conv_encoder.model.encoder.stages.3.layers.2.layer.2.convolution.weight",
             "backbone.layer4.2.conv3.weight"),
            ("transformer.level_embed", "encoder.level_embed"),
            ("input_proj.3.0.weight", "input_proj.3.conv.weight"),
            ("model.input_proj.3.1.bias", "input_proj.3.norm.bias"),
            ("transformer.decoder.layers.5.norm1.weight", "decoder.layers.5.norm1.weight"),
            ("model.decoder.layers.5.encoder_attn_layer_norm.weight", "decoder.layers.5.norm1.weight"),
            ("model.decoder.layers.5.encoder_attn.value_proj.bias", "decoder.layers.5.cross_attn.value_proj.bias"),
            ("transformer.encoder.layers.0.self_attn.sampling_offsets.bias",
             "encoder.layers.0.self_attn.sampling_offsets.bias"),
            ("model.decoder.bbox_embed.2.layers.1.weight", "bbox_embed.2.layers.1.weight"),
            ("transformer.pos_trans_norm.weight", "queries.pos_trans_norm.weight"),
            ("something.else", "something.else"),
        ],
    )  # fmt: skip
    def test_rename(self, theirs, ours):
        net = deformable_detr("debug", decoder_layers=6)
        assert list(convert(net, names_of(net), {theirs: np.zeros(1)}).network) == [ours]


@pytest.fixture(scope="module", params=[*KINDS, "resnet"])
def exported(request, tmp_path_factory):
    """A network and the stem of its static graph and ONNX file, batch, height and width free."""
    if request.param == "resnet":
        net = net_of(backbone="resnet_debug", levels=("c3", "c4", "c5"), num_levels=4)
    else:
        net = net_of(request.param)
    return net, write_graphs(net, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("backend", ["graph", "onnx", "inference"])
def test_exports_equal_eager_at_any_size(exported, backend):
    net, stem = exported
    if backend == "graph":
        session = paddle.jit.load(stem)
        run = lambda x: [v.numpy() for v in session(paddle.to_tensor(x))]
    elif backend == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(f"{stem}.onnx", providers=["CPUExecutionProvider"])
        run = lambda x: session.run(None, {"image": x})
    else:
        from paddle import inference

        config = inference.Config(f"{stem}.json", f"{stem}.pdiparams")
        config.disable_glog_info()
        config.enable_mkldnn()
        config.delete_pass("onednn_placement_pass")
        session = inference.create_predictor(config)
        run = lambda x: [v.numpy() for v in session.run([paddle.to_tensor(x)])]
    for shape in ((1, 3, 64, 96), (3, 3, 37, 61), (2, 3, 97, 131)):
        x = image(*shape)
        with paddle.no_grad():
            expected = net(x)
        measured = run(x.numpy())
        assert len(measured) == 2
        for key, value in zip(sorted(expected), measured):  # a graph orders the outputs of a dict by name
            np.testing.assert_allclose(value, expected[key].numpy(), atol=1e-4)


def test_the_suites_exporter(tmp_path):
    """Decisions inside the graph, numbers equal on every backend; heads of the layers before the last stay outside."""
    net = net_of()
    pictures = [np.random.default_rng(i).integers(0, 256, (64, 96, 3), dtype=np.uint8) for i in range(2)]
    batches = [collate([{"image": picture}]) for picture in pictures]
    (mean, std), task = zoo.entry("deformable_detr_debug").mean_std, create_task("detection")
    spec = Spec("deformable_detr_debug", "detection", task, mean, std, example=(64, 96), batches=batches, strict=True)
    export_layer(net, tmp_path, spec)
    report = json.loads((tmp_path / "parity.json").read_text())
    assert report["refused"] == {}
    assert {row["backend"] for row in report["rows"]} == {"eager", "paddle", "paddle-onednn", "onnx"}
    assert len({tuple(row["shape"]) for row in report["rows"]}) == 2
    assert all(row["max_error"] < 1e-4 and row["agreement"] > 0.999 for row in report["rows"] if row["judged"])
    graph = paddle.jit.load(str(tmp_path / "model"))
    assert net.training_heads == ("class_embed.0",)
    kept = [v for k, v in net.state_dict().items() if not k.startswith("class_embed.0.")]
    assert sum(v.size for v in graph.state_dict().values()) == sum(v.size for v in kept)
    for shape in ((1, 3, 64, 96), (3, 3, 41, 75)):
        whole = paddle.ones([shape[0], *shape[2:]], "bool")
        boxes, scores, labels = (v.numpy() for v in graph(image(*shape) * 50 + 120, whole))
        assert boxes.shape == (shape[0], 100, 4) and scores.shape == labels.shape == (shape[0], 100)
        assert (np.diff(scores, axis=1) <= 0).all() and labels.dtype == np.int32
