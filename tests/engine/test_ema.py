"""The average of what is deployed: its formula, what it covers, that it can be put on and taken off."""

import numpy as np
import paddle
import pytest
from paddle import nn
from toys import Segmenter, batch_of, build_toy, weights_of

from ppvision.engine.ema import EMA


def test_follows_the_formula():
    layer = nn.Linear(2, 2)
    ema = EMA({"model": layer}, 0.5)
    expected = layer.weight.numpy().astype("float64")
    for n in range(6):
        layer.weight.set_value(layer.weight + 1.0)
        ema.update()
        decay = min(0.5, (1 + n) / (10 + n))  # the start counts little
        expected = expected * decay + layer.weight.numpy() * (1 - decay)
    np.testing.assert_allclose(ema.state()["model.weight"], expected, rtol=1e-6)
    assert ema.updates == 6


def test_integers_follow_the_weights():
    layer = nn.Linear(2, 2)
    layer.register_buffer("count", paddle.to_tensor([1], dtype="int64"))
    ema = EMA({"model": layer}, 0.9)
    layer.count.set_value(paddle.to_tensor([7], dtype="int64"))
    ema.update()
    assert ema.state()["model.count"].tolist() == [7]


def test_statistics_are_averaged_like_weights():
    net = Segmenter()
    ema = EMA({"model": net}, 0.9)
    net.block[1]._mean.set_value(paddle.full([8], 10.0))
    ema.update()
    np.testing.assert_allclose(ema.state()["model.block.1._mean"], 9.0, rtol=1e-6)  # decay 1 / 10 at the first


def test_is_applied_inside_and_taken_off_even_after_an_error():
    layer = nn.Linear(2, 2)
    ema = EMA({"model": layer}, 0.5)
    start = layer.weight.numpy().copy()
    layer.weight.set_value(layer.weight + 1.0)
    with pytest.raises(ZeroDivisionError), ema.applied():
        np.testing.assert_array_equal(layer.weight.numpy(), start)
        _ = 1 / 0
    np.testing.assert_array_equal(layer.weight.numpy(), start + 1.0)


def test_a_state_continues():
    layers = [nn.Linear(2, 2), nn.Linear(2, 2)]
    layers[1].set_state_dict(layers[0].state_dict())
    emas = [EMA({"model": layer}, 0.9) for layer in layers]

    def grow(i, n):
        for _ in range(n):
            layers[i].weight.set_value(layers[i].weight * 1.5)
            emas[i].update()

    grow(0, 5)
    grow(1, 3)
    resumed = EMA({"model": layers[1]}, 0.9)
    resumed.load(emas[1].state(), emas[1].updates)
    emas[1] = resumed
    grow(1, 2)
    np.testing.assert_array_equal(emas[0].state()["model.weight"], emas[1].state()["model.weight"])


def test_what_is_evaluated_and_saved_is_the_average():
    trainer = build_toy("supervised", ema=0.5)
    for i in range(4):
        trainer.update([batch_of(i)])
    raw = weights_of(trainer)
    with trainer.evaluating() as nets:
        held = {k: np.array(v.numpy()) for k, v in nets["model"].state_dict().items()}
    assert not np.array_equal(held["block.1._mean"], raw["model.block.1._mean"])
    saved = trainer.files()["model.pdparams"]
    for key, value in held.items():
        np.testing.assert_array_equal(saved[key].numpy(), value)
    for key, value in weights_of(trainer).items():
        np.testing.assert_array_equal(value, raw[key])
