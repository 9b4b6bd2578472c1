import numpy as np

from ppvision.models.network import Input
from ppvision.predict.nets import filled

SPECS = {
    "image": Input((4, 3, "H", "W")),
    "points": Input(("P", 3), kind="points"),
    "offsets": Input((5,), "int64", "offsets"),
    "size": Input((2,), "int32", "size"),
}


def test_a_fixed_batch_is_filled_with_the_last_sample():
    given = {
        "image": np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2),
        "points": np.arange(12.0).reshape(4, 3),
        "offsets": np.array([0, 3, 4]),
        "size": np.array([7, 9], np.int32),
    }
    found = filled(given, 4, SPECS)
    np.testing.assert_array_equal(found["image"], given["image"][[0, 1, 1, 1]])
    assert found["offsets"].tolist() == [0, 3, 4, 4, 4]  # the added samples have no points
    assert found["points"] is given["points"] and found["size"].tolist() == [7, 9]
    assert len(given["image"]) == 2
