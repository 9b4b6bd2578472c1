"""ViTDet: the oracle, windows and relative positions by hand, sizes, the pyramid, other people's weights."""

from __future__ import annotations

import math
import os
import subprocess
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppvision.errors import UserError
from ppvision.models import zoo
from ppvision.models.profile import profile
from ppvision.models.vit_det import VARIANTS, LayerNorm2D, SimpleFeaturePyramid, VitDet, relative_rows
from ppvision.weights import load_weights, state_of, to_theirs
from tests.models.golden import fill
from tests.models.variants import builder

vit_det = builder(VitDet)

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests/oracles/transformers_vitdet.py"
COMMON = dict(dim=32, num_heads=4, mlp_ratio=3.0, patch_size=4, pretrain_size=24, drop_path=0.0)
BACKBONES = {
    "windows": dict(depth=3, global_blocks=(1,), window=4, image_size=40),
    "absolute": dict(depth=2, global_blocks=(1,), window=3, image_size=24, abs_pos=True, rel_pos=False),
    "both": dict(depth=4, global_blocks=(2,), window=5, image_size=48, abs_pos=True),
}


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """Folder with what `transformers` computed."""
    python = Path(os.environ.get("PPVISION_ORACLE_PYTHON", ROOT / ".venv-oracles/bin/python"))
    if not python.exists():
        pytest.fail(f"{python} is missing; run `make oracles`", pytrace=False)
    folder = tmp_path_factory.mktemp("vitdet")
    run = subprocess.run([str(python), str(SCRIPT), str(folder)], cwd=folder, capture_output=True, text=True)
    if run.returncode:
        tail = "\n".join(run.stderr.strip().splitlines()[-5:])
        pytest.fail(f"transformers failed in {python}; does `make oracles` help?\n{tail}", pytrace=False)
    return folder


@pytest.mark.oracle
@pytest.mark.parametrize("name", BACKBONES)
def test_same_weights_same_map_as_transformers(oracle, name):
    net = vit_det("debug", **{**COMMON, **BACKBONES[name]})
    net.eval()
    report = load_weights(net, oracle / f"{name}.safetensors", strict=True)
    assert len(report.loaded) == len(net.state_dict())
    theirs = np.load(oracle / f"{name}.npz")
    for i in range(4):
        with paddle.no_grad():
            ours = net.features(paddle.to_tensor(theirs[f"image{i}"]))["c2"].numpy()
        error = np.abs(ours - theirs[f"map{i}"]).max()
        print(f"{name}, {theirs[f'image{i}'].shape[2:]}: {error:.1e}, values up to {np.abs(ours).max():.1f}")
        assert ours.shape == theirs[f"map{i}"].shape
        assert error <= 1e-4


def block_macs(dim: int, tokens: int, padded: int, side: int, heads: int, height: int, width: int) -> int:
    """Multiply-adds of one block: `padded` tokens in `padded / side ** 2` windows, or (side 0) one map."""
    keys = side * side if side else tokens
    rows, columns = (side, side) if side else (height, width)
    linear = 4 * dim * dim * padded + 8 * dim * dim * tokens
    return linear + padded * keys * 2 * dim + padded * (rows + columns) * dim


