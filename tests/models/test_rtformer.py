"""RTFormer: published sizes, golden numbers of PaddleSeg 2.8.0, and the parts whose details are easy to get wrong."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from ppvision.models import zoo
from ppvision.models.rtformer import CrossResolutionAttention, RTFormer, grouped_double_norm
from ppvision.nn.heads import SegHead
from ppvision.weights import to_ours
from tests.models.golden import statistics

ADE_SLIM = dict(cross_size=8, use_injection=(True, False), drop_path=0.1)

# trainable parameters with the auxiliary head, and of that head; keys of PaddleSeg's state dict, 11 of them the head's
SIZES = [
    ("rtformer_slim", {}, 64, 5_403_398, 38_355, 271),
    ("rtformer_slim", ADE_SLIM, 64, 5_034_374, 38_355, 261),
    ("rtformer_slim", {**ADE_SLIM, "num_classes": 150}, 64, 5_059_788, 46_870, 261),
    ("rtformer_base", {}, 128, 17_916_390, 150_419, 261),
    ("rtformer_base", {"num_classes": 150}, 128, 17_966_956, 167_318, 261),
]

# mean, std, min, max, and the points of `golden.POINTS`, measured with PaddleSeg 2.8.0
GOLDEN = [
    ("rtformer_slim", {}, (-0.041884, 0.429221, -1.060048, 1.462026, -0.023732, 0.039238, 1.086653, 0.062889)),
    ("rtformer_base", {}, (-0.100284, 0.711628, -1.966845, 2.232898, -0.194580, 1.252221, 0.134129, -0.559650)),
    ("rtformer_slim", ADE_SLIM, (-0.034417, 0.414798, -1.014628, 1.449210, -0.029209, 0.016304, 1.120577, 0.133152)),
]


def count(layer: paddle.nn.Layer) -> int:
    return sum(p.size for p in layer.parameters() if not p.stop_gradient)


@pytest.mark.parametrize(("name", "kwargs", "channels", "total", "auxiliary", "keys"), SIZES)
def test_parameters_and_keys_are_those_published(name, kwargs, channels, total, auxiliary, keys):
    net = zoo.create_model(name, **kwargs)
    head = SegHead(net.feature_channels["c3"], channels, net.num_classes)
    assert count(head) == auxiliary
    assert count(net) == total - auxiliary
    assert len(net.state_dict()) + len(head.state_dict()) == keys


@pytest.mark.parametrize(("name", "kwargs", "expected"), GOLDEN)
def test_golden_numbers(name, kwargs, expected):
    np.testing.assert_allclose(statistics(zoo.create_model(name, **kwargs)), expected, rtol=0, atol=2e-4)


def test_published_constants_are_the_defaults():
    net = RTFormer()
    norms = {k: m for k, m in net.named_sublayers() if isinstance(m, paddle.nn.BatchNorm2D)}
    assert {m._momentum for m in norms.values()} == {0.1}
    assert {k for k, m in norms.items() if m._epsilon != 1e-5} == {
        f"layer{i}.mlp_{b}.norm" for i in (4, 5) for b in "lh"
    }
    assert {m._epsilon for k, m in norms.items() if ".mlp_" in k} == {1e-6}
    assert RTFormer(bn_momentum=0.9, base_channels=8, head_channels=8, spp_channels=8).conv1[1]._momentum == 0.9


def test_initial_weights_are_those_published():
    paddle.seed(1)
    net = RTFormer(base_channels=32, head_channels=64)
    assert net.layer4.attn_l.k.std().item() == pytest.approx(0.001, rel=0.05)
    assert net.layer4.attn_l.v.std().item() == pytest.approx(0.001, rel=0.05)
    assert net.layer5.cross_kv[2].weight.std().item() == pytest.approx(0.02, rel=0.05)
    for weight in (net.conv1[3].weight, net.layer5.mlp_l.conv1.weight, net.spp.process1[2].weight):
        assert weight.std().item() == pytest.approx((2 / np.prod(weight.shape[1:])) ** 0.5, rel=0.05)
    assert not net.conv1[0].bias.numpy().any()


def test_grouped_double_norm_sums_to_one_in_every_group_and_not_over_all():
    weight = grouped_double_norm(paddle.randn([2, 24, 5, 7]), 4)
    assert weight.shape == [2, 24, 5, 7]
    groups = weight.reshape([2, 4, 6, 5, 7]).sum(2)
    np.testing.assert_allclose(groups.numpy(), 1.0, atol=1e-3)  # up to the 1e-6 beside sums of about 0.1


def test_grouped_double_norm_softmax_runs_over_pixels():
    """With one entry per group the second division makes everything one; only the pixels' softmax keeps it below."""
    score = paddle.to_tensor(np.array([0.0, 20.0], "float32").reshape(1, 1, 1, 2))
    small, large = grouped_double_norm(score, 1).numpy().ravel()
    assert large == pytest.approx(1.0, abs=1e-5)
    assert small == pytest.approx(2.06e-9 / (2.06e-9 + 1e-6), rel=1e-2)


