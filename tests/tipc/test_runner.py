"""A fault turns exactly its step red, what depends on it is skipped, and the exit status says so."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from sandbox import LOG, NAME, TXT, build, chain, tipc

KINDS = ["train", "eval", "export", "infer", "infer", "compare"]
FAILED = "Run failed with command"


def test_a_green_chain(tmp_path):
    build(tmp_path)
    status, steps = chain(tmp_path)
    assert status == 0 and steps == [(kind, "passed") for kind in KINDS]
    log = (tmp_path / LOG / "results_python.log").read_text()
    assert log.startswith("------------------------ lite_train_lite_infer ------------------------\n")
    lines = [line for line in log.splitlines() if "\033" in line]
    assert len(lines) == 6 and FAILED not in log
    run = f"./{LOG}/norm_train_gpus_-1_autocast_null"
    assert lines[0] == (
        f"\033[33m Run successfully with command - {NAME} - python tools/train.py --config x.yml --do_eval --seed 100 "
        f"--device=cpu --save_dir={run} --iters=4 --batch_size=2 - {run}_nodes_1.log  \033[0m"
    )
    summary = json.loads((tmp_path / LOG / "summary.json").read_text())
    assert (summary["passed"], summary["failed"], summary["skipped"]) == (6, 0, 0)
    assert summary["steps"][0]["metrics"] == {"loss": 0.25, "ips": pytest.approx(19.0)}
    assert summary["steps"][1]["metrics"] == {"mIoU": 0.5, "Acc": 0.9}
    assert summary["steps"][3]["metrics"]["inference_ms"] == 2.5
    assert all(step["rc"] == 0 and step["wall_s"] > 0 and step["cpu_s"] > 0 for step in summary["steps"])
    suite = ElementTree.parse(tmp_path / LOG / "junit.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("6", "0", "0")
    assert [case.get("name").split()[1] for case in suite] == KINDS
    texts = sorted(p.name for p in (tmp_path / LOG / "steps").iterdir())
    assert texts == [f"{i:02d}_{kind}.txt" for i, kind in enumerate(KINDS, 1)]
    assert (tmp_path / LOG / "norm_train_gpus_-1_autocast_null_nodes_1_eval.log").read_text().startswith("val speaks\n")


def test_again_in_place_and_after_everything_was_moved_away(tmp_path):
    build(tmp_path)
    assert chain(tmp_path)[0] == 0 and chain(tmp_path)[0] == 0
    (tmp_path / "test_tipc/output").rename(tmp_path / "away")
    (tmp_path / "test_tipc/data").rename(tmp_path / "data away")
    assert chain(tmp_path)[0] == 0


TRAINING = ["failed", *["skipped"] * 5]
EXPORTING = ["passed", "passed", "failed", *["skipped"] * 3]
INFERRING = ["passed", "passed", "passed", "failed", "failed", "skipped"]
FAULTS = [
    ("train-nan", TRAINING, "status 0, but the last loss is nan"),
    ("train-killed", TRAINING, "ended by SIGKILL"),
    ("train-usage", TRAINING, "exit status 2"),
    ("train-lazy", TRAINING, "status 0, but it left no"),
    ("val-status", ["passed", "failed", *["passed"] * 4], "exit status 1"),
    ("export-status", EXPORTING, "exit status 1"),
    ("export-lazy", EXPORTING, "status 0, but it left no"),
    ("export-half", EXPORTING, "model.pdiparams"),
    ("infer-status", INFERRING, "exit status 1"),
    ("infer-one", INFERRING, "holds no result for b"),
    ("compare-status", [*["passed"] * 5, "failed"], "exit status 1"),
]


@pytest.mark.parametrize(("fault", "statuses", "reason"), FAULTS, ids=[row[0] for row in FAULTS])
def test_exactly_one_step_turns_red(fault, statuses, reason, tmp_path):
    build(tmp_path)
    assert chain(tmp_path)[0] == 0  # leftovers of a good run must not help
    (tmp_path / LOG / "results_python.log").unlink()
    status, steps = chain(tmp_path, FAULT=fault)
    assert status == 1 and steps == list(zip(KINDS, statuses))
    log = (tmp_path / LOG / "results_python.log").read_text()
    assert log.count(FAILED) == statuses.count("failed")
    assert log.count("Run successfully with command") == statuses.count("passed")
    summary = json.loads((tmp_path / LOG / "summary.json").read_text())
    red = [step for step in summary["steps"] if step["status"] == "failed"]
    assert all(reason in step["reason"] for step in red)
    skipped = [step for step in summary["steps"] if step["status"] == "skipped"]
    assert all(step["reason"].startswith("step ") and step["rc"] is None for step in skipped)
    suite = ElementTree.parse(tmp_path / LOG / "junit.xml").getroot()[0]
    failures = [case.find("failure") for case in suite if case.find("failure") is not None]
    assert len(failures) == len(red) and reason in failures[0].get("message")
    if fault != "train-killed":
        assert "speaks" in failures[0].text


def test_a_wrong_image_list_is_a_failed_inference(tmp_path):
    build(tmp_path)
    assert chain(tmp_path)[0] == 0
    (tmp_path / "test_tipc/data/set/b.png").unlink()
    assert tipc(tmp_path, "train_infer", TXT, "lite_train_lite_infer").returncode == 1
    steps = json.loads((tmp_path / LOG / "summary.json").read_text())["steps"]
    assert [s["status"] for s in steps] == INFERRING and steps[3]["reason"] == "exit status 2"


def test_results_that_cannot_be_written_are_a_failed_inference(tmp_path):
    build(tmp_path)
    folder = tmp_path / LOG / "python_infer_cpu_usemkldnn_True_threads_6_precision_fp32_batchsize_1_results"
    folder.parent.mkdir(parents=True)
    if os.geteuid():
        folder.mkdir(mode=0o555)
    else:  # nothing is read-only for root, but this is no folder
        folder.symlink_to("/dev/null")
    status, steps = chain(tmp_path)
    assert status == 1
    assert [s for _, s in steps] == ["passed", "passed", "passed", "failed", "passed", "skipped"]


def test_export_without_weights(tmp_path):
    """Where the last step's weights are all there is, they are taken; where there are none, training has failed."""
    build(tmp_path)
    status, steps = chain(tmp_path, FAULT="train-nobest")
    assert status == 0
    commands = [step["command"] for step in json.loads((tmp_path / LOG / "summary.json").read_text())["steps"]]
    assert all("/iter_4/model.pdparams" in command for command in commands[1:3])


