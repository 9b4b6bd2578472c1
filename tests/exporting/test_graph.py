import pytest

from ppvision.errors import UserError
from ppvision.exporting.graph import resolved
from ppvision.models.network import IMAGE, VALID, Input

POINTS = {
    "points": Input(("P", 3), kind="points"),
    "offsets": Input(("B+1",), "int64", "offsets"),
    "code": Input(("B", 5), kind="vector"),
}


@pytest.mark.parametrize("shapes", [{"offsets": [5]}, {"code": [4, -1]}, {"code": [4, 5], "offsets": [-1]}])
def test_offsets_are_one_more_than_the_batch(shapes):
    found = resolved(POINTS, shapes)
    assert {name: spec.shape for name, spec in found.items()} == {"points": ("P", 3), "offsets": (5,), "code": (4, 5)}
    assert all(found[name].kind == spec.kind for name, spec in POINTS.items())


def test_a_letter_is_one_number_everywhere():
    found = resolved({"image": IMAGE, "valid": VALID}, {"x": [-1, 3, 40, -1]})
    assert found["image"].shape == ("B", 3, 40, "W") and found["valid"].shape == ("B", 40, "W")


def test_what_the_network_does_not_have():
    with pytest.raises(UserError, match=r"no input 'y' \(inputs: x, valid\)"):
        resolved({"image": IMAGE, "valid": VALID}, {"y": [1]})
    with pytest.raises(UserError, match=r"the shape of 'code' is \[B, 5\]"):
        resolved(POINTS, {"code": [4, 6]})
