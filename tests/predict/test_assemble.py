"""One recipe, one answer: every verb and the API share network, weights, task and options."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
import yaml
from paddle import nn
from PIL import Image

import ppvision
from ppvision.cli import main
from ppvision.config import load
from ppvision.errors import UserError
from ppvision.predict import Predictor
from ppvision.predict.assemble import assemble, labels, load_parts, run_folder, statistics, task, task_name, weights_of
from tests.exporting.samples import TinyNet, exported, pictures, randomise, write_pictures, write_recipe

SLIDE = {"crop": [32, 32], "stride": [16, 24]}
METRICS = {"metrics": ["mIoU"]}


class TestAugmentationOfTheRecipe:
    @pytest.fixture(scope="class")
    def recipe(self, tmp_path_factory):
        return write_recipe(tmp_path_factory.mktemp("slide"), eval={**METRICS, "slide": SLIDE, "flip": True})

    def test_the_predictor_is_the_command(self, recipe, tmp_path):
        """Case S9: `Predictor("r.yml")` ignored what `ppvision predict -c r.yml` applied."""
        paths = write_pictures(tmp_path / "in", [(96, 128), (70, 150)])
        argv = ["predict", "-c", str(recipe[0]), "--model_path", str(recipe[1]), "--image_path", str(tmp_path / "in")]
        assert main([*argv, "--save_dir", str(tmp_path / "out")]) == 0
        records = json.loads((tmp_path / "out/predictions.json").read_text())
        ours = Predictor(recipe[0], weights=recipe[1])(paths)
        plain = Predictor(recipe[0], weights=recipe[1], overrides=["eval.slide=null", "eval.flip=false"])(paths)
        for record, result, other in zip(records, ours, plain, strict=True):
            with Image.open(tmp_path / "out" / record["files"][0]) as mask:
                assert np.array_equal(np.asarray(mask), result.labels)
            assert (other.labels != result.labels).mean() > 0.01

    def test_arguments_win(self, recipe):
        (image,) = pictures([(48, 64)])
        plain = Predictor(recipe[0], weights=recipe[1], slide=None, flip=False)(image)[0].labels
        other = Predictor(recipe[0], weights=recipe[1], overrides=["eval.slide=null", "eval.flip=false"])(image)[0]
        assert np.array_equal(plain, other.labels)

    def test_evaluation_measures_the_same(self, recipe):
        """Figures of the annotation, by hand from the Predictor's labels: all of it is class 0."""
        paths = [f"{load(recipe[0]).data.root}/p{i}.png" for i in range(3)]
        labels = np.concatenate([r.labels.ravel() for r in Predictor(recipe[0], weights=recipe[1])(paths)])
        found = ppvision.evaluate(recipe[0], weights=recipe[1])
        assert found["Acc"] == pytest.approx((labels == 0).mean(), abs=1e-9) and 0 < found["Acc"] < 1


class TestWhatARecipeSays:
    """It wins over the zoo; what is given wins over it. No network is built for that."""

    @pytest.fixture
    def recipe(self, tmp_path):
        return write_recipe(tmp_path, eval={**METRICS, "flip": True, "scales": [0.5, 1.0]})[0]

    def test_statistics(self, recipe):
        own = load(recipe, ["data.mean=[101, 102, 103]", "data.std=[51, 52, 53]"])
        assert statistics(own) == ((101.0, 102.0, 103.0), (51.0, 52.0, 53.0))
        mean, std = statistics(load(recipe))
        assert mean == pytest.approx((123.675, 116.28, 103.53)) and std == pytest.approx((58.395, 57.12, 57.375))

    def test_task(self, recipe):
        assert task_name(load(recipe)) == "segmentation"
        assert task_name(load(recipe, ["eval.task=features"])) == "features"

    def test_options_of_the_task(self, recipe):
        cfg = load(recipe, ["data.mean=[101, 102, 103]", "data.std=[51, 52, 53]"])
        made, other = task(cfg, None), task(cfg, None, flip=False, class_names=["a"])
        assert (len(made.flips), made.scales, made.fill) == (2, (0.5, 1.0), (101.0, 102.0, 103.0))
        assert (len(other.flips), other.scales, other.class_names) == (1, (0.5, 1.0), ["a"])

    def test_labels(self, recipe):
        class Named:
            class_names, palette = ("a", "b"), np.arange(6).reshape(2, 3)

        class Nameless:
            class_names, palette = (), np.arange(6).reshape(2, 3)

        cfg = load(recipe)
        names, palette = labels(cfg, Named())
        assert names == ["a", "b"] and palette.tolist() == [[0, 1, 2], [3, 4, 5]]
        assert labels(cfg, Nameless()) == ([], None)
        assert labels(load(recipe, ["data.val=null"]), None) == ([], None)

    def test_run_folder(self, recipe):
        assert str(run_folder(load(recipe), "best_model")) == "output/debug/best_model"
        assert str(run_folder(load(recipe, ["train.save_dir=here/run"]), "a", "b")) == "here/run/a/b"


