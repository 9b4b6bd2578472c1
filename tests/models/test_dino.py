"""DINO: the oracle, proposals and their choice, look forward twice, query sets from outside, starts, sizes, export."""

from __future__ import annotations

import json
import math
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppvision.config import check, load
from ppvision.engine.optimizer import parameter_groups, trainable
from ppvision.errors import UserError
from ppvision.exporting.exporter import Spec, export_layer
from ppvision.methods.group_detr import GroupDetr
from ppvision.models import zoo
from ppvision.models.deformable_parts import anchors
from ppvision.models.dino import Dino, DinoQueries
from ppvision.models.profile import profile
from ppvision.models.queries import Context, QuerySet
from ppvision.nn.boxes import inverse_sigmoid
from ppvision.predict.tasks.base import create_task
from ppvision.weights import load_weights, state_of
from tests.graphs import write_graphs
from tests.models.golden import fill
from tests.models.variants import builder

dino = builder(Dino)

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests/oracles/paddledet_dino.py"
DEBUG = ["dino_debug", "group_detr_v2_debug"]


def net_of(name: str = "dino_debug", **options) -> Dino:
    net = zoo.create_model(name, **options)
    fill(net)
    net.eval()
    return net


def picture(batch: int = 2, height: int = 72, width: int = 104) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(5).standard_normal([batch, 3, height, width]).astype("float32"))


def padding() -> paddle.Tensor:
    valid = np.zeros([2, 72, 104], bool)
    valid[0], valid[1, :48, :64] = True, True
    return paddle.to_tensor(valid)


class Given(paddle.nn.Layer):
    """A backbone that says what it was told."""

    def __init__(self, maps: dict[str, np.ndarray]):
        super().__init__()
        self.maps = {k: paddle.to_tensor(v) for k, v in maps.items()}
        self.feature_channels = {k: v.shape[1] for k, v in maps.items()}
        self.feature_strides = {"c3": 8, "c4": 16}

    def features(self, image):
        return self.maps


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """What PaddleDetection computed."""
    python = Path(os.environ.get("PPVISION_ORACLE_PYTHON", ROOT / ".venv-oracles/bin/python"))
    if not python.exists():
        pytest.fail(f"{python} is missing; run `make oracles`", pytrace=False)
    folder = tmp_path_factory.mktemp("paddledet")
    run = subprocess.run([str(python), str(SCRIPT), str(folder)], cwd=folder, capture_output=True, text=True)
    if run.returncode:
        tail = "\n".join(run.stderr.strip().splitlines()[-5:])
        pytest.fail(f"paddledet failed in {python}; does `make oracles` help?\n{tail}", pytrace=False)
    return dict(np.load(folder / "dino.npz"))


@pytest.mark.oracle
@pytest.mark.parametrize("case", ["whole", "padded"])
def test_same_weights_same_answers_as_paddledetection(oracle, case):
    """Proposals, and logits and boxes of every decoder layer."""
    backbone = Given({"c3": oracle["map0"], "c4": oracle["map1"]})
    options = dict(levels=("c3", "c4"), num_levels=3, num_queries=12, dim=32, heads=4, ffn=64)
    net = Dino(5, backbone=backbone, encoder_layers=2, decoder_layers=3, **options)
    net.eval()
    state = {k.removeprefix("state/"): v for k, v in oracle.items() if k.startswith("state/")}
    report = load_weights(net, state)
    assert len(report.loaded) == len(net.state_dict()) and list(report.training_only) == ["denoising.0.weight"]
    with paddle.no_grad():
        context = net.encode(picture(), paddle.to_tensor(oracle["valid"]) if case == "padded" else None)
        queries = net.own_queries(context)
        outputs = net.decode(context, queries)
    errors = [
        np.abs(queries.proposals.logits.numpy() - oracle[f"{case}/proposal_logits"]).max(),
        np.abs(queries.proposals.boxes.numpy() - oracle[f"{case}/proposal_boxes"]).max(),
    ]
    for i, (logits, boxes) in enumerate(outputs):
        errors.append(np.abs(logits.numpy() - oracle[f"{case}/logits"][i]).max())
        errors.append(np.abs(boxes.numpy() - oracle[f"{case}/boxes"][i]).max())
    print(f"{case}: {max(errors):.1e}, logits up to {np.abs(oracle[f'{case}/logits']).max():.1f}")
    assert oracle[f"{case}/proposal_boxes"].max() < 0.999  # upstream chose no token without an anchor
    assert max(errors) <= 1e-4


