"""RetinaNet against torchvision: one weight file, the same anchors, logits, offsets, assignments, losses and
detections.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppvision.losses.dense_detection import DenseLoss
from ppvision.losses.detection import Targets
from ppvision.models import zoo
from ppvision.models.retinanet import RetinaNet
from ppvision.predict.tasks.detection import detections
from ppvision.weights import load_weights

pytestmark = pytest.mark.oracle

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests/oracles/torchvision_retinanet.py"
NETS = ["map", "pyramid"]
SIZE = np.array([256, 128, 256, 128])  # width, height


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """Folder with what torchvision computed."""
    python = Path(os.environ.get("PPVISION_ORACLE_PYTHON", ROOT / ".venv-oracles/bin/python"))
    if not python.exists():
        pytest.fail(f"{python} is missing; run `make oracles`", pytrace=False)
    folder = tmp_path_factory.mktemp("torchvision")
    run = subprocess.run([str(python), str(SCRIPT), str(folder)], cwd=folder, capture_output=True, text=True)
    if run.returncode:
        tail = "\n".join(run.stderr.strip().splitlines()[-5:])
        pytest.fail(f"torchvision failed in {python}; does `make oracles` help?\n{tail}", pytrace=False)
    return folder


def net_of(name: str) -> RetinaNet:
    options = dict(backbone="resnet_debug", backbone_options=dict(width=64), levels=("c3", "c4", "c5"), width=256)
    options |= dict(extra_levels=2, convs=4, anchor_scale=4.0, candidates=2000, extra_from=name)
    net = zoo.create_model("retinanet_debug", num_classes=5, **options)
    net.eval()
    return net


def centred(boxes: np.ndarray) -> np.ndarray:
    """xyxy in pixels -> cxcywh in 0..1."""
    low, high = boxes[:, :2], boxes[:, 2:]
    return (np.concatenate([(low + high) / 2, high - low], 1) / SIZE).astype("float32")


@pytest.fixture(scope="module", params=NETS)
def both(request, oracle):
    """Our network with torchvision's weights, and what torchvision said."""
    net = net_of(request.param)
    report = load_weights(net, oracle / f"{request.param}.pth")
    assert len(report.loaded) == len(net.state_dict()) and not report.missing
    return net, dict(np.load(oracle / f"{request.param}.npz"))


def test_logits_offsets_and_anchors(both):
    net, theirs = both
    with paddle.no_grad():
        predictions = net.dense(paddle.to_tensor(theirs["image"]))
    for ours, name in ((predictions.logits, "logits"), (predictions.deltas, "deltas")):
        error = np.abs(ours.numpy() - theirs[name]).max()
        print(f"{name}: {error:.1e} of {np.abs(theirs[name]).max():.1f}")
        assert error <= 1e-4
    np.testing.assert_allclose(predictions.anchors.numpy(), centred(theirs["anchors"]), atol=1e-6)
    corners = theirs["anchors"] - theirs["rounded"]  # sides of two roundings, halved
    assert 0.2 < np.abs(corners).max() < 1.0


def test_assignment_and_losses(both):
    """Of each picture for itself: torchvision averages over pictures, we over anchors."""
    net, theirs = both
    loss = DenseLoss()
    with paddle.no_grad():
        predictions = net.dense(paddle.to_tensor(theirs["image"]))
        for i in range(2):
            boxes = paddle.to_tensor(centred(theirs[f"objects_{i}"])).unsqueeze(0)
            labels = theirs[f"classes_{i}"][None]
            targets = Targets(boxes, paddle.to_tensor(labels), np.array([4]), labels)
            assigned = loss.assign(predictions.anchors, boxes, targets.counts)
            np.testing.assert_array_equal(assigned[0].numpy(), theirs[f"matched_{i}"])
            assert {-2, -1, 0, 1, 2, 3} == set(assigned[0].numpy().tolist())
            one = predictions._replace(logits=predictions.logits[i : i + 1], deltas=predictions.deltas[i : i + 1])
            positives = int((assigned >= 0).sum().item())
            terms = loss(one, boxes, targets, assigned, positives)
            ours = [terms["main/cls"].item(), terms["main/box"].item()]
            np.testing.assert_allclose(ours, theirs[f"losses_{i}"], rtol=1e-4)


def test_detections(both):
    """The whole network: everything above torchvision's threshold, in its order."""
    net, theirs = both
    with paddle.no_grad():
        y = net(paddle.to_tensor(theirs["image"]))
        boxes, scores, labels = (x.numpy() for x in detections(y["logits"], y["boxes"], 300))
    for i in range(2):
        count = len(theirs[f"scores_{i}"])
        assert 20 < count < 300 and scores[i, count] < theirs["score"]
        np.testing.assert_allclose(scores[i, :count], theirs[f"scores_{i}"], atol=1e-5)
        np.testing.assert_array_equal(labels[i, :count], theirs[f"labels_{i}"])
        np.testing.assert_allclose(boxes[i, :count] * SIZE, theirs[f"boxes_{i}"], atol=2e-2)


def test_names_of_before_0_14_and_ninety_one_classes(oracle):
    """The age of torchvision's first weights; what a network of 80 classes takes of 91."""
    from ppvision.weights import read
    from ppvision.weights.names.classes import COCO_IDS

    state = read(oracle / "map.pth")
    old = {}
    for key, value in state.items():
        parts = key.split(".")
        if ".conv." in key and parts[0] == "head":
            key = ".".join([*parts[:3], str(2 * int(parts[3])), parts[-1]])
        elif "_blocks." in key and "extra" not in key:
            key = ".".join([*parts[:4], parts[-1]])
        old[key] = value
    assert set(old) != set(state)
    net = net_of("map")
    load_weights(net, old)
    for key, value in net.state_dict().items():
        name = key.replace("._mean", ".running_mean").replace("._variance", ".running_var")
        np.testing.assert_array_equal(value.numpy(), state[name])
    rng = np.random.default_rng(0)
    weight = rng.standard_normal([9 * 91, 48, 3, 3]).astype("float32")
    wide = zoo.create_model("retinanet_debug", num_classes=80)
    head = {k: v.numpy() for k, v in wide.state_dict().items()}
    head["head.classification_head.cls_logits.weight"] = weight
    head["head.classification_head.cls_logits.bias"] = weight[:, 0, 0, 0]
    load_weights(wide, head)
    ours = wide.head.classification_head.cls_logits.weight.numpy()
    for anchor, label in ((0, 0), (3, 11), (8, 79)):
        np.testing.assert_array_equal(ours[anchor * 80 + label], weight[anchor * 91 + COCO_IDS[label]])
