"""Which images a path means, and the names of their results."""

import numpy as np
import pytest
from PIL import Image

from ppvision.errors import UserError
from ppvision.predict.inputs import find_inputs, result_stems


@pytest.fixture
def tree(tmp_path):
    for name in ("b/2.png", "a/1.JPG", "a/deep/3.bmp", ".hidden/4.png", "a/.5.png", "with blank.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(path, format="PNG")
    (tmp_path / "a/notes.txt").write_text("1.JPG\n")
    return tmp_path


def relative(paths, root):
    return [path.relative_to(root).as_posix() for path in paths]


def test_folder_is_walked_and_hidden_files_are_not(tree):
    assert relative(find_inputs(tree), tree) == ["a/1.JPG", "a/deep/3.bmp", "b/2.png", "with blank.png"]


def test_one_image(tree):
    assert find_inputs(str(tree / "b/2.png")) == [tree / "b/2.png"]


def test_list_is_relative_to_its_folder_and_its_first_column_counts(tree, monkeypatch):
    monkeypatch.chdir("/")
    (tree / "a/val.list").write_text("\ufeff1.JPG label/1.png\n\n../b/2.png\t0\n../with blank.png\n", encoding="utf-8")
    found = [path.resolve().relative_to(tree.resolve()).as_posix() for path in find_inputs(tree / "a/val.list")]
    assert found == ["a/1.JPG", "b/2.png", "with blank.png"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("empty.txt", b"", "list is empty"),
        ("blank.txt", b"\n  \n", "list is empty"),
        ("wrong.txt", b"b/2.png\nb/missing.png 3\n", "wrong.txt:2: image 'b/missing.png' does not exist"),
        ("binary.bin", bytes(range(256)), "neither an image"),
    ],
)
def test_bad_lists(tree, name, content, message):
    (tree / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        find_inputs(tree / name)
    assert message in str(error.value)


def test_nothing_there(tree):
    (tree / "none").mkdir()
    with pytest.raises(UserError, match="no image in this folder"):
        find_inputs(tree / "none")
    with pytest.raises(UserError, match="no such file"):
        find_inputs(tree / "nowhere")


@pytest.mark.parametrize(
    "paths, stems",
    [
        (["x/a.png", "x/b.png"], ["a", "b"]),
        (["x/a.png", "y/a.png", "y/b.png"], ["x_a", "y_a", "b"]),
        (["p/x/a.png", "q/x/a.png"], ["p_x_a", "q_x_a"]),
        (["a.png", "a.jpg", "a.png"], ["a", "a_2", "a_3"]),
        ([], []),
    ],
)
def test_results_never_overwrite_each_other(paths, stems):
    assert result_stems(paths) == stems
