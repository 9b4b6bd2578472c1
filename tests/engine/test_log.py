"""Log lines, which CI scripts parse."""

import json
import re

import pytest

from ppvision.engine.log import RunLog, clock, fixed, truncate

COST = {"batch_cost": 0.1234, "reader_cost": 0.01234, "ips": 16.20745}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.6931, "0.6931"), (0.0, "0.0000"), (1.234e-5, "0.00001234"), (1e6, "1000000.0000"), (-0.5, "-0.5000")],
)
def test_fixed_point_keeps_four_figures_and_no_exponent(value, text):
    assert fixed(value).rstrip("0").rstrip(".") == text.rstrip("0").rstrip(".") and "e" not in fixed(value)


def test_clock():
    assert clock(3661.9) == "01:01:01"


@pytest.mark.parametrize("loss", [0.0, 1e-5, 0.6931, 1e6])
def test_the_train_line_as_scripts_read_it(tmp_path, capsys, loss):
    log = RunLog(tmp_path, 20)
    log.train(10, 1, loss, {"main": loss, "aux0": 0.1}, 0.01, 2.0, COST, 61)
    log.close()
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"\[\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\] INFO: \[TRAIN\] epoch: 1, iter: 10/20, loss: \d+\.\d+, lr: 0\.010000, "
        r"batch_cost: 0\.1234, reader_cost: 0\.01234, ips: 16\.2075 samples/sec \| ETA 00:01:01",
        lines[0],
    ) or pytest.fail(lines[0])
    found = re.findall(r"loss: ([\d.]+),", lines[0])
    assert len(found) == 1 and float(found[0]) == pytest.approx(loss, rel=1e-3)
    words = lines[0].split()
    assert float(words[words.index("ips:") + 1]) == 16.2075
    assert "loss:" not in lines[1] and "[LOSS] iter: 10, aux0=0.1000" in lines[1]
    record = json.loads((tmp_path / "log.jsonl").read_text())
    assert record["loss"] == loss and record["step"] == 10 and record["time"]["ips"] == COST["ips"]


def test_the_epoch_average_goes_to_the_file_only(tmp_path, capsys):
    log = RunLog(tmp_path, 20)
    log.epoch(1, 2, 0.6931, {"main": 0.5697})
    log.close()
    assert capsys.readouterr().out == ""
    tail = (tmp_path / "train.log").read_text().rsplit("]", 1)[1].strip()
    assert dict(pair.split(": ") for pair in tail.split(", ")) == {"loss": "0.69310", "main": "0.56970"}


def test_truncation_keeps_what_the_checkpoint_knows(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"kind": "train", "step": s}) + "\n" for s in (10, 20, 30)) + '{"kind": "tr')
    truncate(tmp_path, 20)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 20]


def test_other_ranks_are_silent(tmp_path, capsys):
    log = RunLog(tmp_path, 20, quiet=True)
    log.info("hello")
    log.train(10, 1, 0.5, {"main": 0.5}, 0.01, 2.0, COST, 61)
    log.close()
    assert capsys.readouterr().out == "" and not list(tmp_path.iterdir())


def test_visualdl_holds_the_same_figures(tmp_path, capsys):
    from visualdl import LogReader

    log = RunLog(tmp_path, 20, vdl=True)
    log.train(10, 1, 0.5, {"main": 0.4}, 0.01, 2.0, COST, 61)
    log.evaluation(10, 5, {"mIoU": 0.25}, 1.0)
    log.close()
    (file,) = (tmp_path / "vdl").iterdir()
    reader = LogReader(file_path=str(file))
    assert {"train/loss", "train/main", "train/lr", "train/grad_norm", "eval/mIoU"} <= set(reader.get_tags()["scalar"])
    assert [(d.id, round(d.value, 4)) for d in reader.get_data("scalar", "eval/mIoU")] == [(10, 0.25)]
