"""Small data sets on disk, written with OpenCV and, where OpenCV cannot, with Pillow."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ppvision.errors import UserError

SIZES = [(20 + 3 * i, 40 - 2 * i) for i in range(13)]


def write(path: Path, array: np.ndarray) -> Path:
    """Write an RGB image or a mask; the suffix decides the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array[..., ::-1] if array.ndim == 3 else array)
    return path


@pytest.fixture
def seg_root(tmp_path: Path) -> Path:
    """A seg_list data set: 13 images of different sizes, 5 classes and some ignored pixels."""
    rng = np.random.default_rng(0)
    root = tmp_path / "city"
    for i, size in enumerate(SIZES):
        write(root / f"a/{i}.png", rng.integers(0, 256, (*size, 3), np.uint8))
        label = rng.integers(0, 6, size, np.uint8)
        label[label == 5] = 255
        write(root / f"b/{i}.png", label)
    (root / "train.txt").write_text("".join(f"a/{i}.png b/{i}.png\n" for i in range(len(SIZES))))
    (root / "labels.txt").write_text("road\nsky\ncar\ntree\nman\n")
    return root


@pytest.fixture(name="write")
def write_fixture():
    """`write(path, array)`."""
    return write


@pytest.fixture
def message():
    """`message(call)`: the text of the UserError that the call must raise, checked to be one line."""

    def text(call) -> str:
        with pytest.raises(UserError) as caught:
            call()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return text
