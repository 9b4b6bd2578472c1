"""`tipc.py generate`: the sixty files of the chains are what the table says."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
from sandbox import ROOT, tipc

from test_tipc.harness import generate
from test_tipc.harness.recipe import TxtError

TABLE, TEMPLATES, CONFIGS = (str(ROOT / "test_tipc" / name) for name in ("table.yml", "templates", "configs"))


def test_the_committed_files_are_current():
    assert generate.stale(CONFIGS, TABLE, TEMPLATES) == [], "run: python test_tipc/tipc.py generate"


def test_a_file_for_every_mode_of_every_system():
    systems = yaml.safe_load(Path(TABLE).read_text())["systems"]
    found = generate.texts(TABLE, TEMPLATES)
    assert len(found) == 5 * len(systems) and {path.split("/")[0] for path in found} == set(systems)


def test_what_tells_systems_apart():
    found = generate.texts(TABLE, TEMPLATES)
    slim, base = found["rtformer_slim/train_infer_python.txt"], found["dab_detr_r50/train_infer_python.txt"]
    differing = [pair for pair in zip(slim.splitlines(), base.splitlines(), strict=True) if pair[0] != pair[1]]
    assert (
        "data:tools/data.py make cityscapes --root test_tipc/data/street --size 128 256",
        "data:tools/data.py make coco --root test_tipc/data/shapes --size 64 64",
    ) in differing
    command = "norm_export:tools/export.py --config test_tipc/configs"
    assert (
        f"{command}/rtformer_slim/rtformer_slim.yml --input_shape 1 3 128 256",
        f"{command}/dab_detr_r50/dab_detr_r50.yml",
    ) in differing
    assert [line for line in base.splitlines() if line.startswith("compare:")][0].endswith("--atol 0.02 --rtol 0.1")
    gpu = found["rtformer_slim/train_linux_gpu_normal_amp_infer_python_linux_gpu_cpu.txt"]
    assert "gpu_list:0|0,1\n--device:gpu|gpu\n--precision:fp16\n" in gpu and "compare_params" not in gpu


@pytest.fixture
def small(tmp_path) -> Path:
    """A repository with the real table and no folder but one that nobody knows."""
    shutil.copytree(
        ROOT / "test_tipc", tmp_path / "test_tipc", ignore=shutil.ignore_patterns("configs", "output", "data")
    )
    other = tmp_path / "test_tipc/configs/other/other.yml"
    other.parent.mkdir(parents=True)
    other.write_text("mine")
    return tmp_path


def test_command(small):
    stale = tipc(small, "generate", "--check")
    assert stale.returncode == 1 and "rtformer_slim/rtformer_slim.yml: is out of date" in stale.stderr
    assert [p.name for p in (small / "test_tipc/configs").iterdir()] == ["other"]
    done = tipc(small, "generate")
    assert done.returncode == 1 and done.stdout.count("written") == 60
    assert done.stderr == "error: test_tipc/configs/other/other.yml: belongs to no system of test_tipc/table.yml\n"
    shutil.rmtree(small / "test_tipc/configs/other")
    again = tipc(small, "generate")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    edited = small / "test_tipc/configs/uhrnet_w48/train_infer_python.txt"
    edited.write_text(edited.read_text().replace("--cpu_threads:6", "--cpu_threads:7"))
    check = tipc(small, "generate", "--check")
    assert check.returncode == 1 and check.stderr.count("\n") == 1
    assert "uhrnet_w48/train_infer_python.txt: is out of date" in check.stderr
    assert tipc(small, "generate").stdout == "test_tipc/configs/uhrnet_w48/train_infer_python.txt: written\n"
    for name in ("uhrnet_w48.yml", "train_infer_python.txt"):
        expected = (ROOT / "test_tipc/configs/uhrnet_w48" / name).read_bytes()
        assert (small / "test_tipc/configs/uhrnet_w48" / name).read_bytes() == expected


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    base: uhrnet/fcn_uhrnet_w48", "    bases: uhrnet/fcn_uhrnet_w48", "table.yml: uhrnet_w48: lacks base"),
        ("    input_shape: true", "    input_shapes: true", "rtformer_slim: has unknown input_shapes"),
        ("    pictures: objects", "    pictures: object", "no pictures 'object'"),
        ("    layout: coco\n", "", "table.yml: shapes: lacks layout"),
        ("systems:\n", "system:\n", "table.yml: lacks systems"),
        ("pictures:\n", "pictures: [\n", "table.yml: while parsing"),
    ],
)
def test_mistakes_are_one_line(small, old, new, message):
    table = small / "test_tipc/table.yml"
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new))
    with pytest.raises(TxtError, match=message) as caught:
        generate.texts(str(table), TEMPLATES)
    assert "\n" not in str(caught.value)
