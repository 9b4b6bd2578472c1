"""`check`, `list` and `prepare`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from sandbox import NAME, ROOT, TXT, build, tipc

from test_tipc.harness import prepare

TOOLS = ("tools/train.py", "tools/val.py", "tools/export.py", "tools/data.py", "deploy/python/infer.py", "ppvision")


@pytest.fixture
def real(tmp_path) -> Path:
    """The miniature with the real tools, whose parsers `check` asks, and a recipe they can read."""
    build(tmp_path)
    for name in TOOLS:
        if (tmp_path / name).exists():
            (tmp_path / name).unlink()
        (tmp_path / name).symlink_to(ROOT / name)
    recipe = (
        "model: {type: rtformer_debug}\ndata: {type: seg_list, root: d, train: {split: train}, val: {split: val}}\n"
    )
    (tmp_path / "x.yml").write_text(recipe + "optimizer: {type: adamw, lr: 0.1}\ntrain: {iters: 4}\n")
    return tmp_path


def test_our_own_folder_has_no_fault():
    done = tipc(ROOT, "check")
    assert done.returncode == 0, done.stderr
    listed = tipc(ROOT, "list").stdout.splitlines()
    folders = {p.name for p in (ROOT / "test_tipc/configs").iterdir()}
    assert {line.split(": ")[1] for line in listed} == folders
    for name in folders:
        modes = {m for line in listed if line.split(": ")[1] == name for m in line.split(": ")[2].split()}
        assert {"lite_train_lite_infer", "whole_infer", "benchmark_train", "paddle2onnx_infer", "dy2static"} <= modes


FAULTS = [
    ("tools/train.py --config x.yml", "tools/train.py --config y.yml", "tools/train.py: no file 'y.yml'"),
    ("--do_eval", "--do_evil", "tools/train.py: train: unknown flag '--do_evil'; did you mean '--do_eval'?"),
    ("--input_shape 1 3 64 64", "--input_shape 1", "tools/export.py: --input_shape takes N C H W"),
    ("eval:tools/val.py", "eval:tools/vale.py", "tools/vale.py: no such script"),
    ("--cpu_threads:6", "--cpu_threads:six", "deploy/python/infer.py: --cpu_threads must be an integer, got 'six'"),
    ("--device:cpu\n--prec", "--dev:cpu\n--prec", "tools/train.py: train: unknown flag '--dev'"),
    ("to_static_training=True", "to_static=1", "unknown key 'to_static'"),
]


@pytest.mark.parametrize(("old", "new", "message"), FAULTS, ids=[f[1] for f in FAULTS])
def test_every_command_is_read_by_its_own_parser(old, new, message, real):
    assert tipc(real, "check").returncode == 0
    text = (real / TXT).read_text()
    assert old in text
    (real / TXT).write_text(text.replace(old, new).replace("trainer:norm_train", "trainer:norm_train|to_static_train"))
    done = tipc(real, "check")
    assert done.returncode == 2 and message in done.stderr and done.stderr.startswith(f"error: {TXT}")


def test_names_that_would_meet(real):
    other = real / "test_tipc/configs/other"
    other.mkdir()
    (other / "train_infer_python.txt").write_text((real / TXT).read_text())
    done = tipc(real, "check")
    assert done.returncode == 2 and f"model_name '{NAME}' is that of test_tipc/configs/{NAME} too" in done.stderr


def test_a_file_that_cannot_be_read_does_not_hide_the_others(real):
    (real / TXT).write_text((real / TXT).read_text().replace("##\n", "#\n"))
    done = tipc(real, "list")
    assert done.returncode == 2 and done.stderr.startswith(f"error: {TXT}:14: expected the spacer")
    assert "1 files, 1 faults" in tipc(real, "check").stdout


def test_data_for_the_mode(real):
    text = (real / TXT).read_text().replace("make fake", "make imagefolder").replace("data/set", "data/set --size 8 8")
    (real / TXT).write_text(text.replace("data/set --size 8 8/val", "data/set/val"))
    done = tipc(real, "prepare", TXT, "lite_train_lite_infer")
    assert done.returncode == 0, done.stderr
    root = real / "test_tipc/data/set"
    counts = lambda: [len((root / f"{split}.list").read_text().splitlines()) for split in ("train", "val")]
    assert counts() == [20, 5]
    written = (root / "train.list").stat().st_mtime_ns
    assert "already there" in tipc(real, "prepare", TXT, "lite_train_whole_infer").stdout
    assert (root / "train.list").stat().st_mtime_ns == written
    (real / "test_tipc/data").rename(real / "away")
    assert tipc(real, "prepare", TXT, "dy2static").returncode == 0 and counts() == [20, 5]
    sizes = {mode: prepare.data_command(str(real / TXT), mode)[-2:] for mode in ("whole_infer", "benchmark_train")}
    assert sizes == {"whole_infer": ["--train=200", "--val=50"], "benchmark_train": ["--train=300", "--val=5"]}


def test_prepare_says_what_is_missing(real):
    text = (real / TXT).read_text()
    (real / TXT).write_text(text.replace("data:tools/data.py make fake --root test_tipc/data/set", "data:null"))
    done = tipc(real, "prepare", TXT, "lite_train_lite_infer")
    assert done.returncode == 2 and "no section data_params" in done.stderr
    assert tipc(real, "prepare", TXT).returncode == 2