class TestQueries:
    def test_the_best_tokens_in_order(self):
        """Scores, choice and boxes by hand."""
        net = net_of()
        context = net.encode(picture(), padding())
        queries, head = net.own_queries(context), net.queries
        logits, useful = (x.numpy() for x in anchors(context))
        tokens = head.enc_output(context.memory)
        scores = head.enc_score_head(tokens).numpy()
        boxes = head.enc_bbox_head(tokens).numpy() + logits
        best = np.where(useful[..., 0], scores.max(-1), -np.inf)
        for i in range(2):
            order = np.argsort(-best[i], kind="stable")[:20]
            np.testing.assert_allclose(queries.references[i].numpy(), boxes[i, order], atol=1e-5)
            np.testing.assert_allclose(queries.proposals.logits[i].numpy(), scores[i, order], atol=1e-5)
        np.testing.assert_allclose(
            queries.proposals.boxes.numpy(), 1 / (1 + np.exp(-queries.references.numpy())), atol=1e-6
        )
        np.testing.assert_array_equal(queries.content[0].numpy(), head.tgt_embed.weight.numpy())
        assert not queries.proposals.binary

    def test_tokens_of_the_padding_are_never_chosen(self):
        """The class head likes nothing as much as one of them."""
        net = net_of()
        context = net.encode(picture(), padding())
        useful = anchors(context)[1][1, :, 0].numpy()
        tokens = net.queries.enc_output(context.memory)
        padded = int(np.flatnonzero(~context.valid[1].numpy())[7])
        net.queries.enc_score_head.weight.set_value(tokens[1, padded].unsqueeze(1).tile([1, 80]))
        scores = net.queries.enc_score_head(tokens)[1].max(-1).numpy()
        assert scores.argmax() == padded and not useful[padded]
        queries = net.own_queries(context)
        assert queries.references.abs().max().item() < 12  # none has the logit 20 of a useless anchor
        assert queries.proposals.logits[1].max().item() == pytest.approx(scores[useful].max(), abs=1e-4)

    def test_an_object_beside_the_padding_can_be_found(self):
        """The last valid column is chosen when its tokens score best, the first one of the padding never."""
        shapes = [(6, 10)]
        valid = np.zeros([1, 6, 10], bool)
        valid[:, :5, :7] = True
        memory = np.zeros([1, 6, 10, 8], "float32")
        memory[0, 2, 6, 0], memory[0, 2, 7, 0] = 5.0, 50.0
        ratios = paddle.to_tensor([[[0.7, 5 / 6]]])
        context = Context(
            paddle.to_tensor(memory.reshape(1, 60, 8)), paddle.to_tensor(valid.reshape(1, 60)), shapes, None, ratios
        )
        queries = DinoQueries(8, 3, 4)
        fill(queries)
        queries.enc_output = paddle.nn.Identity()
        queries.enc_score_head.weight.set_value(paddle.eye(8)[:, :3])
        queries.enc_score_head.bias.set_value(paddle.zeros([3]))
        queries.enc_bbox_head.layers[2].weight.set_value(paddle.zeros([8, 4]))
        queries.enc_bbox_head.layers[2].bias.set_value(paddle.zeros([4]))
        chosen = queries(context)
        np.testing.assert_allclose(chosen.proposals.boxes[0, 0].numpy(), [6.5 / 7, 2.5 / 5, 0.05, 0.05], atol=1e-5)
        assert chosen.proposals.logits.max().item() == 5.0

    def test_proposals_have_a_gradient_and_references_none(self):
        net = net_of()
        queries = net.own_queries(net.encode(picture()))
        assert queries.references.stop_gradient
        (queries.proposals.logits.sum() + queries.proposals.boxes.sum()).backward()
        for part in (net.queries.enc_output, net.queries.enc_score_head, net.queries.enc_bbox_head, net.encoder):
            assert all(p.grad is not None and p.grad.abs().sum().item() > 0 for p in part.parameters())

    def test_fewer_tokens_than_queries(self):
        net = net_of(num_queries=70)
        y = net(picture(1, 48, 64))  # 48 + 12 tokens
        assert y["logits"].shape == [1, 60, 80] and y["boxes"].isfinite().all().item()


