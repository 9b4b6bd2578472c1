"""Which evaluation was the best, and when a run gives up."""

import json

import pytest

from ppvision.engine.best import Best
from ppvision.errors import UserError


def seen(best, *values, first=1):
    """Whether each of these values, of evaluations at steps first, first + 1, …, was the best so far."""
    return [best.update({"mIoU": value, "Acc": -value}, first + i) for i, value in enumerate(values)]


def test_only_a_better_one_replaces_the_best():
    best = Best("mIoU")
    assert best.step is None
    assert seen(best, 0.5, 0.9, 0.7, 0.9) == [True, True, False, False]  # an equal one is no gain
    assert (best.step, best.without_gain) == (2, 2)
    assert best.found == {"name": "mIoU", "value": 0.9, "step": 2, "figures": {"mIoU": 0.9, "Acc": -0.9}}
    assert best.line() == "[EVAL] The model with the best validation mIoU (0.9000) was saved at iter 2."


def test_the_smallest_may_be_the_best_and_the_first_metric_decides_by_default():
    assert seen(Best(mode="min"), 0.5, 0.3, 0.7, 0.2) == [True, True, False, True]
    assert seen(Best("Acc"), 0.5, 0.3, 0.7) == [True, True, False]


def test_patience_counts_evaluations_without_gain():
    best = Best(patience=2)
    for value, tired in ((0.5, False), (0.4, False), (0.6, False), (0.6, False), (0.1, True)):
        best.update({"mIoU": value}, 1)
        assert best.exhausted == tired
    for never in (None, 0):
        best = Best(patience=never)
        seen(best, 0.5, 0.4, 0.3, 0.2)
        assert not best.exhausted


def test_a_state_continues():
    best = Best(patience=2)
    seen(best, 0.9, 0.5)
    again = Best(patience=2)
    again.load(json.loads(json.dumps(best.state())))
    assert seen(again, 0.7, first=3) == [False]
    assert (again.step, again.exhausted) == (1, True)


def test_a_model_that_is_gone_is_beaten_by_anything():
    best = Best()
    seen(best, 0.9)
    best.forget()
    assert seen(best, 0.1, first=2) == [True] and best.step == 2


def test_a_metric_that_the_data_do_not_give():
    with pytest.raises(UserError, match="x.yml:3: the validation data give no 'AP_small', only mIoU, Acc"):
        seen(Best("AP_small", where="x.yml:3"), 0.5)
