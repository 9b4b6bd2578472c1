"""An adversarial recipe through the real command: lazy phase, EMA of the generator only, resume, two processes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gan import write_recipe
from recipes import records

from ppvision.weights import read

ROOT = Path(__file__).parents[2]
FILES = ("model.pdparams", "method.pdparams", "ema.pdparams", "optimizer.pdopt")


def command(path, run, *options, processes=1):
    """`python tools/train.py`, from several processes through the launcher; what it said."""
    env = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES" and not k.startswith("PADDLE_")}
    env |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]), "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", str(processes), "--log_dir", f"{run}.log"]
    done = subprocess.run(
        [
            sys.executable,
            *(launcher if processes > 1 else []),
            str(ROOT / "tools/train.py"),
            *("-c", str(path), "--save_dir", str(run), *options),
        ],
        env=env,
        cwd=path.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    logs = "".join(p.read_text()[-2000:] for p in Path(f"{run}.log").glob("workerlog.*"))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:] + logs
    return done.stdout


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The recipe, its run of eight updates, and what that said."""
    folder = tmp_path_factory.mktemp("gan")
    path = write_recipe(folder)
    return path, folder / "straight", command(path, folder / "straight")


def test_resuming_between_two_lazy_steps_is_bitwise(straight):
    """The penalty is due at steps 0, 3, 6; the interruption comes after four updates."""
    path, run, _ = straight
    resumed = run.with_name("resumed")
    shutil.copytree(run, resumed, symlinks=True)
    shutil.rmtree(resumed / "iter_8")
    assert "continuing at iter 4" in command(path, resumed, "--resume", "auto")
    for name in FILES:
        mine, theirs = read(resumed / "iter_8" / name), read(run / "iter_8" / name)
        assert mine.keys() == theirs.keys() and len(mine) > 5
        for key, value in theirs.items():
            np.testing.assert_array_equal(mine[key], value, err_msg=f"{name} {key}")
    assert records(resumed) == records(run)


def test_the_loss_is_that_of_the_phases_of_every_update(straight):
    _, run, output = straight
    lines = [r for r in records(run) if r["kind"] == "train"]
    assert [r["step"] for r in lines if "r1/r1" in r["parts"]] == [1, 4, 7]
    for line in lines:
        parts = line["parts"]
        assert line["loss"] == pytest.approx(parts["d/d"] + parts["g/fool"] + parts["g/colour"], rel=1e-12)
        assert parts.get("r1/r1", 1.0) > 0.0
    assert "no gradient reaches" not in output  # of the penalty, which does not reach the discriminator's biases
    assert "warning" not in output


def test_the_average_is_of_the_generator_only(straight):
    _, run, _ = straight
    model, method, ema = (read(run / "latest" / name) for name in FILES[:3])
    assert {k.split(".")[0] for k in model} == {"generator", "encoder"}
    assert {k.split(".")[0] for k in ema} == {"generator"}
    assert {k.split(".")[0] for k in method} == {"model", "discriminator"}
    for key in ema:
        raw = method[key.replace("generator.", "model.")]
        np.testing.assert_array_equal(model[key], ema[key])
        assert np.abs(model[key] - raw).max() > 1e-5, key
    start = read(run / "iter_4/model.pdparams")
    np.testing.assert_array_equal(model["encoder.conv.weight"], start["encoder.conv.weight"])
    assert np.abs(model["generator.stem.weight"] - start["generator.stem.weight"]).max() > 1e-4


def test_two_processes_equal_one(tmp_path):
    """Without noise and batch statistics, which belong to a process: two times two pictures are four."""
    path = write_recipe(
        tmp_path,
        model={"norm": False},
        method={"noise": 0.0},
        optimizer={"type": "momentum", "lr": 0.02, "d": {"lr": 0.05}},
    )
    one, two = tmp_path / "one", tmp_path / "two"
    command(path, one)
    command(path, two, "--batch_size", "2", processes=2)
    for name in FILES:
        mine, theirs = read(two / "latest" / name), read(one / "latest" / name)
        assert mine.keys() == theirs.keys()
        for key, value in theirs.items():
            np.testing.assert_allclose(mine[key], value, atol=5e-6, err_msg=f"{name} {key}")
    lines = [[r for r in records(run) if r["kind"] == "train"] for run in (one, two)]
    assert len(lines[0]) == len(lines[1]) == 8
    for mine, theirs in zip(*lines, strict=True):
        assert mine["parts"].keys() == theirs["parts"].keys()
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    moved = [read(one / f"iter_{step}/method.pdparams")["discriminator.0.weight"] for step in (4, 8)]
    assert np.abs(moved[0] - moved[1]).max() > 1e-3
