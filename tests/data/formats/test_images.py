from __future__ import annotations

import numpy as np

from ppvision.data.formats.images import Images


def test_walks_a_tree_in_order(tmp_path, write, message):
    for name in ("b/2.png", "b/1.JPG", "a/deep/3.png", "top.png", ".hidden/4.png", ".5.png"):
        write(tmp_path / name, np.zeros((3, 4, 3), np.uint8))
    (tmp_path / "b/readme.md").write_text("text")
    data = Images(str(tmp_path))
    names = [data.name(i).removeprefix(f"{tmp_path}/") for i in range(len(data))]
    assert names == ["top.png", "a/deep/3.png", "b/1.JPG", "b/2.png"]
    assert data[1].keys() == {"image", "name"} and data[1]["image"].shape == (3, 4, 3)
    assert len(Images(str(tmp_path), "b")) == 2
    (tmp_path / "none").mkdir()
    assert "no samples found; it should hold images" in message(lambda: Images(str(tmp_path / "none")))
    assert "has no folder 'nine'; did you mean 'none'?" in message(lambda: Images(str(tmp_path), "nine"))
