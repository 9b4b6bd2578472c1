"""Our networks against PaddleSeg 2.8.0 itself: one weight file, logits at several sizes, gradients of one step."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from ppvision.models import zoo
from ppvision.nn.heads import SegHead
from ppvision.nn.resize import resize
from ppvision.weights import load_weights

pytestmark = [pytest.mark.oracle, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests/oracles/paddleseg_logits.py"
ALL = ("512x512", "512x1024", "333x517")
SLIM = dict(base_channels=32, head_channels=64, use_injection=[True, True], drop_path_rate=0.0, num_classes=19)
ADE = dict(SLIM, use_injection=[True, False], cross_size=8)
OUR_ADE = dict(cross_size=8, use_injection=(True, False))
BASE = dict(use_injection=[True, False], num_classes=19)

CASES = {  # zoo name, our arguments, PaddleSeg's network and arguments, sizes, size of the training batch
    "rtformer_slim": ("rtformer_slim", {"drop_path": 0.0}, "RTFormer", SLIM, ALL, "160x224"),
    "rtformer_slim_ade": ("rtformer_slim", OUR_ADE, "RTFormer", ADE, ALL[:1], ""),
    "rtformer_base": ("rtformer_base", {}, "RTFormer", BASE, ALL, ""),
    "uhrnet_w18_small": ("uhrnet_w18_small", {}, "UHRNet_W18_Small", {"num_classes": 19}, ALL, "160x224"),
    "uhrnet_w18": ("uhrnet_w18", {}, "UHRNet_W18", {"num_classes": 19}, ALL[2:], ""),
    "uhrnet_w48": ("uhrnet_w48", {}, "UHRNet_W48", {"num_classes": 19}, ALL[:1], ""),
}
SIZES = [(case, size) for case, row in CASES.items() for size in row[4]]
TRAINED = [case for case, row in CASES.items() if row[5]]


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """`oracle(case)` -> folder with what PaddleSeg computed, our network with the same weights, and its report."""
    python = Path(os.environ.get("PPVISION_ORACLE_PYTHON", ROOT / ".venv-oracles/bin/python"))
    kept: dict[str, tuple] = {}

    def ask(case: str):
        if case in kept:
            return kept[case]
        kept.clear()
        if not python.exists():
            pytest.fail(f"{python} is missing; run `make oracles`", pytrace=False)
        name, ours, network, theirs, sizes, train_size = CASES[case]
        folder = tmp_path_factory.mktemp(case)
        command = [python, SCRIPT, folder, network, json.dumps(theirs), ",".join(sizes), train_size]
        run = subprocess.run([str(c) for c in command], cwd=folder, capture_output=True, text=True)
        if run.returncode:
            tail = "\n".join(run.stderr.strip().splitlines()[-5:])
            pytest.fail(f"PaddleSeg failed in {python}; does `make oracles` help?\n{tail}", pytrace=False)
        net = zoo.create_model(name, **ours)
        kept[case] = folder, net, load_weights(net, folder / "model.pdparams")
        return kept[case]

    yield ask
    kept.clear()


@pytest.mark.parametrize(("case", "size"), SIZES)
def test_logits(oracle, case, size, record_property):
    folder, net, report = oracle(case)
    assert bool(report.training_only) == case.startswith("rtformer")
    assert bool(report.ignored) == case.startswith("uhrnet")
    net.eval()
    expected = np.load(folder / f"logits_{size}.npy")
    with paddle.no_grad():
        measured = net(paddle.to_tensor(np.load(folder / f"image_{size}.npy"))).numpy()
    error = np.abs(measured - expected).max() / np.abs(expected).max()
    record_property("relative_error", float(error))
    print(f"{case} {size}: {error:.1e}")
    assert error <= 1e-4
    assert (measured.argmax(1) == expected.argmax(1)).mean() > 0.9999


@pytest.mark.parametrize("case", TRAINED)
def test_loss_gradients_and_statistics_of_a_training_step(oracle, case):
    folder, _, report = oracle(case)
    name, ours = CASES[case][:2]
    net = zoo.create_model(name, **ours)
    theirs = np.load(folder / "train.npz")
    image, label = paddle.to_tensor(theirs["image"]), paddle.to_tensor(theirs["label"])
    load_weights(net, folder / "model.pdparams")
    net.to(dtype="float64")
    net.train()
    maps = net.features(image)
    outputs, layers = [net.decode(maps, image.shape[2:])], {"": net}
    if report.training_only:  # loaded as a Method does it
        state = {k.removeprefix("aux.0."): v for k, v in report.training_only.items()}
        channels = state["conv1.weight"].shape[0]
        layers["seghead_extra."] = head = SegHead(net.feature_channels["c3"], channels, 19)
        load_weights(head, state)
        head.to(dtype="float64")
        outputs.append(resize(head(maps["c3"]), image.shape[2:]))
    weights = (1.0, 0.4)[: len(outputs)]
    loss = sum(w * F.cross_entropy(y, label, axis=1, ignore_index=255) for w, y in zip(weights, outputs, strict=True))
    loss.backward()
    assert loss.item() == pytest.approx(float(theirs["loss"]), rel=1e-9)
    gradients = {
        f"grad/{prefix}{k}": p.grad.numpy()
        for prefix, layer in layers.items()
        for k, p in layer.named_parameters()
        if not p.stop_gradient
    }
    assert gradients.keys() == {k for k in theirs if k.startswith("grad/")}
    largest = max(np.abs(g).max() for g in gradients.values())
    worst = 0.0
    for key, gradient in gradients.items():
        # Biases before batch norm have no gradient but rounding: they are compared on the scale of the whole network.
        scale = max(np.abs(theirs[key]).max(), 1e-3 * largest)
        worst = max(worst, np.abs(gradient - theirs[key]).max() / scale)
        assert np.abs(gradient - theirs[key]).max() <= 1e-6 * scale, key
    print(f"{case} gradients: {worst:.1e}")
    for prefix, layer in layers.items():
        for key, value in layer.state_dict().items():
            if key.endswith(("_mean", "_variance")):
                np.testing.assert_allclose(value.numpy(), theirs[f"stat/{prefix}{key}"], rtol=1e-9, atol=1e-9)
