"""The export as a whole: what is written, that it is dynamic, and that sabotage is seen."""

import json

import numpy as np
import onnx
import paddle
import pytest
import yaml
from paddle import nn

import ppvision
from ppvision.errors import RunError, UserError
from ppvision.exporting import convert_onnx, exporter, parity, staging
from ppvision.exporting.deployed import Deployed
from ppvision.exporting.exporter import Spec, export_layer
from ppvision.exporting.graph import check_parameters, save_static
from ppvision.exporting.legacy import legacy_reason
from ppvision.files import sha256
from ppvision.models.network import IMAGE
from ppvision.predict import Predictor
from ppvision.predict.deployment import upstream_transform
from ppvision.predict.runtime import Runtime, open_session
from ppvision.predict.tasks.base import create_task, ending_of
from ppvision.predict.tasks.detection import Detection, Detections
from tests.exporting.samples import (
    TinyDetector,
    TinyNet,
    exported,
    exported_detector,
    pictures,
    randomise,
    write_detection_recipe,
)

MEAN, STD = (120.0, 110.0, 100.0), (58.0, 57.0, 56.0)
OWN = ["deploy.yaml", "model.json", "model.onnx", "model.pdiparams", "parity.json"]


def tiny_spec(task="segmentation", labels=(), palette=None, **changes):
    made = create_task(task, class_names=labels, palette=palette)
    base = dict(model_name="tiny", task_name=task, task=made, mean=MEAN, std=STD, formats=("paddle",))
    return Spec(**{**base, "example": (32, 48), **changes})


