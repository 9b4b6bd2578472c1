"""Inputs of networks: examples of every kind, the batch that a graph fixes, the names in a graph."""

import numpy as np
import pytest
from paddle import nn

from ppvision.models.inputs import IMAGE, VALID, Input, example_of, fixed_batch, graph_name
from ppvision.models.network import Network, inputs_of

POINTS = {"points": Input(("P", 3), kind="points"), "offsets": Input(("B+1",), "int64", "offsets")}


def test_an_example_of_every_kind():
    kinds = {
        "image": IMAGE,
        "valid": VALID,
        **POINTS,
        "size": Input((2,), "int32", "size"),
        "code": Input(("B", 5), "float32", "vector"),
        "other": Input(("B", "M", 2), "float64", "vector"),
    }
    found = example_of(kinds, 3, (20, 28), np.random.default_rng(0))
    assert {name: (array.shape, array.dtype.name) for name, array in found.items()} == {
        "valid": ((3, 20, 28), "bool"),
        "points": ((48, 3), "float32"),
        "offsets": ((4,), "int64"),
        "size": ((2,), "int32"),
        "code": ((3, 5), "float32"),
        "other": ((3, 16, 2), "float64"),
    }
    assert found["valid"].all() and found["size"].tolist() == [20, 28] and found["code"].std() > 0.5
    # no two samples have as many rows, and all rows belong to one
    lengths = np.diff(found["offsets"])
    assert len({*lengths.tolist()}) == 3 and lengths.min() > 0 and found["offsets"][[0, -1]].tolist() == [0, 48]


@pytest.mark.parametrize(
    ("inputs", "batch"),
    [
        ({"image": IMAGE, "size": Input((2,), "int32", "size")}, None),
        ({"image": Input((4, 3, "H", "W")), "size": Input((2,), "int32", "size")}, 4),
        (POINTS, None),
        ({"points": Input((90, 3), kind="points"), "offsets": Input((6,), "int64", "offsets")}, 5),
        ({"code": Input((7, 5), kind="vector")}, 7),
    ],
)
def test_the_fixed_batch(inputs, batch):
    assert fixed_batch(inputs) == batch


def test_layers_of_other_packages_take_a_picture():
    class Masked(nn.Layer):
        def forward(self, x, valid=None):
            return x

    assert inputs_of(nn.Conv2D(3, 4, 1)) == {"image": IMAGE}
    assert inputs_of(Masked()) == {"image": IMAGE, "valid": VALID}
    assert inputs_of(Network()) == {"image": IMAGE}
    assert [graph_name(name) for name in ("image", "valid", "crop_ref")] == ["x", "valid", "crop_ref"]
