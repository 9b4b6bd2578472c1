import numpy as np
import pytest

from ppvision.data.collate import collate
from ppvision.errors import UserError
from ppvision.predict.tasks.base import Ending, Task, ending_of, image_inputs


class Last(Ending):
    parts = ("second",)


class Two(Task):
    endings = {"last": Last(), "any": Ending(), "none": Ending()}


@pytest.mark.parametrize(
    ("asked", "part", "name"),
    [(None, "second", "last"), (None, "first", "none"), ("last", "first", "none"), ("any", "first", "any")],
)
def test_an_ending_may_belong_to_one_part(asked, part, name):
    found, ending = ending_of(Two(), asked, part)
    assert found == name and (ending is Two.endings[name] or type(ending) is Ending)


def test_an_unknown_ending():
    with pytest.raises(UserError, match="no output_op 'lats' for Two; did you mean 'last'"):
        ending_of(Two(), "lats", "first")


def test_the_mask_of_the_image_is_not_that_of_a_crop():
    rng = np.random.default_rng(0)
    samples = [
        {"image": rng.integers(0, 255, (*side, 3), np.uint8), "crop_face": rng.integers(0, 255, (3, 2, 3), np.uint8)}
        for side in ((4, 6), (5, 3))
    ]
    batch = collate(samples)
    found = image_inputs(batch, (9.0, 8.0, 7.0))
    assert found["image"].dtype == np.float32 and found["valid"].sum() == 4 * 6 + 5 * 3
    assert found["image"][1, :, 0, 3].tolist() == [9.0, 8.0, 7.0]
    crops = image_inputs(batch, (9.0, 8.0, 7.0), "crop_face")
    assert list(crops) == ["crop_face"] and crops["crop_face"].dtype == np.uint8
    np.testing.assert_array_equal(crops["crop_face"][1], samples[1]["crop_face"].transpose(2, 0, 1))


def test_a_task_that_reads_nothing_back_says_so(tmp_path):
    with pytest.raises(UserError, match="Two cannot read its results back"):
        Two().restore(tmp_path, {})