@pytest.fixture(scope="module")
def net():
    return randomise(TinyNet())


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class TestProduct:
    def test_files_and_deploy_yaml(self):
        folder = exported()[2]
        assert names(folder) == OWN
        content = yaml.safe_load((folder / "deploy.yaml").read_text())
        deploy, ours = content["Deploy"], content["PPVision"]
        assert deploy == {
            "model": "model.json",
            "params": "model.pdiparams",
            "transforms": [{"type": "ResizeByShort", "short_size": 40}],
            "input_shape": [-1, 3, -1, -1],
            "output_op": "argmax",
            "output_dtype": "int32",
        }
        assert ours["labels"] == ["ground", "green", "red"] and len(ours["palette"]) == 3
        (given,) = ours["inputs"]
        assert (given["name"], given["argument"], given["kind"], given["dtype"]) == ("x", "image", "image", "float32")
        assert given["shape"] == [-1, 3, -1, -1] and given["range"] == [0, 255]
        (output,) = ours["outputs"]
        assert (output["name"], output["kind"], output["dtype"]) == ("labels", "labels", "int32")
        off = {
            "size": None,
            "max": None,
            "long": None,
            "keep_ratio": False,
            "multiple_of": 1,
            "interpolation": "linear",
        }
        assert ours["transforms"] == [{"type": "Resize", "short": 40, **off}]
        assert ours["task"] == "segmentation" and ours["model_name"] == "rtformer_debug"
        assert ours["shape_profile"]["min"] == {"x": [1, 3, 40, 53]}
        assert ours["shape_profile"]["max"] == {"x": [1, 3, 40, 66]}
        assert ours["sha256"] == {
            name: sha256(folder / name) for name in ("model.json", "model.onnx", "model.pdiparams")
        }

    def test_parity_report(self):
        report = json.loads((exported()[2] / "parity.json").read_text())
        assert report["inputs"] == "validation samples" and report["refused"] == {}
        assert {row["backend"] for row in report["rows"]} >= {"eager", "paddle", "paddle-onednn", "onnx"}
        shapes = {tuple(row["shape"]) for row in report["rows"]}
        assert (2, 3, 25, 61) in shapes and len(shapes) == 2
        for row in report["rows"]:
            if row["judged"]:
                assert row["max_error"] < 1e-4 and row["agreement"] > 0.999 and row["latency_ms"] > 0

    def test_holds_exactly_the_networks_parameters(self):
        folder = exported()[2]
        net = ppvision.create_model("rtformer_debug", num_classes=3)
        loaded = paddle.jit.load(str(folder / "model")).state_dict().values()
        assert sum(v.size for v in loaded) == sum(v.size for v in net.state_dict().values())
        text = (folder / "model.json").read_text()
        assert "dropout" not in text and "cross_entropy" not in text

    @pytest.mark.parametrize("shape", [(1, 32, 32), (3, 47, 81), (2, 64, 33)])
    def test_batch_height_and_width_are_free(self, shape):
        recipe, weights, folder = exported()
        batch, height, width = shape
        x = parity.pictures([batch, 3, height, width])
        net = ppvision.create_model("rtformer_debug", pretrained=weights, num_classes=3)
        net.eval()
        _, ending = ending_of(create_task("segmentation"), "argmax")
        expected = Deployed(net, *ppvision.models.zoo.entry("rtformer_debug").mean_std, ending)
        want = expected({"x": paddle.to_tensor(x)})[0].numpy()
        got = paddle.jit.load(str(folder / "model"))(paddle.to_tensor(x)).numpy()
        assert got.shape == (batch, height, width) and (got == want).mean() > 0.999

    def test_the_export_does_not_depend_on_what_was_built_before(self, tmp_path):
        recipe, weights, folder = exported()
        nn.Conv2D(3, 3, 1), nn.BatchNorm2D(3)
        ppvision.export(recipe, ["export.formats=[paddle]"], weights=weights, save_dir=tmp_path)
        assert sha256(tmp_path / "model.pdiparams") == sha256(folder / "model.pdiparams")
        assert names(tmp_path) == [name for name in OWN if name != "model.onnx"]

    @pytest.mark.parametrize(
        "output_op, dtype, kind", [("softmax", "float32", "probabilities"), ("none", "float32", "raw")]
    )
    def test_other_ends_of_the_graph(self, net, tmp_path, output_op, dtype, kind):
        export_layer(net, tmp_path, tiny_spec(output_op=output_op))
        content = yaml.safe_load((tmp_path / "deploy.yaml").read_text())
        assert content["Deploy"]["output_dtype"] == dtype and content["PPVision"]["outputs"][0]["kind"] == kind
        (image,) = pictures([(32, 48)])
        want = net(paddle.to_tensor(((image - np.float32(MEAN)) / np.float32(STD)).transpose(2, 0, 1)[None]))
        # flip works: what leaves the graph can be averaged
        assert (Predictor(tmp_path)(image)[0].labels == want.numpy()[0].argmax(0)).mean() > 0.999
        assert Predictor(tmp_path, flip=True)(image)[0].labels.shape == (32, 48)

    def test_fixed_shape(self, net, tmp_path):
        export_layer(net, tmp_path, tiny_spec(shapes={"x": [2, 3, 32, 48]}, formats=("paddle", "onnx")))
        assert len({tuple(row["shape"]) for row in json.loads((tmp_path / "parity.json").read_text())["rows"]}) == 1
        images = pictures([(32, 48)] * 3)
        results = Predictor(tmp_path, batch_size=2)(images)  # the last batch is filled up
        single = Predictor(tmp_path)(images)
        assert [r.labels.shape for r in results] == [(32, 48)] * 3
        assert all(np.array_equal(a.labels, b.labels) for a, b in zip(results, single))
        with pytest.raises(UserError, match="exported for batches of 2"):
            Predictor(tmp_path, batch_size=3)(images)
        with pytest.raises(UserError, match="height is 33 after the transforms, the graph was exported for 32"):
            Predictor(tmp_path)(pictures([(33, 48)]))


HOSTS = ("dab_detr_debug", "deformable_detr_debug", "dino_debug", "group_detr_v2_debug")


