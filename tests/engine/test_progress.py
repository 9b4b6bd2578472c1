"""Lines and means of a run: what is in them, when they come, that they go on after a restart."""

import json
from types import SimpleNamespace

import pytest

from ppvision.engine import distributed, progress
from ppvision.engine.progress import BadSamples, Length, Progress

LENGTH = Length(total=8, updates_per_epoch=3, save_interval=4, eval_interval=4)
LAZY = {3: {"r1/r1": 27.0}, 6: {"r1/r1": 54.0}}  # terms of a phase that runs at every third update
TERMS = [{"loss": float(i), "d/d": i / 2, "d/grad_norm": 10.0 + i, **LAZY.get(i, {})} for i in range(9)]


class Log:
    """Keeps what it is told."""

    def __init__(self):
        self.lines, self.epochs = [], []

    def train(self, *values):
        self.lines.append(values)

    def epoch(self, *values):
        self.epochs.append(values)


def trained(tracker, log, steps):
    """Update by update, as the loop does it; the rate is a tenth of the step."""
    tracker.start(steps[0] - 1)
    for step in steps:
        with tracker.reading():
            pass
        with tracker.updating():
            pass
        tracker.collect(TERMS[step])
        tracker.report(log, step, step / 10)


def without_times(lines):
    return [line[:6] for line in lines]


def test_lines_hold_the_means_since_the_last_one():
    log = Log()
    trained(Progress(LENGTH, 3, 4), log, range(1, 9))
    steps = [(step, epoch) for step, epoch, *_ in log.lines]
    assert steps == [(3, 1), (6, 2), (8, 3)]  # the last update has a line, wherever it comes
    _, _, loss, parts, lr, norm = log.lines[1][:6]
    assert (loss, lr, norm) == (5.0, 0.6, 15.0)
    assert parts == {"d/d": 2.5, "r1/r1": 54.0}  # the lazy phase ran in one of the three updates


def test_an_epoch_holds_the_means_of_the_updates_that_had_a_term():
    log = Log()
    trained(Progress(LENGTH, 100, 4), log, range(1, 9))
    assert log.epochs == [
        (1, 3, 2.0, {"d/d": 1.0, "r1/r1": 27.0}),
        (2, 3, 5.0, {"d/d": 2.5, "r1/r1": 54.0}),
        (3, 3, 7.5, {"d/d": 3.75}),
    ]


@pytest.mark.parametrize("stop", [2, 3, 4, 7])
def test_a_state_continues(stop):
    whole, log = Log(), Log()
    trained(Progress(LENGTH, 3, 4), whole, range(1, 9))
    first, second = Progress(LENGTH, 3, 4), Progress(LENGTH, 3, 4)
    trained(first, log, range(1, stop + 1))
    second.load(json.loads(json.dumps(first.state())))
    trained(second, log, range(stop + 1, 9))
    assert without_times(log.lines) == without_times(whole.lines) and log.epochs == whole.epochs


def test_a_state_with_one_count_for_all_terms_is_read():
    log, tracker = Log(), Progress(LENGTH, 100, 4)
    tracker.load({"pending": [], "epoch_sum": {"loss": 3.0, "main": 1.0}, "epoch_count": 2})
    tracker.collect({"loss": 6.0, "main": 2.0})
    tracker.report(log, 3, 0.1)
    assert log.epochs == [(1, 3, 3.0, {"main": 1.0})]


def test_cost_is_of_the_updates_since_the_last_line(monkeypatch):
    updates = [(0.0, 1.0), (1.0, 4.0), (50.0, 51.0), (51.0, 54.0)]  # read, update, and the same again much later
    ticks = iter([0.0, 0.0, *(tick for pair in updates for tick in pair), 60.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(ticks))
    log, tracker = Log(), Progress(LENGTH, 2, 4)
    trained(tracker, log, [1, 2])
    cost, eta = log.lines[0][6:]
    assert cost == {"batch_cost": 4.0, "reader_cost": 1.0, "ips": 1.0}  # evaluations between updates do not count here
    assert eta == 6 * 30.0  # but here: it is the clock's


def test_an_update_that_was_skipped_has_no_terms_and_a_line_without_any_is_left_out():
    log, tracker = Log(), Progress(LENGTH, 2, 4)
    for step in (1, 2):
        tracker.collect({})
        tracker.report(log, step, 0.1)
    assert log.lines == [] and tracker.pending == []


def test_bad_samples_of_each_rank_go_on(monkeypatch):
    loader = SimpleNamespace(bad={7: "torn", 2: "empty"})
    state = BadSamples(loader).state()
    assert state == {"bad": [[7, 2]]}
    state["bad"].append([5])
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    fresh = SimpleNamespace(bad={})
    BadSamples(fresh).load(state)
    assert list(fresh.bad) == [5]
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    other = SimpleNamespace(bad={})
    BadSamples(other).load(state)  # other ranks read other samples
    assert other.bad == {}
    BadSamples(other).load({})
    assert other.bad == {}
