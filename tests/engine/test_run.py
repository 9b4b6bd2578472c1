"""Whole runs on real files: continuation, best model, run folder, bad input."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from recipes import recipe, records, run_of

from ppvision.config import load
from ppvision.engine import checkpoint, evaluate, train
from ppvision.engine.build import build_parts
from ppvision.engine.continuity import check_arithmetic
from ppvision.engine.run import Run, find_checkpoint
from ppvision.errors import UserError
from ppvision.weights import read

ROOT = Path(__file__).parents[2]


class Scores:
    """In the place of an evaluator: these scores, one after the other, whatever the networks are.

    Attributes:
        asked: what `stop` answered at each evaluation.
    """

    def __init__(self, *scores, name="mIoU", signal_at=None):
        self.scores, self.name, self.signal_at = iter(scores), name, signal_at
        self.first, self.asked = None, []
        self.loader = SimpleNamespace(dataset=range(3))

    def __call__(self, nets, progress=False, stop=None):
        if len(self.asked) == self.signal_at:
            os.kill(os.getpid(), 15)
        self.asked.append(stop())
        return {} if self.asked[-1] else {self.name: next(self.scores)}


def scored_run(path, folder, scores, *overrides):
    """A run whose evaluations are scripted."""
    cfg = load(path, [f"train.save_dir={folder}", *overrides])
    parts = build_parts(cfg)
    parts.evaluator = scores
    Run(cfg, parts, find_checkpoint(cfg)).fit()
    return folder


def same_checkpoint(a: Path, b: Path):
    for name in ("model.pdparams", "method.pdparams", "ema.pdparams", "optimizer.pdopt"):
        mine, theirs = read(a / name), read(b / name)
        assert set(mine) == set(theirs)
        for key in mine:
            np.testing.assert_array_equal(mine[key], theirs[key], err_msg=f"{name} {key}")
    assert json.loads((a / "state.json").read_text()) == json.loads((b / "state.json").read_text())


@pytest.mark.parametrize(("workers", "accumulate"), [(0, 1), (2, 1), (0, 2)])
def test_n_resume_n_equals_2n_bit_for_bit(tmp_path, workers, accumulate):
    """Weights, optimizer, average, scores and log; the interruption lies inside a log interval and inside an epoch."""
    path = recipe(tmp_path, train={"accumulate": accumulate})
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


@pytest.mark.parametrize(
    ("state", "now", "warning"),
    [
        ({}, (2, "7"), None),  # a checkpoint of before the two were recorded
        ({"threads": 2, "kernels": "7"}, (2, "7"), None),
        ({"threads": 1, "kernels": None}, (1, None), None),
        ({"threads": 2, "kernels": "7"}, (1, "7"), "OMP_NUM_THREADS=1 MKL_DEBUG_CPU_TYPE=7"),
        ({"threads": 2, "kernels": "7"}, (2, None), "OMP_NUM_THREADS=2 MKL_DEBUG_CPU_TYPE="),
    ],
)
def test_other_threads_or_kernels_are_told(state, now, warning):
    lines = []
    check_arithmetic(state, Path("run/iter_4"), now, lines.append)
    was = "OMP_NUM_THREADS=2 MKL_DEBUG_CPU_TYPE=7"
    whole = f"run/iter_4 was made with {was} (now {warning}): the run goes on, but not bit for bit; for that set {was}"
    assert lines == ([] if warning is None else [f"{whole} before the start (or --threads 2)"])


def test_threads_that_come_too_late_are_told(tmp_path, capsys):
    run_of(recipe(tmp_path), tmp_path / "run", "train.iters=1", "train.threads=3", "eval.enabled=false")
    late = "train.threads 3 came too late, Paddle was imported with 1; set OMP_NUM_THREADS=3 before it is imported"
    assert late in capsys.readouterr().out


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


def test_a_worse_evaluation_does_not_replace_the_best(tmp_path):
    scores = Scores(0.5, 0.9, 0.7, 0.8)
    run = scored_run(recipe(tmp_path), tmp_path / "run", scores, "train.save_interval=2", "train.keep=1")
    assert os.readlink(run / "best_model") == "iter_4" and checkpoint.steps(run) == [4, 8]
    state = json.loads((run / "latest/state.json").read_text())
    assert (state["best"]["value"], state["evals_without_gain"]) == (0.9, 2)


def test_resume_keeps_the_best_score(tmp_path):
    scores = Scores(0.9, 0.5, 0.6)
    path = recipe(tmp_path)
    scored_run(path, tmp_path / "run", scores)
    run = scored_run(path, tmp_path / "run", scores, "train.resume=auto", "train.iters=12")
    assert os.readlink(run / "best_model") == "iter_4"


def test_early_stop(tmp_path):
    scores = Scores(0.9, 0.5, 0.4, 0.3)
    run = scored_run(recipe(tmp_path), tmp_path / "run", scores, "train.save_interval=2", "train.early_stop=2")
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
        ({"method": {"aux": [{"level": "c9", "channels": 8}]}}, "recipe.yml:.*'method.aux.0.level'.*no feature 'c9'"),
        ({"method": {"aux": [{"level": ["c3"], "channels": 8}]}}, "recipe.yml:.*'method.aux.0.level' must be text"),
        (
            {"method": {"aux": [{"level": "c3", "channels": 8, "weight": float("nan")}]}},
            "'method.aux.0.weight' must be",
        ),
        ({"method": {"aux": [{"level": "c3", "channels": 8, "weight": -1}]}}, "'method.aux.0.weight' must be a number"),
        ({"method": {"aux": [{"channels": 8}]}}, "recipe.yml:.*'method.aux.0.level' is missing"),
        ({"method": {"aux": {"level": "c3", "channels": 8}}}, "'method.aux' must be a list of mappings"),
        ({"method": {"loss": "cross_entropy"}}, "'method.loss' must be a mapping with 'type'"),
        (
            {"method": {"loss": {"type": "cross_entropy", "class_weights": [1.0, 2.0]}}},
            "recipe.yml:.*'method.loss.class_weights' needs one number per class: the network has 3 classes, 2 are",
        ),
        (
            {"method": {"loss": {"type": "cross_entropy", "class_weights": [1.0, -2.0, 1.0]}}},
            "recipe.yml:.*'method.loss.class_weights' must be at least 0",
        ),
        (
            {"method": {"loss": {"type": "cross_entropy", "ignore_index": 254}}},
            "ignore_index' is 254.*not count by 255",
        ),
        ({"method": {"output_weights": [-1.0]}}, "'method.output_weights' must be at least 0"),
        ({"model": {"num_classes": 0}}, "recipe.yml:.*'model.num_classes' must be at least 1, got 0"),
        ({"optimizer": {"weight_decay": -0.1}}, "recipe.yml:.*'optimizer.weight_decay' must be at least 0"),
        ({"optimizer": {"betas": [0.9, 1.0]}}, "recipe.yml:.*'optimizer.betas' must be at least 0 and below 1"),
        ({"optimizer": {"model": {"lr": -1.0}}}, "recipe.yml:.*'optimizer.lr' must be at least 0"),
        ({"schedule": {"power": -1.0}}, "recipe.yml:.*'schedule.power' must be at least 0"),
        ({"schedule": {"end_lr": 1.0}}, "recipe.yml:.*'schedule.end_lr' must lie between 0 and optimizer.lr"),
        ({"optimizer": {"lr_mult": {"nonsense.*": 2}}}, "matches no parameter"),
        ({"optimizer": {"type": "adamv"}}, "did you mean 'adam"),
        ({"eval": {"metrics": ["mIou"]}}, "did you mean 'mIoU'"),
        ({"eval": {"best": {"name": "top1"}}}, "no figure 'top1' among mIoU"),
        ({"eval": {"metrics": ["top_k"]}}, "judges classification, but rtformer_debug does segmentation"),
        ({"method": {"aux": [{"level": "c3", "chanels": 8}]}}, "method.aux.0.chanels.*did you mean 'channels'"),
        ({"train": {"clip_norm": 0.0}}, "clip_norm"),
        ({"model": {"weights": "absent.pdparams"}}, "absent.pdparams"),
        ({"train": {"device": "gpu"}}, "device gpu: .*use --device cpu"),
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
    assert process.wait(timeout=300) == 0 and "continue with --resume" in out
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


def test_starting_weights_that_fit_in_part_and_bring_the_auxiliary_head(tmp_path, capsys):
    """A checkpoint of another class count, written as upstream names it: what fits is loaded, and said."""
    import paddle

    path = recipe(tmp_path)
    run = run_of(path, tmp_path / "first", "train.iters=2")
    state = dict(read(run / "latest" / "model.pdparams"))
    head = {
        k.replace("aux.0.", "seghead_extra."): v
        for k, v in read(run / "latest" / "method.pdparams").items()
        if k.startswith("aux.0.")
    }
    state["seghead.conv2.weight"] = np.zeros((7, *state["seghead.conv2.weight"].shape[1:]), "float32")
    paddle.save(state | head, str(tmp_path / "upstream.pdparams"))
    capsys.readouterr()
    second = run_of(
        path, tmp_path / "second", f"model.weights={tmp_path}/upstream.pdparams", "train.iters=1", "optimizer.lr=0.0"
    )
    out = capsys.readouterr().out
    assert "1 mismatched" in out and "of the Method's own" in out
    after = read(second / "latest" / "method.pdparams")
    np.testing.assert_array_equal(after["aux.0.conv1.weight"], head["seghead_extra.conv1.weight"])
    np.testing.assert_array_equal(after["model.conv1.0.weight"], state["conv1.0.weight"])


def test_an_altered_file_of_a_checkpoint_is_refused_everywhere(tmp_path):
    path = recipe(tmp_path)
    run = run_of(path, tmp_path / "run")
    file = run / "iter_8" / "model.pdparams"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match="sha256 differs from SHA256SUMS"):
        evaluate(path, weights=str(file))


def test_resuming_at_an_earlier_step_forgets_the_way_that_was_left(tmp_path):
    path = recipe(tmp_path, train={"save_interval": 2, "keep": 9})
    run = run_of(path, tmp_path / "run")
    run_of(path, run, f"train.resume={run}/iter_4", "train.iters=6")
    assert checkpoint.steps(run) == [2, 4, 6]
    assert (run / "best_model" / "model.pdparams").is_file() and os.readlink(run / "latest") == "iter_6"


def test_resuming_from_another_folder_brings_the_best_model(tmp_path):
    scores = Scores(0.9, 0.5, 0.4)
    path = recipe(tmp_path)
    first = scored_run(path, tmp_path / "first", scores)
    second = scored_run(path, tmp_path / "second", scores, f"train.resume={first}/iter_8", "train.iters=12")
    assert os.readlink(second / "best_model") == "iter_4" and (second / "best_model" / "model.pdparams").is_file()


def test_an_early_stop_stays_stopped(tmp_path, capsys):
    scores = Scores(0.9, 0.5, 0.4)
    path = recipe(tmp_path)
    scored_run(path, tmp_path / "run", scores, "train.save_interval=2", "train.early_stop=2")
    scored_run(path, tmp_path / "run", scores, "train.save_interval=2", "train.early_stop=2", "train.resume=auto")
    assert "stopped early; nothing to do" in capsys.readouterr().out


def test_a_start_that_failed_does_not_lock_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = recipe(tmp_path)
    good = (tmp_path / "data" / "train3.png").read_bytes()
    (tmp_path / "data" / "train3.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match="train3.png"):
        train(path, ["train.iters=3", "log.interval=9"])
    (tmp_path / "data" / "train3.png").write_bytes(good)
    train(path, ["train.iters=1"])


@pytest.mark.parametrize("folder", ["/proc/nowhere", "afile"])
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, folder):
    (tmp_path / "afile").write_text("mine")
    with pytest.raises(UserError, match="cannot be written"):
        run_of(recipe(tmp_path), tmp_path / folder)


def test_a_run_does_not_overwrite_its_own_recipe(tmp_path):
    path = recipe(tmp_path)
    own = path.rename(tmp_path / "config.yml")
    text = own.read_text()
    with pytest.raises(UserError, match="would overwrite its own recipe"):
        run_of(own, tmp_path)
    assert own.read_text() == text


def test_a_signal_while_evaluating_saves_at_once(tmp_path, capsys):
    scores = Scores(0.5, 0.6, signal_at=0)
    run = scored_run(recipe(tmp_path), tmp_path / "run", scores)
    assert scores.asked == [True]
    assert checkpoint.steps(run) == [4] and "continue with --resume" in capsys.readouterr().out


def test_the_figure_does_not_depend_on_the_batch_size(tmp_path):
    """Images of different sizes: each is judged as it is deployed, without the padding of its neighbours."""
    import cv2

    path = recipe(tmp_path)
    for i, size in enumerate([(40, 60), (64, 48)]):
        for name, mode in ((f"val{i}.png", cv2.INTER_LINEAR), (f"val{i}_label.png", cv2.INTER_NEAREST)):
            file = str(tmp_path / "data" / name)
            cv2.imwrite(file, cv2.resize(cv2.imread(file, cv2.IMREAD_UNCHANGED), size[::-1], interpolation=mode))
    run = run_of(path, tmp_path / "run", "eval.enabled=false")
    metrics = [evaluate(path, [f"eval.batch_size={n}"], weights=str(run / "latest")) for n in (1, 2, 3)]
    assert metrics[0] == metrics[1] == metrics[2]


def test_bad_samples_stay_counted_when_a_run_is_continued(tmp_path):
    path = recipe(tmp_path, train={"iters": 4}, data={"skip_bad": 1})
    (tmp_path / "data/train0.png").write_bytes(b"not a picture")
    run = run_of(path, tmp_path / "run")
    assert json.loads((run / "latest/state.json").read_text())["bad"] == [[0]]
    run_of(path, run, "train.resume=auto", "train.iters=6")
    (tmp_path / "data/train1.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"train1.png.*skip_bad allows 1, this is one more"):
        run_of(path, run, "train.resume=auto", "train.iters=12")


def test_the_logged_rate_is_the_one_of_the_update(tmp_path):
    from ppvision.engine.schedule import Poly

    run = run_of(recipe(tmp_path, log={"interval": 1}), tmp_path / "run")
    rate = Poly(2.0e-3, 8, warmup_iters=2)
    logged = [r["lr"] for r in records(run) if r["kind"] == "train"]
    assert logged == [rate(step) for step in range(8)] and logged[0] == 0.0


def test_evaluations_without_gain_are_kept_when_a_run_is_continued(tmp_path):
    scores = Scores(0.9, 0.5, 0.4, 0.3, 0.2)
    path = recipe(tmp_path, train={"save_interval": 2, "iters": 4})
    scored_run(path, tmp_path / "run", scores)
    run = scored_run(path, tmp_path / "run", scores, "train.resume=auto", "train.iters=20", "train.early_stop=2")
    assert checkpoint.steps(run)[-1] == 6  # one without gain before, one after


def test_the_smallest_may_be_the_best(tmp_path):
    scores = Scores(0.5, 0.3, 0.7, 0.4)
    run = scored_run(
        recipe(tmp_path), tmp_path / "run", scores, "train.save_interval=2", "eval.best={name: mIoU, mode: min}"
    )
    state = json.loads((run / "latest/state.json").read_text())
    assert os.readlink(run / "best_model") == "iter_4"
    assert (state["best"]["value"], state["evals_without_gain"]) == (0.3, 2)


def test_the_line_of_an_evaluation_has_its_date(tmp_path, capsys):
    path = recipe(tmp_path)
    run = run_of(path, tmp_path / "run")
    trained = [line for line in capsys.readouterr().out.splitlines() if "[EVAL] #Images" in line]
    evaluate(path, [f"train.save_dir={run}"])
    (evaluated,) = [line for line in capsys.readouterr().out.splitlines() if "[EVAL] #Images" in line]
    for line in (*trained, evaluated):
        assert re.match(r"\[\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\] INFO: \[EVAL\] #Images: 3 mIoU: 0\.\d+", line)


def test_a_warm_up_longer_than_the_run_is_told(tmp_path, capsys):
    run_of(recipe(tmp_path), tmp_path / "run", "train.iters=1")
    out = capsys.readouterr().out
    assert "warning: " in out and "schedule.warmup_iters 2 is not shorter than the run (1 updates)" in out


def test_a_border_that_is_no_class_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"data.train.transforms.1.ignore.*7: neither 255 \(ignored\) nor one of 3"):
        run_of(recipe(tmp_path), tmp_path / "run", "data.train.transforms.1.ignore=7")
    run_of(recipe(tmp_path), tmp_path / "run", "data.train.transforms.1.ignore=0", "train.iters=1")


def test_networks_and_data_of_different_tasks_are_one_line(tmp_path):
    for model, words in (("maformer_debug", "logits"), ("cae_v2_debug", "a dict, not logits")):
        override = f"model={{type: {model}, num_classes: {3 if model[0] == 'm' else 0}}}"
        with pytest.raises(UserError, match=f"method.loss: the network gives {words}"):
            run_of(
                recipe(tmp_path, method={"aux": []}, optimizer={"lr_mult": {}}),
                tmp_path / "run",
                override,
                "eval.enabled=false",
            )


def test_a_figure_that_the_data_do_not_give_cannot_be_the_best(tmp_path):
    scores, rule = Scores(0.5, name="other"), "eval.best={name: mIoU, mode: max}"
    with pytest.raises(UserError, match="eval.best=.*: the validation data give no 'mIoU', only other"):
        scored_run(recipe(tmp_path), tmp_path / "run", scores, "train.save_interval=2", rule)