class TestDetection:
    def test_deploy_yaml(self):
        content = yaml.safe_load((exported_detector()[2] / "deploy.yaml").read_text())
        deploy, ours = content["Deploy"], content["PPVision"]
        assert deploy["output_op"] == "detections" and deploy["output_dtype"] == "float32"
        outputs = [("boxes", "boxes", "float32"), ("scores", "scores", "float32"), ("labels", "labels", "int32")]
        assert [(o["name"], o["kind"], o["dtype"]) for o in ours["outputs"]] == outputs
        options = {"top_k": 300, "threshold": 0.0, "draw_threshold": 0.5}
        assert ours["task"] == "detection" and ours["postprocess"] == {"type": "detection", **options}
        assert ours["labels"] == ["cat", "dog", "hen"]

    def test_parity_report(self):
        report = json.loads((exported_detector()[2] / "parity.json").read_text())
        assert {row["backend"] for row in report["rows"]} >= {"eager", "paddle", "paddle-onednn", "onnx"}
        for row in report["rows"]:
            assert row["max_error"] < 1e-4 and row["agreement"] == 1.0 and row["agreement_exact"] > 0.9

    @pytest.mark.parametrize("shape", [(1, 40, 40), (3, 47, 81), (2, 64, 33)])
    @pytest.mark.parametrize("backend", ["paddle", "onnx"])
    def test_batch_height_and_width_are_free(self, shape, backend):
        recipe, weights, folder = exported_detector()
        x = parity.pictures([shape[0], 3, *shape[1:]])
        net = TinyDetector()
        net.set_state_dict(paddle.load(str(weights)))
        net.eval()
        deployed = Deployed(net, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
        raw = {name: value.numpy() for name, value in deployed.outputs({"x": paddle.to_tensor(x)}).items()}
        files = {"model": folder / "model.json", "params": folder / "model.pdiparams", "onnx": folder / "model.onnx"}
        whole = np.ones((shape[0], *shape[1:]), bool)
        product = open_session(backend, "cpu", Runtime(), **files)({"x": x, "valid": whole})
        shapes = {"boxes": (shape[0], 36, 4), "scores": (shape[0], 36), "labels": (shape[0], 36)}
        assert {name: value.shape for name, value in product.items()} == shapes
        assert product["labels"].dtype == np.int32
        assert Detection().agreement(raw, product, 1e-4)[0] == 1.0

    def test_raw_outputs_and_a_fixed_shape(self, tmp_path):
        detector = randomise(TinyDetector())
        spec = tiny_spec(
            task="detection", output_op="none", shapes={"image": [2, 3, 32, 48]}, formats=("paddle", "onnx")
        )
        export_layer(detector, tmp_path, spec)
        outputs = yaml.safe_load((tmp_path / "deploy.yaml").read_text())["PPVision"]["outputs"]
        assert [(o["name"], o["kind"]) for o in outputs] == [("logits", "raw"), ("boxes", "raw")]
        images = pictures([(32, 48), (32, 48), (32, 48)])
        found = [Predictor(tmp_path, backend=backend, batch_size=2)(images) for backend in ("paddle", "onnx")]
        assert len(found[0]) == 3 and len(found[0][0].boxes) == 36
        for a, b in zip(*found):
            assert a.boxes == pytest.approx(b.boxes, abs=1e-3) and a.classes.tolist() == b.classes.tolist()

    @pytest.mark.parametrize("fault", ["box", "label", "score"])
    def test_a_graph_that_decides_otherwise_is_refused(self, tmp_path, monkeypatch, fault):
        """Its raw twin is right, so only the comparison of decisions can tell."""
        right = exporter.Deployed.forward

        def wrong(self, inputs):
            output = right(self, inputs)
            if not isinstance(self.ending, Detections):
                return output
            boxes, scores, labels = output
            if fault == "box":
                boxes = boxes * 0.9
            if fault == "label":
                labels = (labels + 1) % 3
            return [boxes, scores * (0.99 if fault == "score" else 1.0), labels]

        monkeypatch.setattr(exporter.Deployed, "forward", wrong)
        with pytest.raises(RunError, match="of decisions agree"):
            export_layer(randomise(TinyDetector()), tmp_path / "out", tiny_spec(task="detection"))

    def test_near_equal_tokens_may_become_queries_in_another_order(self):
        """A choice with the tokens in other places, all of them as good within rounding."""
        net = randomise(ppvision.create_model("dino_debug", num_classes=3), seed=1)
        head = net.queries.enc_score_head
        head.weight.set_value(head.weight * 1e-6)
        head.bias.set_value(head.bias * 0 - 3)  # all tokens score -3 and something behind the sixth digit
        x = parity.pictures([1, 3, 64, 96])
        reference, inputs = exporter._eager(Deployed(net, MEAN, STD, explain=True)), {"x": x}
        mine = reference(inputs)
        assert list(mine) == ["logits", "boxes", "chosen", "scores"]
        swapped = np.roll(mine["chosen"], 3, axis=1)
        other = reference(inputs, swapped)
        assert np.abs(other["logits"] - mine["logits"]).max() > 0.1  # what stands behind a query has changed
        expected, given = parity.settled(reference, inputs, mine, other, 1e-4)
        assert parity.relative_errors(expected, given)[0] < 1e-6 and len(given) == 2
        count = mine["scores"].shape[1]
        order = np.arange(count, dtype="f4")
        wrong = {**other, "chosen": (swapped + 1) % count, "scores": mine["scores"] + order}
        mine["scores"] = mine["scores"] + 0.1 * order[::-1]  # now one order is right, not theirs
        expected, given = parity.settled(reference, inputs, mine, wrong, 1e-4)
        assert parity.relative_errors(expected, given)[0] > 1e-2

    @pytest.mark.slow
    @pytest.mark.parametrize("name", HOSTS)
    def test_every_host(self, tmp_path, name):
        """Through the recipe, on every backend, ONNX included; a padded photograph comes back as from the network."""
        recipe, weights = write_detection_recipe(tmp_path, [{"type": "Resize", "short": 72}], name)
        ppvision.export(recipe, weights=weights, save_dir=tmp_path / "out", formats=["paddle", "onnx"])
        report = json.loads((tmp_path / "out/parity.json").read_text())
        assert report["refused"] == {} and all(row["agreement"] == 1.0 for row in report["rows"])
        net = ppvision.create_model(name, num_classes=3)
        kept = [
            v.size
            for k, v in net.state_dict().items()
            if not k.startswith(tuple(f"{h}." for h in net.training_heads) or ("-",))
        ]
        loaded = paddle.jit.load(str(tmp_path / "out/model")).state_dict().values()
        assert sum(v.size for v in loaded) == sum(kept)
        images = pictures([(80, 100), (97, 61)])
        eager = Predictor(recipe, weights=weights)(images)
        for backend in ("paddle", "onnx"):
            for a, b in zip(eager, Predictor(tmp_path / "out", backend=backend)(images)):
                sides = [[r.boxes[None], r.scores[None], r.classes[None]] for r in (a, b)]
                assert len(a.boxes) == len(b.boxes) and a.scores == pytest.approx(b.scores, abs=1e-4)
                order = [np.lexsort((s[2][0], np.round(s[0][0, :, 0], 1))) for s in sides]
                same = np.abs(a.boxes[order[0]] - b.boxes[order[1]]).max(1) < 0.05
                assert same.mean() > 0.9


class TestInstallation:
    def test_deploy_yaml_goes_first_and_comes_last(self, tmp_path, monkeypatch):
        """A program that finds one finds files that belong to it, whenever it looks."""
        made, folder, moved = tmp_path / "made", tmp_path / "out", []
        for place, text in ((made, "new"), (folder, "old")):
            place.mkdir()
            for name in OWN:
                (place / name).write_text(text)
        (made / "model.onnx").unlink()  # this export has none

        def move(source, target, real=staging.move):
            texts = {path.name: path.read_text() for path in folder.iterdir()}
            assert "deploy.yaml" not in texts
            moved.append(target.name)
            real(source, target)

        monkeypatch.setattr(staging, "move", move)
        staging.install(made, folder, "model")
        assert moved[-1] == "deploy.yaml" and sorted(moved) == sorted({*OWN} - {"model.onnx"})
        assert {path.name: path.read_text() for path in folder.iterdir()} == dict.fromkeys(moved, "new")

    def test_other_files_stay_and_old_ones_of_ours_go(self, net, tmp_path):
        (tmp_path / "train.log").write_text("mine")
        (tmp_path / "model.onnx").write_text("of an earlier export")
        (tmp_path / "deploy.yaml").write_text("old")
        export_layer(net, tmp_path, tiny_spec())
        assert names(tmp_path) == ["deploy.yaml", "model.json", "model.pdiparams", "parity.json", "train.log"]
        assert (tmp_path / "train.log").read_text() == "mine"
        export_layer(net, tmp_path, tiny_spec())
        assert len(Predictor(tmp_path)(pictures()[:1])) == 1  # hashes of the second export, files of the second export

    def test_a_failed_export_leaves_everything_as_it_was(self, net, tmp_path, monkeypatch):
        export_layer(net, tmp_path, tiny_spec())
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(RunError):
            export_layer(net, tmp_path, tiny_spec(tolerance=-1.0))
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    def test_a_failed_export_leaves_no_folder_of_its_own(self, net, tmp_path):
        with pytest.raises(RunError):
            export_layer(net, tmp_path / "new/out", tiny_spec(tolerance=-1.0))
        assert names(tmp_path) == []
        (tmp_path / "mine").mkdir()
        with pytest.raises(RunError):
            export_layer(net, tmp_path / "mine/out", tiny_spec(tolerance=-1.0))
        assert names(tmp_path) == ["mine"]

    @pytest.mark.parametrize(
        "name, keep, message",
        [
            ("model.pdiparams", -4, "has 1052 bytes of at least 1056"),
            ("model.pdiparams", 100, "cannot be read back"),
            ("model.pdiparams", 0, "not written completely"),
            ("model.json", -40, "model.json was not written completely"),
            ("raw/model.pdiparams", -4, "its second copy 1052"),
            ("raw/model.json", 100, "model.json was not written completely"),
        ],
    )
    def test_a_file_cut_off_by_a_full_disk(self, net, tmp_path, monkeypatch, name, keep, message):
        def save(layer, stem, inputs, outputs, real=exporter.save_static):
            real(layer, stem, inputs, outputs)
            raw = stem.parent.name == "raw"
            if raw == name.startswith("raw/"):
                path = stem.parent / name.removeprefix("raw/")
                path.write_bytes(path.read_bytes()[:keep])

        monkeypatch.setattr(exporter, "save_static", save)
        with pytest.raises(RunError, match=f"{message}.* disk full"):
            export_layer(net, tmp_path / "out", tiny_spec())
        assert names(tmp_path) == []

    @pytest.mark.parametrize(
        "error", [OSError(28, "No space left on device"), OSError("raw"), RuntimeError("nonsense")]
    )
    def test_no_space_left(self, net, tmp_path, monkeypatch, error):
        def fail(*args):
            raise error

        monkeypatch.setattr(exporter, "save_static", fail)
        monkeypatch.setattr(exporter.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 0}))
        with pytest.raises(RunError, match=r"out cannot be written \([Nn]o space left"):
            export_layer(net, tmp_path / "out", tiny_spec())

    def test_file_names(self, net, tmp_path):
        export_layer(net, tmp_path, tiny_spec(save_name="inference"))
        assert names(tmp_path) == ["deploy.yaml", "inference.json", "inference.pdiparams", "parity.json"]
        assert len(Predictor(tmp_path)(pictures()[:1])) == 1

    def test_a_folder_that_cannot_be_made(self, net, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="cannot be written"):
            export_layer(net, tmp_path / "file/out", tiny_spec())