def say(recipe, verb, folder, *flags) -> tuple[int, list[str]]:
    """Exit status and files of a verb."""
    write_pictures(folder / "in", [(48, 64)])
    argv = {
        "export": ["export", "--save_dir", str(folder / "export"), "--formats", "paddle"],
        "predict": ["predict", "--image_path", str(folder / "in"), "--save_dir", str(folder / "predictions")],
        "eval": ["eval", "--output_eval", str(folder / "eval")],
    }[verb]
    return main([argv[0], "-c", str(recipe), *argv[1:], "-o", f"train.save_dir={folder / 'run'}", *flags])


VERBS = ("export", "predict", "eval")


class TestWeights:
    """The given ones; else best_model of the run; else `model.weights`, said aloud; else a refusal."""

    @pytest.fixture(scope="class")
    def starting(self, tmp_path_factory):
        """A recipe that was never trained and has starting weights."""
        folder = tmp_path_factory.mktemp("starting")
        recipe, weights = write_recipe(folder, [{"type": "Resize", "short": 40}], eval=METRICS)
        content = yaml.safe_load(recipe.read_text())
        content["model"]["weights"] = str(weights)
        recipe.write_text(yaml.safe_dump(content))
        return recipe, weights

    @pytest.mark.parametrize("verb", VERBS)
    def test_the_starting_weights_are_said_aloud(self, starting, tmp_path, capsys, verb):
        assert say(starting[0], verb, tmp_path) == 0
        best = tmp_path / "run/best_model"
        message = f"{best} does not exist: using the starting weights {starting[1]}"
        assert capsys.readouterr().out.splitlines().count(message) == 1
        assert say(starting[0], verb, tmp_path / "given", "--model_path", str(starting[1])) == 0
        assert "starting weights" not in capsys.readouterr().out

    def test_the_verbs_agree(self, starting, tmp_path):
        """Untold they answer as when told of that file, and one as the other."""
        for verb in VERBS:
            assert say(starting[0], verb, tmp_path) == 0
        (image,) = pictures([(40, 53)])
        expected = Predictor(starting[0], weights=starting[1])(image)[0].labels
        overrides = [f"train.save_dir={tmp_path / 'run'}"]
        assert np.array_equal(Predictor(starting[0], overrides=overrides)(image)[0].labels, expected)
        assert (Predictor(tmp_path / "export")(image)[0].labels == expected).mean() > 0.999
        with Image.open(tmp_path / "predictions/p0.png") as mask:
            (result,) = Predictor(starting[0], weights=starting[1])(tmp_path / "in")
            assert np.array_equal(np.asarray(mask), result.labels)
        measured = json.loads((tmp_path / "eval/metrics.json").read_text())
        assert measured["weights"] == str(starting[1])
        assert measured["figures"] == ppvision.evaluate(starting[0], weights=starting[1])

    def test_best_model_comes_first(self, starting, tmp_path, capsys):
        other = randomise(ppvision.create_model("rtformer_debug", num_classes=3), seed=9)
        (tmp_path / "run/best_model").mkdir(parents=True)
        paddle.save(other.state_dict(), str(tmp_path / "run/best_model/model.pdparams"))
        cfg = load(starting[0], [f"train.save_dir={tmp_path / 'run'}"])
        assert weights_of(cfg) == str(tmp_path / "run/best_model") and weights_of(cfg, "mine") == "mine"
        found = assemble(cfg)
        assert found.weights == str(tmp_path / "run/best_model") and not found.nets["model"].training
        for key, value in other.state_dict().items():
            assert np.array_equal(found.nets["model"].state_dict()[key].numpy(), value.numpy())
        assert "starting weights" not in capsys.readouterr().out

    @pytest.mark.parametrize("verb", VERBS)
    def test_without_any_all_refuse_alike(self, tmp_path, capsys, verb):
        recipe, _, _ = exported()
        assert say(recipe, verb, tmp_path) == 2
        error = capsys.readouterr().err.strip()
        best = tmp_path / "run/best_model"
        assert error == f"error: {recipe}: no weights: {best} does not exist; train first or give --model_path"
        assert not (tmp_path / "export").exists() and not (tmp_path / "predictions").exists()
        with pytest.raises(UserError, match="no weights"):
            Predictor(recipe, overrides=[f"train.save_dir={tmp_path / 'run'}"])

    @pytest.mark.parametrize("verb", VERBS)
    def test_starting_weights_that_fit_in_part_answer_nothing(self, starting, tmp_path, capsys, verb):
        state = ppvision.create_model("rtformer_debug", num_classes=3).state_dict()
        kept = dict(list(state.items())[: len(state) // 2])
        paddle.save(kept, str(tmp_path / "half.pdparams"))
        assert say(starting[0], verb, tmp_path, f"model.weights={tmp_path / 'half.pdparams'}") == 2
        error = capsys.readouterr().err.strip()
        assert "missing" in error and "half.pdparams" in error and "\n" not in error


class Classifier(nn.Layer):
    """Of another package, as far as the zoo knows."""

    def __init__(self, num_classes: int = 3):
        super().__init__()
        self.num_classes, self.head = num_classes, nn.Linear(3, num_classes)

    def forward(self, x):
        return self.head(x.mean([2, 3]))


class TestTask:
    @pytest.fixture(scope="class")
    def unknown(self, tmp_path_factory):
        """A classifier by dotted path, without `eval.task`."""
        folder = tmp_path_factory.mktemp("unknown")
        for name, image in zip("abc", pictures([(40, 40)] * 3)):
            (folder / f"data/val/{name}").mkdir(parents=True)
            Image.fromarray(image).save(folder / f"data/val/{name}/0.png")
        recipe = {
            "model": {"type": "tests.predict.test_assemble.Classifier", "num_classes": 3},
            "data": {"type": "imagefolder", "root": str(folder / "data"), "val": {"split": "val"}, "workers": 0},
            "eval": {"metrics": ["top_k"]},
        }
        recipe["data"] |= {"mean": [100.0, 110.0, 120.0], "std": [50.0, 60.0, 70.0]}
        (folder / "r.yml").write_text(yaml.safe_dump(recipe))
        paddle.save(randomise(Classifier()).state_dict(), str(folder / "w.pdparams"))
        return folder / "r.yml", folder / "w.pdparams"

    @pytest.mark.parametrize("verb", VERBS)
    def test_which_is_not_known_is_asked_for_alike(self, unknown, tmp_path, capsys, verb):
        assert say(unknown[0], verb, tmp_path, "--model_path", str(unknown[1])) == 2
        error = capsys.readouterr().err.strip()
        what = "eval.task is needed for 'tests.predict.test_assemble.Classifier', which is not in the model zoo"
        assert error.startswith(f"error: {unknown[0]}") and error.endswith(what) and "\n" not in error

    @pytest.mark.parametrize("verb", VERBS)
    def test_and_is_enough(self, unknown, tmp_path, verb):
        flags = ["eval.task=classification", "--model_path", str(unknown[1])]
        assert say(unknown[0], verb, tmp_path, *flags) == 0


@pytest.mark.parametrize(
    ("name", "message"), [("max", "there is: argmax, softmax, none"), ("argmx", "; did you mean 'argmax'?")]
)
def test_an_ending_is_the_tasks_own(tmp_path, capsys, name, message):
    """The command line knows no endings; the task says which there are."""
    recipe, weights, _ = exported()
    assert say(recipe, "export", tmp_path, "--output_op", name, "--model_path", str(weights)) == 2
    error = capsys.readouterr().err.strip()
    assert (
        f"error: --output_op {name}: export: no output_op '{name}' for SegmentationTask" in error
        and message in error
        and "\n" not in error
    )
    assert not (tmp_path / "export").exists()


class TestParts:
    def test_of_a_checkpoint(self, tmp_path):
        parts = {"down": TinyNet(), "up": TinyNet()}
        state = {
            f"{name}.{k}": v for i, name in enumerate(parts) for k, v in randomise(TinyNet(), i).state_dict().items()
        }
        paddle.save(state, str(tmp_path / "w.pdparams"))
        load_parts(parts, tmp_path / "w.pdparams")
        for name, net in parts.items():
            for key, value in net.state_dict().items():
                assert np.array_equal(value.numpy(), state[f"{name}.{key}"].numpy())
        paddle.save({k: v for k, v in state.items() if k.startswith("down.")}, str(tmp_path / "w.pdparams"))
        with pytest.raises(UserError, match=r"holds nothing of 'up' \(keys begin with 'up\.'\)"):
            load_parts(parts, tmp_path / "w.pdparams")


def test_weights_of_an_override_win_over_the_run(tmp_path):
    """`-o model.weights=x` is an order, what stands in the recipe a default."""
    best = tmp_path / "run/best_model"
    best.mkdir(parents=True)
    model = {"type": "rtformer_debug", "weights": "start.pdparams"}
    recipe = {"model": model, "train": {"save_dir": str(tmp_path / "run")}}
    assert weights_of(load(recipe)) == str(best)
    assert weights_of(load(recipe, ["model.weights=mine.pdparams"])) == "mine.pdparams"
    assert weights_of(load(recipe, ["model.weights=mine.pdparams"]), "given") == "given"
