"""Each kind of result: files, drawing, JSON."""

import json

import numpy as np
from PIL import Image

from ppvision.predict.results import Classes, Features, Mask, Result


def test_mask(tmp_path):
    labels = np.array([[0, 0], [0, 2]], np.uint8)
    mask = Mask("a.png", labels, ["road", "car"], np.array([[0, 0, 0], [9, 9, 9]], np.uint8))
    image = np.full((2, 2, 3), 10, np.uint8)
    files = mask.save(tmp_path / "new", "a", image)
    assert [f.name for f in files] == ["a.png", "a_overlay.jpg"] and all(f.stat().st_size for f in files)
    assert np.array_equal(np.asarray(Image.open(files[0])), labels)
    assert mask.overlay(image).shape == image.shape and (image == 10).all()
    assert [f.name for f in mask.save(tmp_path, "b")] == ["b.png"]
    assert json.loads(json.dumps(mask.to_json())) == {
        "name": "a.png",
        "height": 2,
        "width": 2,
        "classes": [{"id": 0, "name": "road", "share": 0.75}, {"id": 2, "name": "2", "share": 0.25}],
    }


def test_classes(tmp_path):
    result = Classes("a", np.array([0.2, 0.5, 0.1, 0.2], np.float32), ["w", "x", "y", "z"], top=2)
    assert result.ids.tolist() == [1, 0, 3, 2]
    assert [c["name"] for c in result.to_json()["classes"]] == ["x", "w"]
    image = np.full((40, 120, 3), 90, np.uint8)
    files = result.save(tmp_path, "a", image)
    assert [f.name for f in files] == ["a.json", "a.png"]
    assert json.loads(files[0].read_text())["classes"][0]["id"] == 1
    assert (np.asarray(Image.open(files[1])) != 90).any()


def test_features(tmp_path):
    result = Features("a", {"cls": np.array([3.0, 4.0], np.float32)})
    files = result.save(tmp_path, "a")
    assert result.to_json()["arrays"] == {"cls": {"shape": [2], "norm": 5.0}}
    assert np.array_equal(np.load(files[1])["cls"], [3.0, 4.0])


def test_base_result_still_leaves_a_file(tmp_path):
    (file,) = Result("a").save(tmp_path, "a")
    assert json.loads(file.read_text()) == {"name": "a"}
    assert Result().overlay(np.ones((1, 1, 3), np.uint8)).tolist() == [[[1, 1, 1]]]