def perturb(path, relative):
    """Change the largest float constant of an ONNX file."""
    model = onnx.load(str(path))
    tensors = [
        a.t for node in model.graph.node for a in node.attribute if node.op_type == "Constant" and a.name == "value"
    ]
    tensors = [t for t in [*tensors, *model.graph.initializer] if t.data_type == onnx.TensorProto.FLOAT]
    tensor = max(tensors, key=lambda t: int(np.prod(t.dims)))
    array = onnx.numpy_helper.to_array(tensor) * np.float32(1 + relative)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(model, str(path))


class TestSabotage:
    @pytest.fixture
    def sabotaged(self, monkeypatch):
        def convert(pairs, real=convert_onnx.convert):
            real(pairs)
            for *_, path in pairs:
                perturb(path, 0.01)

        monkeypatch.setattr(convert_onnx, "convert", convert)

    def test_a_wrong_onnx_file_is_refused_and_the_figure_named(self, net, tmp_path, sabotaged, caplog):
        export_layer(net, tmp_path, tiny_spec(formats=("paddle", "onnx")))
        assert "model.onnx" not in names(tmp_path) and "model.json" in names(tmp_path)
        (line,) = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
        assert "model.onnx refused: error" in line and "tolerance 1.0e-04" in line and "\n" not in line
        assert "onnx" in json.loads((tmp_path / "parity.json").read_text())["refused"]
        assert "model.onnx" not in yaml.safe_load((tmp_path / "deploy.yaml").read_text())["PPVision"]["sha256"]

    def test_and_an_error_when_it_was_asked_for_by_name(self, net, tmp_path, sabotaged):
        with pytest.raises(RunError, match="model.onnx refused"):
            export_layer(net, tmp_path, tiny_spec(formats=("onnx",), strict=True))
        assert names(tmp_path) == []

    def test_a_conversion_that_fails_is_one_line(self, net, tmp_path, monkeypatch, caplog):
        def convert(pairs):
            raise UserError("paddle2onnx ended with status -6: Check failed")

        monkeypatch.setattr(convert_onnx, "convert", convert)
        export_layer(net, tmp_path, tiny_spec(formats=("paddle", "onnx")))
        assert "model.onnx" not in names(tmp_path) and "status -6" in caplog.text

    def test_wrong_decisions_of_a_right_network_are_seen(self, net, tmp_path, monkeypatch):
        real = parity.open_session

        def swapped(*args, model, **kwargs):
            session = real(*args, model=model, **kwargs)
            return session if model.parent.name == "raw" else lambda x: {"labels": 2 - session(x)["labels"]}

        monkeypatch.setattr(parity, "open_session", swapped)
        with pytest.raises(RunError, match="of decisions agree"):
            export_layer(net, tmp_path, tiny_spec())
        assert names(tmp_path) == []

    def test_a_backend_past_the_tolerance_fails_the_export(self, net, tmp_path):
        with pytest.raises(RunError, match="does not agree with the network: error .* tolerance 1.0e-12"):
            export_layer(net, tmp_path, tiny_spec(tolerance=1e-12))
        assert names(tmp_path) == []

    def test_a_layer_that_does_not_use_all_it_has(self, tmp_path):
        class WithTraining(TinyNet):
            def __init__(self):
                super().__init__()
                self.auxiliary = nn.Conv2D(6, 3, 1)

        with pytest.raises(UserError, match=r"graph has 213 parameters, the network 234; not in the graph: auxiliary"):
            export_layer(randomise(WithTraining()), tmp_path, tiny_spec())

    def test_heads_that_only_a_loss_reads_are_no_part_of_the_graph(self, tmp_path):
        class WithHeads(TinyNet):
            training_heads = ("heads.0",)

            def __init__(self):
                super().__init__()
                self.heads = nn.LayerList([nn.Conv2D(6, 5, 1)])

        export_layer(randomise(WithHeads()), tmp_path / "out", tiny_spec())
        WithHeads.training_heads = ("head",)  # names that sub-layer and no other
        with pytest.raises(UserError, match="not in the graph: heads.0.weight"):
            export_layer(randomise(WithHeads()), tmp_path / "other", tiny_spec())

    def test_a_graph_with_more_than_the_network(self, net, tmp_path):
        class More(nn.Layer):
            def __init__(self):
                super().__init__()
                self.net, self.teacher = net, nn.Conv2D(3, 3, 1)

            def forward(self, x):
                return self.net(x) + self.teacher(x)

        more = More()
        more.eval()
        save_static(Deployed(more, MEAN, STD), tmp_path / "model", {"image": IMAGE}, ["output"])
        with pytest.raises(UserError, match=r"not in the network: 2 arrays"):
            check_parameters(net, tmp_path / "model")


