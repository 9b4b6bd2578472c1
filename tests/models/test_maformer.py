"""MAFormer: sizes, layers against loops, gradients, sizes of input, features, export."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from ppvision.errors import UserError
from ppvision.models import zoo
from ppvision.models.maformer import FUSIONS, GLDS, Block, CrossAttention, GlobalTokens, MAFormer, WindowAttention
from ppvision.models.profile import parameters, profile
from tests.graphs import write_graphs
from tests.models.golden import fill
from tests.models.variants import builder

maformer = builder(MAFormer)

SIZES = {"tiny": 2_268_079, "small": 23_035_393, "base": 52_816_325, "large": 105_540_187}
MACS = {"tiny": 0.33e9, "small": 4.41e9, "base": 10.04e9, "large": 19.87e9}


def image(*shape: int) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(0).standard_normal(shape).astype("float32"))


@pytest.mark.parametrize(
    "variant", ["tiny", "small", *(pytest.param(v, marks=pytest.mark.slow) for v in ("base", "large"))]
)
def test_parameters_and_multiply_adds_are_those_of_the_specification(variant):
    net = maformer(variant)
    cost = profile(net, {"image": ((1, 3, 224, 224), "float32")})
    assert cost.params == SIZES[variant] == parameters(net)
    assert cost.macs == pytest.approx(MACS[variant], rel=0.01)


def test_parameters_of_a_block_follow_the_formulas():
    c, heads, m, grid, k = 64, 2, 7, 56, 49
    block = Block(c, 32, m, 4.0, 0.0, "maf", ("fc", grid, 8, False))
    assert parameters(block.local) == 4 * c * c + 4 * c + (2 * m - 1) ** 2 * heads
    assert parameters(block.gld) == grid * grid * k + k + 2 * c
    assert parameters(block.fuse) == 4 * c * c + 4 * c
    assert parameters(block.mlp) == 8 * c * c + 5 * c
    assert parameters(block) == 16 * c * c + 17 * c + (2 * m - 1) ** 2 * heads + grid * grid * k + k + 2 * c


def windows_by_loops(layer: WindowAttention, x: np.ndarray) -> np.ndarray:
    """Every window, head and query by hand; only real tokens are keys."""
    b, h, w, c = x.shape
    m, d = layer.window, layer.head_dim
    state = {k: v.numpy().astype("float64") for k, v in layer.state_dict().items()}
    qkv = x @ state["qkv.weight"] + state["qkv.bias"]
    out = np.zeros((b, h, w, c))
    for n in range(b):
        for top in range(0, h, m):
            for left in range(0, w, m):
                cells = [(y, z) for y in range(top, min(top + m, h)) for z in range(left, min(left + m, w))]
                for head in range(c // d):
                    q, k, v = (slice(i * c + head * d, i * c + head * d + d) for i in range(3))
                    for y, z in cells:
                        bias = [
                            state["rel_bias"][(y - p + m - 1) * (2 * m - 1) + z - r + m - 1, head] for p, r in cells
                        ]
                        keys = np.stack([qkv[n, p, r, k] for p, r in cells])
                        score = keys @ qkv[n, y, z, q] * d**-0.5 + bias
                        weight = np.exp(score - score.max())
                        values = np.stack([qkv[n, p, r, v] for p, r in cells])
                        out[n, y, z, head * d : head * d + d] = weight / weight.sum() @ values
    return out @ state["proj.weight"] + state["proj.bias"]


@pytest.mark.parametrize("size", [(8, 4), (7, 5), (3, 2)])
def test_window_attention_equals_loops_over_windows(size):
    layer = WindowAttention(8, 4, 4)
    fill(layer)
    x = image(2, *size, 8)
    np.testing.assert_allclose(layer(x).numpy(), windows_by_loops(layer, x.numpy()), atol=1e-5)


def test_permuted_windows_permute_the_local_stream():
    layer = WindowAttention(8, 4, 4)
    x = image(1, 8, 4, 8)
    swapped = paddle.concat([x[:, 4:], x[:, :4]], axis=1)
    y = layer(x)
    np.testing.assert_allclose(layer(swapped).numpy(), paddle.concat([y[:, 4:], y[:, :4]], axis=1).numpy(), atol=1e-6)


def test_fusion_equals_the_attention_of_paddle():
    layer = CrossAttention(16, 8)
    fill(layer)
    local, tokens = image(2, 12, 16), image(2, 5, 16)
    key, value = (t.reshape([2, 5, 2, 8]) for t in layer.kv(tokens).split(2, axis=-1))
    expected = layer.proj(F.scaled_dot_product_attention(layer.q(local).reshape([2, 12, 2, 8]), key, value).flatten(2))
    np.testing.assert_allclose(layer(local, tokens).numpy(), expected.numpy(), atol=1e-5)


class TestGlobalTokens:
    def test_fc_is_a_linear_layer_over_the_tokens(self):
        layer = GlobalTokens(8, "fc", 4, 2, False)
        fill(layer)
        x = image(2, 4, 4, 8)
        expected = F.linear(x.flatten(1, 2).transpose([0, 2, 1]), layer.weight.t(), layer.bias).transpose([0, 2, 1])
        np.testing.assert_allclose(layer(x).numpy(), layer.norm(expected).numpy(), atol=1e-5)

    def test_conv_and_pool_see_a_cell_each_and_ignore_padding(self):
        x = image(1, 5, 7, 4)
        for kind in ("conv", "pool"):
            layer = GlobalTokens(4, kind, 8, 3, False)
            fill(layer)
            layer.norm = paddle.nn.Identity()
            y = layer(x).numpy().reshape(2, 3, 4)
            for i in range(2):
                for j in range(3):
                    cell = x.numpy()[0, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3]
                    if kind == "pool":
                        expected = cell.mean((0, 1))
                    else:
                        kernel = layer.weight.numpy()[:, 0, : cell.shape[0], : cell.shape[1]]
                        expected = np.einsum("yxc,cyx->c", cell, kernel) + layer.bias.numpy()
                    np.testing.assert_allclose(y[i, j], expected, atol=1e-5)

    @pytest.mark.parametrize("kind", GLDS)
    def test_spread_gives_every_position_its_cell(self, kind):
        layer = GlobalTokens(1, kind, 6, 3, True)
        tokens = paddle.arange(4, dtype="float32").reshape([1, 4, 1])
        expected = (np.arange(6) // 3)[:, None] * 2 + np.arange(6) // 3
        np.testing.assert_array_equal(layer.spread(tokens, 6, 6).numpy()[0, :, :, 0], expected)

    def test_conv_spread_agrees_with_its_cells_at_odd_sides(self):
        layer = GlobalTokens(1, "conv", 6, 3, False)
        spread = layer.spread(paddle.arange(6, dtype="float32").reshape([1, 6, 1]), 5, 7).numpy()[0, :, :, 0]
        np.testing.assert_array_equal(spread, (np.arange(5) // 3)[:, None] * 3 + np.arange(7) // 3)

    def test_pooled_tokens_of_a_map_moved_by_cells_are_the_same_tokens(self):
        layer = GlobalTokens(4, "pool", 8, 2, False)
        x = image(1, 8, 8, 4)
        moved = paddle.roll(x, 2, axis=2)
        rows = [np.sort(layer(t).numpy().reshape(-1, 4), axis=0) for t in (x, moved)]
        np.testing.assert_allclose(*rows, atol=1e-6)

    def test_resized_weights_keep_their_sum(self):
        layer = GlobalTokens(4, "fc", 8, 4, True)
        paddle.assign(paddle.full_like(layer.weight, 0.3), layer.weight)
        assert layer.mixing(12, 16).sum(1).numpy() == pytest.approx(np.full(4, 0.3 * 64), rel=1e-5)
        assert layer.mixing(8, 8) is layer.weight

    def test_another_size_is_refused_unless_asked_for(self):
        with pytest.raises(UserError, match="mixes 8x8 positions, the map is 9x8; .* gld_resize: true"):
            GlobalTokens(4, "fc", 8, 4, False)(image(1, 9, 8, 4))


class TestBlock:
    def test_without_the_output_of_fusion_it_is_the_window_block(self):
        maf = Block(16, 8, 4, 2.0, 0.0, "maf", ("conv", 8, 2, False))
        fill(maf)
        for parameter in maf.fuse.proj.parameters():
            paddle.assign(paddle.zeros_like(parameter), parameter)
        alone = Block(16, 8, 4, 2.0, 0.0, "none", ("conv", 8, 2, False))
        missing, unexpected = alone.set_state_dict(
            {k: v for k, v in maf.state_dict().items() if k in alone.state_dict()}
        )
        assert not missing
        x = image(2, 8, 8, 16)
        np.testing.assert_allclose(maf(x).numpy(), alone(x).numpy(), atol=1e-6)

    def test_window_block_has_no_global_parameters(self):
        names = Block(16, 8, 4, 2.0, 0.0, "none", ("conv", 8, 2, False)).state_dict()
        assert not [name for name in names if name.startswith(("gld", "fuse", "alpha"))]

    def test_learnable_fusion_starts_halfway(self):
        block = Block(16, 8, 4, 2.0, 0.0, "llf", ("conv", 8, 2, False))
        x = image(1, 8, 8, 16)
        expected = (block.local(x) + block.gld.spread(block.gld(x), 8, 8)) / 2
        np.testing.assert_allclose(block.fused(x).numpy(), expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("gld", GLDS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_parameter_receives_a_gradient(fusion, gld):
    net = maformer("debug", fusion=fusion, gld=gld, image_size=32, drop_path=0.0)
    net.train()
    F.cross_entropy(net(image(4, 3, 32, 32)), paddle.arange(4)).backward()
    assert not [k for k, p in net.named_parameters() if p.grad is None or not p.grad.numpy().any()]


@pytest.mark.parametrize("kwargs", [{"gld": "conv"}, {"gld": "fc", "gld_resize": True}])
def test_other_sizes(kwargs):
    net = maformer("tiny", num_classes=7, **kwargs)
    net.eval()
    for size in ((256, 256), (320, 192)):
        maps = net.features(image(1, 3, *size))
        assert net(image(1, 3, *size)).shape == [1, 7]
        for level, value in maps.items():
            stride = net.feature_strides[level]
            assert value.shape == [1, net.feature_channels[level], size[0] // stride, size[1] // stride]
    assert net.feature_strides == {"c2": 4, "c3": 8, "c4": 16, "c5": 32}


def test_shapes_of_the_specification():
    net = maformer("tiny")
    maps = net.run_stages(net.embed(image(1, 3, 224, 224)))
    assert [m.shape for m in maps] == [[1, 56, 56, 32], [1, 28, 28, 64], [1, 14, 14, 128], [1, 7, 7, 256]]
    grids = [stage[0].gld.side for stage in net.stages[:3]]
    assert grids == [7, 7, 7] and net.stages[3][0].gld is None


def test_the_last_stage_sees_the_whole_map_at_224():
    net = maformer("tiny", num_classes=0)
    net.eval()
    first = image(1, 256, 7, 7).transpose([0, 2, 3, 1])
    second = first.clone()
    second[0, 0, 0] += 1.0
    assert (net.stages[3][0](first) - net.stages[3][0](second)).abs().numpy()[0, 6, 6].max() > 0


def test_backbone_and_its_norms():
    net = maformer("debug", num_classes=0, out_norms=True, fused_stages=4)
    maps = net(image(1, 3, 64, 96))
    assert not [k for k in net.state_dict() if k.startswith(("norm.", "head"))]
    for value in maps.values():
        assert value.numpy().mean(1) == pytest.approx(0, abs=1e-4)
    assert maformer("debug", stem=(3, 2, 1)).feature_strides == {"c1": 2, "c2": 4, "c3": 8, "c4": 16}


def test_dense_vote_adds_half_of_the_best_token_score():
    net = maformer("debug", dense_vote=True)
    net.eval()
    x = image(2, 3, 64, 64)
    tokens = net.tokens(net.embed(x))
    expected = net.head(tokens.mean(1)) + 0.5 * net.token_head(tokens).max(1)
    np.testing.assert_allclose(net(x).numpy(), expected.numpy(), atol=1e-6)


def test_start_of_the_weights():
    paddle.seed(0)
    net = maformer("tiny")
    block = net.stages[0][0]
    assert block.gld.weight.numpy().std() == pytest.approx(1 / 56, rel=0.02)
    assert block.fuse.proj.weight.numpy().any() and not block.fuse.proj.bias.numpy().any()
    assert {m._epsilon for m in net.sublayers() if isinstance(m, paddle.nn.LayerNorm)} == {1e-6}
    rates = [b.drop1.rate for stage in maformer("small").stages for b in stage]
    assert rates[0] == 0 and rates[-1] == pytest.approx(0.1) and np.ptp(np.diff(rates)) < 1e-6


def test_cost_is_linear_in_the_number_of_tokens():
    """Stages 1 to 3 with the number of global tokens kept: twice the side is four times the multiply-adds."""
    costs = [
        profile(
            maformer("tiny", num_classes=0, depths=(1, 1, 1), windows=(7, 7, 7), gld="conv", image_size=side),
            {"image": ((1, 3, side, side), "float32")},
        ).macs
        for side in (224, 448)
    ]
    assert costs[1] / costs[0] == pytest.approx(4.0, abs=0.1)


def test_learns_sixteen_images_by_heart():
    paddle.seed(0)
    net = maformer("debug", image_size=32, drop_path=0.0)
    net.train()
    x, label = image(16, 3, 32, 32), paddle.arange(16) % 10
    optimizer = paddle.optimizer.AdamW(2e-3, parameters=net.parameters())
    for _ in range(40):
        F.cross_entropy(net(x), label).backward()
        optimizer.step()
        optimizer.clear_grad()
    assert (net(x).argmax(1) == label).all().item()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"gld": "fcc"}, "'gld' is one of"),
        ({"windows": (4, 4)}, "'windows' needs one number for each of the 4 stages"),
        ({"width": 20}, "'width' must be a multiple of head_dim 8, got 20"),
        ({"stem": (3, 3, 1)}, "'stem' has a stride of 1, 2, 4 or 8, got 3"),
        ({"dense_vote": True, "num_classes": 0}, "'dense_vote' needs num_classes"),
    ],
)
def test_mistakes_are_named(kwargs, message):
    with pytest.raises(UserError, match=message):
        maformer("debug", **kwargs)


@pytest.mark.parametrize(
    "kwargs",
    [{}, {"gld": "pool", "fusion": "concat"}, {"gld": "fc", "gld_resize": True, "fusion": "llf"}],
    ids=["conv", "pool concat", "fc llf"],
)
def test_exports_with_free_sides(kwargs, tmp_path):
    import onnxruntime

    net = maformer("debug", **kwargs)
    fill(net)
    net.eval()
    stem = write_graphs(net, tmp_path)
    graph = paddle.jit.load(stem)
    session = onnxruntime.InferenceSession(f"{stem}.onnx", providers=["CPUExecutionProvider"])
    assert sum(p.size for p in graph.parameters()) == sum(p.size for p in net.state_dict().values())
    for shape in ((1, 64, 96), (3, 37, 61)):
        x = image(shape[0], 3, *shape[1:])
        expected = net(x).numpy()
        for y in (graph(x).numpy(), session.run(None, {"image": x.numpy()})[0]):
            assert np.abs(y - expected).max() <= 1e-5 * np.abs(expected).max()


def test_fixed_size_weights_refuse_an_export_with_free_sides(tmp_path):
    net = maformer("debug", gld="fc")
    net.eval()
    spec = paddle.static.InputSpec([None, 3, None, None], "float32", "image")
    with pytest.raises(Exception, match="the map is free; .* input_shape"):
        paddle.jit.save(net, str(tmp_path / "m"), input_spec=[spec])


def test_names_of_the_state_are_those_of_the_specification():
    names = set(zoo.create_model("maformer_debug", gld="fc").state_dict())
    for name in (
        "stem.conv.weight stem.norm.bias merges.2.conv.weight merges.0.norm.weight norm.weight head.bias "
        "stages.0.0.norm1.weight stages.0.0.local.qkv.weight stages.0.0.local.proj.bias stages.0.0.local.rel_bias "
        "stages.0.0.gld.weight stages.0.0.gld.bias stages.0.0.gld.norm.weight stages.0.0.fuse.q.weight "
        "stages.0.0.fuse.kv.weight stages.0.0.fuse.proj.weight stages.0.0.norm2.weight stages.3.0.mlp.fc1.weight "
        "stages.3.0.mlp.fc2.bias"
    ).split():
        assert name in names
