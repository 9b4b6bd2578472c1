"""Which files predictions leave, also where a run stops in the middle; without a network."""

import json

import numpy as np
import pytest
from PIL import Image

from ppvision.errors import UserError
from ppvision.predict.results import Classes, Mask
from ppvision.predict.saving import save_results
from ppvision.predict.tasks.classification import ClassificationTask
from tests.exporting.samples import write_pictures


class Fake:
    """Gives image i the class i; stops before image `stop` with an error.

    Attributes:
        seen: whether `predictions.json` was there before each result.
    """

    task = ClassificationTask()

    def __init__(self, index, stop=None, error=None):
        self.index, self.stop, self.error, self.seen = index, stop, error, []

    def stream(self, images):
        for i, path in enumerate(images):
            self.seen.append(self.index.exists())
            if i == self.stop:
                raise self.error
            yield i, Classes(str(path), np.eye(4, dtype=np.float32)[i], ["a", "b", "c", "d"], 1)


def best(index):
    """(file name of the image, its best class) of every entry."""
    records = json.loads(index.read_text())
    return [(record["image"].rpartition("/")[2], record["classes"][0]["name"]) for record in records]


@pytest.fixture
def images(tmp_path):
    return write_pictures(tmp_path / "in", [(8, 6), (6, 8), (7, 7)])


def test_every_result_has_an_entry_of_its_own(images, tmp_path):
    fake = Fake(tmp_path / "predictions.json")
    records = save_results(fake, images, tmp_path, overlay=False)
    assert best(fake.index) == [("p0.png", "a"), ("p1.png", "b"), ("p2.png", "c")]
    assert json.loads(fake.index.read_text()) == records


def test_every_result_has_files_of_its_own(images, tmp_path):
    class Masks(Fake):
        def stream(self, images):
            for i, path in enumerate(images):
                yield i, Mask(str(path), np.full((3, 2), i, np.uint8), ["a", "b", "c"], np.eye(3, dtype=np.uint8))

    records = save_results(Masks(None), images, tmp_path / "out", overlay=False)
    assert [record["files"] for record in records] == [["p0.png"], ["p1.png"], ["p2.png"]]
    for i in range(3):
        with Image.open(tmp_path / f"out/p{i}.png") as mask:
            assert np.unique(np.asarray(mask)).tolist() == [i]


@pytest.mark.parametrize("error", [UserError("p2.png cannot be read"), KeyboardInterrupt()])
def test_an_index_of_before_goes_away_first_and_what_was_done_is_listed(images, tmp_path, error):
    (tmp_path / "predictions.json").write_text('["of an earlier run"]')
    fake = Fake(tmp_path / "predictions.json", 2, error)
    with pytest.raises(type(error)):
        save_results(fake, images, tmp_path, overlay=False)
    assert fake.seen == [False] * 3  # a kill would leave none, not that of before
    assert best(fake.index) == [("p0.png", "a"), ("p1.png", "b")]
