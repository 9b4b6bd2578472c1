"""DAB-DETR apart from its comparison with `transformers` (test_against_transformers_dab_detr.py)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import paddle
import pytest

from ppvision.errors import ArgumentError, UserError
from ppvision.models import zoo
from ppvision.models.queries import QuerySet
from ppvision.weights import load_weights, state_of
from ppvision.weights.names.classes import COCO_IDS


def net_of(**options):
    """The debug size with every part of weight: anchors spread out, heads that say something."""
    paddle.seed(0)
    net = zoo.create_model("dab_detr_debug", num_classes=5, **options)
    rng = np.random.default_rng(0)
    for name, p in net.named_parameters():
        if p.ndim == 1 or "bbox_embed" in name:
            p.set_value(p + paddle.to_tensor(rng.normal(0, 0.2, p.shape).astype("float32")))
    net.eval()
    return net


def inputs(batch=2, size=(64, 80)):
    rng = np.random.default_rng(1)
    valid = np.ones((batch, *size), bool)
    valid[-1, 40:] = valid[-1, :, 64:] = False
    image = rng.standard_normal((batch, 3, *size)).astype("float32") * valid[:, None]
    return paddle.to_tensor(image), paddle.to_tensor(valid)


def queries(seed, count=20, batch=1, content=None):
    rng = np.random.default_rng(seed)
    references = paddle.to_tensor(rng.standard_normal((batch, count, 4)).astype("float32"))
    if content is not None:
        content = paddle.to_tensor(rng.standard_normal((batch, count, content)).astype("float32"))
    return QuerySet(references, content)


def same(a, b, atol=1e-5):
    for (logits, boxes), (others, places) in zip(a, b, strict=True):
        np.testing.assert_allclose(logits.numpy(), others.numpy(), atol=atol)
        np.testing.assert_allclose(boxes.numpy(), places.numpy(), atol=atol)


@pytest.mark.parametrize("masked", [False, True])
def test_forward_is_its_parts(masked):
    net, (image, valid) = net_of(decoder_layers=3), inputs()
    out = net(image, valid if masked else None)
    context = net.encode(image, valid if masked else None)
    outputs = net.decode(context, net.own_queries(context))
    assert len(outputs) == 3
    assert out["logits"].shape == [2, 20, 5] and out["boxes"].shape == [2, 20, 4]
    assert bool((out["boxes"] > 0).all()) and bool((out["boxes"] < 1).all())
    same([(out["logits"], out["boxes"])], outputs[-1:], atol=0)


def test_padding_is_not_looked_at():
    net, (image, valid) = net_of(), inputs()
    context = net.encode(image, valid)
    outputs = net.decode(context, net.own_queries(context))
    other = replace(context, memory=paddle.where(context.valid.unsqueeze(-1), context.memory, context.memory + 7.0))
    assert not bool(context.valid.all())
    same(net.decode(other, net.own_queries(other)), outputs)


@pytest.mark.parametrize("content", [None, 48])
@pytest.mark.parametrize("batch", [1, 2])
class TestGroups:
    def test_together_as_alone(self, content, batch):
        net = net_of()
        context = net.encode(*inputs())
        sets = [queries(seed, 20, batch, content) for seed in range(3)]
        together = net.decode(context, QuerySet.stack(sets, 2))
        for i, alone in enumerate(sets):
            part = [tuple(x[:, 20 * i : 20 * i + 20] for x in output) for output in together]
            same(net.decode(context, alone), part)

    def test_as_with_a_block_diagonal_mask(self, content, batch):
        net = net_of()
        context = net.encode(*inputs())
        whole = QuerySet.stack([queries(seed, 20, batch, content) for seed in range(3)], 2)
        blocks = paddle.to_tensor(np.kron(np.eye(3), np.ones((20, 20))) > 0)
        same(net.decode(context, replace(whole, groups=1, mask=blocks)), net.decode(context, whole))

    def test_a_mask_inside_each_group(self, content, batch):
        net = net_of()
        context = net.encode(*inputs())
        sets, mask = [queries(seed, 6, batch, content) for seed in range(2)], np.tri(6, dtype=bool)
        masked = [replace(s, mask=paddle.to_tensor(mask)) for s in sets]
        together = net.decode(context, QuerySet.stack(masked, 2))
        first = net.decode(context, replace(sets[1], references=sets[1].references, mask=paddle.to_tensor(mask)))
        same(first, [tuple(x[:, 6:] for x in output) for output in together])
        # the first query sees itself only
        cut = QuerySet(sets[1].references[:, :1], None if content is None else sets[1].content[:, :1])
        same(net.decode(context, cut), [tuple(x[:, :1] for x in output) for output in first])

    def test_queries_of_a_group_see_each_other(self, content, batch):
        net = net_of()
        context = net.encode(*inputs())
        whole = queries(0, 6, batch, content)
        cut = QuerySet(whole.references[:, :1], None if content is None else whole.content[:, :1])
        assert not np.allclose(
            net.decode(context, whole)[-1][0][:, :1].numpy(), net.decode(context, cut)[-1][0].numpy()
        )


def test_a_box_trains_the_layer_before_and_no_further_back():
    """What a layer says of the box adds to what the layer before said, with gradient; where a layer looks has none."""
    net = net_of(decoder_layers=3)
    offsets = []
    net.bbox_embed.register_forward_post_hook(lambda layer, given, out: offsets.append(out))
    context = net.encode(*inputs())
    outputs = net.decode(context, net.own_queries(context))
    assert len(offsets) == 5  # of layers 0, 1, 2 after the norm, and before it where a box goes on
    gradients = paddle.grad(outputs[2][1].sum(), [offsets[4], offsets[3], offsets[1]], allow_unused=True)
    assert gradients[0].abs().sum() > 0 and gradients[1].abs().sum() > 0
    assert gradients[2] is None or not gradients[2].any()


def test_every_parameter_receives_a_gradient():
    net = net_of(num_patterns=2)
    net.train()
    context = net.encode(*inputs())
    outputs = net.decode(context, net.own_queries(context))
    sum((logits.square().mean() + boxes.square().mean()) for logits, boxes in outputs).backward()
    assert not [k for k, p in net.named_parameters() if p.grad is None or not p.grad.any()]


def test_patterns():
    net = net_of(num_patterns=3)
    context = net.encode(*inputs())
    own = net.own_queries(context)
    assert net.num_queries == own.references.shape[1] == 60 and net(*inputs())["boxes"].shape == [2, 60, 4]
    np.testing.assert_array_equal(own.references[0, 20:40].numpy(), own.references[0, :20].numpy())
    assert (own.content[0, 20:40] == own.content[0, 20]).all() and (own.content[0, 40] != own.content[0, 20]).any()


def test_new_queries_are_of_the_same_form_and_other_values():
    net = net_of()
    new = net.new_queries()
    assert {k: v.shape for k, v in new.state_dict().items()} == {
        k: v.shape for k, v in net.queries.state_dict().items()
    }
    assert not np.allclose(new.refpoint_embed.weight.numpy(), net.queries.refpoint_embed.weight.numpy())


def test_starts_with_scores_of_one_percent_and_boxes_at_the_anchors():
    paddle.seed(0)
    net = zoo.create_model("dab_detr_debug")
    net.eval()
    context = net.encode(*inputs())
    own = net.own_queries(context)
    for logits, boxes in net.decode(context, own):
        assert abs(paddle.nn.functional.sigmoid(logits).mean().item() - 0.01) < 0.01
        expected = paddle.nn.functional.sigmoid(own.references).expand([2, -1, -1]).numpy()
        np.testing.assert_allclose(boxes.numpy(), expected, atol=1e-4)


def test_degenerate_anchors_are_finite():
    net = net_of()
    context = net.encode(*inputs())
    references = paddle.to_tensor([[[0.0, 0, -200, -200], [200, 200, 200, 200], [-200, 0, 0, 0]]])
    references.stop_gradient = False
    outputs = net.decode(context, QuerySet(references))
    sum((logits.mean() + boxes.mean()) for logits, boxes in outputs).backward()
    assert all(np.isfinite(x.numpy()).all() for output in outputs for x in output)
    assert np.isfinite(references.grad.numpy()).all()


def test_number_of_parameters():
    """44 M in the README of the release, which counts what is trained: 43.7 M; the frozen stem and stage are ours to
    count as well."""
    net = zoo.create_model("dab_detr_r50", num_classes=91)
    statistics = [k for k in net.state_dict() if k.endswith(("._mean", "._variance"))]
    total = sum(v.size for k, v in net.state_dict().items() if k not in statistics)
    assert round(total / 1e6) == 44


def test_ninety_one_slots_into_eighty_classes():
    whole = zoo.create_model("dab_detr_debug", num_classes=91)
    state = state_of(whole)
    rows = np.arange(91, dtype="float32")[:, None] + np.zeros([1, 48], "float32")
    packed = "transformer.encoder.layers.0.self_attn.in_proj_weight"
    linear = {f"{n}.weight" for n, m in whole.named_sublayers() if isinstance(m, paddle.nn.Linear)}
    torch = {k: np.ascontiguousarray(v.T) if k in linear or k == packed else v for k, v in state.items()}
    torch["refpoint_embed.weight"] = torch.pop("queries.refpoint_embed.weight")
    torch["class_embed.weight"], torch["class_embed.bias"] = rows, np.arange(91, dtype="float32")
    load_weights(whole, torch)
    np.testing.assert_array_equal(whole.class_embed.bias.numpy(), np.arange(91))
    np.testing.assert_array_equal(state_of(whole)[packed], state[packed])
    net = zoo.create_model("dab_detr_debug", num_classes=80)
    load_weights(net, torch)
    assert net.class_embed.bias.numpy().tolist() == list(COCO_IDS) and len(COCO_IDS) == 80
    np.testing.assert_array_equal(net.class_embed.weight.numpy()[3], COCO_IDS)
    with pytest.raises(UserError, match="class_embed"):
        load_weights(zoo.create_model("dab_detr_debug", num_classes=7), torch)


def test_a_bare_backbone():
    backbone = zoo.create_model("resnet18")
    net = zoo.create_model("dab_detr_r18")
    report = load_weights(net, state_of(backbone), strict=False)
    assert len(report.loaded) == len(net.backbone.state_dict()) and report.ignored == ["fc.weight", "fc.bias"]
    np.testing.assert_array_equal(net.backbone.conv1.weight.numpy(), backbone.conv1.weight.numpy())


def test_a_file_of_the_method():
    net, table = net_of(), np.ones((5, 48), "float32")
    state = {**{f"model.{k}": v for k, v in state_of(net).items()}, "denoising.0.weight": table}
    other = zoo.create_model("dab_detr_debug", num_classes=5)
    report = load_weights(other, state)
    assert len(report.loaded) == len(net.state_dict()) and list(report.training_only) == ["denoising.0.weight"]
    for key, value in state_of(net).items():
        np.testing.assert_array_equal(value, state_of(other)[key])


@pytest.mark.parametrize("wrong", [{"heads": 5}, {"stem": (8, 8)}, {"level": "c5"}])
def test_refuses_arguments(wrong):
    with pytest.raises((ArgumentError, UserError), match="dim|stem|c5"):
        zoo.create_model("dab_detr_debug", **wrong)
