"""The validation loss as a metric."""

from __future__ import annotations

import math

import pytest

from ppvision.metrics.loss import ValidationLoss


def test_is_the_mean_over_images_however_they_are_spread():
    rows = [{"a": 0.5, "b": 1.0}, {"a": 0.25, "b": 0.0}, {"a": 2.0, "b": 0.25}]
    whole, first, second = (ValidationLoss() for _ in range(3))
    whole.update(rows, [{}] * 3)
    first.update(rows[:2], [{}] * 2)
    second.update(rows[2:], [{}])
    assert whole.compute() == {"loss": pytest.approx(4.0 / 3)}
    joined = ValidationLoss()
    joined.load(whole.merge([first.state(), second.state(), ValidationLoss().state()]))
    assert joined.compute() == whole.compute()


def test_nothing_judged_is_no_number():
    assert math.isnan(ValidationLoss().compute()["loss"])
