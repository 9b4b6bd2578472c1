"""The strict parser: what it takes, what it refuses and with which line, and what upstream would read otherwise."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from sandbox import txt

from test_tipc.harness import recipe
from test_tipc.harness.recipe import TxtError

ROOT = Path(__file__).parents[2]


def read(tmp_path: Path, text: str) -> recipe.Recipe:
    file = tmp_path / "x.txt"
    file.write_bytes(text.encode())
    return recipe.read(file)


def test_positions_values_and_sections(tmp_path):
    found = read(tmp_path, txt())
    assert (found.kind, found.model_name, found.items(42)) == ("train", "fake", ["True", "False"])
    assert found.by_mode(7, "whole_train_whole_infer") == "9" and found.value(36) == ""
    assert found.command("data") == "tools/data.py make fake --root test_tipc/data/set"
    assert found.extras == {"log_iters": "1", "repeats": "2"}
    assert found.modes() == [
        "lite_train_lite_infer",
        "lite_train_whole_infer",
        "whole_train_whole_infer",
        "whole_infer",
        "benchmark_train",
    ]


def test_blank_lines_carriage_returns_and_colons(tmp_path):
    """Numbers of lines stay those of the file."""
    text = txt(line_12="train_infer_img_dir:C:/data/val.list").replace("##\ntrainer", "##\n\n  \ntrainer")
    found = read(tmp_path, text.replace("\n", "\r\n"))
    assert found.value(12) == "C:/data/val.list" and found.lines[15].number == 17
    with pytest.raises(TxtError, match=r"x\.txt:18: expected 'name:command'"):
        read(tmp_path, text.replace("norm_train:tools", "norm train:tools"))


def test_unknown_sections_are_kept(tmp_path):
    found = read(tmp_path, txt(tail="=====infer_benchmark_params=====\nrandom_infer_input:[{float32,[3,8,8]}]\n"))
    assert found.section("infer_benchmark_params")[0].value == "[{float32,[3,8,8]}]" and found.extras == {}
    assert found.command("compare") is None


REFUSED = [
    ({"line_1": "=====other_params====="}, "x.txt:1: expected the header '===train_params==='"),
    ({"line_2": "name:fake"}, "x.txt:2: expected 'model_name:', got 'name:fake'"),
    ({"line_4": "gpu_list:a"}, "x.txt:4: 'a' is neither -1, nor cards such as 0,1, nor ip1,ip2;0,1"),
    ({"line_5": "device:cpu"}, "x.txt:5: expected a flag '--name:value' or 'null:null'"),
    ({"line_7": "--iters:20"}, "x.txt:7: expected mode=number|mode=number"),
    ({"line_9": "--batch_size:lite_train_lite_infer=two"}, "x.txt:9: expected mode=number|mode=number"),
    ({"line_7": "--iters:lite_train=20"}, "x.txt:7: expected mode=number|mode=number"),
    ({"line_14": "#"}, "x.txt:14: expected the spacer '##', got '#'"),
    ({"line_15": "trainer:norm_train|fast_train"}, "x.txt:15: no trainer 'fast_train' (there are: norm_train"),
    ({"line_16": "norm_train:"}, "x.txt:16: 'norm_train' is empty; write null to leave the step out"),
    ({"line_23": "##"}, "x.txt:23: expected the header '===eval_params==='"),
    ({"line_24": "eval:"}, "x.txt:24: 'eval' is empty"),
    ({"line_30": "export:null"}, "x.txt:30: expected 'norm_export:'"),
    ({"line_36": "infer:down"}, "x.txt:36: expected a header or 'inference_dir:<name>', got 'infer:down'"),
    ({"line_37": "infer_model:a|b"}, "x.txt:37: lines 37, 38 and 39 are paired but list [2, 1, 1] items"),
    ({"line_39": "infer_quant:no"}, "x.txt:39: 'no' is none of True, False"),
    ({"line_41": "--device:npu"}, "x.txt:41: 'npu' is none of cpu, gpu, True, False"),
    ({"tail": "stray:1\n"}, "x.txt:53: after line 52 only sections with a header follow"),
    ({"tail": "==train_benchmark_params==\nbatch_size:2\nepoch:4\n"}, "x.txt:55: expected 'fp_items:'"),
    (
        {"tail": "==train_benchmark_params==\nbatch_size:2\n"},
        "the section train_benchmark_params ends before 'fp_items:'",
    ),
    ({"tail": "==a==\nlog_iters:1;warm:2\n"}, "x.txt:54: unknown 'warm' (known: log_iters, repeats, skip_iters, task)"),
    ({"line_5": "Global.use_gpu:True"}, "x.txt: a txt of PaddleClas or PaddleOCR; only PaddleSeg's dialect is read"),
    ({"line_5": "use_gpu:True"}, "x.txt: a txt of PaddleDetection; only PaddleSeg's dialect is read"),
    ({"line_5": "##"}, "x.txt: a txt of Paddle3D or PaddleGAN; only PaddleSeg's dialect is read"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[m[:40] for _, m in REFUSED])
def test_refusals_are_one_line_with_its_number(changes, message, tmp_path):
    with pytest.raises(TxtError) as caught:
        read(tmp_path, txt(**changes))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_ends_too_soon(tmp_path):
    with pytest.raises(TxtError, match=r"x\.txt:30: the file ends here; line 31 should be 'quant_export'"):
        read(tmp_path, "\n".join(txt().split("\n")[:30]))
    with pytest.raises(TxtError, match="the file is empty"):
        read(tmp_path, "\n\n")


def test_a_mode_without_length(tmp_path):
    found = read(tmp_path, txt(line_7="--iters:lite_train_lite_infer=4"))
    assert found.modes()[0] == "lite_train_lite_infer" and "whole_train_whole_infer" not in found.modes()
    with pytest.raises(TxtError, match=r"x\.txt:7: '--iters' has no value for whole_train_whole_infer"):
        found.by_mode(7, "whole_train_whole_infer")


def test_sections_of_dy2static(tmp_path):
    section = "\n".join(["=== base_train ===", *txt().split("\n")[1:21], "##"])
    file = tmp_path / "train_dy2static_python.txt"
    file.write_text(section + "\n" + section.replace("base", "other") + "\n")
    assert list(recipe.read_sections(file)) == ["base_train", "other_train"]
    assert recipe.describe(file) == ("fake", ["dy2static"])
    file.write_text(section + "\n" + section + "\n")
    with pytest.raises(TxtError, match="section names are one word each, and differ; got 'base_train'"):
        recipe.read_sections(file)
    file.write_text("\n".join(section.split("\n")[:20]))
    with pytest.raises(TxtError, match="section 'base_train' has 20 lines, expected 22"):
        recipe.read_sections(file)


def test_what_upstream_reads_otherwise(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "x.txt"
    file.write_bytes(txt(line_12="train_infer_img_dir:C:/x", line_48="--image_path:*.txt").encode())
    assert recipe.quirks("x.txt") == [
        "x.txt:12: a second colon; upstream reads 'C'",
        "x.txt:48: '*.txt' is a wildcard that matches files here",
    ]
    file.write_bytes(txt().replace("python:python\n", "python:python\r\n").encode())
    assert recipe.quirks("x.txt") == ["x.txt:3: a carriage return, which upstream keeps in the value"]


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("test_tipc/configs/*/*.txt")), ids=lambda p: f"{p.parent.name}/{p.name}"
)
def test_our_own_files_mean_the_same_to_both(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert recipe.quirks(path) == []
    name, modes = recipe.describe(path)
    assert name == path.parent.name and modes
