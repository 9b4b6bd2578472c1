"""Recipes: sections, defaults, origins, round trips, and that no broken recipe ends in a traceback."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ppvision.config import Config, check, load
from ppvision.config.tree import walk
from ppvision.errors import UserError

RECIPE = """\
model: {type: rtformer_debug, num_classes: 19, weights: start.pdparams}
method:
  type: supervised
  loss: {type: cross_entropy}
  aux: [{level: c3, channels: 8, weight: 0.4}]
data:
  type: cityscapes
  root: data/city
  train: {split: train, transforms: [{type: RandomFlip}, {type: Resize, size: [64, 96]}]}
  val: {split: val, root: data/other}
optimizer: {type: adamw, lr: 4.0e-4, lr_mult: {"spp.*": 10}}
schedule: {type: poly, power: 0.9}
train: {iters: 20, batch_size: 3, amp: O1}
eval: {metrics: [mIoU], best: {name: mIoU}, slide: {crop: [64, 64], stride: [32, 32]}, scales: [0.5, 1]}
export: {input_shape: [1, 3, 64, 64], output_op: softmax}
log: {interval: 5}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("x.yml").write_text(RECIPE)
    return "x.yml"


def error_of(*overrides: str, recipe: str = "x.yml") -> str:
    with pytest.raises(UserError) as caught:
        load(recipe, overrides)
    return str(caught.value)


class TestSections:
    def test_typed(self, recipe):
        cfg = load(recipe)
        assert (cfg.name, cfg.path) == ("x", "x.yml")
        assert (cfg.train.iters, cfg.train.batch_size, cfg.train.amp, cfg.train.seed) == (20, 3, "O1", 0)
        assert cfg.eval.slide == {"crop": (64, 64), "stride": (32, 32)} and cfg.eval.scales == [0.5, 1.0]
        assert cfg.export.output_op == "softmax" and cfg.log.interval == 5

    def test_components(self, recipe):
        cfg = load(recipe)
        assert cfg.model.type == "rtformer_debug" and cfg.model.kwargs == {"num_classes": 19}
        assert cfg.model.weights == "start.pdparams" and cfg.model["num_classes"] == 19
        assert cfg.data.train.kwargs == {"root": "data/city", "split": "train"}
        assert cfg.data.val.kwargs == {"root": "data/other", "split": "val"} and cfg.data.val.type == "cityscapes"
        assert [t.type for t in cfg.data.train.transforms] == ["RandomFlip", "Resize"]
        assert cfg.data.train.transforms[1].path == "data.train.transforms.1"
        assert cfg.data.val.transforms == []

    def test_omitted_sections_have_defaults(self):
        cfg = load({})
        assert (cfg.method.type, cfg.optimizer.type, cfg.schedule.type, cfg.model.type) == (
            "supervised",
            "adamw",
            "constant",
            None,
        )
        assert cfg.data.train is None and cfg.eval.enabled and cfg.export.input_shape == [-1, 3, -1, -1]

    def test_the_save_interval_follows_what_is_counted(self):
        assert load({"train": {"iters": 5}}).train.save_interval == 1000
        assert load({"train": {"epochs": 5}}).train.save_interval == 1
        again = load(load({"train": {"epochs": 5}}).to_dict(), ["train.iters=7"])
        assert again.train.save_interval == 1000

    @pytest.mark.parametrize("path", ["output/x/config.yml", "output/x/iter_20/config.yml", "configs/x.yml"])
    def test_a_saved_recipe_keeps_the_name_of_its_run(self, recipe, path):
        Path(path).parent.mkdir(parents=True)
        Path(path).write_text(load(recipe).to_yaml())
        assert load(path).name == "x"

    def test_a_recipe_called_config(self, recipe):
        Path("config.yml").write_text(RECIPE)
        assert load("config.yml").name == "config"

    def test_origins(self, recipe):
        cfg = load(recipe, ["train.seed=3", "data.train.transforms.1.size=[32, 32]"])
        assert cfg.where("optimizer.lr") == "x.yml:11" and cfg.where("data.train.split") == "x.yml:9"
        assert cfg.where("data.train.root") == "x.yml:8" and cfg.where("data.val.root") == "x.yml:10"
        assert cfg.where("train.seed") == "-o train.seed=3" and cfg.where("train.keep") == "x.yml:13"
        assert cfg.where("data.train.transforms.1.size.0") == "-o data.train.transforms.1.size=[32, 32]"
        assert cfg.where("nowhere") == "x.yml"

    def test_a_config_can_be_overridden_further_and_stays_as_it_was(self, recipe):
        first = load(recipe, ["train.seed=3"])
        second = load(first, ["train.iters=7"])
        assert (second.train.seed, second.train.iters, first.train.iters) == (3, 7, 20)

    def test_iters_and_epochs(self, recipe):
        assert load(recipe, ["train.epochs=3"]).train.iters is None
        assert (
            error_of("train.epochs=3", "train.iters=4")
            == "-o train.epochs=3: give 'train.iters' or 'train.epochs', not both"
        )

    def test_loading_imports_no_numpy_and_no_paddle(self, recipe):
        code = (
            "import sys; from ppvision.config import load; load('x.yml').to_yaml(); "
            "print([m for m in ('paddle', 'numpy', 'cv2') if m in sys.modules])"
        )
        root = str(Path(__file__).resolve().parents[2])
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": root, "PATH": ""}
        )
        assert done.stdout.strip() == "[]", done.stderr


