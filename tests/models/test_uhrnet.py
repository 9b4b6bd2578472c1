"""U-HRNet: published sizes, golden numbers of PaddleSeg 2.8.0, and the wiring."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppvision.errors import UserError
from ppvision.models import zoo
from ppvision.models.uhrnet import UHRNet, merge, pair_mean
from ppvision.weights import load_weights, state_of
from tests.models.golden import statistics

# trainable parameters and keys of PaddleSeg's FCN, and what of them is `last_layer`, which we do not have
SIZES = [
    ("uhrnet_w18_small", 13_324_780, 83_998, 621),
    ("uhrnet_w18", 26_057_012, 83_998, 1341),
    ("uhrnet_w48", 182_511_302, 569_923, 1341),
]
LAST_LAYER_KEYS = 8

# mean, std, min, max, and the points of `golden.POINTS`, measured with PaddleSeg 2.8.0
GOLDEN = {
    "uhrnet_w18_small": (0.481852, 1.194302, -2.344208, 3.095131, 1.693955, 0.668424, 0.663108, 0.762433),
    "uhrnet_w18": (8.876541, 36.150074, -70.514366, 89.876213, 46.275963, 27.120703, 24.103472, 23.876822),
    "uhrnet_w48": (-0.741896, 43.980625, -108.546959, 121.445068, -40.771988, -52.448463, -80.878189, 4.001931),
}
PARTS = {  # trainable parameters of W18_Small
    "conv_layer1_1": 1_856,
    "conv_layer1_2": 36_992,
    "la1": 145_408,
    "tr1": 124_524,
    "st2": 65_340,
    "tr2": 23_472,
    "st3": 520_560,
    "tr3": 93_600,
    "st4": 2_077_920,
    "tr4": 373_824,
    "st5": 8_303_040,
    "tr5": 10_512,
    "st6": 1_038_960,
    "tr6": 2_664,
    "st7": 260_280,
    "tr7": 684,
    "st8": 65_340,
    "st9": 11_808,
}


def count(layer: paddle.nn.Layer) -> int:
    return sum(p.size for p in layer.parameters() if not p.stop_gradient)


@pytest.mark.parametrize(("name", "total", "last_layer", "keys"), SIZES)
def test_parameters_and_golden_numbers(name, total, last_layer, keys):
    net = zoo.create_model(name)
    assert count(net) == total - last_layer
    assert len(net.state_dict()) == keys - LAST_LAYER_KEYS
    expected = GOLDEN[name]
    np.testing.assert_allclose(statistics(net), expected, rtol=0, atol=5e-4 * expected[1])


def test_parameters_of_every_part():
    net = zoo.create_model("uhrnet_w18_small")
    assert {k: count(m) for k, m in net.backbone.named_children()} == PARTS


def test_keys_are_those_of_paddleseg():
    state = zoo.create_model("uhrnet_w18_small").state_dict()
    shapes = {
        "backbone.la1.bb_layer2_1.conv_down._conv.weight": [256, 64, 1, 1],
        "backbone.tr1.transition_tr1_layer_2._conv.weight": [36, 256, 3, 3],
        "backbone.tr6.transition_tr6_layer_1._batch_norm._mean": [36],
        "backbone.st2.stage_st2_1.branches_func.bb_st2_1_branch_layer_1_1.conv1._conv.weight": [18, 18, 3, 3],
        "backbone.st3.stage_st3_2.fuse_func.residual_st3_2_layer_1_2._conv.weight": [36, 72, 1, 1],
        "backbone.st3.stage_st3_2.fuse_func.residual_st3_2_layer_2_1_1._conv.weight": [72, 36, 3, 3],
        "backbone.st9.stage_st9_1.branches_func.bb_st9_1_branch_layer_1_2.conv2._batch_norm._variance": [18],
        "head.conv_1._conv.bias": [279],
        "head.cls.weight": [19, 279, 1, 1],
    }
    assert {k: list(state[k].shape) for k in shapes} == shapes
    assert not [k for k in state if "last_layer" in k or ("st9" in k and "residual" in k)]


def test_features_have_the_declared_channels_and_strides():
    net = zoo.create_model("uhrnet_debug")
    maps = net.features(paddle.randn([2, 3, 128, 192]))
    assert list(maps) == list(net.feature_channels) == list(net.feature_strides)
    for level, x in maps.items():
        stride = net.feature_strides[level]
        assert x.shape == [2, net.feature_channels[level], 128 // stride, 192 // stride], level
        assert x.min().item() >= 0
    assert net.aggregate(maps).shape == [2, 31, 32, 48]  # 15.5 times the width


def test_odd_sizes_give_maps_rounded_up():
    maps = zoo.create_model("uhrnet_debug").features(paddle.randn([2, 3, 97, 131]))
    assert [x.shape[2:] for x in maps.values()] == [[25, 33], [13, 17], [7, 9], [4, 5], [2, 3]]


def test_pair_mean_takes_neighbours_and_not_halves():
    x = paddle.arange(8, dtype="float32").reshape([1, 8, 1, 1])
    assert pair_mean(x).flatten().tolist() == [0.5, 2.5, 4.5, 6.5]
    assert merge(x, -x).flatten().tolist() == [0.5, 2.5, 4.5, 6.5, -0.5, -2.5, -4.5, -6.5]


def test_initialisation():
    published, scratch = UHRNet(blocks=1, modules=(1,) * 8), UHRNet(blocks=1, modules=(1,) * 8, init="kaiming")
    for net, expected in ((published, 0.001), (scratch, (2 / (64 * 9)) ** 0.5)):
        assert net.backbone.conv_layer1_2._conv.weight.std().item() == pytest.approx(expected, rel=0.05)
    assert published.head.cls.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert not published.head.cls.bias.numpy().any()


@pytest.mark.parametrize("wrong", [{"width": 9}, {"modules": (1, 1)}, {"init": "zeros"}])
def test_impossible_arguments_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        UHRNet(**wrong)


class TestUpstreamFiles:
    def test_last_layer_is_ignored(self):
        net = zoo.create_model("uhrnet_debug")
        extra = {"backbone.last_layer.0._conv.weight": np.zeros([31, 31, 1, 1], "float32")}
        report = load_weights(net, {**state_of(net), **extra})
        assert report.ignored == list(extra)
        assert not report.unexpected

    def test_a_backbone_archive_gets_its_prefix(self):
        net, other = zoo.create_model("uhrnet_debug"), zoo.create_model("uhrnet_debug")
        archive = {k.removeprefix("backbone."): v for k, v in state_of(other).items() if k.startswith("backbone.")}
        archive["last_layer.1.bias"] = np.zeros(19, "float32")
        report = load_weights(net, archive, strict=False)
        assert set(report.missing) == {k for k in net.state_dict() if k.startswith("head.")}
        assert report.ignored == ["backbone.last_layer.1.bias"]
        assert np.array_equal(net.backbone.la1[0].conv1._conv.weight, other.backbone.la1[0].conv1._conv.weight)
        with pytest.raises(UserError, match="8 missing"):
            load_weights(net, archive)