class TestDecoder:
    def test_a_layers_box_loss_trains_the_box_head_before_it(self):
        net = net_of(decoder_layers=4)
        context = net.encode(picture())
        queries = net.own_queries(context)
        for i in range(1, 4):
            net.clear_gradients()
            net.decode(context, queries)[i][1].sum().backward(retain_graph=True)
            reached = [net.dec_bbox_head[j].layers[0].weight.grad for j in range(4)]
            reached = [g is not None and bool(g.abs().sum() > 0) for g in reached]
            assert reached == [j in (i, i - 1) for j in range(4)]

    def test_answers_by_hand(self):
        """References through the layers, from the parts' own outputs."""
        net = net_of()
        context = net.encode(picture(), padding())
        queries = net.own_queries(context)
        logits = [queries.references]
        seen = []
        for layer in net.decoder.layers:
            layer.register_forward_post_hook(lambda layer, inputs, output: seen.append((inputs, output)))
        outputs = net.decode(context, queries)
        for i, (inputs, output) in enumerate(seen):
            _, positions, at, *_ = inputs
            expected = 1 / (1 + np.exp(-logits[i].numpy()))[:, :, None]
            ratios = np.concatenate([context.valid_ratios.numpy()] * 2, -1)[:, None]
            np.testing.assert_allclose(at.numpy(), expected * ratios, atol=1e-6)
            wave = []
            for k in (1, 0, 2, 3):  # y, x, w, h
                phase = at.numpy()[:, :, 0, k, None] * 2 * np.pi / 10000 ** (np.arange(0, 24, 2) / 24)
                wave.append(np.stack([np.sin(phase), np.cos(phase)], -1).reshape(2, 20, 24))
            wave = paddle.to_tensor(np.concatenate(wave, -1).astype("float32"))
            np.testing.assert_allclose(positions.numpy(), net.query_pos_head(wave).numpy(), atol=1e-5)
            normed = net.decoder.norm(output)
            np.testing.assert_allclose(outputs[i][0].numpy(), net.dec_score_head[i](normed).numpy(), atol=1e-5)
            moved = (net.dec_bbox_head[i](normed) + logits[i]).numpy()
            np.testing.assert_allclose(outputs[i][1].numpy(), 1 / (1 + np.exp(-moved)), atol=1e-6)
            logits.append(net.dec_bbox_head[i](output) + logits[i])

    def test_norms_are_named_as_upstream_names_them(self):
        """After self-attention norm2, after cross-attention norm1."""
        order = []
        layer = net_of().decoder.layers[0]
        for name in ("self_attn", "cross_attn", "norm1", "norm2", "norm3", "linear2"):
            getattr(layer, name).register_forward_post_hook(lambda *_, name=name: order.append(name))
        net = net_of()
        net.decoder.layers[0] = layer
        net(picture())
        assert order == ["self_attn", "norm2", "cross_attn", "norm1", "linear2", "norm3"]

    def test_points_from_outside(self):
        """Any number of boxes with any content, for one picture or each; a query is answered as if alone."""
        net = net_of()
        context = net.encode(picture(), padding())
        rng = np.random.default_rng(1)
        references = paddle.to_tensor(rng.standard_normal([1, 7, 4]).astype("float32"))
        content = paddle.to_tensor(rng.standard_normal([1, 7, 48]).astype("float32"))
        shared = net.decode(context, QuerySet(references, content))
        assert [tuple(x.shape) for x in shared[1]] == [(2, 7, 80), (2, 7, 4)]
        each = net.decode(context, QuerySet(references.expand([2, 7, 4]), content.expand([2, 7, 48])))
        np.testing.assert_array_equal(shared[1][1].numpy(), each[1][1].numpy())
        alone = paddle.to_tensor(np.eye(7, dtype=bool))
        masked = net.decode(context, QuerySet(references, content, mask=alone))[1]
        for i in range(7):
            one = net.decode(context, QuerySet(references[:, i : i + 1], content[:, i : i + 1]))[1]
            np.testing.assert_allclose(masked[0][:, i].numpy(), one[0][:, 0].numpy(), atol=1e-5)

    def test_groups_are_answered_as_if_alone(self):
        net = net_of()
        others = [net.new_queries() for _ in range(2)]
        for i, layer in enumerate(others):
            for p in layer.parameters():
                p.set_value(p + 0.1 * (i + 1) * paddle.randn(p.shape))
        context = net.encode(picture(), padding())
        sets = [net.own_queries(context), *(layer(context) for layer in others)]
        together = net.decode(context, QuerySet.stack(sets, 2))
        for g, queries in enumerate(sets):
            for both, alone in zip(together, net.decode(context, queries)):
                for x, y in zip(both, alone):
                    np.testing.assert_allclose(x[:, 20 * g : 20 * g + 20].numpy(), y.numpy(), atol=1e-5)
        y = net(picture(), padding())
        np.testing.assert_allclose(y["boxes"].numpy(), together[1][1][:, :20].numpy(), atol=1e-5)

    def test_noised_queries_in_front(self):
        """With a mask that hides them the matching part answers as without."""
        net = net_of()
        context = net.encode(picture(), padding())
        own = net.own_queries(context)
        noised = QuerySet(inverse_sigmoid(paddle.rand([2, 6, 4])), paddle.randn([2, 6, 48]))
        mask = np.ones([26, 26], bool)
        mask[6:, :6] = False
        joined = QuerySet.join([noised, own], 2, mask=paddle.to_tensor(mask))
        logits, boxes = net.decode(context, joined)[-1]
        plain = net.decode(context, own)[-1]
        np.testing.assert_allclose(logits[:, 6:].numpy(), plain[0].numpy(), atol=1e-5)
        np.testing.assert_allclose(boxes[:, 6:].numpy(), plain[1].numpy(), atol=1e-5)
        assert joined.proposals is own.proposals

    def test_what_has_no_content_is_refused(self):
        net = net_of()
        context = net.encode(picture())
        with pytest.raises(ValueError, match="boxes with content"):
            net.decode(context, replace(net.own_queries(context), content=None))

    def test_padding_does_not_change_the_proposals(self):
        """A picture in a larger batch is encoded as alone. (The decoder's positions are those of the padded map.)"""
        net = net_of()
        x = picture(1, 48, 64)
        valid = paddle.zeros([1, 64, 96], dtype="bool")
        valid[:, :48, :64] = True
        levels = net.neck([net.features(x)["c3"]])
        wide = [paddle.full([1, 48, 8, 12], 9.0), paddle.full([1, 48, 4, 6], 9.0)]
        for level, y in zip(wide, levels):
            level[:, :, : y.shape[2], : y.shape[3]] = y
        alone, inside = net.own_queries(net.encoder(levels)), net.own_queries(net.encoder(wide, valid))
        np.testing.assert_allclose(inside.references.numpy(), alone.references.numpy(), atol=1e-4)
        np.testing.assert_allclose(inside.proposals.logits.numpy(), alone.proposals.logits.numpy(), atol=1e-4)


