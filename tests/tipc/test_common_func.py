"""The functions that PaddleSeg's own scripts expect in common_func.sh, and that ours do not lean on."""

import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "test_tipc"


def bash(code, tmp_path, mode="lite_train_lite_infer"):
    script = f"source {FOLDER}/common_func.sh; MODE={mode}; {code}"
    return subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "code, printed",
    [
        ("func_parser_key '--iters:a=1|b=2'", "--iters"),
        ("func_parser_value '--save_dir:'", ""),
        (
            "func_parser_value 'norm_train:tools/train.py --config a.yml --seed 100'",
            "tools/train.py --config a.yml --seed 100",
        ),
        ("func_parser_value 'a:b:c'", "b"),
        ("func_parser_value '=====train_params====='", ""),
        ("func_set_params --device cpu", "--device=cpu"),
        ("func_set_params null cpu", ""),
        ("func_set_params --device null", ""),
        ("func_set_params --device ''", ""),
        ("func_set_params --device ' '", ""),
        ("func_parser_params '--iters:lite_train_lite_infer=20|whole_train_whole_infer=1000'", "20"),
        ("func_parser_params '--iters:whole_train_whole_infer=1000'", ""),
        ("func_parser_params '--iters:20'", ""),
        ("contains a b c b", "y"),
        ("contains a b c d", "n"),
        ("parse_extra_args one 'log_iters:15;repeats:500'; echo ${extra_args[1]} ${#extra_args[@]}", "repeats:500 2"),
        ("add_suffix test_tipc/a.b/model.txt _x", "test_tipc/a.b/model_x.txt"),
    ],
)
def test_values(code, printed, tmp_path):
    assert bash(code, tmp_path).stdout.strip() == printed


@pytest.mark.parametrize("status, word", [(0, "successfully"), (7, "failed")])
def test_status_lines_are_shown_and_kept(status, word, tmp_path):
    done = bash(f"status_check {status} 'python a.py --b=1' results.log rtformer a.log", tmp_path)
    line = f"\x1b[33m Run {word} with command - rtformer - python a.py --b=1 - a.log  \x1b[0m\n"
    assert done.stdout == (tmp_path / "results.log").read_text() == line


def test_a_command_keeps_its_status_behind_its_log(tmp_path):
    done = bash("run_command 'echo said; exit 3' out.log; echo status $?", tmp_path)
    assert done.stdout == "said\nstatus 3\n" and (tmp_path / "out.log").read_text() == "said\n"
    assert bash("run_command 'echo said' ''", tmp_path).stdout == "said\n"


def test_our_scripts_do_without(tmp_path):
    """They work whoever's common_func.sh lies beside them."""
    scripts = [p for p in FOLDER.glob("*.sh") if p.name != "common_func.sh"]
    assert len(scripts) >= 5
    assert all("common_func" not in p.read_text() for p in scripts)
