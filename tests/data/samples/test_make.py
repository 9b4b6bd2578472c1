"""`ppvision data make`: written once, replaced when asked for otherwise, never over somebody else's files."""

import pytest

from ppvision.cli import main
from ppvision.data import DATASETS
from ppvision.data.check import check
from ppvision.data.samples.make import STAMP, make
from ppvision.data.samples.synthetic import GENERATORS
from ppvision.errors import UserError


@pytest.mark.parametrize("layout", GENERATORS)
def test_every_generator_writes_a_faultless_set_with_lists(layout, tmp_path):
    assert layout in DATASETS
    root = tmp_path / "set"
    assert make(layout, root, 3, 2, (112, 160))
    assert check(layout, str(root)).ok
    for split, count in (("train", 3), ("val", 2)):
        lines = (root / f"{split}.list").read_text().splitlines()
        assert len(lines) == count and all((root / line.split()[0]).is_file() for line in lines)


def test_a_second_call_has_nothing_to_do_and_another_size_replaces(tmp_path):
    root = tmp_path / "set"
    assert make("imagefolder", root, 2, 1, (16, 16))
    files = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}
    assert not make("imagefolder", root, 2, 1, (16, 16))
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()} == files
    assert make("imagefolder", root, 3, 1, (16, 16))
    assert len((root / "train.list").read_text().splitlines()) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / "set").mkdir()
    assert make("imagefolder", tmp_path / "set", 1, 1, (8, 8))  # an empty folder is nobody's
    (tmp_path / "set" / STAMP).unlink()
    with pytest.raises(UserError, match="exists and was not made by `data make`"):
        make("imagefolder", tmp_path / "set", 1, 1, (8, 8))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["imagefoldr", "--root", "x"], "no synthetic data in the layout 'imagefoldr'; did you mean 'imagefolder'?"),
        (["imagefolder"], "data make takes LAYOUT --root DIR"),
        (["imagefolder", "--root", "x", "--size", "8"], "--size 8: --size takes H W"),
        (["imagefolder", "--root", "x", "--val", "0"], "data make: at least one sample per split"),
    ],
)
def test_mistakes_are_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "make", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1 and not list(tmp_path.iterdir())
