"""Checkpoint folders: torn, altered, kept, pointed at, and written by a process that is killed."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppvision.engine import checkpoint
from ppvision.errors import RunError, UserError


def save(run_dir, step, best=None, keep=10, value=None):
    weights = {"w": paddle.full([1000], float(step if value is None else value))}
    return checkpoint.save(run_dir, step, {"model.pdparams": weights}, {"step": step}, keep=keep, best_step=best)


def test_what_is_saved_is_read_back(tmp_path):
    save(tmp_path, 5, best=5)
    found = checkpoint.newest(tmp_path)
    assert found.state == {"step": 5}
    np.testing.assert_array_equal(found.arrays("model.pdparams")["w"], np.full(1000, 5.0, "float32"))
    for name in ("latest", "best_model"):
        assert os.readlink(tmp_path / name) == "iter_5" and (tmp_path / name / "model.pdparams").is_file()


def test_any_paddle_user_can_load_the_model(tmp_path):
    save(tmp_path, 5)
    code = f"import paddle; print(float(paddle.load({str(tmp_path / 'latest' / 'model.pdparams')!r})['w'].sum()))"
    assert "5000.0" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "no sums"])
def test_a_damaged_checkpoint_is_told_and_passed_over(tmp_path, damage):
    save(tmp_path, 5)
    file = save(tmp_path, 10) / "model.pdparams"
    data = bytearray(file.read_bytes())
    if damage == "truncate":
        file.write_bytes(data[:-100])
    elif damage == "flip":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif damage == "remove":
        file.unlink()
    else:
        (file.parent / "SHA256SUMS").unlink()
    messages = []
    assert checkpoint.newest(tmp_path, messages.append).folder.name == "iter_5"
    assert len(messages) == 1 and "iter_10" in messages[0] and "using iter_5" in messages[0]
    messages.clear()
    assert checkpoint.find(str(tmp_path / "iter_10"), tmp_path, messages.append).folder.name == "iter_5" and messages


def test_all_damaged_is_an_error_and_none_is_none(tmp_path):
    assert checkpoint.newest(tmp_path) is None and checkpoint.find("auto", tmp_path) is None
    (save(tmp_path, 5) / "model.pdparams").unlink()
    with pytest.raises(UserError, match="no intact checkpoint"):
        checkpoint.newest(tmp_path)
    with pytest.raises(UserError, match="no checkpoint at"):
        checkpoint.find(str(tmp_path / "nowhere"), tmp_path)


@pytest.mark.parametrize("form", ["iter_5", "iter_5/model.pdparams", "iter_5/model", "", "latest"])
def test_resume_spellings(tmp_path, form):
    save(tmp_path, 5)
    assert checkpoint.find(str(tmp_path / form), tmp_path / "elsewhere").state["step"] == 5


def test_only_the_newest_stay_but_never_without_best_and_latest(tmp_path):
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, step, best=1, keep=2)
    assert checkpoint.steps(tmp_path) == [1, 4, 5]
    assert os.readlink(tmp_path / "best_model") == "iter_1"


def test_a_full_disk_keeps_the_previous_one(tmp_path, monkeypatch):
    save(tmp_path, 5)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.paddle, "save", full)
    with pytest.raises(RunError, match=r"iter_10: no space left while saving; iter_5 is intact"):
        save(tmp_path, 10)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["iter_5", "latest"]
    assert checkpoint.newest(tmp_path).state["step"] == 5


def test_clear_removes_a_run_and_nothing_else(tmp_path):
    save(tmp_path, 5, best=5)
    (tmp_path / "log.jsonl").write_text("")
    (tmp_path / "notes.txt").write_text("mine")
    checkpoint.clear(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


WRITER = """
import sys
from pathlib import Path
import paddle
from ppvision.engine import checkpoint
run, start = Path(sys.argv[1]), int(sys.argv[2])
weights = {"w": paddle.ones([200_000])}
print("ready", flush=True)
for step in range(start, start + 10_000):
    files = {"model.pdparams": weights, "method.pdparams": weights, "optimizer.pdopt": weights}
    checkpoint.save(run, step, files, {"step": step, "best": step - step % 3}, keep=3, best_step=step - step % 3 if
    step % 3 == 0 else None)
"""


def test_twenty_kills_while_writing_lose_nothing(tmp_path):
    """SIGKILL at random moments while checkpoints are being written: there is always one to continue from, and it
    never goes back.
    """
    rng = random.Random(0)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    last = 0
    pending = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "0"), "1"], stdout=subprocess.PIPE, env=env)
    ]
    for kill in range(20):
        writer = pending.pop()
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(0.05 + 0.1 * rng.random())
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        found = checkpoint.newest(tmp_path / "0", lambda line: pytest.fail(line))
        assert found is not None and found.state["step"] >= last
        broken = [checkpoint.fault(tmp_path / "0" / f"iter_{step}") for step in checkpoint.steps(tmp_path / "0")]
        assert not any(broken), broken  # a folder that is being removed disappears as a whole
        assert not [name for name in found.state if name not in ("step", "best")] and json.dumps(found.state)
        last = found.state["step"]
        if kill < 19:
            command = [sys.executable, "-c", WRITER, str(tmp_path / "0"), str(last + 1)]
            pending.append(subprocess.Popen(command, stdout=subprocess.PIPE, env=env))
    assert last > 20


def test_everything_is_on_the_disk_before_it_has_its_name(tmp_path, events):
    """A power cut keeps the order of what was flushed, not of what was written."""
    save(tmp_path, 5, best=5)
    at = events.index(("renamed", "iter_5"))
    before = {name for what, name in events[:at] if what == "flushed"}
    assert {"model.pdparams", "state.json", "SHA256SUMS", ".writing_iter_5"} <= before
    after = events[at + 1 :]
    assert after.index(("flushed", tmp_path.name)) < after.index(("renamed", "best_model"))
    assert ("renamed", "latest") in after
