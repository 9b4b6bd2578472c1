"""Objects cut out of street scenes: the class is what the label map says in the middle, same seed gives same bytes."""

import numpy as np
import pytest

from ppvision.data.formats.imagefolder import ImageFolder
from ppvision.data.samples.synthetic import objects, street
from ppvision.errors import UserError


def test_the_class_is_that_of_the_object_in_the_middle():
    image, labels = street.render(np.random.default_rng(2), objects.SCENE, objects.THICKNESS)
    # The label map takes the place of one colour channel, so that each view carries its own labels.
    marked = np.dstack([image[..., :2], labels])
    found = list(objects.cut(marked, labels))
    assert {name for name, _ in found} >= {"car", "green"}
    for name, view in found:
        assert view.shape[0] == view.shape[1]
        assert (view[..., 2] == street.CLASSES[objects.CLASSES[name]]).sum() >= objects.LEAST


def test_a_larger_set_begins_with_the_smaller(tmp_path):
    objects.write(tmp_path / "small", 4, 2, (32, 48))
    objects.write(tmp_path / "large", 6, 4, (32, 48))
    small = {p.relative_to(tmp_path / "small"): p.read_bytes() for p in (tmp_path / "small").rglob("*.png")}
    large = {p.relative_to(tmp_path / "large"): p.read_bytes() for p in (tmp_path / "large").rglob("*.png")}
    assert len(small) == 6 and len(large) == 10 and small.items() <= large.items()
    dataset = ImageFolder(str(tmp_path / "small"), "val")
    assert dataset.class_names == sorted(objects.CLASSES) and len(dataset) == 2
    assert dataset[0]["image"].shape == (32, 48, 3)


def test_no_picture_without_pixels(tmp_path):
    with pytest.raises(UserError, match="pictures of 0x8 pixels cannot be drawn"):
        objects.write(tmp_path, 1, 1, (0, 8))
