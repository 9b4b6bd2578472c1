"""Each kind of result: files, drawing, JSON."""

import json

import numpy as np
from PIL import Image

from ppvision.predict.results import Boxes, Classes, Features, Mask, Result


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


def test_boxes(tmp_path):
    corners = np.array([[5, 6, 40, 30], [50, 10, 70.256, 60], [70, 62, 85, 69]], np.float32)
    found = Boxes("a.jpg", corners, np.array([0.9, 0.6, 0.2], np.float32), np.array([1, 7, 0]), ["cat", "dog"])
    image = np.full((70, 90, 3), 90, np.uint8)
    files = found.save(tmp_path / "new", "a", image)
    assert [f.name for f in files] == ["a.json", "a.png"] and (image == 90).all()
    content = json.loads(files[0].read_text())
    assert [o["name"] for o in content["objects"]] == ["dog", "7", "cat"] and content["name"] == "a.jpg"
    assert content["objects"][1] == {"id": 7, "name": "7", "score": 0.6, "box": [50.0, 10.0, 70.26, 60.0]}
    drawn = np.asarray(Image.open(files[1]))
    assert drawn.shape == image.shape and (drawn[30, 20] != 90).any() and (drawn[40, 50] != 90).any()
    assert (drawn[69, 71:85] == 90).all()  # 0.2 is below what is drawn
    assert (Boxes("", corners, found.scores, found.classes).overlay(image) != 90).any()  # without names or palette
    assert [f.name for f in found.save(tmp_path, "b")] == ["b.json"]
    assert Boxes("b").to_json() == {"name": "b", "objects": []} and (Boxes("b").overlay(image) == 90).all()


def test_boxes_take_the_colours_of_their_classes_unless_they_are_dark():
    palette = np.array([[0, 0, 0], [10, 200, 30]], np.uint8)
    corners = np.array([[5, 5, 30, 30], [40, 5, 60, 30]], np.float32)
    found = Boxes("a", corners, np.ones(2, np.float32), np.array([0, 1]), ["", ""], palette, draw_threshold=1.0)
    drawn = found.overlay(np.full((70, 90, 3), 90, np.uint8))
    assert drawn[30, 20].tolist() == [255, 255, 255] and drawn[30, 50].tolist() == [10, 200, 30]


def test_features(tmp_path):
    result = Features("a", {"cls": np.array([3.0, 4.0], np.float32)})
    files = result.save(tmp_path, "a")
    assert result.to_json()["arrays"] == {"cls": {"shape": [2], "norm": 5.0}}
    assert np.array_equal(np.load(files[1])["cls"], [3.0, 4.0])


def test_base_result_still_leaves_a_file(tmp_path):
    (file,) = Result("a").save(tmp_path, "a")
    assert json.loads(file.read_text()) == {"name": "a"}
    assert Result().overlay(np.ones((1, 1, 3), np.uint8)).tolist() == [[[1, 1, 1]]]
