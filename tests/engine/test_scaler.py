"""The loss scale: halved on overflow, doubled after enough clean steps, never below 1."""

from ppvision.engine.scaler import LossScaler


def after(scaler, overflows):
    """Scale after each of these steps."""
    scales = []
    for overflow in overflows:
        scaler.after(overflow)
        scales.append(scaler.scale)
    return scales


def test_an_overflow_halves_and_the_count_of_clean_steps_starts_anew():
    scaler = LossScaler(16.0, enabled=True, growth_interval=3)
    assert after(scaler, [False, False, True]) == [16.0, 16.0, 8.0]
    assert scaler.clean == 0
    assert after(scaler, [False, False, False, False]) == [8.0, 8.0, 16.0, 16.0]
    assert scaler.clean == 1


def test_the_scale_does_not_fall_below_one():
    assert after(LossScaler(3.0, enabled=True), [True, True, True]) == [1.5, 1.0, 1.0]


def test_without_a_scale_nothing_grows():
    scaler = LossScaler(1.0, enabled=False, growth_interval=2)
    assert after(scaler, [False] * 5) == [1.0] * 5
