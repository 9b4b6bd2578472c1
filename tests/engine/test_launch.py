"""Training through the launcher when something goes wrong: a rank dies, the machine is preempted."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from recipes import recipe

from ppvision.engine import checkpoint

ROOT = Path(__file__).parents[2]


def launch(folder, code):
    script = folder / "go.py"
    script.write_text(code)
    env = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES" and not k.startswith("PADDLE_")}
    env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2"]
    command += ["--log_dir", str(folder / "log"), str(script)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=env, cwd=folder, start_new_session=True, **pipes)


def wait_for_lines(folder, word, seconds=300):
    """Until a rank's log holds the word."""
    until = time.time() + seconds
    while time.time() < until:
        if any(word in p.read_text() for p in folder.glob("log/workerlog.*")):
            return
        time.sleep(0.2)
    pytest.fail(f"'{word}' never came: " + "".join(p.read_text()[-2000:] for p in folder.glob("log/workerlog.*")))


def logs(folder):
    return "".join(p.read_text() for p in folder.glob("log/workerlog.*"))


@pytest.fixture
def long_recipe(tmp_path):
    return recipe(tmp_path, train={"iters": 100000, "batch_size": 1, "save_interval": 50000})


def test_a_rank_that_dies_ends_the_run_with_its_log(tmp_path, long_recipe):
    code = f"""
import os, ppvision
from ppvision.engine.trainer import Trainer
update = Trainer.update
def dying(self, batches):
    if self.step == 5 and os.environ["PADDLE_TRAINER_ID"] == "1":
        print("rank 1 is going to die", flush=True)
        os.kill(os.getpid(), 9)
    return update(self, batches)
Trainer.update = dying
ppvision.train({str(long_recipe)!r}, ['train.save_dir={tmp_path}/run'])
"""
    process = launch(tmp_path, code)
    wait_for_lines(tmp_path, "rank 1 is going to die")
    process.communicate(timeout=300)
    assert process.returncode != 0
    assert "rank 1 is going to die" in logs(tmp_path)
    left = subprocess.run(["pgrep", "-f", str(tmp_path / "go.py")], capture_output=True, text=True).stdout
    assert not left.split(), f"processes left: {left}"


def test_preemption_saves_on_all_ranks_and_ends_well(tmp_path, long_recipe):
    code = f"import ppvision\nppvision.train({str(long_recipe)!r}, ['train.save_dir={tmp_path}/run'])\n"
    process = launch(tmp_path, code)
    wait_for_lines(tmp_path, "[TRAIN]")
    listed = subprocess.run(["pgrep", "-f", f"[p]ython.* {tmp_path / 'go.py'}"], capture_output=True, text=True).stdout
    ranks = [int(pid) for pid in listed.split() if int(pid) != process.pid]
    os.kill(ranks[-1], signal.SIGTERM)  # one rank is told; it tells the other
    assert process.wait(timeout=300) == 0, logs(tmp_path)[-3000:]
    assert "continue with --resume" in logs(tmp_path)
    assert checkpoint.newest(tmp_path / "run").state["step"] >= 3
