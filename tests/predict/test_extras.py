"""What a task takes besides its input: declared once, asked for by the command line, `run` and the Predictor."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import ppvision
from ppvision.cli import main
from ppvision.errors import UserError
from ppvision.predict import Predictor, deployment, run
from ppvision.predict.tasks.base import Extra, create_task, extra_keys
from ppvision.predict.tasks.segmentation import SegmentationTask
from tests.exporting.samples import exported, pictures, write_pictures, write_recipe

NAME = "tests.predict.test_extras.Shifted"


def whole_number(value):
    if not isinstance(value, int):
        raise UserError(f"gain is a whole number, got {value!r}")
    return {"gain": value}


class Shifted(SegmentationTask):
    """Labels times `gain` plus `bias`."""

    extras = {
        "gain": Extra("factor of the labels", whole_number, required=True),
        "bias": Extra("what is added", lambda value: {"bias": np.full((2,), float(value))}),
    }

    def results(self, outputs, batch):
        results = super().results(outputs, batch)
        for i, result in enumerate(results):
            assert len(batch["gain"]) == len(results)
            bias = batch["bias"][i].sum() if "bias" in batch else 0
            result.labels = (result.labels * batch["gain"][i] + bias).astype(np.uint8)
        return results


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return write_recipe(tmp_path_factory.mktemp("extras"), [{"type": "Resize", "short": 40}], eval={"task": NAME})


@pytest.fixture
def plain():
    path, weights, _ = exported()
    return Predictor(path, weights=weights)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_predictor(recipe, plain, batch_size):
    predictor = Predictor(recipe[0], weights=recipe[1], batch_size=batch_size)
    images = pictures([(40, 53), (40, 53), (40, 40)])
    for one, other in zip(plain(images), predictor(images, gain=20, bias=3)):
        assert np.array_equal(one.labels * 20 + 6, other.labels) and len(np.unique(other.labels)) > 1
    assert np.array_equal(predictor(images[0], gain=1)[0].labels, plain(images[0])[0].labels)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"Shifted needs 'gain' \(factor of the labels\): give --extra gain=…"),
        ({"bias": 1}, "Shifted needs 'gain'"),
        ({"gian": 2}, r"Shifted takes no 'gian'; did you mean 'gain'\? \(it takes: gain, bias\)"),
        ({"gain": "two"}, "gain is a whole number, got 'two'"),
        ({"gain": 2, "bias": "much"}, r"'bias' \(what is added\) cannot be 'much': ValueError: could not convert"),
    ],
)
def test_refused(recipe, given, message):
    with pytest.raises(UserError, match=message):
        Predictor(recipe[0], weights=recipe[1])(pictures([(40, 53)]), **given)


def test_a_task_without_any_says_so(plain):
    with pytest.raises(UserError, match=r"SegmentationTask takes no 'gain' \(it takes: none\)"):
        plain(pictures([(40, 53)]), gain=2)
    assert extra_keys(create_task("classification"), {}) == {}


class TestCommandLine:
    def predict(self, recipe, tmp_path, *flags):
        write_pictures(tmp_path / "in", [(40, 53)])
        argv = ["predict", "-c", str(recipe[0]), "--model_path", str(recipe[1]), "--image_path", str(tmp_path / "in")]
        return main([*argv, "--save_dir", str(tmp_path / "out"), *flags])

    def test_predict(self, recipe, tmp_path, plain):
        assert self.predict(recipe, tmp_path, "--extra", "gain=20", "bias=1.5") == 0
        (record,) = json.loads((tmp_path / "out/predictions.json").read_text())
        with Image.open(tmp_path / "out" / record["files"][0]) as mask:
            assert np.array_equal(np.asarray(mask), plain(tmp_path / "in")[0].labels * 20 + 3)

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            ([], "Shifted needs 'gain' (factor of the labels): give --extra gain="),
            (["--extra", "gian=2"], "takes no 'gian'; did you mean 'gain'?"),
            (["--extra", "gain"], "--extra gain: expected name=value"),
            (["--extra", "=2"], "--extra =2: expected name=value"),
            (["--extra", "gain=2.5"], "gain is a whole number, got 2.5"),
        ],
    )
    def test_mistakes_are_one_line_and_status_2(self, recipe, tmp_path, capsys, flags, message):
        assert self.predict(recipe, tmp_path, *flags) == 2
        error = capsys.readouterr().err.strip()
        assert message in error and error.startswith("error: ") and "\n" not in error

    def test_infer_of_an_export(self, recipe, tmp_path, plain, monkeypatch):
        from ppvision.cli.infer import main as infer

        folder = ppvision.export(
            recipe[0], ["export.formats=[paddle]"], weights=recipe[1], save_dir=tmp_path / "export", output_op="none"
        )
        monkeypatch.setattr(deployment, "TRUSTED", set())
        write_pictures(tmp_path / "in", [(40, 53)])
        flags = [f"--config={folder}", f"--image_path={tmp_path / 'in'}", f"--save_dir={tmp_path / 'out'}"]
        with pytest.raises(UserError, match="say --trust tests.predict.test_extras"):
            infer([*flags, "--device=cpu", "--extra", "gain=20"])
        assert infer([*flags, "--device=cpu", "--trust", "tests", "--extra", "gain=20"]) == 0
        with Image.open(tmp_path / "out/p0.png") as mask:
            assert (np.asarray(mask) == plain(tmp_path / "in")[0].labels * 20).mean() > 0.999


def test_run_passes_them_on(recipe, tmp_path):
    write_pictures(tmp_path / "in", [(40, 53)])
    with pytest.raises(UserError, match="needs 'gain'"):
        run(recipe[0], tmp_path / "in", tmp_path / "out", weights=recipe[1], device="cpu")
    run(recipe[0], tmp_path / "in", tmp_path / "out", weights=recipe[1], device="cpu", extras={"gain": 20})
    with Image.open(tmp_path / "out/p0.png") as mask:
        assert set(np.unique(np.asarray(mask))) <= {0, 20, 40}
