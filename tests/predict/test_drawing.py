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
