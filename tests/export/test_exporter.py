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
from ppvision.export import convert_onnx, exporter, parity
from ppvision.export.exporter import Spec, check_parameters, export_layer, save_static, upstream_transform
from ppvision.predict import Predictor
from ppvision.predict.predictor import sha256
from tests.export.samples import TinyNet, exported, pictures, randomise, write_recipe

MEAN, STD = (120.0, 110.0, 100.0), (58.0, 57.0, 56.0)
OWN = ["deploy.yaml", "model.json", "model.onnx", "model.pdiparams", "parity.json"]


def tiny_spec(**changes):
    base = dict(model_name="tiny", task="segmentation", mean=MEAN, std=STD, formats=("paddle",), example=(32, 48))
    return Spec(**{**base, **changes})


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
        assert ours["inputs"][0]["name"] == "x" and ours["outputs"] == [{"name": "labels", "kind": "labels"}]
        assert ours["transforms"] == [{"type": "Resize", "short": 40}]
        assert ours["task"] == "segmentation" and ours["model_name"] == "rtformer_debug"
        assert ours["shape_profile"]["min"] == {"x": [1, 3, 40, 53]}
        assert ours["shape_profile"]["max"] == {"x": [1, 3, 40, 66]}
        assert ours["sha256"] == {
            name: sha256(folder / name) for name in ("model.json", "model.onnx", "model.pdiparams")
        }

    def test_parity_report(self):
        report = json.loads((exported()[2] / "parity.json").read_text())
        assert report["inputs"] == "validation images" and report["refused"] == {}
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
        expected = ppvision.export.Deployed(net, *ppvision.models.zoo.entry("rtformer_debug").mean_std, "argmax")
        want = expected(paddle.to_tensor(x)).numpy()
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
        export_layer(net, tmp_path, tiny_spec(input_shape=[2, 3, 32, 48], formats=("paddle", "onnx")))
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

    def test_several_deployables_get_a_folder_each(self, tmp_path, monkeypatch):
        class Pair(nn.Layer):
            def __init__(self):
                super().__init__()
                self.down, self.up = TinyNet(), TinyNet()

            def deployables(self):
                return {"down": self.down, "up": self.up}

        recipe, _ = write_recipe(tmp_path)
        pair = randomise(Pair())
        monkeypatch.setattr(exporter, "build_network", lambda cfg, weights: pair)
        out = tmp_path / "out"
        ppvision.export(recipe, ["export.formats=[paddle]"], weights="unused", save_dir=out)
        assert names(out) == ["down", "up"] and "deploy.yaml" in names(out / "up")
        with pytest.raises(UserError, match="choose one of: down, up"):
            Predictor(out)


class TestInstallation:
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
        "name, keep, said",
        [
            ("model.pdiparams", -4, "has 1052 bytes of at least 1056"),
            ("model.pdiparams", 100, "cannot be read back"),
            ("model.pdiparams", 0, "not written completely"),
            ("model.json", -40, "model.json was not written completely"),
            ("raw/model.pdiparams", -4, "its second copy 1052"),
            ("raw/model.json", 100, "model.json was not written completely"),
        ],
    )
    def test_a_file_cut_off_by_a_full_disk(self, net, tmp_path, monkeypatch, name, keep, said):
        def save(layer, stem, input_shape, real=exporter.save_static):
            real(layer, stem, input_shape)
            raw = stem.parent.name == "raw"
            if raw == name.startswith("raw/"):
                path = stem.parent / name.removeprefix("raw/")
                path.write_bytes(path.read_bytes()[:keep])

        monkeypatch.setattr(exporter, "save_static", save)
        with pytest.raises(RunError, match=f"{said}.* disk full"):
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
            return session if model.parent.name == "raw" else lambda x: [2 - session(x)[0]]

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

    def test_a_graph_with_more_than_the_network(self, net, tmp_path):
        class More(nn.Layer):
            def __init__(self):
                super().__init__()
                self.net, self.teacher = net, nn.Conv2D(3, 3, 1)

            def forward(self, x):
                return self.net(x) + self.teacher(x)

        more = More()
        more.eval()
        save_static(more, tmp_path / "model", [1, 3, 8, 8])
        with pytest.raises(UserError, match=r"not in the network: 2 arrays"):
            check_parameters(net, tmp_path / "model")


class TestArguments:
    @pytest.mark.parametrize(
        "changes, said",
        [
            ({"formats": ("onxx",)}, "did you mean 'onnx'"),
            ({"input_shape": [1, 3, 32]}, "N C H W"),
            ({"input_shape": [1, 4, 32, 32]}, "C = 3"),
            ({"input_shape": [0, 3, 32, 32]}, "-1 for a free side"),
            ({"output_op": "argmx"}, "did you mean 'argmax'"),
            ({"task": "classification", "output_op": "argmax"}, "there is: softmax, none"),
        ],
    )
    def test_refused(self, net, tmp_path, changes, said):
        with pytest.raises(UserError, match=said):
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
        assert exporter.legacy_reason(lines) == "operator matmul"
        line = "TypeError: (InvalidType) conv2d(): argument (position 0) must be Value, but got Variable"
        assert exporter.legacy_reason([line]) == "operator conv2d"
        assert exporter.legacy_reason(["TypeError: (InvalidType) it must be Value"]).startswith("TypeError: (Inv")
        assert exporter.legacy_reason(["a", "ValueError: b", "c"]) == "ValueError: b"
        assert exporter.legacy_reason([]) == "no message"

    @pytest.fixture
    def write(self, net, tmp_path):
        """Export with a stand-in for the child process."""

        def export(writer, strict=False):
            export_layer(net, tmp_path, tiny_spec(formats=("paddle", "pdmodel"), legacy=writer, strict=strict))
            return names(tmp_path)

        return export

    def test_a_graph_with_the_same_parameters_is_taken(self, net, write, tmp_path):
        def writer(stem, output_op):
            assert output_op == "argmax"
            stem.with_name("model.pdmodel").write_bytes(b"graph")
            save_static(exporter.Deployed(net, MEAN, STD, output_op), stem, [-1, 3, -1, -1])

        assert write(writer) == ["deploy.yaml", "model.json", "model.pdiparams", "model.pdmodel", "parity.json"]
        digests = yaml.safe_load((tmp_path / "deploy.yaml").read_text())["PPVision"]["sha256"]
        assert digests["model.pdmodel"] == sha256(tmp_path / "model.pdmodel")

    def test_a_graph_with_other_parameters_is_refused(self, write, caplog):
        def writer(stem, output_op):
            for suffix in (".pdmodel", ".pdiparams"):
                stem.with_name(f"model{suffix}").write_bytes(b"other")

        assert "model.pdmodel" not in write(writer)
        assert "parameter file differs" in caplog.text

    def test_what_this_paddle_cannot_write_is_one_line_unless_it_must_be(self, write, caplog):
        def writer(stem, output_op):
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
