"""Kills in seconds: two lives and an undisturbed run of each method. The long form is `tools/torture.py kills`."""

from __future__ import annotations

import json
import shutil
import time

import kills
import numpy as np
import pytest
from outcome import Outcome

from ppvision.engine import train


@pytest.mark.slow
@pytest.mark.parametrize("method", kills.METHODS)
def test_a_run_that_is_killed_ends_as_if_it_were_not(tmp_path, method):
    outcome = kills.run(2, 0, tmp_path, print, methods=(method,), iters=12)
    assert outcome.broken == []
    assert outcome.tried == 2 and outcome.metrics["runs compared bit for bit"] >= 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of eight iterations."""
    folder = tmp_path_factory.mktemp("kills")
    run = folder / "run"
    train(kills.write_recipe(folder, "adversarial", 8), [f"train.save_dir={run}", "data.workers=0"])
    return run


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def test_equal_runs_do_not_differ(finished, copy):
    assert kills.differences(finished, copy) == []


def test_inspection_finds_nothing_wrong_with_a_good_run(finished):
    outcome = Outcome("", "")
    seen = kills.inspect(finished, kills.Seen(), outcome, "run")
    assert outcome.broken == [] and seen.step == 8 and np.isfinite(seen.best)


@pytest.mark.parametrize("name", ["method.pdparams", "state.json"])
def test_a_changed_checkpoint_is_seen(finished, copy, name):
    """The judge must be able to fail: one bit less and one number more are found by both of its looks."""
    path = copy / "iter_8" / name
    if name == "state.json":
        path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": 99}))
    else:
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1  # in the middle of an array
        path.write_bytes(raw)
    outcome = Outcome("", "")
    kills.inspect(copy, kills.Seen(), outcome, "run")
    assert any("sha256 differs" in line for line in outcome.broken)
    (copy / "iter_8" / "SHA256SUMS").unlink()  # the reader refuses the file by it, and the second look reads
    assert any(name in line for line in kills.differences(finished, copy))


def test_lost_progress_is_seen(finished):
    outcome = Outcome("", "")
    kills.inspect(finished, kills.Seen(12, 2.0), outcome, "run")
    assert any("step went back from 12 to 8" in line for line in outcome.broken)
    assert any("best score went back" in line for line in outcome.broken)


def test_leftovers_and_links_are_seen(finished, copy):
    (copy / ".writing_iter_9").mkdir()
    (copy / "best_model").unlink()
    (copy / "best_model").symlink_to("iter_99")
    assert len(kills.differences(finished, copy)) == 2
    outcome = Outcome("", "")
    kills.inspect(copy, kills.Seen(), outcome, "run")
    assert any("best_model leads to iter_99" in line for line in outcome.broken)


def test_a_worker_that_stays_behind_is_seen(tmp_path, monkeypatch):
    """Kill only the leader of a group whose other process sleeps."""
    import subprocess
    import sys

    monkeypatch.setattr(kills, "ORPHANS_LEAVE_IN", 0.2)
    code = "import os, time\nif os.fork():\n    time.sleep(60)\ntime.sleep(60)"
    life = object.__new__(kills.Life)
    life.process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    while len(kills.members(life.process.pid)) < 2:
        time.sleep(0.01)
    assert life.kill(with_workers=False) == 1
    limit = time.monotonic() + 300
    while kills.members(life.process.pid) and time.monotonic() < limit:  # a killed process takes a moment to go
        time.sleep(0.01)
    assert kills.members(life.process.pid) == []


def test_resuming_a_finished_run_mends_what_a_kill_in_its_last_save_left(finished, copy):
    """The last checkpoint is there, but links, pruning and tidying were still to come."""
    best = (copy / "best_model").readlink().name
    other = next(p.name for p in copy.glob("iter_*") if p.name != best)
    kills.checkpoint.link(copy, "best_model", int(other.removeprefix("iter_")))
    kills.checkpoint.link(copy, "latest", int(other.removeprefix("iter_")))
    shutil.copytree(copy / other, copy / "iter_1")
    shutil.copytree(copy / other, copy / ".removing_iter_2")
    recipe = finished.parent / "recipe.yml"
    keep = len(kills.checkpoint.steps(finished))
    train(recipe, [f"train.save_dir={copy}", "train.resume=auto", f"train.keep={keep}", "data.workers=0"])
    assert kills.differences(finished, copy) == []