def test_a_command_without_end_is_ended_with_its_children(tmp_path):
    build(tmp_path)
    status, steps = chain(tmp_path, FAULT="train-hangs", TIPC_STEP_TIMEOUT="2")
    assert status == 1 and steps[0] == ("train", "timeout")
    assert FAILED in (tmp_path / LOG / "results_python.log").read_text()
    assert not processes_in(tmp_path)


def test_what_a_good_command_leaves_running_is_ended(tmp_path):
    build(tmp_path)
    status, steps = chain(tmp_path, FAULT="val-leaves")
    assert status == 0 and steps[1] == ("eval", "passed")
    assert not processes_in(tmp_path)


def processes_in(folder: Path) -> list[str]:
    """Processes that work in a folder."""
    time.sleep(0.2)
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found += [process.name] if os.readlink(process / "cwd") == str(folder) else []
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_a_summary(number, tmp_path):
    build(tmp_path)
    assert tipc(tmp_path, "prepare", TXT, "lite_train_lite_infer").returncode == 0
    command = [sys.executable, "test_tipc/tipc.py", "train_infer", TXT, "lite_train_lite_infer"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "FAULT": "export-hangs"},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs are deaf to it
    )
    for line in process.stdout:
        if "export speaks" in line:
            break
    process.send_signal(number)
    process.stdout.read()
    assert process.wait(60) == 130
    steps = json.loads((tmp_path / LOG / "summary.json").read_text())["steps"]
    assert [s["status"] for s in steps] == ["passed", "passed", "interrupted", *["skipped"] * 3]


