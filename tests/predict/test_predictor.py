"""The Predictor on an export and on a recipe: equal answers, order, sizes, refusals, files."""

import json
import shutil

import cv2
import numpy as np
import paddle
import pytest
import yaml
from PIL import Image

import ppvision
from ppvision.config import load
from ppvision.data.collate import collate
from ppvision.data.fields import start
from ppvision.data.transforms.image import build_transforms
from ppvision.errors import UserError
from ppvision.models.network import IMAGE, Input
from ppvision.predict import Predictor, Runtime, predictor, run, saving
from ppvision.predict.assemble import statistics
from ppvision.predict.nets import EagerNet, on_device
from ppvision.predict.saving import save_results
from ppvision.predict.tasks.base import Extra
from ppvision.predict.tasks.classification import FeaturesTask
from ppvision.predict.tasks.segmentation import SegmentationTask
from tests.exporting.samples import exported, pictures, write_pictures, write_recipe
from tests.nets import Net


@pytest.fixture(scope="module")
def eager():
    recipe, weights, _ = exported()
    return Predictor(recipe, weights=weights)


@pytest.fixture(scope="module")
def plain():
    return Predictor(exported()[2], runtime=Runtime(mkldnn=False))


@pytest.fixture
def copy(tmp_path):
    """A copy of the export that a test may damage."""
    return shutil.copytree(exported()[2], tmp_path / "export")


def labels(results):
    return [result.labels for result in results]


def share_equal(a, b):
    assert [x.shape for x in a] == [x.shape for x in b]
    return np.mean(np.concatenate([(x == y).ravel() for x, y in zip(a, b)]))


