"""Every network of the zoo that is small enough for a test walks through the whole suite, on files: train, resume
after a kill, evaluate, export with parity, predict from the export, picture. A new family is covered by having a
`*_debug` size and a task known here. The small recipes of the representation systems take the same walk on data made
here, and hand their weights on."""

import gzip
import json
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest
import yaml

import ppvision
from ppvision.config import load
from ppvision.data.samples.synthetic.coco import write_shapes
from ppvision.data.samples.synthetic.street import write as write_street
from ppvision.engine.trainer import Trainer
from ppvision.models import zoo
from ppvision.models.detr import Detr
from ppvision.predict.assemble import starting_network
from ppvision.weights import read, state_of

sys.path.insert(0, str(Path(__file__).parent / "engine"))
from recipes import CLASSES, records, write_data

ROOT = Path(__file__).resolve().parent.parent


class Killed(BaseException):
    """What ends a run at once, as a signal would: nothing catches it."""


def write_synthetic_idx(folder: Path, size: tuple[int, int], classes: int, train: int = 24, val: int = 12) -> Path:
    """Synthetic pictures in the idx format: noise with a bar whose place is the class."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", train), ("t10k", val)):
        labels = np.arange(count) % classes
        images = rng.integers(0, 80, [count, *size])
        for image, label in zip(images, labels):
            image[:, label * size[1] // classes :][:, : size[1] // classes] += 150
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + array.astype("u1").tobytes()))
    (folder / "labels.txt").write_text("".join(f"synthetic {k}\n" for k in range(classes)))
    return folder


def segmentation(folder: Path, name: str) -> dict:
    """Sections of a recipe for a segmentation network."""
    data = write_data(folder / "data", train=6, val=3, size=(64, 96))
    return {
        "model": {"type": name, "num_classes": CLASSES},
        "method": {"type": "supervised"},
        "data": {
            "type": "seg_list",
            "root": str(data),
            "workers": 0,
            "train": {
                "split": "train",
                "transforms": [{"type": "RandomFlip"}, {"type": "ColorJitter", "brightness": 0.2}],
            },
            "val": {"split": "val"},
        },
        "eval": {"metrics": ["mIoU"]},
    }


def pictures_of_classes(folder: Path, name: str) -> dict:
    """Data section of idx files in the network's own size."""
    root = write_synthetic_idx(folder / "data", zoo.entry(name).example, CLASSES)
    return {"type": "idx", "root": str(root), "workers": 0, "train": {"split": "train"}, "val": {"split": "val"}}


def classification(folder: Path, name: str) -> dict:
    """Sections of a recipe for a classifier."""
    return {
        "model": {"type": name, "num_classes": CLASSES},
        "method": {"type": "classification", "mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1},
        "data": pictures_of_classes(folder, name),
        "eval": {"metrics": ["top_k"], "batch_size": 5},
    }


def features(folder: Path, name: str) -> dict:
    """Sections of a recipe for an encoder, trained in the space of a teacher with random weights."""
    method = {"type": "cae_v2", "teacher": {"type": "clip_vit_debug"}, "num_masked": 9, "min_block": 3}
    return {
        "model": {"type": name},
        "method": {**method, "regressor_depth": 1},
        "data": pictures_of_classes(folder, name),
        "eval": {"metrics": [{"type": "knn", "k": 3}, "loss"], "batch_size": 5},
    }


def detection(folder: Path, name: str) -> dict:
    """Sections of a recipe for a detector, with groups of queries beside the deployed ones if it has queries."""
    data = write_shapes(folder / "data", 6, 4, seed=0)
    queries = issubclass(zoo.network_class(name), Detr)
    return {
        "model": {"type": name, "num_classes": 4},
        "method": {"type": "group_detr", "groups": 2} if queries else {"type": "dense_detection"},
        "data": {"type": "coco", "root": str(data), "workers": 0, "train": {"split": "train"}, "val": {"split": "val"}},
        "eval": {"metrics": ["coco"], "batch_size": 2},
    }


RECIPES = {
    "segmentation": segmentation,
    "classification": classification,
    "features": features,
    "detection": detection,
}
UNTRAINED = ("clip_vit_debug", "vit_det_debug")  # a teacher and a detector's backbone: no method trains them alone


def chain_models() -> list[str]:
    return [n for n in zoo.list_models("*_debug*") if zoo.entry(n).task in RECIPES and n not in UNTRAINED]


def train_with_a_kill(recipe: Path, run: Path, overrides: list[str], monkeypatch) -> dict:
    """Train until the third update, which a kill ends, then resume."""
    update = Trainer.update

    def dying(self, batches):
        if self.step == 3:
            raise Killed
        return update(self, batches)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Trainer, "update", dying)
        ppvision.train(recipe, [*overrides, f"train.save_dir={run}"])
    return ppvision.train(recipe, [*overrides, f"train.save_dir={run}", "train.resume=auto"])


