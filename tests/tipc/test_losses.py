"""Our log lines through the parsers of upstream's CI: loss extractor, log filter, analysis.py, check_loss.sh."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ppvision.engine.log import RunLog
from test_tipc.harness import losses

ROOT = Path(__file__).parents[2]
VALUES = (0.6931, 1e-5, 0.0, 1e6, 12.5)


@pytest.fixture
def logs(tmp_path, capsys) -> tuple[list[str], list[str]]:
    """What the trainer's log puts on the screen and into train.log, for losses of all sizes and two terms."""
    log = RunLog(tmp_path, len(VALUES))
    cost = {"batch_cost": 0.1234, "reader_cost": 0.01234, "ips": 16.2075}
    for step, value in enumerate(VALUES, 1):
        log.train(step, 1 + (step > 3), value, {"main": value * 0.8, "aux_loss": value * 0.2}, 0.01, 1.0, cost, 1.0)
    log.epoch(1, 2, 0.6931, {"main": 0.5, "aux": 0.1931})
    log.evaluation(5, 5, {"mIoU": 0.4321, "Acc": 0.9}, 1.0)
    log.close()
    return capsys.readouterr().out.splitlines(), (tmp_path / "train.log").read_text().splitlines()


def test_the_loss_extractor_finds_every_loss_once(logs):
    assert losses.extract(logs[0], "[TRAIN] epoch:", "loss: {%f},") == list(VALUES)


def test_speeds_and_losses_as_words(logs):
    assert losses.after_word(logs[0], "ips:") == [16.2075] * 5
    assert losses.after_word([line for line in logs[0] if "[TRAIN]" in line], "loss:") == list(VALUES)


def test_averages_are_in_train_log_alone(logs):
    assert losses.epoch_means(logs[1]) == [{"loss": 0.6931, "main": 0.5, "aux": 0.1931}]
    assert losses.epoch_means(logs[0]) == []
    with pytest.raises(ValueError, match="not `name: value, name: value`"):
        losses.epoch_means(["[Train][Avg]loss: 1 ms: 3"])


def test_the_filter_drops_the_first_lines_of_each_epoch(logs):
    kept = [line for line in losses.drop_first(logs[0], 1) if "[TRAIN]" in line]
    assert losses.extract(kept, "*", "loss: {%f},") == [1e-5, 0.0, 12.5]
    with pytest.raises(ValueError, match="must have one group"):
        list(losses.drop_first(logs[0], 1, "epoch"))


@pytest.mark.parametrize(
    ("first", "second", "fault"),
    [
        ([1.0, 0.5], [1.00005, 0.5], None),
        ([0.0, 1e-5], [0.0, 1e-5], None),
        ([1.0, 0.5], [1.0, 0.6], "loss 2: 0.5 against 0.6, apart by more than 0.0001 of it"),
        ([], [], "no losses: 0 and 0 were found"),
        ([1.0], [], "no losses: 1 and 0 were found"),
        ([1.0, 2.0], [1.0], "2 losses against 1"),
        ([float("nan")], [float("nan")], "loss 1: nan against nan"),
    ],
)
def test_comparison(first, second, fault):
    assert losses.compare(first, second, 1e-4) == fault


def test_extraction_refuses_what_is_ambiguous():
    with pytest.raises(ValueError, match="occurs 2 times"):
        losses.extract(["loss: 1.0, loss: 2.0,"])
    with pytest.raises(ValueError, match="must hold one of"):
        losses.extract([], expression="loss")


def run(script: str, *words: str, text: str = "") -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "test_tipc" / script), *words]
    return subprocess.run(command, input=text, capture_output=True, text=True)


def test_the_commands(tmp_path):
    a, b, out = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    a.write_text("[TRAIN] epoch: 1, loss: 1.0,\n[TRAIN] epoch: 1, loss: 3.0,\nother loss: 9.0,\n")
    b.write_text(a.read_text().replace("3.0", "3.1"))
    words = ("-v", "[TRAIN] epoch:", "-e", "loss: {%f},")
    assert run("extract_loss.py", *words, text=a.read_text()).stdout == "1.0\n3.0\n"
    assert run("extract_loss.py", *words, "-r", "mean", text=a.read_text()).stdout == "2.0\n"
    assert run("extract_loss.py", *words, "-r", "sum", "-n", "1", text="loss: 1.0,\n" * 3).stdout == "0\n"
    assert run("extract_loss.py", "-r", "sum", "-n", "1", text="loss: 2.0,\n" * 3).stdout == "2.0\n"
    assert run("extract_loss.py", *words, "--compare", str(a), str(a)).returncode == 0
    differs = run("extract_loss.py", *words, "--compare", str(a), str(b))
    assert differs.returncode == 1 and "loss 2: 3.0 against 3.1" in differs.stdout
    assert run("extract_loss.py", "-e", "x", "--compare", str(a), str(b)).returncode == 2
    assert run("filter_log.py", f"--in_log_path={a}", f"--out_log_path={out}", "--skip_iters=1").returncode == 0
    assert out.read_text().count("epoch:") == 1
    assert run("filter_log.py", "--in_log_path=none", f"--out_log_path={out}").returncode == 2
