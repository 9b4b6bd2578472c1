"""UperNet on MAFormer: pooling, shapes, gradients, weights of a bare backbone."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from ppvision.models import zoo
from ppvision.models.upernet import UperNetHead, adaptive_avg_pool2d
from ppvision.weights import load_weights, state_of


@pytest.mark.parametrize("num_bins", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [(16, 16), (7, 13), (2, 5)])
def test_pooling_equals_that_of_paddle(num_bins, size):
    x = paddle.randn([2, 3, *size])
    expected = F.adaptive_avg_pool2d(x, num_bins)
    np.testing.assert_allclose(adaptive_avg_pool2d(x, num_bins).numpy(), expected.numpy(), atol=1e-5)


def test_head_takes_any_maps_and_answers_at_the_finest():
    head = UperNetHead([4, 8, 16], 5, channels=8, bins=(1, 3))
    maps = [paddle.randn([2, c, *s]) for c, s in ((4, (12, 9)), (8, (6, 5)), (16, (3, 3)))]
    assert head(maps).shape == [2, 5, 12, 9]


def test_layers_of_the_published_sizes():
    net = zoo.create_model("upernet_maformer_small", channels=32)
    assert list(net.feature_channels.values()) == [64, 128, 256, 512]
    assert len(net.decode_head.pooled) == 4 and len(net.decode_head.laterals) == len(net.decode_head.smooth) == 3
    assert net.decode_head.fuse._conv.weight.shape == [32, 4 * 32, 3, 3]
    assert net.backbone.stages[3][0].gld.ratio == 3  # 512: 16 cells to 6
    assert hasattr(net.backbone, "norm_out3")


def test_logits_and_gradients():
    net = zoo.create_model("upernet_maformer_debug")
    net.train()
    y = net(paddle.randn([2, 3, 37, 61]))
    assert y.shape == [2, 19, 37, 61]
    F.cross_entropy(y, paddle.randint(0, 19, [2, 37, 61]), axis=1).backward()
    missing = [k for k, p in net.named_parameters() if p.trainable and p.grad is None]
    assert not missing


def test_a_classifiers_weights_go_into_the_backbone(tmp_path):
    classifier = zoo.create_model("maformer_debug")
    net = zoo.create_model("upernet_maformer_debug")
    report = load_weights(net, state_of(classifier), strict=False)
    assert "head.weight" in report.ignored and "backbone.stem.conv.weight" in report.loaded
    ours = net.backbone.stages[0][0].local.qkv.weight.numpy()
    np.testing.assert_array_equal(ours, classifier.stages[0][0].local.qkv.weight.numpy())
    own = zoo.create_model("upernet_maformer_debug")
    assert not load_weights(own, state_of(net)).missing
