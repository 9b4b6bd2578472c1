"""Confusion-matrix figures against a loop over pixels."""

from types import SimpleNamespace

import numpy as np
import pytest

from ppvision.errors import UserError
from ppvision.metrics import NAMES, MeanIoU
from ppvision.metrics.base import Metric


def images(num=5, num_classes=4, seed=0, absent=()):
    rng = np.random.default_rng(seed)
    allowed = [k for k in range(num_classes) if k not in absent]
    pairs = []
    for _ in range(num):
        shape = tuple(rng.integers(3, 9, 2))
        label = rng.choice(allowed, shape).astype(np.uint8)
        label[rng.random(shape) < 0.2] = 255
        predicted = np.where(rng.random(shape) < 0.6, np.where(label == 255, 0, label), rng.choice(allowed, shape))
        pairs.append((SimpleNamespace(labels=predicted.astype(np.uint8), name="x"), {"label": label}))
    return [r for r, _ in pairs], [t for _, t in pairs]


def slow_reference(results, targets, num_classes):
    counts = [[0, 0, 0] for _ in range(num_classes)]  # TP, FP, FN
    right = total = 0
    label_share, predicted_share = np.zeros(num_classes), np.zeros(num_classes)
    for result, target in zip(results, targets):
        for p, t in zip(result.labels.ravel().tolist(), target["label"].ravel().tolist()):
            if t == 255:
                continue
            total += 1
            label_share[t] += 1
            predicted_share[p] += 1
            if p == t:
                right += 1
                counts[t][0] += 1
            else:
                counts[p][1] += 1
                counts[t][2] += 1
    present = [c for c in counts if sum(c)]
    chance = float((label_share / total) @ (predicted_share / total))
    return {
        "mIoU": sum(tp / (tp + fp + fn) for tp, fp, fn in present) / len(present),
        "Acc": right / total,
        "Kappa": (right / total - chance) / (1 - chance),
        "Dice": sum(2 * tp / (2 * tp + fp + fn) for tp, fp, fn in present) / len(present),
    }


@pytest.mark.parametrize("absent", [(), (2,), (0, 3)])
def test_equals_a_loop_over_pixels(absent):
    results, targets = images(absent=absent)
    metric = MeanIoU(4)
    metric.update(results, targets)
    metrics = metric.compute()
    assert list(metrics) == ["mIoU", "Acc", "Kappa", "Dice"]
    assert metrics == pytest.approx(slow_reference(results, targets, 4), abs=1e-12)


def test_merging_does_not_depend_on_order_or_ranks():
    results, targets = images(7)
    whole = MeanIoU(4)
    whole.update(results, targets)
    ranks = []
    for order in ((6, 1, 3), (0, 5, 2, 4)):
        rank = MeanIoU(4)
        for i in order:
            rank.update([results[i]], [targets[i]])
        ranks.append(rank.state())
    merged = MeanIoU(4)
    merged.load({key: ranks[1][key] + ranks[0][key] for key in ranks[0]})
    assert merged.state()["matrix"].dtype == np.int64
    assert merged.compute() == whole.compute()


def test_state_and_loaded_state_are_copies():
    results, targets = images()
    metric, empty = MeanIoU(4), MeanIoU(4).state()
    metric.load(empty)
    metric.update(results, targets)
    assert not empty["matrix"].any()
    metric.state()["matrix"][:] = 0
    assert metric.matrix.any()


def test_a_class_that_is_only_predicted_counts_as_zero_and_an_absent_one_not_at_all():
    metric = MeanIoU(3)
    metric.update([SimpleNamespace(labels=np.array([[0, 0, 0, 1]]), name="")], [{"label": np.array([[0, 0, 0, 0]])}])
    assert metric.compute()["mIoU"] == pytest.approx((0.75 + 0.0) / 2)
    rows = metric.table()
    assert [row["class"] for row in rows] == ["0", "1", "2"]
    assert rows[1]["IoU"] == 0 and np.isnan(rows[2]["IoU"]) and rows[0]["Pixels"] == 4


def test_extremes():
    metric = MeanIoU(2, class_names=["a", "b"])
    assert set(metric.compute().values()) == {0.0}
    metric.update([SimpleNamespace(labels=np.zeros((2, 2)), name="")], [{"label": np.full((2, 2), 255)}])
    assert metric.compute()["mIoU"] == 0.0
    metric.update([SimpleNamespace(labels=np.zeros((2, 2)), name="")], [{"label": np.zeros((2, 2), np.uint8)}])
    assert metric.compute() == {"mIoU": 1.0, "Acc": 1.0, "Kappa": 1.0, "Dice": 1.0}


def test_counts_beyond_32_bits_stay_exact():
    metric = MeanIoU(2)
    metric.load({"matrix": np.array([[2**40 + 1, 1], [0, 2**40]])})
    assert metric.compute()["Acc"] == (2**41 + 1) / (2**41 + 2)


@pytest.mark.parametrize(
    "predicted, label, message",
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), "(2, 3)"),
        (np.full((2, 2), 4), np.zeros((2, 2)), "prediction holds class 4..4"),
        (np.zeros((2, 2)), np.full((2, 2), 7), "label holds class 7..7"),
        (np.full((2, 2), -1), np.zeros((2, 2)), "-1"),
    ],
)
def test_wrong_input_is_refused_by_name(predicted, label, message):
    with pytest.raises(UserError, match="street.png") as error:
        MeanIoU(4).update([SimpleNamespace(labels=predicted, name="street.png")], [{"label": label}])
    assert message in str(error.value)


def test_more_results_than_targets_and_wrong_names():
    with pytest.raises(UserError, match="2 results for 1 targets"):
        MeanIoU(4).update([None, None], [{}])
    with pytest.raises(UserError, match="2 class names for 4"):
        MeanIoU(4, class_names=["a", "b"])
    with pytest.raises(UserError, match="state is"):
        MeanIoU(4).load({"matrix": np.zeros((3, 3))})


def test_every_listed_metric_can_be_found_and_is_one():
    from ppvision.config import resolve

    assert all(issubclass(resolve("metric", name), Metric) for name in NAMES)


def test_where_nothing_is_ignored_every_label_counts():
    """`ignore_index` None, as a data set without such a mark says: 255 is then a class like any other, or a fault."""
    label = np.array([[0, 255], [1, 1]])
    metric = MeanIoU(256, ignore_index=None)
    metric.update([SimpleNamespace(labels=np.array([[0, 255], [1, 0]]), name="x")], [{"label": label}])
    assert metric.compute()["Acc"] == 0.75
    with pytest.raises(UserError, match=r"x: label holds class 0..255, expected 0..1$"):
        MeanIoU(2, ignore_index=None).update([SimpleNamespace(labels=label % 2, name="x")], [{"label": label}])
