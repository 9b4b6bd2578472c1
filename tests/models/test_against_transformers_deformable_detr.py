"""Deformable DETR against `transformers` on torch: one weight file under two sets of names, padded pictures of odd
sizes; memory, every layer's logits and boxes, and proposals to 1e-4.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppvision.errors import UserError
from ppvision.models import zoo
from ppvision.models.deformable_detr import DeformableDetr
from ppvision.weights import load_weights, read, state_of, to_theirs

pytestmark = pytest.mark.oracle

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests/oracles/transformers_deformable_detr.py"
SMALL = dict(depths=(1, 1, 1, 1), width=8)
NETS = {
    "plain": dict(backbone_options=SMALL | dict(block="bottleneck", depths=(2, 1, 1, 1)), num_levels=4, refine=False),
    "refined": dict(backbone_options=SMALL | dict(depths=(1, 2, 1, 1)), num_levels=5),
    "two_stage": dict(backbone_options=SMALL | dict(depths=(1, 2, 1, 1)), num_levels=4, two_stage=True),
    "single": dict(backbone_options=SMALL | dict(depths=(1, 2, 1, 1)), levels=("c5",), num_levels=1, refine=False),
}


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """Folder with what `transformers` computed."""
    python = Path(os.environ.get("PPVISION_ORACLE_PYTHON", ROOT / ".venv-oracles/bin/python"))
    if not python.exists():
        pytest.fail(f"{python} is missing; run `make oracles`", pytrace=False)
    folder = tmp_path_factory.mktemp("deformable")
    run = subprocess.run([str(python), str(SCRIPT), str(folder)], cwd=folder, capture_output=True, text=True)
    if run.returncode:
        tail = "\n".join(run.stderr.strip().splitlines()[-5:])
        pytest.fail(f"transformers failed in {python}; does `make oracles` help?\n{tail}", pytrace=False)
    return folder


def net_of(name: str, **overrides) -> DeformableDetr:
    options = dict(num_classes=7, backbone="resnet_debug", levels=("c3", "c4", "c5"), num_queries=17, dim=64, ffn=48)
    options |= dict(encoder_layers=2, decoder_layers=3, points=3)
    net = zoo.create_model("deformable_detr_debug", **{**options, **NETS[name], **overrides})
    net.eval()
    return net


@pytest.mark.parametrize("names", ["transformers", "release"])
@pytest.mark.parametrize("name", NETS)
def test_same_weights_same_answers(oracle, name, names):
    net = net_of(name)
    report = load_weights(net, oracle / (f"{name}.safetensors" if names == "transformers" else f"{name}_release.pth"))
    assert len(report.loaded) == len(net.state_dict())
    assert not report.training_only
    theirs = np.load(oracle / f"{name}.npz")
    with paddle.no_grad():
        context = net.encode(paddle.to_tensor(theirs["image"]), paddle.to_tensor(theirs["valid"]))
        queries = net.own_queries(context)
        outputs = net.decode(context, queries)
        last = net(paddle.to_tensor(theirs["image"]), paddle.to_tensor(theirs["valid"]))
    valid = context.valid.numpy()
    assert not valid.all()
    # the positions of padding are sines of numbers in the millions, in both, and nobody looks there
    errors = {"memory": np.abs(context.memory.numpy() - theirs["memory"])[valid].max()}
    for i, (logits, boxes) in enumerate(outputs):
        errors[f"logits {i}"] = np.abs(logits.numpy() - theirs[f"logits_{i}"]).max()
        errors[f"boxes {i}"] = np.abs(boxes.numpy() - theirs[f"boxes_{i}"]).max()
    if net.two_stage:
        assert queries.proposals.binary
        errors["proposal logits"] = np.abs(queries.proposals.logits.numpy() - theirs["proposal_logits"]).max()
        errors["proposal boxes"] = np.abs(queries.proposals.boxes.numpy() - theirs["proposal_boxes"]).max()
    print(name, names, {k: f"{v:.1e}" for k, v in errors.items()}, f"memory up to {np.abs(theirs['memory']).max():.1f}")
    assert max(errors.values()) <= 1e-4
    assert np.array_equal(last["logits"], outputs[-1][0]) and np.array_equal(last["boxes"], outputs[-1][1])
    assert np.ptp(theirs["boxes_2"]) > 0.5  # random boxes, not all alike


@pytest.mark.parametrize("name", NETS)
def test_weights_go_to_paddle_and_back_without_loss(oracle, name):
    """Their file, loaded by name, written under their names: the same bits; and that loads again."""
    net = net_of(name)
    load_weights(net, oracle / f"{name}.safetensors")
    theirs, back = read(oracle / f"{name}_release.pth"), to_theirs(net, "transformers", state_of(net))
    for part in ("backbone.0.body.", "transformer.decoder.bbox_embed.", "transformer.decoder.class_embed."):
        here = {"backbone.0.body.": "model.backbone.conv_encoder.model."}.get(
            part, part.replace("transformer", "model")
        )
        expected = {k.replace(part, here) for k in theirs if k.startswith(part) and "num_batches" not in k}
        assert {k for k in back if k.startswith(here)} == expected  # a head may have several names
    for key, value in theirs.items():
        if key.startswith("backbone.0.body.") and "num_batches" not in key:
            ours = key.replace("backbone.0.body.", "model.backbone.conv_encoder.model.")
            np.testing.assert_array_equal(back[ours], value)
    file = read(oracle / f"{name}.safetensors")
    for key, value in file.items():
        if "backbone" not in key:
            np.testing.assert_array_equal(back[key], value)
    again = net_of(name)
    load_weights(again, back)
    for key, value in state_of(net).items():
        np.testing.assert_array_equal(state_of(again)[key], value)


def test_heads_that_differ_do_not_fit_a_network_that_shares_them(oracle):
    net = net_of("plain")
    weights = read(oracle / "plain_release.pth")
    weights["class_embed.1.weight"] = weights["class_embed.1.weight"] + 1
    with pytest.raises(UserError, match="'class_embed.1.weight' differs from 'class_embed.0.weight'.* refine: true"):
        load_weights(net, weights)


def test_a_projection_without_its_parts_is_refused(oracle):
    weights = read(oracle / "plain.safetensors")
    del weights["model.decoder.layers.1.self_attn.k_proj.weight"]
    with pytest.raises(UserError, match="decoder.layers.1.self_attn.in_proj_weight'.* no projection of k"):
        load_weights(net_of("plain"), weights)


def test_unknown_names_are_reported(oracle):
    weights = read(oracle / "plain.safetensors") | {"model.nonsense.weight": np.zeros(3, "float32")}
    with pytest.raises(UserError, match=r"1 unexpected \(model.nonsense.weight\)"):
        load_weights(net_of("plain"), weights)