class TestStart:
    def test_every_group_starts_alike(self):
        net = dino("debug")
        for queries in (net.queries, net.new_queries(), net.new_queries()):
            assert queries.enc_score_head.bias.numpy() == pytest.approx(-math.log(99))
            assert not queries.enc_bbox_head.layers[2].weight.any() and not queries.enc_bbox_head.layers[2].bias.any()
            assert queries.tgt_embed.weight.std().item() == pytest.approx(1, abs=0.1)
            bound = (6 / (48 + 48)) ** 0.5
            assert 0.9 * bound < queries.enc_output[0].weight.abs().max().item() <= bound
        assert not np.array_equal(net.queries.tgt_embed.weight.numpy(), net.new_queries().tgt_embed.weight.numpy())

    def test_heads(self):
        net = dino("debug")
        net.eval()
        for scores, boxes in zip(net.dec_score_head, net.dec_bbox_head):
            assert scores.bias.numpy() == pytest.approx(-math.log(99))
            assert 0.9 * 48**-0.5 < scores.weight.abs().max().item() <= 48**-0.5
            assert not boxes.layers[2].weight.any() and boxes.layers[1].weight.any()
        assert len({id(p) for p in net.dec_score_head.parameters()}) == 4  # one head per layer
        context = net.encode(picture())
        queries = net.own_queries(context)
        boxes = net.decode(context, queries)[-1][1]
        np.testing.assert_allclose(boxes.numpy(), queries.proposals.boxes.numpy(), atol=1e-6)
        assert net.encoder.level_embed.std().item() == pytest.approx(1, abs=0.3)


