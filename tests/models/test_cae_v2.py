"""CAE v2's encoder: published sizes, tokens kept, classifier, pyramid, names of the release."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import save_file

from ppvision.config import load
from ppvision.engine.optimizer import parameter_groups, trainable
from ppvision.errors import UserError
from ppvision.models import zoo
from ppvision.nn.vit import relative_position_index, sincos_table, take_tokens
from ppvision.weights import load_weights, state_of, to_theirs

CONFIGS = Path(__file__).resolve().parents[2] / "configs/cae_v2"
PARAMETERS = {"tiny": 5_488_896, "small": 21_594_624, "base": 85_656_576, "large": 303_124_480}  # from the layer shapes
HEADS = {"tiny": 49_856, "small": 197_888, "base": 395_264, "large": 526_848}  # norm and linear to 512
REGRESSORS = {"tiny": 0.11, "small": 1.78, "base": 28.4, "large": 50.4}  # millions


def count(layer: paddle.nn.Layer) -> int:
    return sum(p.size for p in layer.parameters() if not p.stop_gradient)


def image(batch: int = 2, side: int = 24) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(0).standard_normal([batch, 3, side, side]).astype("float32"))


class TestSizes:
    @pytest.mark.parametrize("size", ["tiny", "small", "base", pytest.param("large", marks=pytest.mark.slow)])
    def test_parameters_of_encoder_and_of_what_only_trains_it(self, size):
        from ppvision.methods.cae_v2 import CaeV2Pretraining

        cfg = load(str(CONFIGS / f"cae_v2_{size}_pretrain_300e.yml"))
        net = zoo.create_model(f"cae_v2_{size}")
        assert count(net) == PARAMETERS[size]
        options = {k: v for k, v in cfg.method.kwargs.items() if k != "teacher"}
        teacher = zoo.create_model("clip_vit_debug", out_dim=512)
        method = CaeV2Pretraining(net, teacher, **options)
        assert count(method.head) + count(method.head_norm) == HEADS[size]
        assert count(method.regressor) / 1e6 == pytest.approx(REGRESSORS[size], abs=0.06)
        assert method.num_masked == {"tiny": 30, "small": 49}.get(size, 98)

    @pytest.mark.parametrize("size", ["tiny", "small", "base"])
    def test_multiply_adds(self, size):
        from ppvision.models.profile import profile

        measured = profile(zoo.create_model(f"cae_v2_{size}"), {"image": ([1, 3, 224, 224], "float32")}).macs / 1e9
        assert measured == pytest.approx({"tiny": 1.25, "small": 4.60, "base": 17.56}[size], abs=0.01)

    def test_clip_towers(self):
        assert count(zoo.create_model("clip_vit_b16")) == 86_192_640
        net = zoo.create_model("clip_vit_debug")
        assert {k: v.shape for k, v in net(image()).items()} == {"cls": [2, 48], "tokens": [2, 36, 48]}


class TestEncoder:
    def test_positions_are_rows_then_columns(self):
        table = sincos_table(8, 2, 3)[0]
        assert table.shape == (7, 8) and not table[0].any()
        row, column = 1, 2
        omega = np.array([1.0, 0.01])
        expected = [*np.sin(row * omega), *np.cos(row * omega), *np.sin(column * omega), *np.cos(column * omega)]
        np.testing.assert_allclose(table[1 + row * 3 + column], expected, rtol=1e-6)

    def test_taking_tokens(self):
        x = paddle.arange(24, dtype="float32").reshape([2, 4, 3])
        index = paddle.to_tensor([[2, 0], [3, 1]])
        np.testing.assert_array_equal(
            take_tokens(x, index).numpy(), np.take_along_axis(x.numpy(), index.numpy()[..., None], 1)
        )

    def test_kept_patches_are_encoded_alone(self):
        """What is not kept changes nothing; keeping all is the plain forward; the order is that of `keep`."""
        net = zoo.create_model("cae_v2_debug")
        net.eval()
        x, keep = image(), paddle.to_tensor([[0, 7, 20, 35], [1, 2, 3, 4]])
        some = net.features(x, keep)
        blank = x.clone()
        hidden = np.ones([2, 6, 6], bool)
        for i in range(2):
            hidden[i].flat[keep[i].numpy()] = False
        blank = paddle.where(
            paddle.to_tensor(hidden.repeat(4, 1).repeat(4, 2))[:, None], paddle.zeros_like(x) + 9, blank
        )
        np.testing.assert_allclose(net.features(blank, keep)["tokens"], some["tokens"], atol=1e-6)
        every = net.features(x, paddle.arange(36).expand([2, 36]))
        np.testing.assert_allclose(every["tokens"], net(x)["tokens"], atol=1e-6)
        turned = net.features(x, keep.flip(1))
        np.testing.assert_allclose(turned["tokens"].flip(1), some["tokens"], atol=1e-5)
        np.testing.assert_allclose(turned["cls"], some["cls"], atol=1e-5)

    def test_map_and_tokens_are_the_same(self):
        net = zoo.create_model("cae_v2_debug")
        maps = net.features(image())
        assert maps["c4"].shape == [2, 32, 6, 6]
        np.testing.assert_array_equal(maps["c4"].flatten(2).transpose([0, 2, 1]).numpy(), maps["tokens"].numpy())
        assert net.features(paddle.rand([1, 3, 16, 40]))["c4"].shape == [1, 32, 4, 10]

    def test_keys_have_no_bias(self):
        names = dict(zoo.create_model("cae_v2_debug").named_parameters())
        assert names["blocks.0.attn.q_bias"].shape == names["blocks.0.attn.v_bias"].shape == [32]
        assert not [k for k in names if "k_bias" in k or "qkv.bias" in k or "pos_embed" in k]

    def test_initialisations(self):
        xavier = zoo.create_model("cae_v2_debug_l")
        bound = (6 / (96 + 3 * 96)) ** 0.5
        assert bound * 0.9 < xavier.blocks[1].attn.qkv.weight.abs().max().item() <= bound
        assert (xavier.blocks[0].gamma_1 == 0.1).all() and not xavier.blocks[0].attn.proj.bias.any()
        beit = zoo.create_model("cae_v2_debug_l", init="beit")
        stds = [block.mlp.fc2.weight.std().item() for block in beit.blocks]
        assert stds[0] / stds[2] == pytest.approx(3**0.5, rel=0.05)
        assert beit.blocks[2].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.15)

    def test_drop_path_grows(self):
        net = zoo.create_model("cae_v2_debug", drop_path=0.2)
        assert [b.drop_path.rate for b in net.blocks] == pytest.approx([0, 0.1, 0.2])


class TestClassifier:
    def test_fine_tuned_classifier_pools_patches_and_has_relative_positions(self):
        net = zoo.create_model("cae_v2_debug", num_classes=5, drop_path=0.0)
        names = {k for k, _ in net.named_parameters()}
        assert "blocks.2.attn.relative_position_bias_table" in names and not [k for k in names if k.startswith("norm.")]
        assert net.blocks[0].attn.relative_position_bias_table.shape == [11 * 11 + 3, 4]
        logits = net(image())
        assert logits.shape == [2, 5] and logits.abs().max().item() < 0.05  # the published start: almost equal
        plain = zoo.create_model("cae_v2_debug", num_classes=5, drop_path=0.0, rel_pos_bias=False)
        plain.eval()
        net.eval()
        load_weights(plain, {k: v for k, v in state_of(net).items() if "relative" not in k})
        np.testing.assert_allclose(plain(image()), net(image()), atol=1e-6)  # tables start at zero
        with pytest.raises(UserError, match="24 pixels; the image is 28x24"):
            net(paddle.rand([1, 3, 28, 24]))
        with pytest.raises(UserError, match="rel_pos_bias: false"):
            net.features(image(), paddle.zeros([2, 3], "int64"))

    def test_index_of_relative_positions(self):
        index = relative_position_index(14, 14)
        assert index.shape == (197, 197) and index.max() == 731 and len(np.unique(index)) == 732
        assert (index[0, 1:] == 729).all() and (index[1:, 0] == 730).all() and index[0, 0] == 731
        assert index[1, 1] == index[197 - 1, 197 - 1] and index[1, 2] == index[15, 16] != index[2, 1]

    def test_bias_reaches_the_scores(self):
        net = zoo.create_model("cae_v2_debug", num_classes=5)
        table = net.blocks[0].attn.relative_position_bias_table
        rows = net.blocks[0].attn.position_bias()
        assert rows.shape == [1, 4, 37, 37] and not rows.any()
        values = np.zeros(table.shape, "f4")
        values[relative_position_index(6, 6)[5, 9], 2] = 7.0
        table.set_value(values)
        assert net.blocks[0].attn.position_bias()[0, 2, 5, 9].item() == 7.0

    def test_linear_probe_reads_the_normed_class_token(self):
        net = zoo.create_model("cae_v2_debug", num_classes=5, pool="cls")
        net.eval()
        x = image()
        cls = net.features(x)["cls"]
        np.testing.assert_allclose(net(x), net.head(cls / (1 + 1e-6) ** 0.5), atol=1e-5)  # statistics are 0 and 1
        assert net.fc_norm.weight is None and cls.shape == [2, 32]
        encoder = zoo.create_model("cae_v2_debug")
        report = load_weights(net, state_of(encoder), strict=False)
        assert {k.split(".")[0] for k in report.missing} == {"fc_norm", "head"} and not report.unexpected

    def test_a_pre_trained_encoder_starts_a_classifier(self):
        encoder, net = zoo.create_model("cae_v2_debug"), zoo.create_model("cae_v2_debug", num_classes=5)
        report = load_weights(net, state_of(encoder), strict=False)
        assert set(report.ignored) == {"norm.weight", "norm.bias"} and not report.unexpected
        assert all("relative_position" in k or k.startswith(("fc_norm", "head")) for k in report.missing)

    @pytest.mark.parametrize("size, depth, rate", [("base", 12, 0.75), ("tiny", 12, 0.85)])
    def test_layer_decay_of_the_recipe(self, size, depth, rate):
        cfg = load(str(next(CONFIGS.glob(f"cae_v2_{size}_finetune_*.yml"))))
        net = paddle.nn.Layer()
        net.model = zoo.create_model("cae_v2_debug", depth=depth, dim=8, num_heads=2, num_classes=3)
        parameters = trainable(net)
        spec = cfg.optimizer.kwargs
        groups = parameter_groups(parameters, spec["weight_decay"], None, spec["no_decay"], spec["layer_decay"])
        names = {id(p): k for k, p in parameters.items()}
        scale = {names[id(p)]: (g["learning_rate"], g["weight_decay"]) for g in groups for p in g["params"]}
        assert scale["model.patch_embed.proj.weight"] == (pytest.approx(rate**13), 0.05)
        assert scale["model.cls_token"] == (pytest.approx(rate**13), 0.0)
        for i in range(depth):
            assert scale[f"model.blocks.{i}.mlp.fc1.weight"] == (pytest.approx(rate ** (12 - i)), 0.05)
            assert scale[f"model.blocks.{i}.gamma_1"] == (pytest.approx(rate ** (12 - i)), 0.0)
        assert scale["model.head.weight"] == (1.0, 0.05) and scale["model.fc_norm.weight"] == (1.0, 0.0)


class TestReleaseNames:
    def test_safetensors_in_torch_layout_are_turned(self, tmp_path):
        net, other = zoo.create_model("cae_v2_debug"), zoo.create_model("cae_v2_debug")
        save_file(to_theirs(net, "release", state_of(net), {}), tmp_path / "x.safetensors")
        assert len(load_weights(other, tmp_path / "x.safetensors").loaded) == len(state_of(net))
        for key, value in state_of(net).items():
            np.testing.assert_array_equal(state_of(other)[key], value, err_msg=key)

    def test_fine_tuned_names_have_no_prefix(self):
        net = zoo.create_model("cae_v2_debug", num_classes=5)
        file = to_theirs(net, "fine_tuned", state_of(net))
        assert file["head.weight"].shape == (5, 32) and "blocks.0.attn.relative_position_bias_table" in file
        other = zoo.create_model("cae_v2_debug", num_classes=5)
        load_weights(other, file)
        for key, value in state_of(net).items():
            np.testing.assert_array_equal(state_of(other)[key], value, err_msg=key)

    def test_positions_of_another_size_stay_ours(self):
        big, small = zoo.create_model("cae_v2_debug", image_size=48), zoo.create_model("cae_v2_debug")
        load_weights(small, to_theirs(big, "release", state_of(big), {}))
        np.testing.assert_array_equal(small.pos_embed.numpy(), sincos_table(32, 6, 6))

    def test_an_unknown_name_is_refused(self):
        net = zoo.create_model("cae_v2_debug")
        with pytest.raises(UserError, match="'surprise' has no place in CAE v2"):
            load_weights(net, {**to_theirs(net, "release", state_of(net), {}), "surprise": np.zeros(2, "f4")})
        with pytest.raises(UserError, match="'surprise' is no part"):
            to_theirs(net, "release", {}, {"surprise": np.zeros(2)})


class TestPyramid:
    def test_strides(self):
        net = zoo.create_model("upernet_cae_v2_debug", image_size=64, rel_pos_bias=True, abs_pos=False)
        net.eval()
        maps = net.features(image(1, 64))
        assert {k: v.shape for k, v in maps.items()} == {
            "c2": [1, 32, 64, 64], "c3": [1, 32, 32, 32], "c4": [1, 32, 16, 16], "c5": [1, 32, 8, 8]
        }  # fmt: skip
        assert net(image(1, 64)).shape == [1, 19, 64, 64]
        assert not hasattr(net.backbone, "pos_embed")

    def test_published_blocks_and_sizes(self):
        net = zoo.create_model("upernet_cae_v2_tiny")
        assert net.backbone.levels == (3, 5, 7, 11)
        assert net.backbone.feature_strides == {"c2": 4, "c3": 8, "c4": 16, "c5": 32}

    def test_starts_from_a_pre_trained_encoder(self):
        encoder, net = zoo.create_model("cae_v2_debug"), zoo.create_model("upernet_cae_v2_debug")
        for source in (
            state_of(encoder),
            to_theirs(encoder, "release", state_of(encoder), {"mask_token": np.zeros([1, 1, 32], "f4")}),
        ):
            report = load_weights(net, source, strict=False)
            assert not report.unexpected
            assert {k.removeprefix("backbone.") for k in report.loaded} == {
                k for k in state_of(encoder) if not k.startswith("norm.")
            }
        np.testing.assert_array_equal(
            net.backbone.blocks[2].mlp.fc1.weight.numpy(), encoder.blocks[2].mlp.fc1.weight.numpy()
        )


@pytest.mark.parametrize("kwargs", [{}, {"num_classes": 5}, {"num_classes": 5, "pool": "cls"}])
def test_every_parameter_receives_a_gradient(kwargs):
    net = zoo.create_model("cae_v2_debug", drop_path=0.0, **kwargs)
    if kwargs:
        net.head.weight.set_value(net.head.weight * 1000)
    out = net(image(4))
    loss = out.square().mean() if kwargs else (out["cls"] * image(4)[:, 0, 0, :1]).sum() + out["tokens"].pow(3).sum()
    loss.backward()
    missing = [k for k, p in net.named_parameters() if not p.stop_gradient and (p.grad is None or not p.grad.any())]
    assert missing == []
