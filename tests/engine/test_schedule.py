"""Learning rates: closed forms, and Paddle's own schedulers as published recipes use them."""

import math

import paddle
import pytest

from ppvision.engine.schedule import Constant, Cosine, Poly, Step
from ppvision.errors import ArgumentError


def test_poly_with_warmup_equals_the_schedulers_published_recipes_use():
    ours = Poly(4e-4, 1000, power=1.0, end_lr=1e-6, warmup_iters=100, warmup_start_lr=1e-6)
    inner = paddle.optimizer.lr.PolynomialDecay(4e-4, decay_steps=900, power=1.0, end_lr=1e-6)
    theirs = paddle.optimizer.lr.LinearWarmup(inner, warmup_steps=100, start_lr=1e-6, end_lr=4e-4)
    for step in range(1000):
        assert math.isclose(ours(step), theirs.get_lr(), rel_tol=1e-9), step
        theirs.step()


def test_cosine_ends_where_it_should():
    rate = Cosine(1.0, 100, end_lr=0.1)
    assert (rate(0), rate(50), rate(100), rate(200)) == pytest.approx((1.0, 0.55, 0.1, 0.1))


def test_step_drops_at_milestones_and_shares_scale_with_the_run():
    rate = Step(1.0, 100, milestones=[30, 60], warmup_iters=10)
    assert [rate(s) for s in (5, 29, 30, 60)] == pytest.approx([0.5, 1.0, 0.1, 0.01])
    shares = Step(1.0, 200, milestones=[0.3, 0.6])
    assert [shares(s) for s in (59, 60, 120)] == pytest.approx([1.0, 0.1, 0.01])


def test_constant():
    assert Constant(0.3, 10)(7) == 0.3


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: Poly(-1.0, 10), "lr"),
        (lambda: Poly(1.0, 0), "total"),
        (lambda: Poly(1.0, 10, power=-1.0), "power"),
        (lambda: Poly(1.0, 10, end_lr=2.0), "end_lr"),
        (lambda: Cosine(1.0, 10, end_lr=-1.0), "end_lr"),
        (lambda: Constant(1.0, 10, warmup_iters=-1), "warmup_iters"),
        (lambda: Constant(1.0, 10, warmup_start_lr=2.0), "warmup_start_lr"),
        (lambda: Step(1.0, 10, milestones=[5, 3]), "milestones"),
        (lambda: Step(1.0, 10, milestones=[3, 3]), "milestones"),
        (lambda: Step(1.0, 10, milestones=[0.5, 3]), "milestones"),
        (lambda: Step(1.0, 10, milestones=[]), "milestones"),
        (lambda: Step(1.0, 10, milestones=[3], gamma=0.0), "gamma"),
    ],
)
def test_nonsense_is_refused(make, key):
    with pytest.raises(ArgumentError) as caught:
        make()
    assert caught.value.key == key