class TestSizes:
    """Counted on shapes, which needs no memory."""

    @staticmethod
    def count(layer: paddle.nn.Layer) -> int:
        return sum(math.prod(p.shape) for p in layer.parameters())

    def test_group_detr_v2(self):
        with paddle.LazyGuard():
            net = zoo.create_model("group_detr_v2_vit_huge")
        transformer = (net.encoder, net.decoder, net.query_pos_head, net.dec_score_head, net.dec_bbox_head, net.queries)
        total = sum(self.count(part) for part in transformer)
        table = 80 * 256  # of denoising, which the published sum counts with the first group
        assert total == 18_535_756 and (total + table) / 1e6 == pytest.approx(18.6, abs=0.05)
        assert self.count(net.neck) == 5_869_184
        assert self.count(net.backbone) / 1e6 == pytest.approx(630.9, abs=0.05)
        assert self.count(net) / 1e6 == pytest.approx(655.3, abs=0.05)
        with paddle.LazyGuard():
            group = self.count(net.new_queries())
        assert group + table == 470_356  # what every further group costs while training
        assert net.recompute_blocks == tuple(f"backbone.blocks.{i}" for i in range(32))

    @pytest.mark.parametrize(("name", "millions"), [("dino_r18", 31.0), ("dino_r50", 47.5), ("dino_r101", 66.5)])
    def test_on_resnets(self, name, millions):
        with paddle.LazyGuard():
            net = zoo.create_model(name)
        statistics = [p for k, p in net.named_parameters() if k.endswith(("_mean", "_variance"))]
        count = self.count(net) - sum(math.prod(p.shape) for p in statistics)
        assert count / 1e6 == pytest.approx(millions, abs=0.5)
        assert all("norm" not in k and "bn" not in k for k, p in net.backbone.named_parameters() if p.trainable)
        frozen = {k.split(".")[0] for k, p in net.backbone.named_parameters() if not p.trainable and p.ndim == 4}
        assert frozen == {"conv1", "layer1"}

    @pytest.mark.parametrize("name", DEBUG)
    def test_debug_sizes(self, name):
        net = zoo.create_model(name)
        assert self.count(net) < 500_000
        assert (net.num_queries, net.dim, net.num_classes, len(net.decoder.layers)) == (20, 48, 80, 2)

    def test_multiply_adds_of_the_transformer(self):
        """Linear layers of encoder and decoder, attention of the queries, heads: the formula."""
        net = zoo.create_model("dino_debug", backbone="vit_det_debug", neck="pyramid")
        measured = profile(net, {"image": ([1, 3, 64, 64], "float32")}).macs
        backbone = profile(net.backbone, {"image": ([1, 3, 64, 64], "float32")}).macs
        d, ffn, tokens, queries, heads, places, classes = 48, 96, 80, 20, 4, 2 * 4, 80
        neck = 64 * (d * d + 9 * d * d) + 16 * (d * d + 9 * d * d)
        around = heads * places * 3 * d  # offsets and weights
        encoder = tokens * (2 * d * d + around + 2 * d * ffn)
        box_head = 2 * d * d + 4 * d
        selection = tokens * (d * d + d * classes) + queries * box_head
        layer = queries * (4 * d * d + 2 * queries * d + d * d + around + d * d + 2 * d * ffn) + tokens * d * d
        layer -= queries * d * d  # values are projected for tokens, not for queries
        decoder = 2 * (layer + queries * (3 * d * d + d * classes)) + 3 * queries * box_head  # the last passes none on
        assert measured - backbone == neck + encoder + selection + decoder

    @pytest.mark.parametrize(
        ("key", "value"),
        [("heads", 5), ("dim", 0), ("num_queries", 0), ("dropout", 1.0), ("num_levels", 0), ("decoder_layers", 0)],
    )
    def test_arguments_that_cannot_be(self, key, value):
        with pytest.raises(UserError, match=f"'{key}'"):
            dino("debug", **{key: value})

    def test_a_pyramid_has_one_map(self):
        with pytest.raises(UserError, match="made of one map"):
            dino("debug", backbone="resnet_debug", levels=("c3", "c4"), neck="pyramid")


