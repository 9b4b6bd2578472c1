from __future__ import annotations

import numpy as np
import pytest

from ppvision.data.base import read_class_names, voc_palette
from ppvision.errors import UserError


def test_voc_palette_begins_as_published():
    palette = voc_palette(256)
    assert palette[:5].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert palette[15].tolist() == [192, 128, 128] and palette[20].tolist() == [0, 64, 128]
    assert len(np.unique(palette, axis=0)) == 256


def test_class_names(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffroad\r\n\r\ntraffic light\r\n".encode())
    assert read_class_names(str(path)) == ["road", "traffic light"]
    path.write_text("road\nsky\nroad\n")
    with pytest.raises(UserError, match=r"labels.txt: class 'road' stands there twice \(entries 1 and 3\)"):
        read_class_names(str(path))
