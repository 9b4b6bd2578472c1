"""DAB-DETR against `transformers` on torch: one weight file, memory and every layer's logits and boxes, to 1e-4."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppvision.models import zoo
from ppvision.weights import load_weights

pytestmark = pytest.mark.oracle

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests/oracles/transformers_dab_detr.py"
SMALL = dict(num_classes=7, dim=48, heads=4, ffn=96, encoder_layers=2, decoder_layers=3, num_queries=20)
FILES = ["stem.safetensors", "stem_old.safetensors", "stem_release.pth"]


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """Folder with what `transformers` computed."""
    python = Path(os.environ.get("PPVISION_ORACLE_PYTHON", ROOT / ".venv-oracles/bin/python"))
    if not python.exists():
        pytest.fail(f"{python} is missing; run `make oracles`", pytrace=False)
    folder = tmp_path_factory.mktemp("dab_detr")
    run = subprocess.run([str(python), str(SCRIPT), str(folder)], cwd=folder, capture_output=True, text=True)
    if run.returncode:
        tail = "\n".join(run.stderr.strip().splitlines()[-5:])
        pytest.fail(f"transformers failed in {python}; does `make oracles` help?\n{tail}", pytrace=False)
    return folder


def loaded(path: Path, name: str = "dab_detr_debug", **more):
    net = zoo.create_model(name, **{**SMALL, **more})
    net.eval()
    report = load_weights(net, path)
    assert len(report.loaded) == len(net.state_dict())
    return net, report


def close(ours, theirs: np.ndarray, what: str) -> None:
    error = float(np.abs(ours.numpy() - theirs).max())
    print(f"{what}: {error:.1e}, values up to {np.abs(theirs).max():.1f}")
    assert ours.shape == list(theirs.shape)
    assert error <= 1e-4, what


@pytest.mark.parametrize("file", FILES)
def test_every_layer_with_padding(oracle, file):
    net, report = loaded(oracle / file)
    assert bool(report.ignored) == file.endswith(".pth")  # the release has the box head twice
    theirs = np.load(oracle / "stem.npz")
    with paddle.no_grad():
        context = net.encode(paddle.to_tensor(theirs["image"]), paddle.to_tensor(theirs["valid"]))
        outputs = net.decode(context, net.own_queries(context))
    seen = context.valid.numpy()
    np.testing.assert_allclose(context.memory.numpy()[seen], theirs["memory"][seen], atol=1e-4)
    assert len(outputs) == 3
    for i, (logits, boxes) in enumerate(outputs):
        close(logits, theirs[f"logits_{i}"], f"logits of layer {i}")
        close(boxes, theirs[f"boxes_{i}"], f"boxes of layer {i}")


def test_queries_from_outside(oracle):
    net, _ = loaded(oracle / FILES[0])
    theirs = np.load(oracle / "stem.npz")
    with paddle.no_grad():
        context = net.encode(paddle.to_tensor(theirs["image"]), paddle.to_tensor(theirs["valid"]))
        queries = replace(net.own_queries(context), references=paddle.to_tensor(theirs["injected"]).unsqueeze(0))
        logits, boxes = net.decode(context, queries)[-1]
    close(logits, theirs["injected_logits"], "logits")
    close(boxes, theirs["injected_boxes"], "boxes")


def test_resnet_of_transformers(oracle):
    net, _ = loaded(oracle / "resnet.safetensors", "dab_detr_r18")
    theirs = np.load(oracle / "resnet.npz")
    with paddle.no_grad():
        out = net(paddle.to_tensor(theirs["image"]), paddle.to_tensor(theirs["valid"]))
    close(out["logits"], theirs["logits"], "logits")
    close(out["boxes"], theirs["boxes"], "boxes")
