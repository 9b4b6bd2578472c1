"""Normalisation on the device: statistics, zero outside `valid`, float images left alone."""

from __future__ import annotations

import numpy as np
import paddle

from ppvision.data.batch import to_device
from ppvision.methods.base import normalise

MEAN, STD = (120.0, 110.0, 100.0), (58.0, 57.0, 56.0)


def batch(valid=None, value=None):
    image = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    if value is not None:
        image[:] = value
    return to_device({"image": image, **({} if valid is None else {"valid": valid})})


def test_statistics_by_channel_and_layout():
    given = batch()
    out = normalise(given, MEAN, STD)["image"]
    assert out.dtype == paddle.float32 and out.shape == [2, 3, 4, 5]
    expected = (given["image"].numpy().astype(np.float64) - MEAN) / STD
    np.testing.assert_allclose(out.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-6)


def test_zero_outside_valid_after_the_statistics():
    valid = np.ones((2, 4, 5), bool)
    valid[0, 3:], valid[1, :, 2:] = False, False
    out = normalise(batch(valid, value=0), MEAN, STD)["image"].numpy()
    inside = np.broadcast_to(valid[:, None], out.shape)
    assert not out[~inside].any()  # black would be -mean / std, about -2
    assert (out[inside] < -1.5).all()


def test_without_valid_every_pixel_counts():
    assert (normalise(batch(value=0), MEAN, STD)["image"].numpy() < -1.5).all()


def test_only_uint8_is_normalised():
    given = {"image": paddle.ones([1, 3, 4, 4]), "valid": paddle.zeros([1, 4, 4], "bool")}
    assert normalise(given, MEAN, STD)["image"] is given["image"]


def test_the_given_batch_is_not_changed():
    given = {**batch(np.zeros((2, 4, 5), bool)), "name": ["a", "b"]}
    before = given["image"].numpy()
    out = normalise(given, MEAN, STD)
    assert given["image"].dtype == paddle.uint8 and np.array_equal(given["image"].numpy(), before)
    assert out["name"] is given["name"] and out["valid"] is given["valid"]


def test_to_device_moves_numbers_only():
    given = {"index": np.arange(2), "name": ["a", "b"], "objects": np.array([{}, {}], object), "target": [{}, {}]}
    moved = to_device(given)
    assert isinstance(moved["index"], paddle.Tensor) and moved["index"].numpy().tolist() == [0, 1]
    assert all(moved[key] is given[key] for key in ("name", "objects", "target"))


def test_moving_batches_leaks_no_objects():
    """Paddle's constructors leak a list per call: over a day of training that is gigabytes."""
    import gc

    batch = {
        "image": np.zeros((1, 4, 4, 3), "uint8"),
        "valid": np.ones((1, 4, 4), bool),
        "boxes": np.zeros((0, 4), "float32"),
    }
    normalise(to_device(batch), (1.0, 2.0, 3.0), (1.0, 1.0, 1.0))
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(100):
        normalise(to_device(batch), (1.0, 2.0, 3.0), (1.0, 1.0, 1.0))
    gc.collect()
    assert len(gc.get_objects()) - before < 50
