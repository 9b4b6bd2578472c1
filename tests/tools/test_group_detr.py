"""What the Group DETR experiment computes itself: suppression of duplicates, figures at equal time, verdicts."""

from __future__ import annotations

import numpy as np
import pytest

from ppvision.predict.results import Boxes
from tools.experiments import FAIL, PASS, UNRESOLVED, Settings
from tools.experiments import group_detr as experiment


def runs(*curves, seconds=(10.0, 20.0, 30.0, 40.0, 50.0, 60.0)):
    """One run per curve of six values of AP."""
    return [{"AP": list(c), "AP50": [0.5] * 6, "AP_nms": list(c), "seconds": list(seconds)} for c in curves]


def test_duplicates_of_a_class_go_and_others_stay():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10], [20, 20, 30, 30]], "float32")
    result = Boxes("x.png", boxes, np.array([0.5, 0.9, 0.4, 0.1]), np.array([1, 1, 2, 1]), ["a", "b", "c"])
    kept = experiment.without_duplicates(result)
    assert kept.scores.tolist() == [0.9, 0.4, 0.1] and kept.classes.tolist() == [1, 2, 1]


def test_a_figure_between_two_evaluations():
    (run,) = runs([0.1, 0.3, 0.4, 0.5, 0.6, 0.7])
    assert experiment.at_time([run, run], [15.0, 5.0]) == pytest.approx([20.0, 5.0])


GOOD = [0.02, 0.10, 0.15, 0.20, 0.22, 0.25]


@pytest.mark.parametrize(
    ("one", "four", "more", "verdict"),
    [
        (0.03, 0.0, 0.03, PASS),  # four groups lead by 3 AP, of both
        (0.03, 0.0, 0.0, UNRESOLVED),  # as many queries do as well
        (0.005, 0.0, 0.03, UNRESOLVED),  # a lead below 1 AP
        (-0.03, 0.0, 0.03, FAIL),
    ],
)
def test_verdicts(monkeypatch, one, four, more, verdict):
    spread = (-0.001, 0.0, 0.001)
    arms = {
        arm: runs(*(np.array(GOOD) - lead + s for s in spread))
        for arm, lead in (("A0", one), ("A1", four), ("A2", more))
    }
    monkeypatch.setattr(experiment, "trained", lambda names, settings: {name: arms[name] for name in names})
    outcome = experiment.convergence(Settings((0, 1, 2)))
    assert outcome.verdict == verdict
    assert outcome.metrics["arms"]["A0"]["AP"][1]["mean"] == pytest.approx(100 * (GOOD[1] - one))


def test_too_hard_a_task_decides_nothing(monkeypatch):
    arms = {arm: [{**run, "AP50": [0.01] * 6} for run in runs(GOOD, GOOD)] for arm in ("A0", "A1", "A2")}
    monkeypatch.setattr(experiment, "trained", lambda names, settings: arms)
    outcome = experiment.convergence(Settings((0, 1)))
    assert outcome.verdict == UNRESOLVED and "too hard" in outcome.reason


def test_the_arms_are_what_the_specification_says():
    groups = {arm: spec["method"].get("groups") for arm, spec in experiment.ARMS.items()}
    assert groups == {"A0": 1, "A1": 4, "A2": 1, "A3": 1, "A4": 4, "A5": 1, "A6": 4}
    assert [experiment.network(arm).num_queries for arm in ("A0", "A1", "A2", "A3")] == [20, 20, 80, 80]
