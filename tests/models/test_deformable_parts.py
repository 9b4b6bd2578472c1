"""Parts of the deformable detectors: backbones, levels, masks, anchors, encoder."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppvision.errors import UserError
from ppvision.models import zoo
from ppvision.models.deformable_parts import (
    USELESS,
    DeformableDecoderLayer,
    DeformableEncoder,
    InputProjection,
    anchors,
    build_backbone,
    level_masks,
    scaled,
)
from ppvision.models.queries import Context
from ppvision.nn.frozen_bn import FrozenBatchNorm2D
from tests.models.golden import fill


class TestBackbone:
    def test_a_resnet_by_name_is_frozen_as_detectors_have_it(self):
        net = build_backbone("resnet_debug", ("c3", "c5"))
        assert net.num_classes == 0
        assert not [m for m in net.sublayers() if isinstance(m, paddle.nn.BatchNorm2D)]
        assert not net.conv1.weight.trainable and not net.layer1[0].conv1.weight.trainable
        assert net.layer2[0].conv1.weight.trainable

    def test_options_win(self):
        net = build_backbone("resnet_debug", ("c4",), {"frozen_bn": False, "freeze_at": 0, "width": 4})
        assert not [m for m in net.sublayers() if isinstance(m, FrozenBatchNorm2D)]
        assert net.feature_channels["c5"] == 32 and net.conv1.weight.trainable

    def test_any_network_with_features(self):
        net = build_backbone("maformer_debug", ("c2", "c3"), {"gld": "conv"})
        assert net.num_classes == 0
        assert build_backbone(net, ("c2",)) is net

    def test_what_does_not_fit_is_refused(self):
        with pytest.raises(UserError, match=r"ResNet has no level c7; it has c2, c3, c4, c5"):
            build_backbone("resnet_debug", ("c3", "c7"))
        with pytest.raises(UserError, match="Linear has no features"):
            build_backbone(paddle.nn.Linear(2, 2), ("c3",))
        with pytest.raises(UserError, match="of a backbone given by name"):
            build_backbone(zoo.create_model("resnet_debug"), ("c3",), {"width": 8})


class TestInputProjection:
    def test_levels_and_names(self):
        layer = InputProjection([8, 12], 48, 4)
        maps = [paddle.randn([2, 8, 13, 17]), paddle.randn([2, 12, 7, 9])]
        levels = layer(maps)
        assert [x.shape for x in levels] == [[2, 48, 13, 17], [2, 48, 7, 9], [2, 48, 4, 5], [2, 48, 2, 3]]
        shapes = {k: list(v.shape) for k, v in layer.state_dict().items() if k.endswith("conv.weight")}
        assert shapes == {
            "0.conv.weight": [48, 8, 1, 1],
            "1.conv.weight": [48, 12, 1, 1],
            "2.conv.weight": [48, 12, 3, 3],
            "3.conv.weight": [48, 48, 3, 3],
        }
        assert "3.norm.bias" in layer.state_dict()

    def test_further_levels_come_from_the_last_map_and_then_from_each_other(self):
        layer = InputProjection([8], 32, 3)
        fill(layer)
        x = paddle.randn([1, 8, 12, 12])
        levels = layer([x])
        np.testing.assert_array_equal(levels[1].numpy(), layer[1](x).numpy())
        np.testing.assert_array_equal(levels[2].numpy(), layer[2](levels[1]).numpy())

    def test_fewer_levels_than_maps_are_refused(self):
        with pytest.raises(ValueError, match="3 maps do not make 2 levels"):
            InputProjection([8, 8, 8], 32, 2)


def test_masks_take_the_nearest_pixel():
    valid = np.zeros((2, 16, 24), bool)
    valid[0] = True
    valid[1, :9, :13] = True
    maps = [paddle.zeros([2, 1, 8, 12]), paddle.zeros([2, 1, 3, 5])]
    masks = [m.numpy() for m in level_masks(paddle.to_tensor(valid), maps)]
    for mask, (h, w) in zip(masks, ((8, 12), (3, 5)), strict=True):
        rows, columns = np.arange(h) * 16 // h, np.arange(w) * 24 // w
        np.testing.assert_array_equal(mask, valid[:, rows][:, :, columns])
    assert level_masks(None, maps) is None


def context_of(inner: tuple[int, int] | None) -> Context:
    shapes = [(8, 12), (4, 6)]
    if inner is None:
        return Context(paddle.randn([2, 120, 16]), None, shapes)
    valid, ratios = np.zeros((2, 120), bool), np.ones((2, 2, 2), "float32")
    valid[0] = True
    for level, start, (h, w) in ((0, 0, shapes[0]), (1, 96, shapes[1])):
        rows, columns = inner[0] >> level, inner[1] >> level
        mask = np.zeros((h, w), bool)
        mask[:rows, :columns] = True
        valid[1, start : start + h * w] = mask.flatten()
        ratios[1, level] = columns / w, rows / h
    return Context(paddle.randn([2, 120, 16]), paddle.to_tensor(valid), shapes, valid_ratios=paddle.to_tensor(ratios))


class TestAnchors:
    @pytest.mark.parametrize("inner", [None, (6, 8)])
    def test_boxes_around_the_tokens(self, inner):
        context = context_of(inner)
        logits, useful = (t.numpy() for t in anchors(context))
        rows = 1 if inner is None else 2
        assert logits.shape == (rows, 120, 4) and useful.shape == (rows, 120, 1)
        boxes = 1 / (1 + np.exp(-logits.astype("float64")))
        seen = 0
        for b in range(rows):
            for level, start, (h, w) in ((0, 0, (8, 12)), (1, 96, (4, 6))):
                height, width = (h, w) if b == 0 else (inner[0] >> level, inner[1] >> level)
                for y in range(h):
                    for x in range(w):
                        box = [(x + 0.5) / width, (y + 0.5) / height, 0.05 * 2**level, 0.05 * 2**level]
                        good = all(0.01 < v < 0.99 for v in box) and y < height and x < width
                        token = start + y * w + x
                        assert useful[b, token, 0] == good
                        np.testing.assert_allclose(
                            boxes[b, token] if good else logits[b, token], box if good else [USELESS] * 4, rtol=1e-5
                        )
                        seen += good
        assert seen == (120 if inner is None else 120 + 48 + 12)

    def test_a_box_at_the_rim_is_of_no_use(self):
        context = Context(paddle.randn([1, 80, 16]), None, [(1, 80)])
        useful = anchors(context)[1].numpy()[0, :, 0]
        assert useful.tolist() == [False] + [True] * 78 + [False]  # 0.5 / 80 < 0.01


def test_references_of_the_padded_map():
    points = paddle.to_tensor([[[0.5, 0.2]], [[1.0, 0.4]]])
    ratios = paddle.to_tensor([[[1.0, 1.0], [1.0, 1.0]], [[0.5, 0.25], [0.6, 0.3]]])
    places = scaled(points, ratios)
    assert places.shape == [2, 1, 2, 2]
    np.testing.assert_allclose(places[1, 0].numpy(), [[0.5, 0.1], [0.6, 0.12]], atol=1e-6)
    boxes = scaled(paddle.full([1, 3, 4], 0.5), ratios)
    np.testing.assert_allclose(boxes[1, 2].numpy(), [[0.25, 0.125] * 2, [0.3, 0.15] * 2], atol=1e-6)
    assert scaled(points, None).shape == [2, 1, 1, 2]


class TestEncoder:
    def encoder(self, levels: int = 2) -> DeformableEncoder:
        encoder = DeformableEncoder(16, 4, 24, 2, levels, 2)
        fill(encoder)
        encoder.eval()
        return encoder

    def test_shapes(self):
        maps = [paddle.randn([2, 16, 8, 12]), paddle.randn([2, 16, 4, 6])]
        context = self.encoder()(maps)
        assert context.memory.shape == [2, 120, 16]
        assert context.valid is None and context.valid_ratios is None
        assert list(context.shapes) == [(8, 12), (4, 6)]

    def test_padding_changes_nothing_in_the_picture(self):
        """Where the sizes of all levels divide, a padded picture has the tokens of the picture alone."""
        encoder, rng = self.encoder(), np.random.default_rng(0)
        maps = [
            rng.standard_normal((1, 16, 4, 6)).astype("float32"),
            rng.standard_normal((1, 16, 2, 3)).astype("float32"),
        ]
        alone = encoder([paddle.to_tensor(m) for m in maps]).memory.numpy()[0]
        padded = [
            rng.standard_normal((1, 16, 8, 8)).astype("float32"),
            rng.standard_normal((1, 16, 4, 4)).astype("float32"),
        ]
        for big, small in zip(padded, maps, strict=True):
            big[:, :, : small.shape[2], : small.shape[3]] = small
        valid = np.zeros((1, 64, 64), bool)
        valid[:, :32, :48] = True
        context = encoder([paddle.to_tensor(m) for m in padded], paddle.to_tensor(valid))
        np.testing.assert_allclose(context.valid_ratios.numpy(), [[[0.75, 0.5]] * 2])
        np.testing.assert_allclose(context.memory.numpy()[context.valid.numpy()], alone, atol=2e-5)

    def test_levels_have_an_embedding_each(self):
        encoder = self.encoder()
        positions = encoder.positions([(2, 3), (2, 3)], None).numpy()[0]
        embedding = encoder.level_embed.numpy()
        np.testing.assert_allclose(
            positions[6:] - positions[:6], np.tile(embedding[1] - embedding[0], (6, 1)), atol=1e-5
        )

    def test_dropout_only_while_training(self):
        encoder = DeformableEncoder(16, 4, 24, 1, 1, 2, dropout=0.5)
        maps = [paddle.randn([1, 16, 4, 4])]
        assert not np.array_equal(encoder(maps).memory, encoder(maps).memory)
        encoder.eval()
        assert np.array_equal(encoder(maps).memory, encoder(maps).memory)


def test_decoder_layer_does_not_mix_groups_and_obeys_its_mask():
    layer = DeformableDecoderLayer(16, 4, 24, 2, 2)
    fill(layer)
    layer.eval()
    context, rng = context_of((6, 8)), np.random.default_rng(0)
    x = paddle.to_tensor(rng.standard_normal((2, 6, 16)).astype("float32"))
    at = scaled(paddle.to_tensor(rng.random((2, 6, 4)).astype("float32")), context.valid_ratios)
    whole = layer(x, x * 0.5, at, context, groups=2).numpy()
    for part in (slice(0, 3), slice(3, 6)):
        alone = layer(x[:, part], x[:, part] * 0.5, at[:, part], context).numpy()
        np.testing.assert_allclose(whole[:, part], alone, atol=1e-5)
    mask = paddle.to_tensor(np.kron(np.eye(2), np.ones((3, 3))).astype(bool))
    np.testing.assert_allclose(layer(x, x * 0.5, at, context, mask).numpy(), whole, atol=1e-5)
    assert not np.allclose(layer(x, x * 0.5, at, context).numpy(), whole, atol=1e-2)
