"""Palettes and files: pixel values are class ids, colours are those of the data set."""

import numpy as np
from PIL import Image

from ppvision.predict import drawing


def test_palette_png_holds_ids_and_colours(tmp_path):
    labels = np.array([[0, 1, 2], [2, 200, 255]], np.uint8)
    palette = np.array([[1, 2, 3], [40, 50, 60], [250, 128, 0]], np.uint8)
    drawing.write_label_png(tmp_path / "a.png", labels, palette)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), labels)
        colours = np.asarray(image.convert("RGB"))
    assert colours[0].tolist() == palette.tolist()
    assert colours[1, 2].tolist() == [255, 255, 255]
    assert np.array_equal(colours, drawing.colourise(labels, palette))


def test_ids_beyond_a_palette_are_kept(tmp_path):
    labels = np.array([[0, 300], [65535, 7]], np.int32)
    drawing.write_label_png(tmp_path / "a.png", labels)
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image), labels)
    assert drawing.colourise(np.array([[300]])).shape == (1, 1, 3)


def test_blend_and_write(tmp_path):
    image, colours = np.full((2, 2, 3), 100, np.uint8), np.full((2, 2, 3), 200, np.uint8)
    mixed = drawing.blend(image, colours, 0.75)
    assert mixed.dtype == np.uint8 and (mixed == 125).all()
    drawing.write_image(tmp_path / "a.jpg", mixed)
    with Image.open(tmp_path / "a.jpg") as written:
        assert written.format == "JPEG" and abs(int(np.asarray(written)[0, 0, 0]) - 125) <= 1


def test_boxes_are_frames_with_a_text_that_stays_in_the_picture():
    image = np.full((60, 80, 3), 50, np.uint8)
    boxes = np.array([[60, 10, 79, 36], [5, 40, 30, 57], [50, 58, 40, 45]], np.float32)  # the last is inside out
    colours = np.array([[250, 0, 0], [0, 0, 250], [0, 250, 0]], np.uint8)
    drawn = drawing.draw_boxes(image, boxes, colours, ["a long name 0.50", "", ""], width=1)
    assert drawn[36, 70].tolist() == [250, 0, 0] and drawn[57, 20].tolist() == [0, 0, 250]
    assert drawn[50, 15].tolist() == [50, 50, 50] and (image == 50).all()
    written = (drawn[10:24, :58] == [250, 0, 0]).all(-1)
    assert written.any()  # moved to the left, where the box is not
    assert drawing.draw_boxes(image, boxes[:0], colours[:0], []).tolist() == image.tolist()


def test_hits_false_alarms_and_misses_have_their_colours():
    image = np.zeros((100, 100, 3), np.uint8)
    predicted = {
        "boxes": np.array([[5, 5, 30, 30], [60, 60, 90, 90]], np.float32),
        "scores": np.array([0.9, 0.8]),
        "classes": np.array([0, 0]),
    }
    objects = {"boxes": np.array([[5, 5, 30, 30], [60, 5, 90, 30]], np.float32), "classes": np.array([0, 1])}
    hit, found = np.array([True, False]), np.array([True, False])
    drawn = drawing.draw_hits(image, predicted, hit, objects, found, ["cat", "dog"])
    assert drawn[30, 20].tolist() == list(drawing.HIT)
    assert drawn[90, 75].tolist() == list(drawing.FALSE_ALARM)
    assert drawn[30, 75].tolist() == list(drawing.MISS)
