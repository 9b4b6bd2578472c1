"""Two real processes through the launcher (gloo) against one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("two_processes.py")


def launch(world, mode, folder):
    """Weights and records of each rank."""
    env = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES" and not k.startswith("PADDLE_")}
    env["PYTHONPATH"] = os.pathsep.join([str(SCRIPT.parent), str(SCRIPT.parents[2]), env.get("PYTHONPATH", "")])
    command = [sys.executable]
    if world > 1:
        command += ["-m", "paddle.distributed.launch", "--nproc_per_node", str(world), "--log_dir", str(folder / "log")]
    done = subprocess.run(
        [*command, str(SCRIPT), str(folder / "out"), mode],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    logs = "".join(p.read_text()[-2000:] for p in folder.glob("log/workerlog.*"))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:] + logs
    weights = [dict(np.load(folder / f"out.{world}.{r}.npz")) for r in range(world)]
    return weights, [json.loads((folder / f"out.{world}.{r}.json").read_text()) for r in range(world)]


def test_two_times_two_equals_one_times_four(tmp_path):
    """Unequal numbers of ignored pixels on the ranks; the trainer also makes differently seeded ranks agree at the
    start.
    """
    (one,), (record,) = launch(1, "equal", tmp_path)
    two, records = launch(2, "equal", tmp_path)
    for key, value in one.items():
        np.testing.assert_allclose(two[0][key], value, atol=1e-5, err_msg=key)
        np.testing.assert_array_equal(two[0][key], two[1][key])
    for step in range(5):
        np.testing.assert_allclose(records[0]["logs"][step]["loss"], record["logs"][step]["loss"], rtol=1e-5)
    assert records[0]["counts"] == records[1]["counts"] == [3, 20]


@pytest.mark.parametrize("mode", ["nan", "statistics", "stop"])
def test_ranks_decide_alike(mode, tmp_path):
    weights, records = launch(2, mode, tmp_path)
    for key, value in weights[0].items():
        np.testing.assert_array_equal(weights[1][key], value, err_msg=key)
    assert records[0]["step"] == records[1]["step"] == (3 if mode == "stop" else 5)
    assert records[0]["skipped"] == records[1]["skipped"] == (1 if mode == "nan" else 0)
    if mode == "nan":
        assert "another rank" in records[0]["warnings"][0] and "loss is not finite" in records[1]["warnings"][0]
        assert all(np.isfinite(v).all() for v in weights[0].values())