@pytest.mark.parametrize("name", DEBUG)
def test_every_parameter_receives_a_gradient(name):
    net = net_of(name)
    net.train()
    context = net.encode(picture(), padding())
    queries = net.own_queries(context)
    loss = queries.proposals.logits.square().sum() + queries.proposals.boxes.square().sum()
    for logits, boxes in net.decode(context, queries):
        loss = loss + logits.square().sum() + boxes.square().sum()
    loss.backward()
    assert not [k for k, p in net.named_parameters() if p.trainable and (p.grad is None or not p.grad.any())]


@pytest.mark.parametrize("backbone", ["resnet_debug", "maformer_debug"])
def test_other_backbones_fit(backbone):
    net = zoo.create_model("dino_debug", backbone=backbone, levels=("c3", "c4", "c5"), num_levels=4)
    net.eval()
    y = net(picture(1, 64, 96))
    assert y["logits"].shape == [1, 20, 80] and y["boxes"].isfinite().all().item()


def test_five_levels_of_a_pyramid():
    net = zoo.create_model("group_detr_v2_debug", num_levels=5)
    net.eval()
    context = net.encode(picture(1, 64, 96))
    assert [tuple(s) for s in context.shapes] == [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]


@pytest.mark.parametrize("name", DEBUG)
def test_checkpoint_of_the_zoo_loads_by_name(name):
    net, other = net_of(name), zoo.create_model(name)
    load_weights(other, state_of(net))
    for key, value in state_of(net).items():
        np.testing.assert_array_equal(state_of(other)[key], value, err_msg=key)


@pytest.fixture(scope="module", params=DEBUG)
def exported(request, tmp_path_factory):
    """A network and the stem of its static graph and ONNX file, batch, height and width free."""
    net = net_of(request.param)
    return net, write_graphs(net, tmp_path_factory.mktemp(request.param))


