"""ResNet: published sizes, Paddle's own with the same weights, frozen parts, foreign names."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppvision.errors import UserError
from ppvision.models import zoo
from ppvision.models.profile import parameters, profile_model
from ppvision.models.resnet import ResNet
from ppvision.nn.frozen_bn import FrozenBatchNorm2D
from ppvision.weights import load_weights, state_of, to_ours
from tests.models.golden import fill
from tests.models.variants import builder

resnet = builder(ResNet)

SIZES = {"18": 11_689_512, "34": 21_797_672, "50": 25_557_032, "101": 44_549_160}  # torchvision's documentation


@pytest.mark.parametrize("variant", SIZES)
def test_parameters_are_those_published(variant):
    assert parameters(zoo.create_model(f"resnet{variant}")) == SIZES[variant]


def test_multiply_adds_are_those_published():
    assert profile_model("resnet18").macs == pytest.approx(1.81e9, rel=5e-3)
    assert profile_model("resnet50").macs == pytest.approx(4.09e9, rel=5e-3)


@pytest.mark.parametrize("variant", ["18", "34", "50", pytest.param("101", marks=pytest.mark.slow)])
def test_same_names_and_answers_as_paddles(variant):
    ours = resnet(variant)
    theirs = getattr(paddle.vision.models, f"resnet{variant}")()
    fill(ours)
    assert list(theirs.state_dict()) == list(ours.state_dict())
    assert theirs.set_state_dict(ours.state_dict()) == ([], [])
    ours.eval(), theirs.eval()
    x = paddle.to_tensor(np.random.default_rng(0).standard_normal((2, 3, 75, 101)).astype("float32"))
    with paddle.no_grad():
        expected = theirs(x).numpy()
        np.testing.assert_array_equal(ours(x).numpy(), expected)
    assert expected.std() > 0


class TestFeatures:
    @pytest.mark.parametrize("block", ["basic", "bottleneck"])
    @pytest.mark.parametrize("size", [(64, 96), (97, 131)])
    def test_they_have_the_declared_channels_and_strides(self, block, size):
        net = resnet("debug", num_classes=0, block=block)
        maps = net(paddle.randn([2, 3, *size]))
        assert list(maps) == ["c2", "c3", "c4", "c5"] == list(net.feature_channels) == list(net.feature_strides)
        for level, x in maps.items():
            stride = net.feature_strides[level]
            assert x.shape == [2, net.feature_channels[level], -(-size[0] // stride), -(-size[1] // stride)], level
            assert x.min().item() >= 0 and x.max().item() > 0

    def test_a_backbone_has_no_classifier(self):
        assert not [k for k in resnet("debug", num_classes=0).state_dict() if k.startswith("fc.")]

    def test_the_classifier_reads_the_mean_of_the_last_map(self):
        net = resnet("debug", num_classes=7)
        net.eval()
        x = paddle.randn([2, 3, 64, 64])
        expected = net.fc(net.features(x)["c5"].mean([2, 3]))
        np.testing.assert_allclose(net(x).numpy(), expected.numpy(), atol=1e-5)


class TestFrozen:
    def test_every_batch_norm(self):
        net = resnet("debug", frozen_bn=True)
        norms = [m for m in net.sublayers() if isinstance(m, (FrozenBatchNorm2D, paddle.nn.BatchNorm2D))]
        assert len(norms) == 12 and all(isinstance(m, FrozenBatchNorm2D) for m in norms)
        assert net.layer1[0].conv1.weight.trainable

    @pytest.mark.parametrize("freeze_at", [0, 1, 2, 5])
    def test_so_many_parts_from_the_image_on(self, freeze_at):
        net = resnet("debug", freeze_at=freeze_at)
        net.train()
        before = state_of(net)
        net(paddle.randn([4, 3, 64, 64])).square().mean().backward()
        frozen = ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"][: freeze_at + 1 if freeze_at else 0]
        for name, p in net.named_parameters():
            statistics = name.endswith(("_mean", "_variance"))
            still = name.split(".")[0] in frozen
            assert (p.grad is None) == (still or statistics), name
            assert p.trainable == (not still and not statistics), name
            assert np.array_equal(before[name], p.numpy()) == (still or not statistics), name

    def test_the_rest_learns_as_before(self):
        whole, part = resnet("debug", frozen_bn=True), resnet("debug", frozen_bn=True, freeze_at=2)
        fill(whole)
        part.set_state_dict(whole.state_dict())
        x = paddle.randn([2, 3, 64, 64])
        for net in (whole, part):
            net(x).square().mean().backward()
        assert np.array_equal(whole.layer2[0].conv1.weight.grad, part.layer2[0].conv1.weight.grad)
        assert whole.layer1[0].conv1.weight.grad is not None and part.layer1[0].conv1.weight.grad is None

    def test_arguments(self):
        with pytest.raises(UserError, match="freeze_at.* got 6"):
            resnet("debug", freeze_at=6)


class TestForeignNames:
    def torchvision(self, net: ResNet) -> dict[str, np.ndarray]:
        """As torch saves it: [out,in], its names of statistics, and a counter."""
        state = {}
        for k, v in state_of(net).items():
            k = k.replace("._mean", ".running_mean").replace("._variance", ".running_var")
            state[k] = v.T if k == "fc.weight" else v
        return state | {"bn1.num_batches_tracked": np.array(7)}

    def test_torchvision(self):
        source, net = resnet("debug"), resnet("debug")
        fill(source)
        report = load_weights(net, self.torchvision(source))
        assert report.ignored == ["bn1.num_batches_tracked"]
        assert all(np.array_equal(v, state_of(source)[k]) for k, v in state_of(net).items())

    def test_a_classifier_starts_a_backbone(self):
        source, net = resnet("debug"), resnet("debug", num_classes=0, frozen_bn=True, freeze_at=2)
        fill(source)
        report = load_weights(net, self.torchvision(source))
        assert sorted(report.ignored) == ["bn1.num_batches_tracked", "fc.bias", "fc.weight"]
        assert np.array_equal(net.layer4[0].bn2._variance, source.layer4[0].bn2._variance)

    @pytest.mark.parametrize(
        ("theirs", "ours"),
        [
            ("conv1.conv1.conv.weight", "conv1.weight"),
            ("conv1.conv1.norm._mean", "bn1._mean"),
            ("res2.res2a.branch2a.conv.weight", "layer1.0.conv1.weight"),
            ("res3.res3d.branch2c.norm.bias", "layer2.3.bn3.bias"),
            ("res4.res4a.short.conv.weight", "layer3.0.downsample.0.weight"),
            ("res4.res4b22.branch2b.norm._variance", "layer3.22.bn2._variance"),
            ("res5.res5a.short.norm.weight", "layer4.0.downsample.1.weight"),
            # PaddleClas numbers the blocks through
            ("stem.0.conv.weight", "conv1.weight"),
            ("stem.0.bn._mean", "bn1._mean"),
            ("blocks.0.short.bn.bias", "layer1.0.downsample.1.bias"),
            ("blocks.3.conv1.conv.weight", "layer2.0.conv2.weight"),
            ("blocks.15.conv2.bn.weight", "layer4.2.bn3.weight"),
            ("fc.weight", "fc.weight"),
            # transformers
            ("resnet.embedder.embedder.convolution.weight", "conv1.weight"),
            ("embedder.embedder.normalization._variance", "bn1._variance"),
            ("encoder.stages.1.layers.3.layer.2.convolution.weight", "layer2.3.conv3.weight"),
            ("encoder.stages.0.layers.0.shortcut.normalization.bias", "layer1.0.downsample.1.bias"),
            ("classifier.1.bias", "fc.bias"),
            ("layer3.5.conv2.weight", "layer3.5.conv2.weight"),
        ],
    )
    def test_rename(self, theirs, ours):
        net = resnet("50" if "b22" not in theirs else "101", width=4)
        assert list(to_ours(net, {theirs: np.zeros(1)}).network) == [ours]

    @pytest.mark.parametrize("kind", ["detection", "clas"])
    def test_a_whole_file_of_a_paddle_suite(self, kind):
        source, net = resnet("50", width=8), resnet("50", width=8)
        fill(source)
        file, flat = {}, {}
        for layer in range(1, 5):
            for i in range((3, 4, 6, 3)[layer - 1]):
                flat[f"layer{layer}.{i}"] = len(flat)
        for name, value in state_of(source).items():
            file[detection_name(name) if kind == "detection" else clas_name(name, flat)] = value
        if kind == "detection":
            file = {k: v for k, v in file.items() if not k.startswith("fc.")} | {
                k: v for k, v in state_of(source).items() if k.startswith("fc.")
            }
        assert len(load_weights(net, file).loaded) == len(net.state_dict())
        assert all(np.array_equal(v, state_of(source)[k]) for k, v in state_of(net).items())


def detection_name(name: str) -> str:
    """PaddleDetection's name of one of ours."""
    head, _, rest = name.partition(".")
    if head in ("conv1", "bn1"):
        return f"conv1.conv1.{'conv' if head == 'conv1' else 'norm'}.{rest}"
    if head == "fc":
        return name
    block, part, rest = rest.split(".", 2)
    stage = int(head[5:]) + 1
    where = f"res{stage}.res{stage}{chr(ord('a') + int(block))}"
    if part == "downsample":
        number, leaf = rest.split(".")
        return f"{where}.short.{'conv' if number == '0' else 'norm'}.{leaf}"
    return f"{where}.branch2{'abc'[int(part[-1]) - 1]}.{'conv' if part.startswith('conv') else 'norm'}.{rest}"


