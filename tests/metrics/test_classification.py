"""Top-k accuracy against sorting by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from ppvision.errors import UserError
from ppvision.metrics import TopK


def test_equals_sorting_by_hand_in_any_order():
    rng = np.random.default_rng(0)
    scores, labels = rng.random((50, 10)), rng.integers(0, 10, 50)
    results = [SimpleNamespace(scores=row) for row in scores]
    targets = [{"label": label} for label in labels]
    expected = {
        f"top{k}": np.mean(
            [label in sorted(range(10), key=lambda c: -row[c])[:k] for row, label in zip(scores, labels)]
        )
        for k in (1, 5)
    }
    whole, halves = TopK(10), [TopK(10), TopK(10)]
    whole.update(results, targets)
    for half, part in zip(halves, (slice(25, 50), slice(0, 25))):
        half.update(results[part], targets[part])
    merged = TopK(10)
    merged.load({key: halves[0].state()[key] + halves[1].state()[key] for key in halves[0].state()})
    assert whole.compute() == pytest.approx(expected)
    assert merged.compute() == whole.compute() and merged.table() == whole.table()
    assert sum(row["Images"] for row in whole.table()) == 50


def test_a_constant_network_is_not_right_everywhere():
    metric = TopK(4, ks=(1,))
    metric.update([SimpleNamespace(scores=np.zeros(4))] * 4, [{"label": c} for c in range(4)])
    assert metric.compute() == {"top1": 0.25}


def test_the_ignored_label_is_skipped_unless_it_is_a_class():
    metric = TopK(3)
    metric.update([SimpleNamespace(scores=np.zeros(3))], [{"label": 255}])
    assert metric.compute() == {"top1": 0.0, "top5": 0.0} and metric.images.sum() == 0
    many = TopK(1000)
    many.update([SimpleNamespace(scores=1.0 * (np.arange(1000) == 255))], [{"label": 255}])
    assert many.compute()["top1"] == 1.0


@pytest.mark.parametrize("scores, label", [(np.zeros(3), 3), (np.zeros(3), -1), (np.zeros(4), 0)])
def test_wrong_input_is_refused(scores, label):
    with pytest.raises(UserError, match="expected 0..2"):
        TopK(3).update([SimpleNamespace(scores=scores)], [{"label": label}])
