"""k-NN accuracy: leave-one-out against a plain loop, states that add up, messages."""

from __future__ import annotations

import numpy as np
import pytest

from ppvision.errors import UserError
from ppvision.metrics.knn import Knn
from ppvision.predict.results import Features


def data(count: int = 60, classes: int = 3, noise: float = 0.7):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, count)
    rows = np.eye(8)[labels] + noise * rng.standard_normal([count, 8])
    return [Features(arrays={"cls": r.astype("f4"), "tokens": np.stack([r, r]).astype("f4")}) for r in rows], [
        {"label": int(v)} for v in labels
    ]


def by_loop(results, targets, k, temperature, classes=3):
    rows = np.array([r.arrays["cls"] / np.linalg.norm(r.arrays["cls"]) for r in results])
    labels, hits = [t["label"] for t in targets], 0
    for i in range(len(rows)):
        order = sorted((j for j in range(len(rows)) if j != i), key=lambda j: -float(rows[i] @ rows[j]))[:k]
        votes = np.zeros(classes)
        for j in order:
            votes[labels[j]] += np.exp(float(rows[i] @ rows[j]) / temperature)
        hits += votes.argmax() == labels[i]
    return hits / len(rows)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 1.0), (500, 0.5)])
def test_equals_a_plain_loop(k, temperature):
    results, targets = data()
    metric = Knn(3, k=k, temperature=temperature)
    metric.update(results[:20], targets[:20])
    metric.update(results[20:], targets[20:])
    expected = by_loop(results, targets, min(k, 59), temperature)
    assert metric.compute() == {"knn": pytest.approx(expected)} and 0.4 < expected < 1


def test_separated_classes_are_found_and_shuffled_labels_are_not():
    results, targets = data(noise=0.05)
    metric = Knn(3, k=5)
    metric.update(results, targets)
    assert metric.compute()["knn"] == 1.0
    metric = Knn(3, k=5)
    metric.update(results, [{"label": int(v)} for v in np.random.default_rng(1).integers(0, 3, len(results))])
    assert metric.compute()["knn"] < 0.6


def test_nobody_is_his_own_neighbour():
    metric = Knn(2, k=1)
    metric.update(
        [Features(arrays={"cls": v}) for v in (np.array([1.0, 0]), np.array([1.0, 0]))], [{"label": 0}, {"label": 1}]
    )
    assert metric.compute()["knn"] == 0.0


def test_states_of_several_processes_are_joined():
    results, targets = data()
    whole, parts = Knn(3), [Knn(3), Knn(3), Knn(3)]  # the third has no image
    whole.update(results, targets)
    for i, part in enumerate(parts[:2]):
        part.update(results[i::2], targets[i::2])
    merged = Knn(3)
    merged.load(merged.merge([part.state() for part in parts]))
    assert merged.compute() == whole.compute()
    merged.load(merged.merge([Knn(3).state()]))
    assert merged.compute() == {"knn": 0.0}


def test_tokens_are_averaged_and_a_table_is_given():
    results, targets = data()
    a, b = Knn(3, class_names=["x", "y", "z"]), Knn(3, feature="tokens")
    for metric in (a, b):
        metric.update(results, targets)
    assert a.compute() == b.compute()
    table = a.table()
    assert [row["class"] for row in table] == ["x", "y", "z"] and sum(row["Images"] for row in table) == 60
    assert sum(row["knn"] * row["Images"] for row in table) / 60 == pytest.approx(a.compute()["knn"])


def test_what_cannot_be_judged_is_said():
    results, targets = data(4)
    with pytest.raises(UserError, match="no feature 'cla'"):
        Knn(3, feature="cla").update(results, targets)
    with pytest.raises(UserError, match="label 3, expected 0..1"):
        Knn(2).update(results[:1], [{"label": 3}])
    with pytest.raises(UserError, match="'k' must be at least 1"):
        Knn(3, k=0)
    metric = Knn(3)
    metric.update(results[:1], [{"label": 255}])
    assert metric.compute() == {"knn": 0.0}
