"""Weights of DINO under other names: both ways without loss, classes of other data sets, bare backbones."""

from __future__ import annotations

import re

import numpy as np
import paddle
import pytest
from safetensors.numpy import save_file

from ppvision.errors import UserError
from ppvision.methods.group_detr import GroupDetr
from ppvision.models import zoo
from ppvision.models.dino import Dino
from ppvision.weights import load_weights, state_of, to_ours, to_theirs
from ppvision.weights.names.classes import COCO_CLASSES, COCO_IDS
from tests.models.golden import fill
from tests.models.variants import builder

dino = builder(Dino)

SMALL = dict(levels=("c3", "c4", "c5"), num_levels=4)


def net_of(num_classes: int = 80, **options) -> Dino:
    net = dino("debug", num_classes=num_classes, **{"backbone": "resnet_debug", **SMALL, **options})
    fill(net)
    return net


def method_of(net: Dino, groups: int = 3) -> GroupDetr:
    method = GroupDetr(net, groups=groups, denoising=10)
    for part in (method.groups, method.denoising):
        fill(part)
    return method


def own_parts(method: GroupDetr) -> dict[str, np.ndarray]:
    return {k: v for k, v in state_of(method).items() if k.startswith(("groups.", "denoising."))}


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        np.testing.assert_array_equal(b[key], value, err_msg=key)


def to_paddledetection(net: Dino, state: dict, method: dict | None = None) -> dict[str, np.ndarray]:
    """A Group DINO where there are further groups, else a DINO."""
    groups = any(k.startswith("groups.") for k in method or {})
    return to_theirs(net, "paddledetection_groups" if groups else "paddledetection", state, method)


class TestPaddleDetection:
    @pytest.mark.parametrize("options", [{}, dict(backbone="vit_det_debug", levels=("c3",), neck="pyramid")])
    def test_dino_and_back(self, options):
        net, other = net_of(**options), net_of(**options)
        table = {"denoising.0.weight": np.random.default_rng(0).standard_normal([80, 48]).astype("f4")}
        theirs = to_paddledetection(net, state_of(net), table)
        assert {"transformer.enc_output.0.weight", "transformer.denoising_class_embed.weight"} <= theirs.keys()
        assert not any(re.search("_dual|_dq|_groups", k) for k in theirs)
        fill(other)
        for p in other.parameters():
            p.set_value(paddle.zeros_like(p))
        report = load_weights(other, theirs)
        assert_same(state_of(net), state_of(other))
        assert_same(table, report.training_only)
        assert_same(theirs, to_paddledetection(other, state_of(other), report.training_only))

    def test_its_decoder_norms_are_numbered_otherwise(self):
        net = net_of()
        state = state_of(net)
        plain = to_paddledetection(net, state)
        grouped = to_paddledetection(net, state, own_parts(method_of(net)))
        ours = state["decoder.layers.1.norm2.weight"]  # after self-attention
        np.testing.assert_array_equal(plain["transformer.decoder.layers.1.norm1.weight"], ours)
        np.testing.assert_array_equal(grouped["transformer.decoder.layers.1.norm2.weight"], ours)
        np.testing.assert_array_equal(
            plain["transformer.encoder.layers.0.norm2.weight"], state["encoder.layers.0.norm2.weight"]
        )

    def test_group_dino_and_back(self):
        net, other = net_of(), net_of()
        method = method_of(net)
        theirs = to_paddledetection(net, state_of(net), own_parts(method))
        expected = {
            "transformer.tgt_embed_dual.1.weight", "transformer.enc_output.0.0.weight",
            "transformer.enc_output.2.1.bias", "transformer.enc_score_head_dq.0.bias",
            "transformer.enc_bbox_head_dq.1.layers.2.weight", "transformer.denoising_class_embed_groups.1.weight",
        }  # fmt: skip
        assert expected <= theirs.keys()
        assert theirs["transformer.denoising_class_embed.weight"].shape == (81, 48)  # a row of zeros for padding
        report = load_weights(other, theirs)
        assert_same(state_of(net), state_of(other))
        assert_same(own_parts(method), report.training_only)
        assert not report.ignored
        again = GroupDetr(other, groups=3, denoising=10)
        assert set(again.load_training_only(report.training_only)) == set(report.training_only)
        assert_same(own_parts(method), own_parts(again))
        assert_same(theirs, to_paddledetection(other, state_of(other), report.training_only))

    def test_resnet_names(self):
        net = net_of()
        names = set(to_paddledetection(net, state_of(net)))
        assert {
            "backbone.conv1.conv1.conv.weight",
            "backbone.conv1.conv1.norm._mean",
            "backbone.res2.res2a.branch2b.norm.weight",
            "backbone.res3.res3a.short.conv.weight",
            "backbone.res5.res5a.short.norm._variance",
            "transformer.input_proj.3.norm.bias",
            "transformer.level_embed.weight",
        } <= names

    @pytest.mark.parametrize("depth", ["50", "101"])
    def test_deep_resnets_number_the_third_stage(self, depth):
        with paddle.LazyGuard():
            net = zoo.create_model(f"dino_r{depth}")
        state = {k: np.broadcast_to(np.float32(0), v.shape) for k, v in net.state_dict().items()}
        theirs = to_paddledetection(net, state)
        last = {"50": "res4f", "101": "res4b22"}[depth]
        assert (
            f"backbone.res4.{last}.branch2c.conv.weight" in theirs
            and "backbone.res3.res3d.branch2a.norm.bias" in theirs
        )
        ours = to_ours(net, theirs).network
        assert ours.keys() == state.keys()

    def test_strangers(self):
        net = net_of()
        with pytest.raises(UserError, match="'surprise' is no part of a DINO of PaddleDetection"):
            to_paddledetection(net, {**state_of(net), "surprise": np.zeros(2)})
        theirs = {**to_paddledetection(net, state_of(net)), "transformer.surprise": np.zeros(2, "f4")}
        assert load_weights(net, theirs, strict=False).unexpected == ["transformer.surprise"]