def grouped_convolutions(x: paddle.Tensor, kv: paddle.Tensor, size: int) -> paddle.Tensor:
    """The published form of cross-resolution attention: two convolutions with a group per image."""
    b, c, h, w = x.shape
    key, value = kv.split(2, axis=1)
    key = key.transpose([0, 2, 3, 1]).reshape([b * size * size, c, 1, 1])
    value = value.reshape([b * c, size * size, 1, 1])
    score = F.conv2d(x.reshape([1, b * c, h, w]), key, groups=b).reshape([b, size * size, h, w])
    weight = F.softmax(score * (size * size) ** -0.5, axis=1)
    return F.conv2d(weight.reshape([1, -1, h, w]), value, groups=b).reshape([b, c, h, w])


@pytest.mark.parametrize("shape", [(1, 16, 9, 13), (3, 16, 8, 8)])
def test_cross_resolution_attention_equals_the_grouped_convolutions(shape):
    attention = CrossResolutionAttention(16, 4, 0.1)
    attention.eval()
    x, kv = paddle.randn(shape), paddle.randn([shape[0], 32, 4, 4])
    expected = grouped_convolutions(attention.norm(x), kv, 4).numpy()
    np.testing.assert_allclose(attention(x, kv).numpy(), expected, atol=1e-5 * np.abs(expected).max())


def test_injection_can_be_left_out_of_either_block():
    layouts = [(True, True), (True, False), (False, True), (False, False)]
    small = dict(base_channels=8, head_channels=8, spp_channels=8, cross_size=4)
    for inject in layouts:
        net = RTFormer(use_injection=inject, **small)
        assert [any(k.startswith(f"layer{i}.down") for k in net.state_dict()) for i in (4, 5)] == list(inject)


def test_features_have_the_declared_channels_and_strides():
    net = zoo.create_model("rtformer_debug")
    maps = net.features(paddle.randn([1, 3, 64, 128]))
    assert list(maps) == list(net.feature_channels) == list(net.feature_strides)
    for level, x in maps.items():
        stride = net.feature_strides[level]
        assert x.shape == [1, net.feature_channels[level], 64 // stride, 128 // stride], level
    assert maps["c3"].min().item() >= 0  # the auxiliary head reads it after its ReLU


def test_drop_path_makes_training_random_and_rate_zero_does_not():
    x = paddle.randn([4, 3, 64, 64])

    def two(rate: float) -> tuple[np.ndarray, np.ndarray]:
        net = zoo.create_model("rtformer_debug", drop_path=rate)
        net.train()
        return net(x).numpy(), net(x).numpy()

    assert np.array_equal(*two(0.0))
    assert not np.array_equal(*two(0.5))


def test_a_head_count_that_does_not_divide_the_memory_is_refused():
    with pytest.raises(ValueError, match="num_heads"):
        zoo.create_model("rtformer_debug", num_heads=7)


def test_upstream_auxiliary_head_becomes_the_methods_first():
    found = to_ours(zoo.create_model("rtformer_debug"), {"seghead_extra.bn1.weight": 1, "seghead.bn1.weight": 2})
    assert (found.network, found.training_only, found.ignored) == (
        {"seghead.bn1.weight": 2},
        {"aux.0.bn1.weight": 1},
        [],
    )
