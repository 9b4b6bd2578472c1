import numpy as np
import pytest
from paddle import nn

from ppvision.exporting.cases import calls, cases, profile
from ppvision.models.network import IMAGE, Input, Network
from ppvision.predict.tasks.base import Task


class First(Network):
    """A picture -> its sums over rows."""

    def inputs(self):
        return {"image": IMAGE, "crop_one": Input(("B", 3, "P", "Q"))}

    def forward(self, image, crop_one):
        return image.sum(2) * crop_one.shape[2]


class Second(Network):
    """Those, and a size."""

    def inputs(self):
        return {"sums": Input(("B", 3, "W"), kind="vector"), "size": Input((2,), "int32", "size")}

    def forward(self, sums, size):
        return sums * size[0].astype("float32")


class Both(Task):
    def inputs(self, batch):
        image = batch["image"].transpose(0, 3, 1, 2)
        return {"image": image, "crop_one": image[:, :, :2, :3], "size": np.array([5, 4], np.int32)}

    def run(self, nets, inputs):
        sums = nets["first"](image=inputs["image"], crop_one=inputs["crop_one"])
        nets["second"](sums=sums * 0, size=inputs["size"])  # only the first call counts
        return {"output": nets["second"](sums=sums, size=inputs["size"])}


NETS = {"first": First(), "second": Second()}


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    return [{"image": rng.integers(0, 255, (1, 6 + i, 9, 3), np.uint8)} for i in range(3)]


def test_a_part_is_called_with_what_the_one_before_it_gives(samples):
    found = calls(NETS, Both(), samples, ([10.0, 20.0, 30.0], [2.0, 4.0, 8.0]))
    assert [len(given) for given in found.values()] == [3, 3]
    for given, sample in zip(found["first"], samples):  # raw, not normalised
        np.testing.assert_array_equal(given["image"], sample["image"].transpose(0, 3, 1, 2))
    assert [given["sums"].shape for given in found["second"]] == [(1, 3, 9)] * 3
    assert all(not given["sums"].any() and given["size"].tolist() == [5, 4] for given in found["second"])


def test_a_single_network_is_not_run_for_that(samples):
    class Alone(Task):
        def run(self, nets, inputs):
            raise AssertionError

    found = calls({"model": nn.Identity()}, Alone(), samples, ([0.0] * 3, [1.0] * 3))
    assert [given["image"].shape for given in found["model"]] == [(1, 3, 6 + i, 9) for i in range(3)]


def test_pictures_with_sides_of_their_own(samples):
    given = calls(NETS, Both(), samples, ([0.0] * 3, [1.0] * 3))["first"]
    found = cases(NETS["first"], NETS["first"].inputs(), given, (40, 64))
    assert [case["x"].shape for case in found] == [(1, 3, 40, 64), (2, 3, 15, 41), (1, 3, 6, 9)]
    assert [case["crop_one"].shape for case in found] == [
        (1, 3, 33, 21),
        (2, 3, 21, 7),
        (1, 3, 2, 3),
    ]


def test_a_graph_without_pictures_has_two_sizes(samples):
    given = calls(NETS, Both(), samples, ([0.0] * 3, [1.0] * 3))["second"]
    found = cases(NETS["second"], NETS["second"].inputs(), given, (40, 64))
    assert [case["sums"].shape for case in found] == [(1, 3, 64), (2, 3, 41), (1, 3, 9)]
    assert [case["size"].tolist() for case in found] == [[40, 64], [15, 41], [5, 4]]
    fixed = {"sums": Input((2, 3, 8), kind="vector"), "size": Input((2,), "int32", "size")}
    assert len(cases(nn.Identity(), fixed, (), (40, 64))) == 1  # nothing is free


def test_the_profile_of_a_part(samples):
    given = calls(NETS, Both(), samples, ([0.0] * 3, [1.0] * 3))
    found = profile(NETS["first"].inputs(), given["first"])
    assert [found[bound]["x"] for bound in ("min", "opt", "max")] == [[1, 3, 6, 9], [1, 3, 7, 9], [1, 3, 8, 9]]
    assert found["max"]["crop_one"] == [1, 3, 2, 3]
    assert profile(NETS["second"].inputs(), given["second"])["opt"] == {"sums": [1, 3, 9], "size": [2]}
    assert profile(NETS["second"].inputs(), ()) is None


def test_sides_that_an_export_fixes_are_so_in_its_profile(samples):
    """The largest shapes are those of the samples, but for what the graph takes no other of."""
    inputs = {"image": Input((4, 3, "H", 10)), "valid": Input((4, "H", 10), "bool", "mask", optional=True)}
    found = profile(inputs, [{"image": sample["image"].transpose(0, 3, 1, 2)} for sample in samples])
    assert {bound: shapes["x"] for bound, shapes in found.items()} == {
        "min": [4, 3, 6, 10],
        "opt": [4, 3, 7, 10],
        "max": [4, 3, 8, 10],
    }
    assert found["max"]["valid"] == [4, 8, 10]
