"""tools/pictures.py: the list deploy reads, and the sheets that show a prediction beside its input."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppvision.data.base import voc_palette
from ppvision.errors import UserError
from ppvision.predict import drawing

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("pictures", ROOT / "tools/pictures.py")
pictures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pictures)


PALETTE = voc_palette(2)


@pytest.fixture
def scene(tmp_path) -> Path:
    """Two images of 20x30 with labels, and a recipe that validates on them."""
    data = tmp_path / "data"
    for i in range(2):
        image = np.full((20, 30, 3), 40 + 60 * i, np.uint8)
        label = np.zeros((20, 30), np.uint8)
        label[:, 15:] = 1
        (data / "a").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(data / f"a/{i}.png")
        Image.fromarray(label).save(data / f"a/{i}_label.png")
    (data / "val.txt").write_text("a/0.png a/0_label.png\na/1.png a/1_label.png\n", "utf-8")
    (data / "labels.txt").write_text("left\nright\n", "utf-8")
    (tmp_path / "x.yml").write_text(
        f"model: {{type: rtformer_debug, num_classes: 2}}\n"
        f"data: {{type: seg_list, root: {data}, train: {{split: val}}, val: {{split: val}}}}\n"
        f"train: {{iters: 1}}\n",
        "utf-8",
    )
    return tmp_path


def test_list_is_relative_to_itself(scene):
    path = scene / "run/predictions/images.txt"
    assert pictures.main(["list", "--config", str(scene / "x.yml"), "--output", str(path)]) == 0
    lines = path.read_text("utf-8").splitlines()
    assert [Path(line).name for line in lines] == ["0.png", "1.png"]
    assert all(not os.path.isabs(line) and (path.parent / line).is_file() for line in lines)


def test_images_without_files_are_written_beside_the_list(tmp_path):
    """idx: all pictures are in one file; the results of a classifier have drawings, those of an encoder have none."""
    import gzip

    pixels = np.arange(2 * 8 * 8, dtype=np.uint8)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(
        gzip.compress(bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 8, 0, 0, 0, 8]) + pixels.tobytes())
    )
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 2, 0, 1])))
    (tmp_path / "x.yml").write_text(
        "model: {type: maformer_debug, num_classes: 2}\n"
        f"data: {{type: idx, root: {tmp_path}, train: {{split: val}}, val: {{split: val}}}}\ntrain: {{iters: 1}}\n",
        "utf-8",
    )
    listed, folder = tmp_path / "run/images.txt", tmp_path / "run"
    assert pictures.main(["list", "--config", str(tmp_path / "x.yml"), "--output", str(listed)]) == 0
    assert listed.read_text("utf-8").split() == ["inputs/0.png", "inputs/1.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "inputs/1.png"))[..., 0], pixels[64:].reshape(8, 8))
    beside = ["beside", "-c", str(tmp_path / "x.yml"), "--predictions", str(folder)]
    for i in range(2):
        np.savez(folder / f"{i}.npz", cls=np.zeros(3))
    assert pictures.main(beside) == 0 and not list(folder.glob("*_beside.png"))
    for i in range(2):
        drawing.write_image(folder / f"{i}.png", np.zeros([8, 8, 3], np.uint8))
    assert pictures.main(beside) == 0 and len(list(folder.glob("*_beside.png"))) == 2


def test_sheet_holds_image_labels_and_prediction(scene):
    for i in range(2):
        drawing.write_label_png(scene / f"{i}.png", np.ones((20, 30), np.uint8), PALETTE)
    assert pictures.main(["beside", "-c", str(scene / "x.yml"), "--predictions", str(scene)]) == 0
    sheet = np.asarray(Image.open(scene / "1_beside.png"))
    assert sheet.shape == (20 + pictures.CAPTION, 3 * 30 + 2 * pictures.GAP, 3)
    middle = pictures.CAPTION + 10
    assert (sheet[middle, 5] == 100).all()
    assert (sheet[middle, 30 + pictures.GAP + 25] == PALETTE[1]).all()
    assert (sheet[middle, 30 + pictures.GAP + 5] == PALETTE[0]).all()
    assert (sheet[middle, 2 * (30 + pictures.GAP) + 5] == PALETTE[1]).all()


def test_sheets_stack_into_one_picture(scene):
    for i in range(2):
        drawing.write_label_png(scene / f"{i}.png", np.ones((20, 30), np.uint8), PALETTE)
    target = scene / "all.png"
    arguments = ["-c", str(scene / "x.yml"), "--predictions", str(scene), "--sheet", str(target), "--height", "40"]
    assert pictures.main(["beside", *arguments]) == 0
    assert np.asarray(Image.open(target)).shape == (2 * (40 + pictures.CAPTION), 3 * 60 + 2 * pictures.GAP, 3)


def test_a_missing_prediction_is_named(scene):
    with pytest.raises(UserError, match="no prediction for '0'"):
        list(pictures.sheets(pictures.validation(str(scene / "x.yml")), scene, 8))


def test_a_recipe_without_validation_is_one_line_and_status_2(scene, capsys):
    (scene / "y.yml").write_text("model: {type: rtformer_debug}\ntrain: {iters: 1}\n", "utf-8")
    assert pictures.main(["beside", "-c", str(scene / "y.yml"), "--predictions", str(scene)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
