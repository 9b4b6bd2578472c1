"""Recording a range of steps."""

import json

import paddle
import pytest
from recipes import recipe, records

from ppvision.config import parse_profiler
from ppvision.engine import train
from ppvision.engine.profiler import StepProfiler


def step(profiler):
    (paddle.ones([4, 4]) @ paddle.ones([4, 4])).sum()
    return profiler.step(2)


def test_says_when_the_range_is_over(capsys):
    profiler = StepProfiler(parse_profiler("batch_range=[1,3];state=CPU"))
    assert [step(profiler) for _ in range(3)] == [False, False, True]
    assert "ips" in capsys.readouterr().out
    assert step(profiler) is False  # closed


def test_may_let_the_run_go_on(capsys):
    profiler = StepProfiler(parse_profiler("batch_range=[1,2];state=CPU;exit_on_finished=false"))
    assert [step(profiler) for _ in range(4)] == [False] * 4
    assert capsys.readouterr().out.count("ips") == 1


@pytest.mark.parametrize("key", ["calls", "max", "ave"])
def test_writes_a_trace_and_a_table(tmp_path, capsys, key):
    path = tmp_path / "deep/trace.json"
    options = f"batch_range=[0,2];state=CPU;timer_only=false;sorted_key={key};profile_path={path}"
    profiler = StepProfiler(parse_profiler(options))
    while not step(profiler):
        pass
    assert json.loads(path.read_text())["traceEvents"]
    assert "Operator Summary" in capsys.readouterr().out


def test_closing_twice_is_no_fault():
    profiler = StepProfiler(parse_profiler("state=CPU"))
    profiler.close()
    profiler.close()


def test_ends_the_run_when_it_is_over(tmp_path, capsys):
    trace, run = tmp_path / "trace.json", tmp_path / "run"
    options = f"batch_range=[2,4];state=CPU;timer_only=False;profile_path={trace}"
    path = recipe(tmp_path, train={"iters": 50}, log={"interval": 1})
    train(path, [f"train.save_dir={run}", f"train.profiler='{options}'"])
    assert [r["step"] for r in records(run)] == [1, 2, 3] and trace.stat().st_size > 1000
    assert "ips" in capsys.readouterr().out