class TestIdea:
    @pytest.mark.parametrize("file", [False, True])
    def test_dino_and_back(self, tmp_path, file):
        net, other = net_of(), net_of()
        table = {"denoising.0.weight": np.random.default_rng(0).standard_normal([80, 48]).astype("f4")}
        theirs = to_theirs(net, "idea", state_of(net), table)
        expected = {
            "backbone.0.body.layer2.0.downsample.1.running_var", "input_proj.3.1.weight", "transformer.level_embed",
            "transformer.decoder.layers.1.self_attn.in_proj_weight", "transformer.enc_output_norm.weight",
            "transformer.decoder.ref_point_head.layers.1.weight", "class_embed.0.bias", "label_enc.weight",
            "transformer.decoder.bbox_embed.1.layers.2.weight", "transformer.enc_out_class_embed.weight",
        }  # fmt: skip
        assert expected <= theirs.keys()
        assert theirs["transformer.decoder.layers.0.self_attn.in_proj_weight"].shape == (144, 48)
        assert theirs["class_embed.0.weight"].shape == (80, 48)
        for p in other.parameters():
            p.set_value(paddle.zeros_like(p))
        source = theirs
        if file:
            source = tmp_path / "dino.safetensors"
            save_file(theirs, source)
        report = load_weights(other, source)
        assert_same(state_of(net), state_of(other))
        assert_same(table, report.training_only)
        assert report.ignored and all(k.startswith("transformer.decoder.") for k in report.ignored)
        with pytest.raises(UserError, match=r"'groups\.0\.tgt_embed\.weight' is no part"):
            to_theirs(net, "idea", {}, {"groups.0.tgt_embed.weight": np.zeros(1)})

    def test_its_91_rows_are_category_ids(self):
        big, net = net_of(num_classes=91), net_of()
        rng = np.random.default_rng(0)
        table = {"denoising.0.weight": rng.standard_normal([92, 48]).astype("f4")}
        report = load_weights(net, to_theirs(big, "idea", state_of(big), table))
        head = big.dec_score_head[1]
        np.testing.assert_array_equal(net.dec_score_head[1].bias.numpy(), head.bias.numpy()[list(COCO_IDS)])
        np.testing.assert_array_equal(net.dec_score_head[1].weight.numpy(), head.weight.numpy()[:, list(COCO_IDS)])
        np.testing.assert_array_equal(
            net.queries.enc_score_head.weight.numpy(), big.queries.enc_score_head.weight.numpy()[:, list(COCO_IDS)]
        )
        np.testing.assert_array_equal(
            report.training_only["denoising.0.weight"], table["denoising.0.weight"][list(COCO_IDS)]
        )