class TestArguments:
    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"formats": ("onxx",)}, "did you mean 'onnx'"),
            ({"shapes": {"x": [1, 3, 32]}}, r"the shape of 'x' is \[B, 3, H, W\], .* got \[1, 3, 32\]"),
            ({"shapes": {"image": [1, 4, 32, 32]}}, r"the shape of 'x' is \[B, 3, H, W\]"),
            ({"shapes": {"x": [0, 3, 32, 32]}}, "-1 for a free side"),
            ({"shapes": {"y": [1, 3, 32, 32]}}, r"no input 'y' \(inputs: x\)"),
            ({"output_op": "argmx"}, "did you mean 'argmax'"),
            ({"task": "classification", "output_op": "argmax"}, "there is: softmax, none"),
        ],
    )
    def test_refused(self, net, tmp_path, changes, message):
        with pytest.raises(UserError, match=message):
            export_layer(net, tmp_path / "out", tiny_spec(**changes))
        assert not (tmp_path / "out").exists()

    def test_weights_are_needed(self, tmp_path):
        recipe, _, _ = exported()
        with pytest.raises(UserError, match="no weights"):
            ppvision.export(recipe, save_dir=tmp_path)
        with pytest.raises(UserError, match="nowhere"):
            ppvision.export(recipe, weights="nowhere", save_dir=tmp_path)

    def test_labels_of_another_number_of_classes_are_left_out(self, net, tmp_path):
        export_layer(net, tmp_path, tiny_spec(labels=["a", "b"], palette=np.zeros((2, 3))))
        ours = yaml.safe_load((tmp_path / "deploy.yaml").read_text())["PPVision"]
        assert ours["labels"] == [] and ours["palette"] is None

    @pytest.mark.parametrize(
        "ours, theirs",
        [
            ({"type": "Resize", "size": [10, 20]}, {"type": "Resize", "target_size": [20, 10]}),
            (
                {"type": "Resize", "size": [10, 20], "keep_ratio": True},
                {"type": "Resize", "target_size": [20, 10], "keep_ratio": True},
            ),
            ({"type": "Resize", "long": 9}, {"type": "ResizeByLong", "long_size": 9}),
            ({"type": "Resize", "short": 9, "max": 20}, {"type": "ResizeByShort", "short_size": 9, "max_size": 20}),
            ({"type": "Resize", "short": 9, "multiple_of": 32}, {"type": "Resize", "short": 9, "multiple_of": 32}),
            ({"type": "PadTo", "size": [1, 2]}, {"type": "Padding", "target_size": [2, 1], "im_padding_value": 0.0}),
            ({"type": "PadTo", "multiple": 32}, {"type": "PadTo", "multiple": 32}),
        ],
    )
    def test_upstream_spelling(self, ours, theirs):
        assert upstream_transform(ours) == theirs


