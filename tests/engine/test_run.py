"""Whole runs on real files: continuation, best model, run folder, bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from recipes import recipe, records

from ppvision.engine import checkpoint, evaluate, train
from ppvision.errors import UserError
from ppvision.models.weights import read

ROOT = Path(__file__).parents[2]


def run_of(path, folder, *overrides):
    train(path, [f"train.save_dir={folder}", *overrides])
    return folder


def same_checkpoint(a: Path, b: Path):
    for name in ("model.pdparams", "method.pdparams", "ema.pdparams", "optimizer.pdopt"):
        mine, theirs = read(a / name), read(b / name)
        assert set(mine) == set(theirs)
        for key in mine:
            np.testing.assert_array_equal(mine[key], theirs[key], err_msg=f"{name} {key}")
    assert json.loads((a / "state.json").read_text()) == json.loads((b / "state.json").read_text())


@pytest.mark.parametrize("workers", [0, 2])
def test_n_resume_n_equals_2n_bit_for_bit(tmp_path, workers):
    """Weights, optimizer, average, scores and log; the interruption lies inside a log interval and inside an epoch."""
    path = recipe(tmp_path)
    straight = run_of(path, tmp_path / "straight", f"data.workers={workers}")
    stopped = run_of(path, tmp_path / "stopped", f"data.workers={workers}", "train.keep=9")
    for step in (8,):  # as if killed after iter 4: later files are gone, the log ran on
        for file in (stopped / f"iter_{step}").iterdir():
            file.unlink()
        (stopped / f"iter_{step}").rmdir()
    resumed = run_of(path, stopped, f"data.workers={workers}", "train.resume=auto", "train.keep=9")
    same_checkpoint(straight / "iter_8", resumed / "iter_8")
    assert records(straight) == records(resumed)
    assert os.readlink(straight / "best_model") == os.readlink(resumed / "best_model")


def test_workers_do_not_change_a_run(tmp_path):
    path = recipe(tmp_path)
    same_checkpoint(run_of(path, tmp_path / "a") / "iter_8", run_of(path, tmp_path / "b", "data.workers=2") / "iter_8")


def test_the_run_folder_is_as_documented(tmp_path, capsys):
    run = run_of(recipe(tmp_path), tmp_path / "run")
    out = capsys.readouterr().out
    assert sorted(p.name for p in run.iterdir()) == [
        "best_model",
        "config.yml",
        "iter_4",
        "iter_8",
        "latest",
        "log.jsonl",
        "train.log",
    ]
    assert sorted(p.name for p in (run / "latest").iterdir()) == [
        "SHA256SUMS", "config.yml", "ema.pdparams", "method.pdparams", "model.pdparams", "optimizer.pdopt", "state.json"
    ]  # fmt: skip
    assert not [k for k in read(run / "latest" / "model.pdparams") if k.startswith(("aux", "model."))]
    assert "aux.0.conv1.weight" in read(run / "latest" / "method.pdparams")
    assert "[TRAIN] epoch: 1, iter: 3/8, loss: " in out and "[EVAL] #Images: 3 mIoU: " in out
    assert "[Avg]" not in out and "[Train][Epoch 1/3][Avg]loss: " in (run / "train.log").read_text()
    assert [r["step"] for r in records(run) if r["kind"] == "train"] == [3, 6, 8]
    assert yaml.safe_load((run / "config.yml").read_text())["train"]["iters"] == 8


def test_the_resolved_config_trains_to_the_same_weights(tmp_path):
    run = run_of(recipe(tmp_path), tmp_path / "run")
    again = run_of(run / "config.yml", tmp_path / "again")
    np.testing.assert_array_equal(
        read(run / "latest/model.pdparams")["conv1.0.weight"], read(again / "latest/model.pdparams")["conv1.0.weight"]
    )


def test_evaluate_repeats_the_figures_of_the_run(tmp_path, capsys):
    path = recipe(tmp_path)
    run = run_of(path, tmp_path / "run")
    best = json.loads((run / "latest" / "state.json").read_text())["best"]
    assert evaluate(path, [f"train.save_dir={run}"]) == best["figures"]
    assert evaluate(path, [], weights=str(run / "best_model" / "model.pdparams"))["mIoU"] == best["value"]
    assert "green" in capsys.readouterr().out


def test_a_worse_evaluation_does_not_replace_the_best(tmp_path, monkeypatch):
    from ppvision.engine.evaluator import Evaluator

    scores = iter([0.5, 0.9, 0.7, 0.8])
    monkeypatch.setattr(Evaluator, "__call__", lambda self, nets, progress=False: {"mIoU": next(scores)})
    run = run_of(recipe(tmp_path), tmp_path / "run", "train.save_interval=2", "train.keep=1")
    assert os.readlink(run / "best_model") == "iter_4" and checkpoint.steps(run) == [4, 8]
    state = json.loads((run / "latest/state.json").read_text())
    assert (state["best"]["value"], state["evals_without_gain"]) == (0.9, 2)


def test_resume_keeps_the_best_score(tmp_path, monkeypatch):
    from ppvision.engine.evaluator import Evaluator

    scores = iter([0.9, 0.5, 0.6])
    monkeypatch.setattr(Evaluator, "__call__", lambda self, nets, progress=False: {"mIoU": next(scores)})
    path = recipe(tmp_path)
    run_of(path, tmp_path / "run")
    run = run_of(path, tmp_path / "run", "train.resume=auto", "train.iters=12")
    assert os.readlink(run / "best_model") == "iter_4"


def test_early_stop(tmp_path, monkeypatch):
    from ppvision.engine.evaluator import Evaluator

    scores = iter([0.9, 0.5, 0.4, 0.3])
    monkeypatch.setattr(Evaluator, "__call__", lambda self, nets, progress=False: {"mIoU": next(scores)})
    run = run_of(recipe(tmp_path), tmp_path / "run", "train.save_interval=2", "train.early_stop=2")
    assert checkpoint.steps(run)[-1] == 6


def test_epochs_count_in_passes(tmp_path):
    run = run_of(recipe(tmp_path), tmp_path / "run", "train.iters=null", "train.epochs=2", "train.save_interval=1")
    assert checkpoint.steps(run) == [3, 6]  # 7 images, batches of 2, the incomplete one dropped


def test_a_finished_run_is_not_trained_again(tmp_path, capsys):
    path = recipe(tmp_path)
    run = run_of(path, tmp_path / "run")
    before = (run / "iter_8" / "SHA256SUMS").read_text()
    capsys.readouterr()
    run_of(path, run, "train.resume=auto")
    assert "nothing to do" in capsys.readouterr().out
    assert (run / "iter_8" / "SHA256SUMS").read_text() == before


def test_a_used_default_folder_asks_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = recipe(tmp_path)
    train(path, ["train.iters=1"])
    with pytest.raises(
        UserError, match=r"output/recipe holds an earlier run; continue it with --resume or replace it with --overwrite"
    ):
        train(path, ["train.iters=1"])
    train(path, ["train.iters=2", "train.overwrite=true"])
    assert checkpoint.steps(tmp_path / "output" / "recipe") == [2]


def test_an_explicit_folder_is_replaced(tmp_path):
    path = recipe(tmp_path)
    run_of(path, tmp_path / "run")
    run = run_of(path, tmp_path / "run", "train.iters=4")
    assert checkpoint.steps(run) == [4] and max(r["step"] for r in records(run)) == 4


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"root": "nowhere"}}, "nowhere"),
        ({"model": {"type": "rtformer_debug", "num_classes": 5}}, "num_classes is 5, but .* has 3 classes"),
        ({"model": {"type": "rtformer_debog"}}, "did you mean 'rtformer_debug'"),
        ({"method": {"aux": [{"level": "c9"}]}}, "has no feature 'c9'"),
        ({"optimizer": {"lr_mult": {"nonsense.*": 2}}}, "matches no parameter"),
        ({"optimizer": {"type": "adamv"}}, "did you mean 'adam"),
        ({"eval": {"metrics": ["mIou"]}}, "did you mean 'mIoU'"),
        ({"eval": {"best": {"name": "top1"}}}, "no figure 'top1'"),
        ({"model": {"weights": "absent.pdparams"}}, "absent.pdparams"),
        ({"train": {"device": "gpu"}}, "no usable GPU"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, sections, message):
    path = recipe(tmp_path)
    spec = yaml.safe_load(path.read_text())
    for name, values in sections.items():
        spec[name].update(values)
    path.write_text(yaml.safe_dump(spec))
    with pytest.raises(UserError, match=message) as error:
        run_of(path, tmp_path / "run")
    assert "\n" not in str(error.value)
    if "best" not in sections.get("eval", {}):
        assert not (tmp_path / "run").exists()


def test_a_bad_sample_stops_the_run_with_its_name(tmp_path):
    path = recipe(tmp_path)
    (tmp_path / "data" / "train3.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match="train3.png"):
        run_of(path, tmp_path / "run")
    run_of(path, tmp_path / "run", "data.skip_bad=1")


def test_nan_in_every_batch_stops_with_everything_one_needs(tmp_path, monkeypatch, capsys):
    from ppvision.losses.cross_entropy import CrossEntropy

    original = CrossEntropy.forward
    calls = iter(range(1000))
    monkeypatch.setattr(
        CrossEntropy, "forward", lambda self, x, b: original(self, x, b) * (float("nan") if next(calls) > 18 else 1.0)
    )
    with pytest.raises(
        UserError,
        match=r"step 12, phase 'main': loss is not finite .*main nan.*train\d.png.*"
        r"last good checkpoint .*iter_8; .*fault.npz",
    ) as e:
        run_of(recipe(tmp_path), tmp_path / "run", "train.iters=20", "train.max_bad_steps=3", "eval.enabled=false")
    assert e.value.status == 1
    assert "0/image" in np.load(tmp_path / "run" / "fault.npz")
    assert "update skipped" in capsys.readouterr().out


def test_sigterm_saves_and_ends_well(tmp_path):
    path = recipe(tmp_path, train={"iters": 100000, "save_interval": 50000})
    code = f"import ppvision; ppvision.train({str(path)!r}, ['train.save_dir={tmp_path}/run'])"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env)
    for line in process.stdout:
        if "[TRAIN]" in line:
            process.terminate()
            break
    out = process.stdout.read()
    assert process.wait(timeout=60) == 0 and "continue with --resume" in out
    found = checkpoint.newest(tmp_path / "run")
    assert found is not None and 3 <= found.state["step"] < 1000


def test_two_processes_train_evaluate_and_save_as_one(tmp_path):
    """The launcher, real files, uneven shards in evaluation (3 images): the figures equal one process's on the same
    weights.
    """
    path = recipe(tmp_path, train={"iters": 4, "batch_size": 1, "save_interval": 4, "ema": None})
    code = tmp_path / "go.py"
    code.write_text(f"import ppvision\nppvision.train({str(path)!r}, ['train.save_dir={tmp_path}/run'])\n")
    env = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES" and not k.startswith("PADDLE_")}
    env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "paddle.distributed.launch",
        "--nproc_per_node",
        "2",
        "--log_dir",
        str(tmp_path / "log"),
        str(code),
    ]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, "".join(p.read_text()[-3000:] for p in (tmp_path / "log").glob("workerlog.*"))
    saved = checkpoint.newest(tmp_path / "run")
    assert evaluate(path, [], weights=str(saved.folder)) == saved.state["best"]["figures"]


def test_profiling_ends_the_run_when_it_is_over(tmp_path, capsys):
    trace = tmp_path / "trace.json"
    options = f"batch_range=[2,4];state=CPU;timer_only=False;profile_path={trace}"
    run = run_of(recipe(tmp_path), tmp_path / "run", f"train.profiler='{options}'", "train.iters=50", "log.interval=1")
    assert [r["step"] for r in records(run)] == [1, 2, 3] and trace.stat().st_size > 1000
    assert "ips" in capsys.readouterr().out


@pytest.mark.parametrize(
    "switch", ["train.recompute=true", "train.to_static=true", "train.accumulate=2", "train.amp=O1"]
)
def test_switches_train(tmp_path, switch, capsys):
    run = run_of(recipe(tmp_path), tmp_path / "run", switch, "train.ema=null", "model.drop_path=0.0")
    losses = [r["loss"] for r in records(run) if r["kind"] == "train"]
    assert len(losses) == 3 and all(np.isfinite(losses))
    if switch in ("train.recompute=true", "train.to_static=true"):  # another way to the same numbers
        plain = run_of(tmp_path / "recipe.yml", tmp_path / "plain", "train.ema=null", "model.drop_path=0.0")
        np.testing.assert_allclose(losses, [r["loss"] for r in records(plain) if r["kind"] == "train"], rtol=1e-3)