def clas_name(name: str, flat: dict[str, int]) -> str:
    """PaddleClas's name of one of ours."""
    head, _, rest = name.partition(".")
    if head in ("conv1", "bn1"):
        return f"stem.0.{'conv' if head == 'conv1' else 'bn'}.{rest}"
    if head == "fc":
        return name
    block, part, rest = rest.split(".", 2)
    where = f"blocks.{flat[f'{head}.{block}']}"
    if part == "downsample":
        number, leaf = rest.split(".")
        return f"{where}.short.{'conv' if number == '0' else 'bn'}.{leaf}"
    return f"{where}.conv{int(part[-1]) - 1}.{'conv' if part.startswith('conv') else 'bn'}.{rest}"


def test_every_trained_parameter_receives_a_gradient():
    for options in ({}, {"block": "bottleneck"}, {"frozen_bn": True, "freeze_at": 2}):
        net = resnet("debug", **options)
        fill(net)
        net.train()
        net(paddle.randn([4, 3, 64, 64])).square().mean().backward()
        trained = {k: p for k, p in net.named_parameters() if p.trainable}
        assert not [k for k, p in trained.items() if p.grad is None or not p.grad.any()]


def test_it_starts_like_torchvisions():
    net = resnet("18")
    assert net.layer2[0].conv2.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.03)  # fan out
    assert net.layer2[0].downsample[0].weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.05)
