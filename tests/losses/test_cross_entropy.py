"""Cross entropy against the framework's, and its denominators."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from ppvision.errors import UserError
from ppvision.losses.cross_entropy import CrossEntropy


def alone(loss, logits, label):
    """The loss of a micro-batch that is the whole batch."""
    batch = {"label": label if isinstance(label, paddle.Tensor) else paddle.to_tensor(label)}
    return loss(logits, {**batch, "normaliser": loss.normaliser(batch)})


def pixels(rng, ignored=0.3):
    logits = paddle.to_tensor(rng.standard_normal((2, 5, 6, 7)).astype("float32"))
    label = rng.integers(0, 5, (2, 6, 7)).astype("uint8")
    label[rng.random(label.shape) < ignored] = 255
    return logits, label


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_the_framework(smoothing):
    rng = np.random.default_rng(0)
    logits, label = pixels(rng)
    ours = alone(CrossEntropy(label_smoothing=smoothing), logits, label)
    keep = paddle.to_tensor((label != 255).reshape(-1))
    flat, target = (
        logits.transpose([0, 2, 3, 1]).reshape([-1, 5])[keep],
        paddle.to_tensor(label.reshape(-1).astype("int64"))[keep],
    )
    theirs = (
        F.cross_entropy(flat, target, label_smoothing=smoothing)
        if not smoothing
        else F.cross_entropy(flat, F.label_smooth(F.one_hot(target, 5), epsilon=smoothing), soft_label=True)
    )
    np.testing.assert_allclose(ours.item(), theirs.item(), rtol=1e-5)


def test_class_labels_and_weights():
    rng = np.random.default_rng(1)
    logits, label = paddle.to_tensor(rng.standard_normal((4, 3)).astype("float32")), paddle.to_tensor([0, 2, 1, 2])
    weights = [1.0, 2.0, 0.5]
    each = F.cross_entropy(logits, label, reduction="none").numpy().reshape(-1)
    expected = (each * np.array([1.0, 0.5, 2.0, 0.5])).mean()
    np.testing.assert_allclose(alone(CrossEntropy(class_weights=weights), logits, label).item(), expected, rtol=1e-5)


def test_all_ignored_is_zero_with_zero_gradient():
    logits, label = pixels(np.random.default_rng(2), ignored=1.1)
    logits.stop_gradient = False
    loss = alone(CrossEntropy(), logits, label)
    loss.backward()
    assert loss.item() == 0.0
    assert float(logits.grad.abs().max()) == 0.0


def test_a_shared_denominator_makes_unequal_halves_equal_the_whole():
    rng = np.random.default_rng(3)
    logits, label = pixels(rng)
    label[1, 2:] = 255  # the second half has far fewer labels
    loss = CrossEntropy()
    whole = alone(loss, logits, label).item()
    halves = [{"label": paddle.to_tensor(label[i : i + 1])} for i in range(2)]
    mean = sum(loss.normaliser(h)["labels"] for h in halves) / 2
    parts = [loss(logits[i : i + 1], {**h, "normaliser": {"labels": mean}}).item() for i, h in enumerate(halves)]
    np.testing.assert_allclose(np.mean(parts), whole, rtol=1e-6)
    naive = np.mean([alone(loss, logits[i : i + 1], label[i : i + 1]).item() for i in range(2)])
    assert abs(naive - whole) > 1e-3  # so the check above can fail


def test_bad_smoothing_is_refused():
    with pytest.raises(UserError, match="label_smoothing"):
        CrossEntropy(label_smoothing=1.0)


@pytest.mark.parametrize(
    ("kwargs", "key"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"label_smoothing": float("nan")}, "label_smoothing"),
        ({"class_weights": []}, "class_weights"),
        ({"class_weights": [0.0, 0.0]}, "class_weights"),
        ({"class_weights": [1.0, float("inf")]}, "class_weights"),
        ({"class_weights": [1.0, -1.0]}, "class_weights"),
        ({"ignore_index": 2**40}, "ignore_index"),
    ],
)
def test_an_argument_that_cannot_be_is_named(kwargs, key):
    from ppvision.errors import ArgumentError

    with pytest.raises(ArgumentError) as caught:
        CrossEntropy(**kwargs)
    assert caught.value.key == key
