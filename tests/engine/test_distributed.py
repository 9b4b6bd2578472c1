"""Two real processes through the launcher (gloo) against one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ppvision.engine import distributed
from ppvision.errors import UserError

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


def test_a_divided_optimizer_steps_as_a_whole_one(tmp_path):
    """Adam with clipping over a restart: two ranks with half the state each, against one process with all of it."""
    (one,), (record,) = launch(1, "shard_reference", tmp_path)
    two, records = launch(2, "sharded", tmp_path)
    for key, value in one.items():
        np.testing.assert_allclose(two[0][key], value, atol=1e-5, err_msg=key)
        np.testing.assert_array_equal(two[0][key], two[1][key])
    parts = [set(r["kept"]) for r in records]
    assert parts[0] and parts[1] and not parts[0] & parts[1] and parts[0] | parts[1] == set(record["kept"])


class TestSynchronisedBatchNorm:
    """Paddle has the layer for GPUs only, so that here it can be built and not run."""

    def method(self):
        from toys import Segmenter, ToySupervised

        return ToySupervised(Segmenter())

    def test_is_put_in_with_the_same_parameters(self, monkeypatch):
        from paddle import nn

        method = self.method()
        old = method.model.block[1]
        keys = list(method.state_dict())
        monkeypatch.setattr(distributed, "world_size", lambda: 2)
        monkeypatch.setattr(distributed.paddle.device, "get_device", lambda: "gpu:0")
        assert distributed.synchronise_batch_norm(method) == []
        new = method.model.block[1]
        assert isinstance(new, nn.SyncBatchNorm) and new.weight is old.weight and new._mean is old._mean
        assert list(method.state_dict()) == keys and isinstance(method.deployables()["model"].block[1], type(new))

    def test_one_process_is_told_that_nothing_changes(self):
        from paddle import nn

        method = self.method()
        assert distributed.synchronise_batch_norm(method) == ["train.sync_bn changes nothing with one process"]
        assert type(method.model.block[1]) is nn.BatchNorm2D

    def test_on_cpu_it_is_refused(self, monkeypatch):
        monkeypatch.setattr(distributed, "world_size", lambda: 2)
        with pytest.raises(UserError, match="train.sync_bn: Paddle has it for GPUs only"):
            distributed.synchronise_batch_norm(self.method())

    def test_a_recipe_may_ask_for_it(self, tmp_path, capsys):
        from recipes import recipe

        from ppvision.engine import train

        train(recipe(tmp_path), [f"train.save_dir={tmp_path / 'run'}", "train.sync_bn=true", "train.iters=1"])
        assert "warning: train.sync_bn changes nothing with one process" in capsys.readouterr().out