class TestExport:
    SHAPES = ((1, 64, 64), (3, 72, 104), (2, 37, 61), (1, 33, 130))

    @staticmethod
    def expected(net, image):
        y = net(image)
        return [y[key].numpy() for key in sorted(y)]  # a static graph sorts them

    def test_static_graph(self, exported):
        net, stem = exported
        graph = paddle.jit.load(stem)
        for shape in self.SHAPES:
            image = picture(*shape)
            out = graph(image)
            for ours, theirs in zip([x.numpy() for x in out], self.expected(net, image), strict=True):
                np.testing.assert_allclose(ours, theirs, atol=2e-5)
        unused = sum(p.size for p in net.dec_score_head[0].parameters())  # of layers before the last: for training
        assert sum(p.size for p in graph.parameters()) == sum(p.size for p in net.state_dict().values()) - unused

    def test_onnx(self, exported):
        import onnxruntime

        net, stem = exported
        session = onnxruntime.InferenceSession(f"{stem}.onnx", providers=["CPUExecutionProvider"])
        for shape in self.SHAPES:
            image = picture(*shape)
            out = session.run(None, {"image": image.numpy()})
            for ours, theirs in zip(out, self.expected(net, image), strict=True):
                np.testing.assert_allclose(ours, theirs, atol=2e-5)

    @pytest.mark.parametrize("onednn", [False, True])
    def test_paddle_inference(self, exported, onednn, paddle_predictor):
        net, stem = exported
        predictor = paddle_predictor(stem, onednn)
        for shape in self.SHAPES:
            image = picture(*shape)
            out = [x.numpy() for x in predictor.run([image])]
            for ours, theirs in zip(out, self.expected(net, image), strict=True):
                np.testing.assert_allclose(ours, theirs, atol=1e-4)

    def test_the_suites_exporter(self, tmp_path):
        """Decisions inside the graph, judged on every backend at two shapes."""
        net = net_of()
        mean, std = zoo.entry("dino_debug").mean_std
        task = create_task("detection")
        spec = Spec("dino_debug", "detection", task, mean, std, output_op="detections", example=(64, 96), strict=True)
        export_layer(net, tmp_path, spec)
        rows = json.loads((tmp_path / "parity.json").read_text())["rows"]
        assert {row["backend"] for row in rows} == {"eager", "paddle", "paddle-onednn", "onnx"}
        assert all(row["agreement"] == 1.0 and row["max_error"] < 1e-4 for row in rows)
        graph = paddle.jit.load(str(tmp_path / "model"))
        outputs = graph(picture(2, 48, 56) * 50 + 120, paddle.ones([2, 48, 56], "bool"))
        boxes, scores, labels = (x.numpy() for x in outputs)
        assert boxes.shape == (2, 300, 4) and scores.shape == labels.shape == (2, 300) and labels.dtype == np.int32
        assert (np.diff(scores) <= 0).all() and 0 <= labels.min() and labels.max() < 80


CONFIGS = ROOT / "configs"
RECIPES = sorted([*CONFIGS.glob("dino/dino_r*.yml"), *CONFIGS.glob("group_detr_v2/*.yml")])