class TestObjects365:
    def test_a_methods_file_hands_all_groups_over(self):
        """From the checkpoint of a Group DETR on Objects365 to one on COCO, class rows by name."""
        first = method_of(net_of(num_classes=365))
        state = state_of(first)
        net = net_of()
        report = load_weights(net, state)
        rows = list(COCO_CLASSES)
        assert len(set(rows)) == 80 and max(rows) < 365
        for i in range(2):
            head = state[f"model.dec_score_head.{i}.weight"]
            np.testing.assert_array_equal(net.dec_score_head[i].weight.numpy(), head[:, rows])
        np.testing.assert_array_equal(
            net.queries.enc_score_head.bias.numpy(), state["model.queries.enc_score_head.bias"][rows]
        )
        second = GroupDetr(net, groups=3, denoising=10)
        taken = second.load_training_only(report.training_only)
        assert set(taken) == {k for k in state if k.startswith(("groups.", "denoising."))}
        for g in range(2):
            np.testing.assert_array_equal(
                second.groups[g].enc_score_head.weight.numpy(), state[f"groups.{g}.enc_score_head.weight"][:, rows]
            )
            np.testing.assert_array_equal(
                second.groups[g].tgt_embed.weight.numpy(), state[f"groups.{g}.tgt_embed.weight"]
            )
        for g in range(3):
            np.testing.assert_array_equal(second.denoising[g].weight.numpy(), state[f"denoising.{g}.weight"][rows])

    def test_the_network_alone_too(self):
        big, net = net_of(num_classes=365), net_of()
        load_weights(net, state_of(big))
        np.testing.assert_array_equal(
            net.dec_score_head[0].bias.numpy(), big.dec_score_head[0].bias.numpy()[list(COCO_CLASSES)]
        )

    def test_paddledetections_tables_with_a_row_for_padding(self):
        first = method_of(net_of(num_classes=365))
        theirs = to_paddledetection(first.model, state_of(first.model), own_parts(first))
        assert theirs["transformer.denoising_class_embed.weight"].shape[0] == 366
        report = load_weights(net_of(), theirs)
        np.testing.assert_array_equal(
            report.training_only["denoising.2.weight"], first.denoising[2].weight.numpy()[list(COCO_CLASSES)]
        )

    def test_other_class_counts_do_not_fit(self):
        with pytest.raises(UserError, match="mismatched"):
            load_weights(net_of(), state_of(net_of(num_classes=20)))
        with pytest.raises(UserError, match="mismatched"):
            load_weights(net_of(num_classes=20), state_of(net_of(num_classes=365)))


class TestBareBackbone:
    def test_resnet(self):
        source, net = zoo.create_model("resnet_debug"), net_of()
        fill(source)
        report = load_weights(net, state_of(source), strict=False)
        assert set(report.ignored) == {"fc.weight", "fc.bias"} and not report.unexpected
        assert set(report.loaded) == {f"backbone.{k}" for k in state_of(source) if not k.startswith("fc.")}
        np.testing.assert_array_equal(
            net.backbone.layer3[0].conv1.weight.numpy(), source.layer3[0].conv1.weight.numpy()
        )

    def test_pre_trained_transformer(self):
        """CAE v2's encoder, ours and under the release's names."""
        options = dict(dim=48, depth=2, num_heads=4, image_size=64, patch_size=8)
        encoder = zoo.create_model("cae_v2_debug", **options)
        fill(encoder)
        for source in (
            state_of(encoder),
            to_theirs(encoder, "release", state_of(encoder), {"mask_token": np.zeros([1, 1, 48], "f4")}),
        ):
            net = zoo.create_model("group_detr_v2_debug")
            report = load_weights(net, source, strict=False)
            assert not report.unexpected and not report.mismatched
            assert all(k.startswith("backbone.") for k in report.loaded)
            assert {k.split(".")[0] for k in report.missing if ".rel_pos_" not in k} == set(
                k.split(".")[0] for k in state_of(net)
            ) - {"backbone"}
            scale = encoder.blocks[1].gamma_2.numpy()
            np.testing.assert_allclose(
                net.backbone.blocks[1].mlp.fc2.weight.numpy(),
                encoder.blocks[1].mlp.fc2.weight.numpy() * scale,
                rtol=1e-6,
            )