def assert_same_checkpoint(one: Path, other: Path) -> None:
    for file in ("model.pdparams", "method.pdparams", "optimizer.pdopt"):
        straight, resumed = read(one / file), read(other / file)
        assert set(straight) == set(resumed)
        for key, value in straight.items():
            np.testing.assert_array_equal(resumed[key], value, err_msg=f"{file} {key}")


def exported(recipe: Path, weights: Path, folder: Path, overrides: list[str] | None = None) -> Path:
    """The export, whose graph must hold the arrays of `model.pdparams` and not one more."""
    path = ppvision.export(recipe, overrides or [], weights=str(weights), save_dir=str(folder))
    names = {p.name for p in path.iterdir()}
    assert {"model.json", "model.pdiparams", "model.onnx", "deploy.yaml", "parity.json"} <= names
    held = paddle.jit.load(str(path / "model")).state_dict().values()
    inner = tuple(
        f"{head}." for head in getattr(starting_network(load(recipe, overrides or []))[0], "training_heads", ())
    )
    arrays = {k: v for k, v in read(weights / "model.pdparams").items() if not (inner and k.startswith(inner))}
    count = sum(int(np.prod(v.shape)) for v in arrays.values())
    # beyond them only the constants of normalisation
    assert count <= sum(int(np.prod(v.shape)) for v in held) <= count + 12, "not the network alone"
    return path


def compare(task: str, one, other) -> None:
    """Results of two backends on one image."""
    if task == "segmentation":
        assert np.mean(one.labels == other.labels) > 0.999
    elif task == "classification":
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
        assert list(one.class_names) == list(other.class_names) and one.to_json()["classes"][0]["name"]
    elif task == "detection":  # equal scores may stand in another order, so places are compared where they are clear
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
        clear = np.abs(np.diff(one.scores, prepend=2.0, append=-1.0)) > 1e-3
        for i in np.flatnonzero(clear[:-1] & clear[1:]):
            assert one.classes[i] == other.classes[i]
            np.testing.assert_allclose(one.boxes[i], other.boxes[i], atol=0.1)
    else:
        assert set(one.arrays) == set(other.arrays) == {"cls", "tokens"}
        for key, value in one.arrays.items():
            np.testing.assert_allclose(value, other.arrays[key], atol=1e-3)


@pytest.mark.parametrize("name", chain_models())
def test_train_resume_evaluate_export_predict(name, tmp_path, monkeypatch):
    entry = zoo.entry(name)
    height, width = entry.example
    spec = {
        "optimizer": {"type": "adamw", "lr": 1.0e-3},
        "schedule": {"type": "constant"},
        "train": {"iters": 4, "batch_size": 2, "save_interval": 2, "ema": 0.9, "keep": 9},
        "export": {"formats": ["paddle", "onnx"]},
        **RECIPES[entry.task](tmp_path, name),
    }
    if entry.task != "segmentation":
        spec["export"]["input_shape"] = [-1, 3, height, width]
    path, run, again = tmp_path / "recipe.yml", tmp_path / "run", tmp_path / "again"
    path.write_text(yaml.safe_dump(spec))

    metrics = ppvision.train(path, [f"train.save_dir={run}"])
    assert train_with_a_kill(path, again, [], monkeypatch) == metrics
    assert_same_checkpoint(run / "iter_4", again / "iter_4")
    assert [r["loss"] for r in records(run) if r["kind"] == "train"][-1] > 0
    assert ppvision.evaluate(path, weights=str(run / "latest")) == metrics

    folder = exported(path, run / "best_model", tmp_path / "export")
    rng = np.random.default_rng(1)
    photos = [rng.integers(0, 256, [height, width, 3]).astype("u1") for _ in range(2)]
    for i, photo in enumerate(photos):
        cv2.imwrite(str(tmp_path / f"photo{i}.png"), photo)
    files = [str(tmp_path / f"photo{i}.png") for i in range(2)]
    by_backend = {b: ppvision.Predictor(str(folder), backend=b)(files) for b in ("paddle", "onnx")}
    eager = ppvision.Predictor(str(path), weights=str(run / "best_model"))(files)
    for i, photo in enumerate(photos):
        for results in by_backend.values():
            compare(entry.task, results[i], eager[i])
        by_backend["paddle"][i].save(tmp_path / "pictures", f"photo{i}", image=photo)
    if entry.task == "features":  # nothing to draw of vectors; the run drew what the encoder learns
        assert set(np.load(tmp_path / "pictures/photo0.npz")) == {"cls", "tokens"}
        picture = cv2.imread(str(run / "pictures/iter_4/similarity_0.png"))
        assert picture is not None and picture.shape == (224, 5 * 224 + 16, 3)
    else:
        picture = cv2.imread(str(tmp_path / "pictures/photo0.png"))
        assert picture is not None and picture.shape[:2] == (height, width)