class TestAnswers:
    @pytest.mark.parametrize("backend, mkldnn", [("paddle", False), ("paddle", True), ("onnx", True)])
    def test_export_equals_eager(self, eager, backend, mkldnn):
        images = pictures()
        exported_predictor = Predictor(exported()[2], backend=backend, runtime=Runtime(mkldnn=mkldnn))
        # Eager resizes logits to the original size, the export its decisions: equal only where sizes are kept.
        same_size = pictures([(40, 53), (40, 40)], seed=5)
        assert share_equal(labels(exported_predictor(same_size)), labels(eager(same_size))) > 0.999
        assert share_equal(labels(exported_predictor(images)), labels(eager(images))) > 0.9

    def test_answers_are_not_constant(self, eager):
        (result,) = eager(pictures([(40, 53)]))
        assert len(np.unique(result.labels)) > 1 and result.class_names == ["ground", "green", "red"]

    def test_equals_the_network_by_hand(self, eager):
        _, weights, _ = exported()
        (image,) = pictures([(40, 53)])
        net = ppvision.create_model("rtformer_debug", pretrained=weights, num_classes=3)
        net.eval()
        x = (image.astype(np.float32) - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
        logits = net(paddle.to_tensor(x.transpose(2, 0, 1)[None].astype(np.float32))).numpy()
        assert share_equal([eager(image)[0].labels], [logits[0].argmax(0)]) > 0.999

    def test_results_have_the_size_of_the_image(self, plain):
        images = pictures([(37, 61), (80, 33), (200, 41)])
        assert [r.labels.shape for r in plain(images)] == [(37, 61), (80, 33), (200, 41)]

    def test_a_reader_of_the_upstream_kind_feeds_the_graph_rightly(self, plain, tmp_path):
        """BGR file -> RGB float CHW 0..255 -> the transforms of the `Deploy` block, nothing else."""
        (path,) = write_pictures(tmp_path, [(60, 81)])
        deploy = yaml.safe_load((exported()[2] / "deploy.yaml").read_text())["Deploy"]
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        for transform in deploy["transforms"]:
            assert transform == {"type": "ResizeByShort", "short_size": 40}
            scale = transform["short_size"] / min(image.shape[:2])
            size = [round(side * scale) for side in image.shape[:2]]
            image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
        config = paddle.inference.Config(*(str(exported()[2] / deploy[key]) for key in ("model", "params")))
        config.disable_mkldnn()
        predictor = paddle.inference.create_predictor(config)
        assert predictor.get_input_names() == ["x"]
        handle = predictor.get_input_handle("x")
        handle.copy_from_cpu(np.ascontiguousarray(image.transpose(2, 0, 1)[None].astype(np.float32)))
        predictor.run()
        theirs = predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()
        assert theirs.dtype == np.int32
        sample = plain._sample(0, path, {})
        outputs = plain.nets["model"](
            image=paddle.to_tensor(sample["image"].transpose(2, 0, 1)[None].astype(np.float32))
        )
        assert np.array_equal(outputs.numpy(), theirs)


class TestPadding:
    @pytest.mark.parametrize("kind", ["export", "recipe"])
    def test_padded_pixels_are_what_evaluation_has_there(self, tmp_path, kind):
        """PadTo writes black before the normalisation, evaluation has zero after it."""
        recipe, weights = write_recipe(tmp_path, [{"type": "PadTo", "multiple": 64}])
        cfg = load(recipe)
        mean, std = statistics(cfg)
        images = pictures([(37, 61), (40, 70)])
        if kind == "export":
            ppvision.export(recipe, ["export.formats=[paddle]"], weights=weights, save_dir=tmp_path / "out")
            predictor = Predictor(tmp_path / "out", runtime=Runtime(mkldnn=False))
        else:
            predictor = Predictor(recipe, weights=weights)
        net = ppvision.create_model("rtformer_debug", pretrained=weights, num_classes=3)
        net.eval()
        task, transform = SegmentationTask(), build_transforms(cfg.data.val.transforms)
        for image, result in zip(images, predictor(images)):
            sample = transform(start({"image": image}), np.random.default_rng(0))
            batch = collate([sample])
            black = on_device(task.inputs(batch))  # no fill is set: evaluation multiplies by the mask
            assert black["image"][0, :, -1].abs().max() == 0 and not black["valid"][0, -1].any()
            with paddle.no_grad():
                (expected,) = task.results(task.run({"model": EagerNet(net, mean, std)}, black), batch)
            assert share_equal([result.labels], [expected.labels]) > 0.9999


class Means(FeaturesTask):
    """Means of a picture and, where a source is two arrays, of the one beside it; times `gain`."""

    extras = {"gain": Extra("factor", lambda value: {"gain": value})}

    def read(self, source):
        image, *crops = source if isinstance(source, tuple) else (source,)
        return {"image": image, **({"crop_face": crops[0]} if crops else {})}

    def results(self, outputs, batch):
        results = super().results(outputs, batch)
        for i, result in enumerate(results):
            result.arrays["features"] = result.arrays["features"] * batch.get("gain", np.ones(len(results)))[i]
        return results


def flat(size, value):
    return np.full((*size, 3), value, np.uint8)


class TestBatches:
    """Which pictures go into a batch, without a network worth the name."""

    @pytest.fixture
    def made(self, monkeypatch):
        """A Predictor that gives means, and the shapes that its network was called with."""

        def make(batch_size, spec=IMAGE):
            shapes = []
            net = Net(lambda x: shapes.append(list(x.shape)) or x.mean([1, 2, 3]), inputs={"image": spec})
            loaded = predictor.Loaded({"model": net}, Means(), build_transforms([]), "means")
            monkeypatch.setattr(predictor, "_from_config", lambda *arguments: loaded)
            return Predictor(None, batch_size=batch_size), shapes

        return make

    def test_results_come_in_the_order_of_the_images_though_sizes_are_mixed(self, made):
        found, shapes = made(3)
        sizes = [(2, 4), (4, 2), (2, 4), (3, 3), (4, 2), (2, 4), (2, 4), (4, 2), (3, 3), (2, 4)]
        images = [flat(size, 10 * i) for i, size in enumerate(sizes)]
        numbers, results = zip(*found.stream(images))
        assert list(numbers) == list(range(10))
        assert [float(result.arrays["features"]) for result in results] == [10.0 * i for i in range(10)]
        assert sorted(shape[0] for shape in shapes) == [2, 2, 3, 3] and found.calls == 4
        assert {tuple(shape[2:]) for shape in shapes} == {(2, 4), (4, 2), (3, 3)}

    def test_what_stands_beside_the_image_must_have_one_size_too(self, made):
        found, shapes = made(2)
        crops = [(5, 5), (6, 5), (5, 5), (6, 5)]
        sources = [(flat((2, 4), i), flat(size, 9)) for i, size in enumerate(crops)]
        results = [result for _, result in found.stream(sources)]
        assert [float(result.arrays["features"]) for result in results] == [0.0, 1.0, 2.0, 3.0]
        assert [shape[0] for shape in shapes] == [2, 2]
        runs = []
        found.task.inputs = lambda batch: (
            runs.append(batch["canvas_crop_face"].tolist()) or {"image": batch["image"].transpose(0, 3, 1, 2)}
        )
        list(found.stream(sources))
        assert sorted(runs) == [[[5, 5], [5, 5]], [[6, 5], [6, 5]]]

    def test_a_graph_of_a_fixed_batch_gets_full_ones_and_the_rest_is_dropped(self, made):
        found, shapes = made(2, Input((4, 3, "H", "W")))
        assert found.fixed_batch == 4 and found.input_shape == (4, 3, -1, -1)
        results = found([flat((2, 4), i) for i in (7, 8, 9)])
        assert [float(result.arrays["features"]) for result in results] == [7.0, 8.0, 9.0]
        assert [shape[0] for shape in shapes] == [4, 4]
        with pytest.raises(UserError, match="batch_size 5: the graph was exported for batches of 4"):
            made(5, Input((4, 3, "H", "W")))[0]([flat((2, 4), i) for i in range(5)])

    @pytest.mark.parametrize(("size", "said"), [((3, 4), "height is 3"), ((2, 5), "width is 5")])
    def test_a_picture_that_does_not_fit_the_graph(self, made, size, said):
        found, _ = made(1, Input(("B", 3, 2, 4)))
        assert len(found([flat((2, 4), 1)])) == 1
        with pytest.raises(UserError, match=f"{said} after the transforms, the graph was exported for"):
            found([flat(size, 1)])

    def test_extras_reach_every_sample(self, made):
        found, _ = made(2)
        results = found([flat((2, 4), i) for i in (3, 5, 7)], gain=10)
        assert [float(result.arrays["features"]) for result in results] == [30.0, 50.0, 70.0]


class TestSizesAndOrder:
    @pytest.mark.parametrize("batch_size", [1, 2, 3])
    def test_different_sizes_are_never_stacked_and_order_is_kept(self, eager, batch_size):
        recipe, weights, _ = exported()
        grouped = Predictor(recipe, weights=weights, batch_size=batch_size)
        net, shapes = grouped.nets["model"], []
        grouped.nets = {"model": Net(lambda x: shapes.append(list(x.shape)) or net(image=x))}
        images = pictures()
        assert share_equal(labels(grouped(images)), labels(eager(images))) > 0.9999
        assert sum(shape[0] for shape in shapes) == len(images)
        if batch_size == 2:
            assert sorted(shape[0] for shape in shapes) == [1, 1, 1, 2]

    def test_memory_is_bounded_by_batches_and_results_come_in_order(self):
        predictor = Predictor(exported()[2], batch_size=2)
        sizes = [(40 + 8 * i, 40) for i in range(12)]
        read = []

        def images():
            for i, image in enumerate(pictures(sizes)):
                read.append(i)
                yield image

        seen = []
        for number, result in predictor.stream(images()):
            assert len(read) - number <= 8  # 4 batches
            assert result.labels.shape == sizes[number]
            seen.append(number)
        assert seen == list(range(12))

    def test_kinds_of_input(self, plain, tmp_path):
        paths = write_pictures(tmp_path / "p")
        (tmp_path / "list.txt").write_text("".join(f"p/{path.name} 0\n" for path in paths))
        array = pictures()[0]
        by_folder = plain(tmp_path / "p")
        assert [r.name for r in by_folder] == [str(p) for p in paths]
        for source in (tmp_path / "list.txt", paths, [str(p) for p in paths]):
            assert share_equal(labels(plain(source)), labels(by_folder)) == 1
        mixed = plain([paths[2], array])
        assert mixed[1].name == "1" and np.array_equal(mixed[1].labels, by_folder[0].labels)
        assert np.array_equal(plain(array)[0].labels, by_folder[0].labels)

    @pytest.mark.parametrize(
        "image, message",
        [
            (np.zeros((4, 4, 3), np.float32), "expected RGB uint8"),
            (np.zeros((4, 4), np.uint8), r"got uint8 \[4, 4\]"),
            (np.zeros((0, 4, 3), np.uint8), "expected RGB uint8"),
            ([], "list of images is empty"),
            (5, "expected paths or RGB uint8 arrays, got int"),
            ([5], "got int in the list"),
        ],
    )
    def test_wrong_input(self, plain, image, message):
        with pytest.raises(UserError, match=message):
            plain(image)

    def test_times_are_taken(self):
        predictor = Predictor(exported()[2])
        predictor(pictures()[:2])
        assert predictor.calls == 2 and all(value > 0 for value in predictor.timings.values())
        predictor.reset_timings()
        assert predictor.calls == 0 and not any(predictor.timings.values())


class TestOptions:
    def test_augmentation_reaches_the_task(self, eager):
        recipe, weights, _ = exported()
        augmented = Predictor(recipe, weights=weights, flip=True, scales=[0.5, 1.0])
        images = pictures([(40, 53)])
        assert 0.3 < share_equal(labels(augmented(images)), labels(eager(images))) < 1

    def test_augmentation_needs_logits(self):
        with pytest.raises(UserError, match="--output_op none"):
            Predictor(exported()[2], flip=True)(pictures()[0])

    def test_palette(self, plain):
        coloured = Predictor(exported()[2], palette=[[1, 2, 3]])
        assert coloured(pictures()[0])[0].palette.tolist() == [[1, 2, 3]]


class TestRefusals:
    @pytest.mark.parametrize(
        "name, backend", [("model.json", "paddle"), ("model.pdiparams", "paddle"), ("model.onnx", "onnx")]
    )
    def test_an_altered_file(self, copy, name, backend):
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(bytes(content))
        with pytest.raises(UserError, match=f"{name}: sha256 differs"):
            Predictor(copy, backend=backend)

    def test_a_missing_file(self, copy):
        (copy / "model.pdiparams").unlink()
        with pytest.raises(UserError, match=r"model\.pdiparams: missing"):
            Predictor(copy)

    def test_a_format_the_export_does_not_have(self, copy):
        content = yaml.safe_load((copy / "deploy.yaml").read_text())
        del content["PPVision"]["sha256"]["model.onnx"]
        (copy / "deploy.yaml").write_text(yaml.safe_dump(content))
        with pytest.raises(UserError, match=r"no such file \(it has: model.json, model.pdiparams\)"):
            Predictor(copy, backend="onnx")

    def test_an_unknown_transform_names_the_file(self, copy):
        content = yaml.safe_load((copy / "deploy.yaml").read_text())
        content["PPVision"]["transforms"] = [{"type": "Resise", "short": 3}]
        (copy / "deploy.yaml").write_text(yaml.safe_dump(content))
        with pytest.raises(UserError, match=r"deploy\.yaml.*Resise.*did you mean 'Resize'"):
            Predictor(copy)

    @pytest.mark.parametrize(
        "item, message",
        [
            ({"type": "os.system", "command": "touch owned"}, "no transform 'os.system'"),
            ({"type": "subprocess.Popen", "args": ["touch", "owned"]}, "no transform 'subprocess.Popen'"),
            ({"type": "ppvision.data.transforms.image.Resize", "short": 3}, "may name only those"),
            ({"short": 3}, "no transform 'None'"),
            ({"type": "Resize", "shrt": 3}, "unknown key .*shrt"),
            (5, "must be a mapping"),
        ],
    )
    def test_only_transforms_of_the_suite(self, copy, item, message, monkeypatch):
        monkeypatch.chdir(copy)
        content = yaml.safe_load((copy / "deploy.yaml").read_text())
        content["PPVision"]["transforms"] = [item]
        (copy / "deploy.yaml").write_text(yaml.safe_dump(content))
        with pytest.raises(UserError, match=f"deploy.yaml.*{message}"):
            Predictor(copy)
        assert not (copy / "owned").exists()

    @pytest.mark.parametrize(
        "block, key, value",
        [("Deploy", k, None) for k in ("model", "params", "input_shape", "output_op")]
        + [
            ("PPVision", k, None)
            for k in ("task", "model_name", "inputs", "outputs", "transforms", "postprocess", "normalisation", "sha256")
        ]
        + [
            ("PPVision", "sha256", []),
            ("PPVision", "outputs", [{}]),
            ("PPVision", "outputs", [5]),
            ("PPVision", "outputs", []),
            ("PPVision", "inputs", [{"name": "x"}]),
            ("PPVision", "inputs", []),
            ("PPVision", "task", 5),
            ("PPVision", "transforms", "Resize"),
            ("PPVision", "labels", 5),
            ("PPVision", "normalisation", {}),
            ("PPVision", "normalisation", {"mean": ["a", 1, 2]}),
            ("Deploy", "input_shape", [1, 3]),
        ],
    )
    def test_a_missing_or_wrong_key(self, copy, block, key, value):
        content = yaml.safe_load((copy / "deploy.yaml").read_text())
        content[block][key] = value
        (copy / "deploy.yaml").write_text(yaml.safe_dump(content))
        with pytest.raises(UserError, match=rf"deploy\.yaml: {block}\.{key}.* export again"):
            Predictor(copy)

    @pytest.mark.parametrize(
        "text, message",
        [
            ("Deploy:\nPPVision:\n", "has no Deploy and PPVision block"),
            ("Deploy: {}\nPPVision: {}\n", "written by an older ppvision"),
            ("Deploy: 1\nPPVision: x\n", "has no Deploy and PPVision block"),
            ("Deploy: {}\nPPVision: {format: 2}\n", r"PPVision\.task is missing"),
            ("Deploy: 1\nPPVision: {format: 2}\n", "has no Deploy and PPVision block"),
        ],
    )
    def test_empty_blocks(self, tmp_path, text, message):
        (tmp_path / "deploy.yaml").write_text(text)
        with pytest.raises(UserError, match=rf"deploy\.yaml: {message}"):
            Predictor(tmp_path)

    @pytest.mark.parametrize(
        "text, message", [("Deploy: {model: x}\n", "was it written by"), ("Deploy: [\n", "not YAML")]
    )
    def test_a_foreign_deploy_file(self, tmp_path, text, message):
        (tmp_path / "deploy.yaml").write_text(text)
        with pytest.raises(UserError, match=message):
            Predictor(tmp_path)

    def test_sources_that_are_none(self, tmp_path):
        with pytest.raises(UserError, match="no deploy.yaml in this folder"):
            Predictor(tmp_path)
        (tmp_path / "up").mkdir()
        (tmp_path / "up/deploy.yaml").write_text("Deploy: {}\n")
        with pytest.raises(UserError, match="choose one of: up"):
            Predictor(tmp_path)
        with pytest.raises(UserError, match="no such file"):
            Predictor(tmp_path / "down/deploy.yaml")

    def test_options_that_mean_nothing(self):
        recipe, weights, folder = exported()
        with pytest.raises(UserError, match="give its folder instead of a recipe"):
            Predictor(recipe, backend="onnx", weights=weights)
        with pytest.raises(UserError, match="give the recipe"):
            Predictor(folder, weights=weights)
        with pytest.raises(UserError, match="no weights"):
            Predictor(recipe)
        with pytest.raises(UserError, match="at least 1"):
            Predictor(folder, batch_size=0)


class TestRun:
    @pytest.mark.parametrize("kind", ["export", "recipe"])
    def test_files(self, tmp_path, kind):
        recipe, weights, folder = exported()
        paths = write_pictures(tmp_path / "in", [(37, 61), (48, 64)])
        source = {"export": {"source": folder}, "recipe": {"source": recipe, "weights": weights, "flip": True}}[kind]
        records = run(image_path=tmp_path / "in", save_dir=tmp_path / "out", device="cpu", **source)
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
            "p0.png", "p0_overlay.jpg", "p1.png", "p1_overlay.jpg", "predictions.json",
        ]  # fmt: skip
        assert all(p.stat().st_size for p in (tmp_path / "out").iterdir())
        assert json.loads((tmp_path / "out/predictions.json").read_text()) == records
        assert [r["image"] for r in records] == [str(p) for p in paths]
        assert records[0]["files"] == ["p0.png", "p0_overlay.jpg"] and records[0]["height"] == 37
        with Image.open(tmp_path / "out/p0.png") as mask:
            assert mask.mode == "P" and mask.size == (61, 37)
            ids = {c["id"] for c in records[0]["classes"]}
            assert set(np.unique(np.asarray(mask))) == ids

    def test_without_drawings_and_with_equal_stems(self, tmp_path):
        write_pictures(tmp_path / "in/a", [(40, 40)])
        write_pictures(tmp_path / "in/b", [(40, 56)])
        records = run(exported()[2], tmp_path / "in", tmp_path / "out", device="cpu", overlay=False)
        assert [r["files"] for r in records] == [["a_p0.png"], ["b_p0.png"]]
        assert [Image.open(tmp_path / "out" / r["files"][0]).size for r in records] == [(40, 40), (56, 40)]

    def test_a_folder_that_cannot_be_written(self, tmp_path):
        write_pictures(tmp_path / "in", [(40, 40)])
        (tmp_path / "out").write_text("a file")
        with pytest.raises(UserError, match="results cannot be written"):
            run(exported()[2], tmp_path / "in", tmp_path / "out", device="cpu")

    def test_images_are_never_replaced(self, tmp_path, monkeypatch):
        paths = write_pictures(tmp_path / "in", [(40, 40), (40, 56)])
        before = [path.read_bytes() for path in paths]
        (tmp_path / "links").mkdir()
        (tmp_path / "links/p1.png").symlink_to(paths[1])
        for folder in ("in", "links"):
            with monkeypatch.context() as patch:
                patch.setattr(saving, "Predictor", lambda *a, **k: pytest.fail("a network was built"))
                with pytest.raises(UserError, match=rf"{folder}: the result p\d.png would replace the image"):
                    run(exported()[2], tmp_path / "in", tmp_path / folder, device="cpu")
            with pytest.raises(UserError, match="would replace"):
                save_results(None, paths, tmp_path / folder)
        assert [path.read_bytes() for path in paths] == before
        # Another suffix in the same folder replaces nothing.
        Image.open(paths[0]).save(tmp_path / "photo.jpg")
        run(exported()[2], tmp_path / "photo.jpg", tmp_path, device="cpu")
        assert (tmp_path / "photo.png").is_file()

    def test_a_bad_image_leaves_an_index_of_what_was_done(self, tmp_path):
        paths = write_pictures(tmp_path / "in", [(40, 40), (40, 56), (40, 40)])
        (tmp_path / "out").mkdir()
        (tmp_path / "out/predictions.json").write_text('["of an earlier run"]')
        paths[1].write_bytes(paths[1].read_bytes()[:-30])
        with pytest.raises(UserError, match=r"p1\.png"):
            run(exported()[2], tmp_path / "in", tmp_path / "out", device="cpu", overlay=False)
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["p0.png", "predictions.json"]
        (record,) = json.loads((tmp_path / "out/predictions.json").read_text())
        assert record["files"] == ["p0.png"]

    def test_no_image_is_an_error(self, tmp_path):
        (tmp_path / "none.txt").write_text("\n")
        with pytest.raises(UserError, match="list is empty"):
            run(exported()[2], tmp_path / "none.txt", tmp_path / "out")