def test_two_runs_in_one_folder(tmp_path):
    build(tmp_path)
    (tmp_path / LOG).mkdir(parents=True)
    handle = os.open(tmp_path / LOG, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    done = tipc(tmp_path, "train_infer", TXT, "lite_train_lite_infer")
    os.close(handle)
    assert done.returncode == 2 and done.stderr == f"error: ./{LOG}: another run is at work there\n"


def test_statuses_of_upstream_on_request(tmp_path):
    build(tmp_path)
    assert chain(tmp_path, FAULT="train-status", TIPC_STRICT="0")[0] == 0
    assert tipc(tmp_path, "train_infer", "nothing.txt", "lite_train_lite_infer", TIPC_STRICT="0").returncode == 0


def test_nothing_ran(tmp_path):
    build(tmp_path, line_4="gpu_list:0|0,1", line_5="--device:gpu|gpu")
    status, steps = chain(tmp_path)
    assert status == 3 and {s for _, s in steps} == {"skipped"} and len(steps) == 11
    summary = json.loads((tmp_path / LOG / "summary.json").read_text())
    assert summary["steps"][0]["reason"] == "no device: card 0 of 0"
    assert FAILED not in (tmp_path / LOG / "results_python.log").read_text()
    assert chain(tmp_path, TIPC_DEVICE="cpu")[0] == 0


def test_the_environment_of_the_commands(tmp_path):
    build(tmp_path, line_4="gpu_list:0", line_5="--device:gpu")
    assert tipc(tmp_path, "prepare", TXT, "lite_train_lite_infer").returncode == 0
    done = tipc(tmp_path, "train_infer", TXT, "lite_train_lite_infer", TIPC_GPUS="1")
    assert "CUDA_VISIBLE_DEVICES 0\n" in done.stdout and "PYTHONUNBUFFERED 1\n" in done.stdout
    done = tipc(tmp_path, "train_infer", TXT, "lite_train_lite_infer", TIPC_DEVICE="cpu")
    assert "CUDA_VISIBLE_DEVICES None\n" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train_infer", TXT, "lite_trian"], "error: unknown mode 'lite_trian'"),
        (["train_infer", TXT], f"error: {TXT}: which mode?"),
        (["train_infer", "no.txt", "whole_infer"], "error: no.txt: cannot be read"),
        (["run"], "error: run takes txt files or --all"),
        (["train_infer", TXT, "lite_train_lite_infer"], "error: TIPC_STEP_TIMEOUT is a number of seconds, got 'x'"),
    ],
)
def test_usage(words, message, tmp_path):
    build(tmp_path)
    done = tipc(tmp_path, *words, **({"TIPC_STEP_TIMEOUT": "x"} if "TIMEOUT" in message else {}))
    assert done.returncode == 2 and done.stderr.startswith(message) and done.stderr.count("\n") == 1


def test_outside_the_repository(tmp_path):
    build(tmp_path)
    command = [sys.executable, str(tmp_path / "test_tipc/tipc.py"), "list"]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: no test_tipc/configs here")


def test_several_chains(tmp_path):
    build(tmp_path)
    other = tmp_path / "test_tipc/configs/other"
    other.mkdir()
    text = (tmp_path / TXT).read_text().replace(NAME, "other").replace("tools/val.py", "tools/none.py")
    (other / "train_infer_python.txt").write_text(text)
    done = tipc(tmp_path, "run", "--all", "--jobs", "2")
    assert done.returncode == 1
    rows = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [(row[1].strip(), row[-2].strip()) for row in rows[1:]] == [("fake", "passed"), ("other", "eval failed")]
    assert len(ElementTree.parse(tmp_path / "test_tipc/output/junit.xml").getroot()) == 2
    assert tipc(tmp_path, "run", "--all", "--grep", "configs/fake/").returncode == 0
    assert tipc(tmp_path, "run", "--all", "--grep", "configs/fake/", FAULT="data-status").returncode == 1
    assert tipc(tmp_path, "run", "--all", "--mode", "dy2static").returncode == 3


@pytest.mark.parametrize("script", ["prepare.sh", "test_train_inference_python.sh"])
def test_entry_points(script, tmp_path):
    """As CI calls them, prepare.sh after its `sed`."""
    build(tmp_path)
    path = tmp_path / "test_tipc" / script
    text = path.read_text().replace("wget ", "wget -nv ")
    path.unlink()
    path.write_text(text)
    assert tipc(tmp_path, "prepare", TXT, "lite_train_lite_infer").returncode == 0
    command = ["bash", f"test_tipc/{script}", TXT, "lite_train_lite_infer"]
    environment = {**os.environ, "TIPC_PYTHON": sys.executable}
    assert subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True).returncode == 0
    bad = subprocess.run([*command[:2], "none.txt", "whole_infer"], cwd=tmp_path, env=environment, capture_output=True)
    assert bad.returncode == 2
