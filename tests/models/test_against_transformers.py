"""CLIP's tower and CAE v2's encoder against `transformers` on torch: one weight file, all tokens, to 1e-5."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppvision.models import zoo
from ppvision.weights import load_weights, read, state_of, to_theirs

pytestmark = pytest.mark.oracle

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests/oracles/transformers_vit.py"
TOWERS = {
    "a": dict(image_size=24, patch_size=4, dim=32, depth=2, num_heads=4, out_dim=20),
    "b": dict(image_size=28, patch_size=7, dim=48, depth=3, num_heads=3, out_dim=64),
    "c": dict(image_size=32, patch_size=16, dim=64, depth=1, num_heads=8, out_dim=64),
}


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """Folder with what `transformers` computed."""
    python = Path(os.environ.get("PPVISION_ORACLE_PYTHON", ROOT / ".venv-oracles/bin/python"))
    if not python.exists():
        pytest.fail(f"{python} is missing; run `make oracles`", pytrace=False)
    folder = tmp_path_factory.mktemp("transformers")
    run = subprocess.run([str(python), str(SCRIPT), str(folder)], cwd=folder, capture_output=True, text=True)
    if run.returncode:
        tail = "\n".join(run.stderr.strip().splitlines()[-5:])
        pytest.fail(f"transformers failed in {python}; does `make oracles` help?\n{tail}", pytrace=False)
    return folder


@pytest.mark.parametrize("names", ["hugging face", "openai"])
@pytest.mark.parametrize("tower", TOWERS)
def test_clip_tower_on_all_tokens(oracle, tower, names):
    net = zoo.create_model("clip_vit_debug", **TOWERS[tower])
    net.eval()
    report = load_weights(
        net, oracle / (f"clip_{tower}.safetensors" if names[0] == "h" else f"clip_{tower}_openai.pth")
    )
    assert len(report.loaded) == len(net.state_dict())
    assert bool([k for k in report.ignored if not k.endswith("position_ids")]) == (names == "openai")  # the text tower
    theirs = np.load(oracle / f"clip_{tower}.npz")
    with paddle.no_grad():
        ours = net(paddle.to_tensor(theirs["image"]))
    error = max(
        np.abs(ours["cls"].numpy() - theirs["tokens"][:, 0]).max(),
        np.abs(ours["tokens"].numpy() - theirs["tokens"][:, 1:]).max(),
    )
    print(f"clip {tower} {names}: {error:.1e}, outputs up to {np.abs(theirs['tokens']).max():.1f}")
    assert error <= 1e-5


def test_torchscript_archive_as_openai_publishes_it(oracle):
    plain, script = read(oracle / "clip_a_openai.pth"), read(oracle / "clip_a_openai.pt")
    assert plain.keys() == script.keys()
    for key, value in plain.items():
        assert script[key].dtype == np.float16
        np.testing.assert_array_equal(script[key], value.astype(np.float16))
    net = zoo.create_model("clip_vit_debug", **TOWERS["a"])
    assert len(load_weights(net, oracle / "clip_a_openai.pt").loaded) == len(net.state_dict())


def test_encoder_on_all_and_on_visible_tokens(oracle):
    net = zoo.create_model("cae_v2_debug")
    net.eval()
    load_weights(net, oracle / "beit.pth")
    theirs = np.load(oracle / "beit.npz")
    with paddle.no_grad():
        image = paddle.to_tensor(theirs["image"])
        for expected, ours in (
            (theirs["tokens"], net.features(image)),
            (theirs["kept"], net.features(image, paddle.to_tensor(theirs["keep"]))),
        ):
            measured = np.concatenate([ours["cls"].numpy()[:, None], ours["tokens"].numpy()], axis=1)
            error = np.abs(measured - expected).max()
            print(f"encoder, {expected.shape[1] - 1} patches: {error:.1e}")
            assert measured.shape == expected.shape
            assert error <= 1e-5


def test_checkpoint_goes_to_paddle_and_back_without_loss(oracle):
    """The file torch wrote, loaded by name, written under the release's names: the same bits."""
    net = zoo.create_model("cae_v2_debug")
    load_weights(net, oracle / "beit.pth")
    theirs, back = read(oracle / "beit.pth"), to_theirs(net, "release", state_of(net), {})
    assert theirs.keys() == back.keys()
    for key, value in theirs.items():
        np.testing.assert_array_equal(back[key], value)