class TestRoundTrip:
    def test_yaml(self, recipe, tmp_path):
        cfg = load(recipe, ["train.profiler='batch_range=[1,2]'", "model.tag='4e-4'", "model.day='2024-01-31'"])
        (tmp_path / "saved.yml").write_text(cfg.to_yaml())
        again = load("saved.yml")
        assert again == cfg and again.model["tag"] == "4e-4"

    def test_plain_data(self, recipe):
        cfg = load(recipe)
        assert load(cfg.to_dict()) == cfg and json.dumps(cfg.to_dict())

    def test_a_shared_root_can_still_be_changed_in_a_saved_recipe(self, recipe):
        again = load(load(recipe).to_dict(), ["data.root=/elsewhere"])
        assert again.data.train["root"] == "/elsewhere" and again.data.val["root"] == "data/other"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.optimiser=1", "unknown key 'train.optimiser'; did you mean 'optimizer'?"),
        ("trian.iters=1", "unknown key 'trian'; did you mean 'train'?"),
        ("train.iter=1", "unknown key 'train.iter'; did you mean 'iters'?"),
        ("train=3", "'train' must be a mapping, got 3"),
        ("train.iters=many", "'train.iters' must be an integer >= 1 or null, got the text 'many'"),
        ("train.iters=0", "'train.iters' must be an integer >= 1 or null, got 0"),
        ("train.amp=O3", "'train.amp' must be one of O0, O1, O2, got the text 'O3'"),
        (
            "train.clip_norm='4e-4'",
            "'train.clip_norm' must be a number >= 0 or null, got the text '4e-4'; write 4.0e-4",
        ),
        ("train.ema=1.5", "'train.ema' is a decay below 1, got 1.5"),
        ("train.profiler=stat=GPU", "'train.profiler': unknown key 'stat'; did you mean 'state'?"),
        ("eval.best.nmae=x", "unknown key 'eval.best.nmae'; did you mean 'name'?"),
        ("eval.slide={crop: [1, 2, 3]}", "'eval.slide.crop' must be a list of 2 (an integer >= 1 each), got [1, 2, 3]"),
        ("export.formats=[onnxx]", "'export.formats.0' must be one of paddle, onnx, pdmodel, got the text 'onnxx'"),
        ("data.mean=[1, 2]", "'data.mean' must be a list of 3 (a number each) or null, got [1, 2]"),
        ("data.train=[1]", "'data.train' must be a mapping, got [1]"),
        (
            "data.train.transforms=Resize",
            "'data.train.transforms' must be a list of mappings with 'type', got 'Resize'",
        ),
        (
            "data.train.transforms.0=Resize",
            "'data.train.transforms.0' must be a mapping with 'type', got the text 'Resize'",
        ),
        ("model.type=[x]", "'model.type' must be a name, got ['x']"),
        ("train.loss_scale=0.5", "'train.loss_scale' must be a number from 1 to 4294967296.0, got 0.5"),
        ("train.seed=99999999999999999999", "'train.seed' must be an integer from 0 to"),
        ("train.save_dir=''", "'train.save_dir' must not be empty; leave it out or set it to null"),
        ("train.resume=''", "'train.resume' must not be empty"),
        ("log.dir=' '", "'log.dir' must not be empty"),
        ("data.workers=257", "'data.workers' must be an integer from 0 to 256, got 257"),
        ("data={mean: [1, 2, 300], std: [1, 2, 3]}", "'data.mean' lies in 0..255, got [1.0, 2.0, 300.0]"),
        ("data={mean: [-1, 2, 3], std: [1, 2, 3]}", "'data.mean' lies in 0..255"),
        ("data={mean: [1, 2, 3], std: [1, 0, 3]}", "'data.std' must be positive, got [1.0, 0.0, 3.0]"),
        ("data={mean: [0.4, 0.4, 0.4], std: [0.2, 0.2, 0.2]}", "'data.mean' and 'data.std' are on the scale 0..255"),
        ("eval.scales=[]", "'eval.scales' needs at least one number"),
        ("eval.scales=[1000]", "'eval.scales.0' must be a number from 0.01 to 100.0, got 1000"),
        (
            "eval.slide={crop: [8, 8], stride: [8, 9]}",
            "'eval.slide.stride' [8, 9] is larger than 'crop' [8, 8]; pixels between windows would be missed",
        ),
        ("export.agreement=1.5", "'export.agreement' must be a number from 0 to 1, got 1.5"),
        ("export.agreement=-0.5", "'export.agreement' must be a number from 0 to 1, got -0.5"),
        ("export.tolerance=-1.0", "'export.tolerance' must be a number >= 0, got -1.0"),
        ("export.tolerance=.nan", "'export.tolerance' must be a number, got nan"),
        ("export.formats=[]", "'export.formats' names no format (paddle, onnx, pdmodel)"),
        (
            "export.input_shape=[1, 3, 64]",
            "'export.input_shape' is [N, 3, H, W], -1 where a side is free, got [1, 3, 64]",
        ),
        ("export.input_shape=[1, 1, 64, 64]", "'export.input_shape' is [N, 3, H, W]"),
        ("export.input_shape=[0, 3, 64, 64]", "'export.input_shape' is [N, 3, H, W]"),
        ("export.save_name=''", "'export.save_name' is the stem of the files, without a folder, got the text ''"),
        ("export.save_name=a/b", "'export.save_name' is the stem of the files, without a folder"),
        ("model.weights=3", "'model.weights' must be a path, got 3"),
    ],
)
def test_mistakes(recipe, override, message):
    assert error_of(override).startswith(f"-o {override}: {message}")