class TestLegacy:
    def test_reason(self):
        lines = [
            "Traceback",
            "  x = y",
            "TypeError: matmul(): argument 'x' (position 0) must be Value, but got Variable",
        ]
        assert legacy_reason(lines) == "operator matmul"
        line = "TypeError: (InvalidType) conv2d(): argument (position 0) must be Value, but got Variable"
        assert legacy_reason([line]) == "operator conv2d"
        assert legacy_reason(["TypeError: (InvalidType) it must be Value"]).startswith("TypeError: (Inv")
        assert legacy_reason(["a", "ValueError: b", "c"]) == "ValueError: b"
        assert legacy_reason([]) == "no message"

    @pytest.fixture
    def write(self, net, tmp_path):
        """Export with a stand-in for the child process."""

        def export(writer, strict=False):
            export_layer(net, tmp_path, tiny_spec(formats=("paddle", "pdmodel"), legacy=writer, strict=strict))
            return names(tmp_path)

        return export

    def test_a_graph_with_the_same_parameters_is_taken(self, net, write, tmp_path):
        def writer(stem, deployable, output_op):
            assert (deployable, output_op) == ("model", "argmax")
            stem.with_name("model.pdmodel").write_bytes(b"graph")
            layer = Deployed(net, MEAN, STD, ending_of(create_task("segmentation"), output_op)[1])
            save_static(layer, stem, {"image": IMAGE}, ["labels"])

        assert write(writer) == ["deploy.yaml", "model.json", "model.pdiparams", "model.pdmodel", "parity.json"]
        digests = yaml.safe_load((tmp_path / "deploy.yaml").read_text())["PPVision"]["sha256"]
        assert digests["model.pdmodel"] == sha256(tmp_path / "model.pdmodel")

    def test_a_graph_with_other_parameters_is_refused(self, write, caplog):
        def writer(stem, deployable, output_op):
            for suffix in (".pdmodel", ".pdiparams"):
                stem.with_name(f"model{suffix}").write_bytes(b"other")

        assert "model.pdmodel" not in write(writer)
        assert "parameter file differs" in caplog.text

    def test_what_this_paddle_cannot_write_is_one_line_unless_it_must_be(self, write, caplog):
        def writer(stem, deployable, output_op):
            raise UserError("this Paddle cannot write it: operator matmul")

        assert "model.pdmodel" not in write(writer)
        (record,) = caplog.records
        assert "operator matmul" in record.getMessage() and "use Paddle 3.1" in record.getMessage()
        with pytest.raises(RunError, match="operator matmul"):
            write(writer, strict=True)

    @pytest.mark.slow
    def test_the_child_process(self, tmp_path):
        """RTFormer needs Paddle 3.1 for a pdmodel; whatever runs here either writes one or names the operator."""
        recipe, weights, _ = exported()
        try:
            ppvision.export(recipe, weights=weights, save_dir=tmp_path, formats=["paddle", "pdmodel"])
        except RunError as error:
            assert exporter.paddle_version() >= (3, 2, 0)
            assert "model.pdmodel not written: this Paddle cannot write it: operator" in str(error)
        else:
            assert (tmp_path / "model.pdmodel").stat().st_size