class TestRecipes:
    def test_every_published_schedule_is_here(self):
        expected = {
            *(f"dino_{net}_coco_{epochs}e" for net, epochs in (("r18", 12), ("r50", 12), ("r50", 24), ("r50", 36))),
            *("dino_r101_coco_12e", "dino_r101_coco_36e", "group_dino_r50_coco_12e"),
            *("vit_h_1_pretrain", "vit_h_2_imagenet", "vit_h_3_objects365", "vit_h_4_coco"),
        }
        assert expected <= {path.stem for path in RECIPES}

    @pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
    def test_is_valid_and_tells_its_story(self, path):
        cfg = load(str(path))
        check(cfg)
        head = "".join(line for line in path.read_text().splitlines(True) if line.startswith("#"))
        assert f"tools/train.py -c configs/{path.parent.name}/{path.name}" in head
        if not path.stem.endswith("_mini"):
            assert "Ours: not trained" in head and "Hours: not known" in head and "arXiv:" in head
            assert all(len(line) <= 150 for line in head.splitlines())

    @pytest.mark.parametrize(
        ("name", "epochs", "drop"), [("r50_coco_12e", 12, 11), ("r50_coco_24e", 24, 20), ("r50_coco_36e", 36, 30)]
    )
    def test_the_rate_falls_when_it_did(self, name, epochs, drop):
        from ppvision.engine.schedule import Step

        cfg = load(str(CONFIGS / f"dino/dino_{name}.yml"))
        updates = 118_287 // 16
        schedule = Step(1e-4, epochs * updates, milestones=cfg.schedule.kwargs["milestones"], gamma=0.1)
        assert cfg.train.epochs == epochs
        assert schedule((drop - 0.01) * updates) == 1e-4 and schedule((drop + 0.01) * updates) == pytest.approx(1e-5)

    def test_the_chain_hands_its_weights_on(self):
        chain = ["vit_h_1_pretrain", "vit_h_2_imagenet", "vit_h_3_objects365", "vit_h_4_coco"]
        recipes = [load(str(CONFIGS / f"group_detr_v2/{name}.yml")) for name in chain]
        for before, after in zip(chain, recipes[1:]):
            assert after.model.weights.startswith(f"output/{before}/best_model")
        assert [r.model.kwargs.get("num_classes") for r in recipes] == [None, 1000, 365, 80]
        for recipe in recipes[:2]:
            assert [recipe.model.kwargs[k] for k in ("dim", "depth", "num_heads")] == [1280, 32, 16]
        assert recipes[1].model.kwargs["rel_pos_bias"] is False
        for recipe in recipes[2:]:
            assert recipe.method.kwargs["groups"] == 11 and recipe.train.ema == 0.9997
            assert recipe.train.recompute and recipe.train.shard_optimizer and recipe.train.clip_norm == 0.1
        assert recipes[3].data.val.transforms[0].kwargs == {"short": 1184, "max": 2000}

    @pytest.mark.parametrize("stage", ["vit_h_3_objects365", "vit_h_4_coco"])
    def test_layer_decay(self, stage):
        spec = load(str(CONFIGS / f"group_detr_v2/{stage}.yml")).optimizer.kwargs
        options = {"depth": 32, "dim": 8, "num_heads": 2, "global_blocks": (7, 15), "abs_pos": True}
        method = GroupDetr(zoo.create_model("group_detr_v2_debug", backbone_options=options), groups=2, denoising=10)
        parameters = trainable(method)
        groups = parameter_groups(parameters, spec["weight_decay"], None, spec["no_decay"], spec["layer_decay"])
        names = {id(p): k for k, p in parameters.items()}
        scale = {names[id(p)]: (g["learning_rate"], g["weight_decay"]) for g in groups for p in g["params"]}
        assert scale["model.backbone.patch_embed.proj.weight"] == (pytest.approx(0.7**33), 1e-4)
        assert scale["model.backbone.pos_embed"] == (pytest.approx(0.7**33), 0.0)
        for i in range(32):
            assert scale[f"model.backbone.blocks.{i}.mlp.fc1.weight"] == (pytest.approx(0.7 ** (32 - i)), 1e-4)
            assert scale[f"model.backbone.blocks.{i}.attn.rel_pos_h"] == (pytest.approx(0.7 ** (32 - i)), 0.0)
            assert scale[f"model.backbone.blocks.{i}.norm1.weight"] == (pytest.approx(0.7 ** (32 - i)), 0.0)
        assert scale["model.decoder.layers.1.linear1.weight"] == scale["model.neck.simfp_3.0.weight"] == (1.0, 1e-4)
        for key in ("model.encoder.level_embed", "groups.0.tgt_embed.weight", "denoising.1.weight"):
            assert scale[key] == (1.0, 0.0)
