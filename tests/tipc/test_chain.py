"""One real chain, and what breaks it: the fast part of `make tipc`."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from sandbox import ROOT, tipc

NAME = "rtformer_base"
TXT = f"test_tipc/configs/{NAME}/train_infer_python.txt"
MODE = "lite_train_lite_infer"
LOG = f"test_tipc/output/{NAME}/{MODE}"
FAILED = "Run failed with command"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """This repository with data and output of its own."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("configs", "deploy", "ppvision", "tools"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "test_tipc/configs").mkdir(parents=True)
    for path in (ROOT / "test_tipc").iterdir():
        if path.name not in ("configs", "data", "output", "results"):
            (folder / "test_tipc" / path.name).symlink_to(path)
    for part in (f"configs/{NAME}", "results"):
        (folder / "test_tipc" / part).mkdir()
        for path in (ROOT / "test_tipc" / part).glob("*"):
            if path.is_file():
                (folder / "test_tipc" / part / path.name).write_bytes(path.read_bytes())
    return folder


def statuses(folder: Path) -> dict[str, str]:
    """Status of the steps; the last one of a kind."""
    steps = json.loads((folder / LOG / "summary.json").read_text())["steps"]
    return {step["kind"]: step["status"] for step in steps}


@pytest.fixture(scope="module")
def green(checkout) -> Path:
    done = tipc(checkout, "run", TXT)
    assert done.returncode == 0, (checkout / f"test_tipc/output/{NAME}/{MODE}.txt").read_text()[-4000:]
    return checkout


@pytest.mark.slow
def test_the_chain_is_green(green):
    assert set(statuses(green).values()) == {"passed"}
    log = (green / LOG / "results_python.log").read_text()
    assert FAILED not in log and log.count("Run successfully with command") == 6
    steps = json.loads((green / LOG / "summary.json").read_text())["steps"]
    assert steps[0]["metrics"]["loss"] > 0 and steps[1]["metrics"]["mIoU"] > 0.05
    assert steps[3]["metrics"]["inference_ms"] > 0
    train = (green / LOG / "norm_train_gpus_-1_autocast_null/train.log").read_text()
    assert "[Avg]loss: " in train


@pytest.mark.slow
def test_a_wrong_figure(green):
    """The stored figure is moved by four tolerances; then the results are those of another class order."""
    argv = shlex.split(json.loads((green / LOG / "summary.json").read_text())["steps"][-1]["command"])
    compare = [sys.executable, *argv[1:]]
    stored = green / f"test_tipc/results/python_{NAME}_results_fp32.txt"
    text = stored.read_text()
    value = text.split()[1]
    stored.write_text(text.replace(value, str(float(value) + 0.4), 1))
    assert subprocess.run(compare, cwd=green, capture_output=True).returncode == 1
    stored.write_text(text)
    assert subprocess.run(compare, cwd=green, capture_output=True).returncode == 0
    for mask in (green / LOG).glob("python_infer_cpu_usemkldnn_False*_results/*.png"):
        labels = np.array(Image.open(mask))
        Image.fromarray((labels + 1) % 19).save(mask)
    assert subprocess.run(compare, cwd=green, capture_output=True).returncode == 1


BREAKS = {
    "config error": (16, " -o optimizer.lrr=1", "train", "exit status 2"),
    "loss that is no number": (16, " -o optimizer.lr=1.0e30", "train", ""),
    "export past its tolerance": (30, " --formats paddle -o export.tolerance=0.0", "export", "exit status 1"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_chain_is_red(name, green):
    position, words, kind, reason = BREAKS[name]
    original = (green / TXT).read_text()
    lines = original.split("\n")
    lines[position - 1] += words
    lines[23] = "eval:null"
    lines[6] = lines[6].replace("=20", "=12")  # ten faults in a row end a training
    (green / TXT).write_text("\n".join(lines))
    try:
        assert tipc(green, "train_infer", TXT, MODE).returncode == 1
    finally:
        (green / TXT).write_text(original)
    found = statuses(green)
    assert [k for k, status in found.items() if status == "failed"] == [kind]
    assert found["compare"] == "skipped" and found["infer"] == "skipped"
    step = next(s for s in json.loads((green / LOG / "summary.json").read_text())["steps"] if s["kind"] == kind)
    assert reason in step["reason"]