SHORT = ("train.iters=4", "train.batch_size=4", "train.save_interval=2", "eval.interval=2", "eval.batch_size=6")


@pytest.fixture(scope="module")
def idx(tmp_path_factory) -> Path:
    return write_synthetic_idx(tmp_path_factory.mktemp("synthetic"), (28, 28), 10, train=20, val=20)


@pytest.fixture(scope="module")
def pretrained(idx, tmp_path_factory) -> tuple[Path, list[str], Path]:
    recipe, run = ROOT / "configs/cae_v2/cae_v2_fashion_mini.yml", tmp_path_factory.mktemp("pretrained") / "run"
    overrides = [f"data.root={idx}", *SHORT, "method.teacher.weights=null", "log.vdl=true"]
    with pytest.MonkeyPatch.context() as patch:
        train_with_a_kill(recipe, run, overrides, patch)
    return recipe, overrides, run


class TestSmallRecipes:
    """configs/maformer/*_mini.yml, configs/cae_v2/*_mini.yml and those of the convolutional detector as they are, but
    for length, data and teacher's weights (fetched or trained in earnest, random here)."""

    def test_pre_training_exports_the_encoder_alone(self, pretrained, tmp_path):
        recipe, overrides, run = pretrained
        method, encoder = read(run / "latest/method.pdparams"), read(run / "latest/model.pdparams")
        own = {k for k in method if not k.startswith("model.")}
        assert {"mask_token", "head.weight"} <= own and any(k.startswith("regressor.") for k in own)
        assert json.loads((run / "latest/state.json").read_text())["frozen"].keys() == {"teacher"}
        assert not [k for k in method if "teacher" in k]
        assert {k.removeprefix("model.") for k in method if k.startswith("model.")} == set(encoder)
        folder = exported(recipe, run / "latest", tmp_path, overrides)
        (result,) = ppvision.Predictor(str(folder))([np.zeros([28, 28, 3], "u1")])
        assert {k: v.shape for k, v in result.arrays.items()} == {"cls": (96,), "tokens": (16, 96)}
        assert len(list((run / "pictures/iter_4").glob("similarity_*.png"))) == 6 and list((run / "vdl").iterdir())

    def test_linear_probe_keeps_the_encoder(self, pretrained, idx, tmp_path):
        recipe = ROOT / "configs/cae_v2/cae_v2_fashion_linear_mini.yml"
        _, _, source = pretrained
        overrides = [f"data.root={idx}", *SHORT, f"model.weights={source}/latest"]
        metrics = ppvision.train(recipe, [*overrides, f"train.save_dir={tmp_path}/run"])
        assert set(metrics) >= {"top1"}
        before, after = read(source / "latest/model.pdparams"), read(tmp_path / "run/latest/model.pdparams")
        assert set(after) - set(before) == {"head.weight", "head.bias", "fc_norm._mean", "fc_norm._variance"}
        for key, value in before.items():
            np.testing.assert_array_equal(after[key], value, err_msg=key)
        folder = exported(recipe, tmp_path / "run/latest", tmp_path / "export", overrides)
        self.classes(folder)

    def test_fine_tuning_starts_from_the_encoder(self, pretrained, idx, tmp_path, monkeypatch):
        recipe = ROOT / "configs/cae_v2/cae_v2_fashion_finetune_mini.yml"
        _, _, source = pretrained
        overrides = [f"data.root={idx}", *SHORT, f"model.weights={source}/latest"]
        net, report = starting_network(load(recipe, overrides))
        before, started = read(source / "latest/model.pdparams"), state_of(net)
        assert set(before) - set(report.loaded) == set(report.ignored) == {"norm.weight", "norm.bias"}
        for key in report.loaded:
            np.testing.assert_array_equal(started[key], before[key], err_msg=key)
        train_with_a_kill(recipe, tmp_path / "run", overrides, monkeypatch)
        folder = exported(recipe, tmp_path / "run/best_model", tmp_path / "export", overrides)
        self.classes(folder)

    def test_maformer(self, idx, tmp_path, monkeypatch):
        recipe = ROOT / "configs/maformer/maformer_fashion_mini.yml"
        overrides = [f"data.root={idx}", *SHORT]
        metrics = train_with_a_kill(recipe, tmp_path / "run", overrides, monkeypatch)
        straight = ppvision.train(recipe, [*overrides, f"train.save_dir={tmp_path}/straight"])
        assert metrics == straight
        assert_same_checkpoint(tmp_path / "run/iter_4", tmp_path / "straight/iter_4")
        assert ppvision.evaluate(recipe, overrides, weights=str(tmp_path / "run/latest")) == metrics
        self.classes(exported(recipe, tmp_path / "run/latest", tmp_path / "export", overrides))

    def test_segmentation_on_a_pre_trained_encoder(self, tmp_path, monkeypatch, capsys):
        """UperNet on four synthetic street scenes, from the weights of an encoder."""
        recipe = ROOT / "configs/cae_v2/upernet_cae_v2_street_mini.yml"
        write_street(tmp_path / "street", 4, 2, (128, 256), seed=3, min_thickness=16)
        encoder = state_of(zoo.create_model("cae_v2_debug"))
        paddle.save({k: paddle.to_tensor(v) for k, v in encoder.items()}, str(tmp_path / "encoder.pdparams"))
        overrides = [f"data.root={tmp_path}/street", "data.workers=0", *SHORT]
        overrides += [f"model.weights={tmp_path}/encoder.pdparams", "eval.batch_size=2"]
        run = tmp_path / "run"
        metrics = train_with_a_kill(recipe, run, overrides, monkeypatch)
        assert "starting weights" in capsys.readouterr().out and 0 <= metrics["mIoU"] <= 1
        assert ppvision.evaluate(recipe, overrides, weights=str(run / "latest")) == metrics
        folder = exported(recipe, run / "latest", tmp_path / "export", overrides)
        (photo,) = list((tmp_path / "street/leftImg8bit/val").rglob("*.png"))[:1]
        (result,) = ppvision.Predictor(str(folder))([str(photo)])
        result.save(tmp_path / "pictures", "street", image=cv2.imread(str(photo))[:, :, ::-1].copy())
        assert cv2.imread(str(tmp_path / "pictures/street_overlay.jpg")).shape == (128, 256, 3)

    @pytest.mark.parametrize("recipe", ["retinanet/retinanet_shapes_mini", "kd_detr/kd_dino_retinanet_shapes_mini"])
    def test_a_convolutional_detector_alone_and_with_a_teacher(self, recipe, tmp_path, monkeypatch):
        """The teacher has random weights; neither checkpoint nor export knows it."""
        recipe = ROOT / f"configs/{recipe}.yml"
        data = write_shapes(tmp_path / "data", 8, 6, seed=0)
        overrides = [f"data.root={data}", *SHORT, "schedule.warmup_iters=0"]
        if distilled := "kd_detr" in recipe.parts:
            overrides.append("method.teacher.weights=null")
        metrics = train_with_a_kill(recipe, tmp_path / "run", overrides, monkeypatch)
        straight = ppvision.train(recipe, [*overrides, f"train.save_dir={tmp_path}/straight"])
        assert metrics == straight and "mAP" in metrics
        assert_same_checkpoint(tmp_path / "run/iter_4", tmp_path / "straight/iter_4")
        held = json.loads((tmp_path / "run/latest/state.json").read_text())["frozen"].keys()
        assert held == ({"teacher"} if distilled else set())
        assert not [k for k in read(tmp_path / "run/latest/method.pdparams") if "teacher" in k]
        terms = {k for r in records(tmp_path / "run") for k in r.get("parts", r)}
        assert ("anchors/cls" in terms) == distilled and "main/box" in terms
        folder = exported(recipe, tmp_path / "run/latest", tmp_path / "export", overrides)
        (result,) = ppvision.Predictor(str(folder))([np.full([64, 64, 3], 90, "u1")])
        assert result.boxes.shape[1] == 4 and len(result.scores) == len(result.classes)

    def classes(self, folder: Path) -> None:
        """Class names and a picture from an exported classifier."""
        image = np.full([28, 28, 3], 90, "u1")
        (result,) = ppvision.Predictor(str(folder))([image])
        assert [c["name"].startswith("synthetic ") for c in result.to_json()["classes"]] == [True] * 5
        result.save(folder / "pictures", "one", image=image)
        assert cv2.imread(str(folder / "pictures/one.png")).shape == (28, 28, 3)