def test_a_mistake_in_a_file_names_the_line(recipe):
    Path("y.yml").write_text("_base_: x.yml\ntrain:\n  iters: 5\n  optimiser: adam\n")
    assert error_of(recipe="y.yml") == "y.yml:4: unknown key 'train.optimiser'; did you mean 'optimizer'?"


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**12), 10**12), st.floats(), st.text(max_size=6), st.just("4e-4")
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
LEAVES = [path for path, _ in walk(yaml.safe_load(RECIPE))]


def mutated(path: str, value: object, rename: str | None) -> dict:
    recipe = yaml.safe_load(RECIPE)
    node, steps = recipe, path.split(".") if "spp" not in path else ["optimizer", "lr_mult", "spp.*"]
    for step in steps[:-1]:
        node = node[int(step)] if isinstance(node, list) else node[step]
    last = int(steps[-1]) if isinstance(node, list) else steps[-1]
    if rename is not None and isinstance(node, dict):
        node[rename] = node.pop(last)
    else:
        node[last] = value
    return recipe


class TestAnyRecipe:
    @settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(path=st.sampled_from(LEAVES), value=values, rename=st.none() | st.text(max_size=6))
    def test_a_mutated_file_loads_or_names_itself(self, recipe, path, value, rename):
        Path("m.yml").write_text(yaml.safe_dump(mutated(path, value, rename)))
        try:
            cfg = load("m.yml")
        except UserError as e:
            assert str(e).startswith("m.yml:") and "\n" not in str(e)
        else:
            assert load(copy.deepcopy(cfg.to_dict())) == cfg
            Path("again.yml").write_text(cfg.to_yaml())
            assert load("again.yml") == cfg

    @settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(text=st.text(max_size=40) | st.builds("{}={}".format, st.sampled_from(LEAVES), st.text(max_size=12)))
    def test_any_override_is_taken_or_named(self, recipe, text):
        try:
            cfg = load(recipe, [text])
        except UserError as e:
            assert str(e).startswith("-o ")
        else:
            assert isinstance(cfg, Config)

    @settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(start=st.integers(0, len(RECIPE)), length=st.integers(0, 30), text=st.text(max_size=5))
    def test_damaged_text_never_ends_in_a_traceback(self, recipe, start, length, text):
        damaged = RECIPE[:start] + text + RECIPE[start + length :]
        Path("m.yml").write_bytes(damaged.encode("utf-8", "surrogatepass"))
        try:
            load("m.yml")
        except UserError as e:
            assert "m.yml" in str(e)


class TestCheck:
    def test_a_good_recipe_passes(self, recipe):
        check(load(recipe))

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("model.num_clases=3", "unknown key 'model.num_clases'; did you mean 'num_classes'?"),
            ("model.num_classes=many", "'model.num_classes' must be an integer, got the text 'many'"),
            ("method.loss.typ=3", "unknown key 'method.loss.typ'"),
            ("method.type=supervisd", "no method 'supervisd'; did you mean 'supervised'?"),
            ("method.model=3", "unknown key 'method.model'"),
            ("optimizer.lr=fast", "'optimizer.lr' must be a number, got the text 'fast'"),
            ("optimizer.model.betas=[1]", "'optimizer.betas' must be a list of 2 (a number each), got [1]"),
            ("schedule.powr=1", "unknown key 'schedule.powr'; did you mean 'power'?"),
            ("data.train.splt=x", "unknown key 'data.train.splt'; did you mean 'split'?"),
            ("data.train.transforms.0.type=RandomFlp", "no transform 'RandomFlp'; did you mean 'RandomFlip'?"),
            ("eval.metrics=[mIuO]", "no metric 'mIuO'; did you mean 'mIoU'?"),
            ("eval.task=segmentatoin", "no task 'segmentatoin'; did you mean 'segmentation'?"),
        ],
    )
    def test_every_name_and_argument_is_checked(self, recipe, override, message):
        with pytest.raises(UserError) as caught:
            check(load(recipe, [override]))
        assert message in str(caught.value) and str(caught.value).startswith(("-o ", "x.yml:"))

    def test_a_length_is_needed_to_train(self, recipe):
        with pytest.raises(UserError, match="x.yml:13: 'train.iters' or 'train.epochs' is missing"):
            check(load(recipe, ["train.iters=null"]))