def macs(size: tuple[int, int], dim, depth, num_heads, global_blocks, patch_size=16, window=14, **_) -> int:
    height, width = (s // patch_size for s in size)
    tokens = height * width
    padded = (-(-height // window) * window) * (-(-width // window) * window)
    whole = block_macs(dim, tokens, tokens, 0, num_heads, height, width)
    inside = block_macs(dim, tokens, padded, window, num_heads, height, width)
    patches = tokens * 3 * patch_size**2 * dim
    return patches + len(global_blocks) * whole + (depth - len(global_blocks)) * inside


def parameters(dim, depth, num_heads, global_blocks, patch_size=16, window=14, image_size=1024, **_) -> int:
    block = 12 * dim * dim + 13 * dim
    tables = [2 * (2 * (image_size // patch_size if i in global_blocks else window) - 1) for i in range(depth)]
    return 3 * patch_size**2 * dim + dim + depth * block + sum(tables) * dim // num_heads


class TestSizes:
    @pytest.mark.parametrize(("size", "millions"), [("base", 85.7), ("large", 303.2), ("huge", 630.9)])
    def test_parameters(self, size, millions):
        with paddle.LazyGuard():  # shapes without memory
            net = zoo.create_model(f"vit_det_{size}")
        count = sum(math.prod(p.shape) for p in net.parameters())
        assert count == parameters(**VARIANTS[size])
        assert count / 1e6 == pytest.approx(millions, abs=0.06)

    def test_a_real_one_has_as_many(self):
        net = vit_det("debug")
        assert sum(p.size for p in net.parameters()) == parameters(**VARIANTS["debug"])

    @pytest.mark.parametrize("size", [(64, 96), (72, 40)])
    def test_multiply_adds_are_the_formula(self, size):
        net = vit_det("debug")
        assert profile(net, {"image": ([1, 3, *size], "float32")}).macs == macs(size, **VARIANTS["debug"])

    def test_multiply_adds_of_the_huge_one(self):
        """Windows and relative positions included; without them 2.82 T and 6.84 T."""
        assert macs((1024, 1024), **VARIANTS["huge"]) / 1e12 == pytest.approx(2.977, abs=1e-3)
        assert macs((1184, 2000), **VARIANTS["huge"]) / 1e12 == pytest.approx(7.118, abs=1e-3)

    def test_published_layout(self):
        net = vit_det("debug", depth=4, global_blocks=(1, 3), drop_path=0.3)
        assert [b.window for b in net.blocks] == [4, 0, 4, 0]
        assert [b.drop_path.rate for b in net.blocks] == pytest.approx([0, 0.1, 0.2, 0.3])
        assert [b.attn.rel_pos_h.shape[0] for b in net.blocks] == [7, 15, 7, 15]
        assert not any(b.attn.rel_pos_w.any() for b in net.blocks) and net.blocks[0].norm1._epsilon == 1e-6
        assert net.recompute_blocks == ("blocks.0", "blocks.1", "blocks.2", "blocks.3")
        assert net.feature_strides == {"c3": 8} and vit_det("debug", patch_size=16).feature_channels == {"c4": 48}

    @pytest.mark.parametrize(
        ("key", "value"),
        [("num_heads", 5), ("patch_size", 14), ("image_size", 60), ("drop_path", 1.0), ("global_blocks", (2,)),
         ("window", 1), ("pretrain_size", 60)],
    )  # fmt: skip
    def test_arguments_that_cannot_be(self, key, value):
        with pytest.raises(UserError, match=f"'{key}'"):
            vit_det("debug", **{key: value})


class TestRelativePositions:
    def test_rows_by_hand(self):
        table = paddle.arange(10, dtype="float32").reshape([5, 2])
        rows = relative_rows(table, 3).numpy()
        for q in range(3):
            for k in range(3):
                np.testing.assert_array_equal(rows[q, k], table[q - k + 2].numpy())

    @pytest.mark.parametrize("length", [2, 3, 5, 9])
    def test_other_lengths_are_interpolated_linearly(self, length):
        table = paddle.rand([7, 3])
        whole = paddle.nn.functional.interpolate(
            table.T.unsqueeze(0), size=[2 * length - 1], mode="linear", align_corners=False, data_format="NCW"
        )[0].T
        i = np.arange(length)
        expected = whole.numpy()[i[:, None] - i[None] + length - 1]
        np.testing.assert_allclose(relative_rows(table, length).numpy(), expected, atol=1e-6)

    def test_queries_are_not_scaled(self):
        """Scores by hand, with keys that are all zero: what is left are the tables."""
        attention = vit_det("debug").blocks[1].attn
        fill(attention)
        dim, heads = 48, 4
        weight, bias = attention.qkv.weight.numpy(), attention.qkv.bias.numpy()
        weight[:, dim : 2 * dim], bias[dim : 2 * dim] = 0, 0
        attention.qkv.weight.set_value(weight), attention.qkv.bias.set_value(bias)
        x = np.random.default_rng(0).standard_normal([1, 3, 5, dim]).astype("float32")
        qkv = (x @ weight + bias).reshape(15, 3, heads, dim // heads)
        tables = [relative_rows(t, n).numpy() for t, n in ((attention.rel_pos_h, 3), (attention.rel_pos_w, 5))]
        out = np.zeros([15, heads, dim // heads])
        for h in range(heads):
            for q in range(15):
                y, z = divmod(q, 5)
                by_row, by_column = tables[0][y] @ qkv[q, 0, h], tables[1][z] @ qkv[q, 0, h]
                score = (by_row[:, None] + by_column[None]).reshape(-1)
                weights = np.exp(score - score.max())
                out[q, h] = weights / weights.sum() @ qkv[:, 2, h]
        expected = out.reshape(3, 5, dim) @ attention.proj.weight.numpy() + attention.proj.bias.numpy()
        np.testing.assert_allclose(attention(paddle.to_tensor(x)).numpy()[0], expected, atol=2e-5)


def test_padding_of_windows_is_zero_after_the_norm():
    """A window of 4 over 3 rows: the fourth is made of tokens that are zero when they reach the attention."""
    block = vit_det("debug").blocks[0]
    fill(block)
    x = paddle.randn([1, 3, 4, 48])
    whole = paddle.concat([block.norm1(x), paddle.zeros([1, 1, 4, 48])], axis=1)
    expected = block.attn(whole)[:, :3]
    np.testing.assert_allclose(block.attend(block.norm1(x)).numpy(), expected.numpy(), atol=1e-5)
    other = paddle.concat([block.norm1(x), paddle.ones([1, 1, 4, 48])], axis=1)
    assert (block.attn(other)[:, :3] - expected).abs().max().item() > 1e-3  # they are keys


class TestPyramid:
    def test_sides_of_1184_by_2000(self):
        """Transposed convolutions double, pooling takes the floor, subsampling the ceiling."""
        pyramid = SimpleFeaturePyramid(8, 4, 16)
        maps = pyramid(paddle.rand([1, 8, 1184 // 16, 2000 // 16]))
        assert [m.shape for m in maps] == [[1, 4, 148, 250], [1, 4, 74, 125], [1, 4, 37, 62], [1, 4, 19, 31]]

    def test_levels(self):
        x = paddle.rand([2, 16, 7, 9])
        five = SimpleFeaturePyramid(16, 8, 16, (2, 3, 4, 5))
        assert [m.shape[2:] for m in five(x)] == [[28, 36], [14, 18], [7, 9], [3, 4], [2, 2]]
        two = SimpleFeaturePyramid(16, 8, 8, (3, 4), top=False)
        assert [m.shape[2:] for m in two(x)] == [[7, 9], [3, 4]]
        with pytest.raises(ValueError, match="no level 7 from a map of stride 16"):
            SimpleFeaturePyramid(16, 8, 16, (7,))

    def test_parameters_of_the_huge_one(self):
        with paddle.LazyGuard():
            net = SimpleFeaturePyramid(1280, 256, 16)
        assert sum(math.prod(p.shape) for p in net.parameters()) == 5_869_184

    def test_upstream_names(self):
        names = set(SimpleFeaturePyramid(16, 8, 16, (2, 3, 4, 5)).state_dict())
        assert {"simfp_3.0.bias", "simfp_3.1.weight", "simfp_3.2.bias", "simfp_4.0.weight", "simfp_5.1.weight"} <= names
        assert {"simfp_2.1.weight", "simfp_2.3.bias", "simfp_2.7.bias", "simfp_5.4.weight"} <= names
        assert not {"simfp_3.1.bias", "simfp_4.0.bias", "simfp_5.0.weight"} & names

    def test_norm_is_over_channels_at_every_pixel(self):
        norm = LayerNorm2D(6)
        fill(norm)
        x = np.random.default_rng(0).standard_normal([2, 6, 3, 5]).astype("float32")
        centred = x - x.mean(1, keepdims=True)
        expected = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-6)
        expected = expected * norm.weight.numpy()[:, None, None] + norm.bias.numpy()[:, None, None]
        np.testing.assert_allclose(norm(paddle.to_tensor(x)).numpy(), expected, atol=1e-5)

    def test_top_is_every_second_pixel_of_the_coarsest(self):
        pyramid = SimpleFeaturePyramid(8, 4, 16)
        maps = pyramid(paddle.rand([1, 8, 10, 14]))
        np.testing.assert_array_equal(maps[3].numpy(), maps[2].numpy()[:, :, ::2, ::2])


def mae(dim: int = 48, depth: int = 2, patch: int = 14, grid: int = 6) -> dict[str, np.ndarray]:
    """A file as MAE writes it, in torch's layout."""
    rng = np.random.default_rng(0)
    shapes = {
        "cls_token": [1, 1, dim], "pos_embed": [1, 1 + grid**2, dim], "mask_token": [1, 1, 32],
        "patch_embed.proj.weight": [dim, 3, patch, patch], "patch_embed.proj.bias": [dim],
        "norm.weight": [dim], "norm.bias": [dim], "decoder_embed.weight": [32, dim],
        "decoder_blocks.0.norm1.weight": [32],
    }  # fmt: skip
    for i in range(depth):
        linears = {"attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim), "mlp.fc1": (4 * dim, dim)}
        for name, shape in {**linears, "mlp.fc2": (dim, 4 * dim), "norm1": (dim,), "norm2": (dim,)}.items():
            shapes |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
    return {k: rng.standard_normal(s).astype("float32") for k, s in shapes.items()}


class TestForeignWeights:
    def test_mae_with_patches_of_14(self):
        state = mae()
        net = vit_det("debug", patch_size=16, image_size=128, pretrain_size=128, abs_pos=True)
        report = load_weights(net, state, strict=False)
        assert all(".attn.rel_pos_" in k for k in report.missing) and not report.unexpected and not report.mismatched
        assert {"cls_token", "norm.weight", "decoder_embed.weight", "mask_token"} <= set(report.ignored)
        resize = paddle.nn.functional.interpolate
        kernel = resize(paddle.to_tensor(state["patch_embed.proj.weight"]), size=[16, 16], mode="bicubic")
        np.testing.assert_array_equal(net.patch_embed.proj.weight.numpy(), kernel.numpy())
        np.testing.assert_array_equal(net.blocks[1].mlp.fc1.weight.numpy(), state["blocks.1.mlp.fc1.weight"].T)
        grid = paddle.to_tensor(state["pos_embed"][:, 1:].reshape(1, 6, 6, 48).transpose(0, 3, 1, 2))
        grid = resize(grid, size=[8, 8], mode="bicubic").flatten(2).transpose([0, 2, 1])
        np.testing.assert_array_equal(net.pos_embed[:, 1:].numpy(), grid.numpy())
        without = vit_det("debug", patch_size=16, image_size=128, pretrain_size=128)
        assert "pos_embed" in load_weights(without, state, strict=False).ignored

    def test_positions_of_another_image_size(self):
        small, large = vit_det("debug"), vit_det("debug", image_size=128)
        fill(small)
        load_weights(large, state_of(small))
        assert large.blocks[1].attn.rel_pos_h.shape == [31, 12]
        np.testing.assert_allclose(
            relative_rows(small.blocks[1].attn.rel_pos_h, 16).numpy(),
            relative_rows(large.blocks[1].attn.rel_pos_h, 16).numpy(),
            atol=1e-6,
        )

    @pytest.mark.parametrize("torch", [False, True])
    def test_cae_v2_gives_the_same_blocks(self, torch):
        """Branch scales and missing key biases end in the matrices: a block of each does the same."""
        options = dict(dim=48, depth=2, num_heads=4, image_size=64, patch_size=8)
        encoder = zoo.create_model("cae_v2_debug", **options)
        fill(encoder)
        encoder.eval()
        net = vit_det("debug", global_blocks=(0, 1), abs_pos=True)
        state = to_theirs(encoder, "release", state_of(encoder), {"mask_token": np.zeros([1, 1, 48], "f4")})
        report = load_weights(net, state if torch else state_of(encoder), strict=False)
        assert all(".attn.rel_pos_" in k for k in report.missing) and not report.unexpected
        x = paddle.randn([2, 8, 8, 48])
        for ours, theirs in zip(net.blocks, encoder.blocks):
            np.testing.assert_allclose(ours(x).flatten(1, 2).numpy(), theirs(x.flatten(1, 2)).numpy(), atol=2e-5)
        np.testing.assert_allclose(net.pos_embed.numpy(), encoder.pos_embed.numpy(), atol=1e-6)

    def test_a_fine_tuned_encoder_with_relative_positions_is_refused(self):
        options = dict(dim=48, depth=2, num_heads=4, image_size=64, patch_size=8, num_classes=3)
        classifier = zoo.create_model("cae_v2_debug", **options)
        net = vit_det("debug", abs_pos=True)
        report = load_weights(net, state_of(classifier), strict=False)  # tables start at zero and say nothing
        assert {"blocks.0.attn.relative_position_bias_table", "head.weight", "fc_norm.bias"} <= set(report.ignored)
        table = classifier.blocks[0].attn.relative_position_bias_table
        table.set_value(table + 1)
        with pytest.raises(UserError, match="rel_pos_bias: false"):
            load_weights(net, state_of(classifier), strict=False)

    def test_own_names_load_strictly(self):
        net, other = vit_det("debug", abs_pos=True), vit_det("debug", abs_pos=True)
        fill(net)
        load_weights(other, state_of(net))
        for key, value in state_of(net).items():
            np.testing.assert_array_equal(state_of(other)[key], value, err_msg=key)


def test_every_parameter_receives_a_gradient():
    net = vit_det("debug", abs_pos=True)
    fill(net)
    net.features(paddle.randn([2, 3, 40, 56]))["c3"].square().mean().backward()
    assert not [k for k, p in net.named_parameters() if p.grad is None or not p.grad.any()]
