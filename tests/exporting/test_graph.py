"""Static graphs: inputs and outputs by name and in order, sides that an export fixes, files that are whole."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import paddle
import pytest
import yaml
from paddle import inference, nn

from ppvision.errors import RunError, UserError
from ppvision.exporting import convert_onnx
from ppvision.exporting.deployed import Deployed
from ppvision.exporting.graph import name_outputs, resolved, save_static
from ppvision.models.network import IMAGE, VALID, Input, Network
from tests.exporting.samples import TinyNet, exported, exported_detector, randomise

INPUTS = {"image": IMAGE, "valid": VALID, "crop_face": Input(("B", 3, "h", "w")), "size": Input((2,), "int32", "size")}


class Many(nn.Layer):
    """Twelve outputs, so that Paddle's fetch_name_1 begins like fetch_name_10 and fetch_name_11."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 12)

    def forward(self, image):
        values = self.linear(image.mean([2, 3]))
        return {f"part{chr(ord('l') - i)}": values[:, i] + 100 * i for i in range(12)}


class TestNames:
    """Case S16: a session gave fetch_name_0 to fetch_name_2."""

    @pytest.mark.parametrize("export", [exported, exported_detector])
    def test_of_an_export_are_those_of_deploy_yaml(self, export):
        folder = export()[2]
        ours = yaml.safe_load((folder / "deploy.yaml").read_text())["PPVision"]
        inputs, outputs = ([row["name"] for row in ours[key]] for key in ("inputs", "outputs"))
        expected = {"segmentation": (["x"], ["labels"]), "detection": (["x", "valid"], ["boxes", "scores", "labels"])}
        assert (inputs, outputs) == expected[ours["task"]]
        config = inference.Config(str(folder / "model.json"), str(folder / "model.pdiparams"))
        config.disable_mkldnn()
        config.disable_glog_info()
        predictor = inference.create_predictor(config)
        assert predictor.get_input_names() == inputs and predictor.get_output_names() == outputs
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
        assert sorted(node.name for node in session.get_inputs()) == sorted(inputs)
        assert [node.name for node in session.get_outputs()] == outputs
        assert "fetch_name" not in (folder / "model.json").read_text()

    def test_of_twelve_outputs_each_has_its_own(self, tmp_path):
        layer = Deployed(randomise(Many()), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        x = paddle.to_tensor(np.random.default_rng(0).uniform(0, 1, (2, 3, 4, 5)).astype(np.float32))
        expected = {name: value.numpy() for name, value in layer.outputs({"x": x}).items()}
        layer.eval()
        save_static(layer, tmp_path / "m", {"image": IMAGE}, list(expected))
        files = tuple(tmp_path / f"m{suffix}" for suffix in (".json", ".pdiparams", ".onnx"))
        convert_onnx.convert([files])
        session = onnxruntime.InferenceSession(str(files[2]), providers=["CPUExecutionProvider"])
        found = dict(zip([node.name for node in session.get_outputs()], session.run(None, {"x": x.numpy()})))
        assert list(found) == list(expected) == [f"part{c}" for c in "lkjihgfedcba"]
        for name, value in found.items():
            assert value == pytest.approx(expected[name], abs=1e-4), name

    def test_a_name_with_quotes_and_a_file_cut_off(self, tmp_path):
        path = tmp_path / "m.json"
        path.write_text('["fetch_name_0", "fetch_name_10", "fetch_name_1"]')
        with pytest.raises(RunError, match="m.json was not written completely; is the disk full"):
            name_outputs(path, ["a", "b", "c"])
        name_outputs(path, ['say "a"', "b"])
        assert json.loads(path.read_text()) == ['say "a"', "fetch_name_10", "b"]


class TestInputs:
    def test_keep_the_order_of_the_network(self, tmp_path):
        class Late(Network):
            def inputs(self):
                return {"image": IMAGE, "alpha": Input(("B", 3), "float32", "vector")}

            def forward(self, image, alpha):
                return image.mean([2, 3]) * alpha

        layer = Deployed(Late(), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        save_static(layer, tmp_path / "m", layer.inputs, ["y"])
        x, alpha = paddle.full([2, 3, 4, 4], 2.0), paddle.to_tensor([[1.0, 2, 3], [4, 5, 6]])
        assert paddle.jit.load(str(tmp_path / "m"))(x, alpha).tolist() == [[2, 4, 6], [8, 10, 12]]

    def test_that_are_not_read_are_named(self, tmp_path):
        class Deaf(TinyNet):
            def forward(self, image, size):
                return super().forward(image)

        layer = Deployed(randomise(Deaf()), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        layer.inputs = {"image": IMAGE, "size": Input((2,), "int32", "size")}
        layer.eval()
        with pytest.raises(UserError, match=r"does not read one of its inputs \(x, size\)"):
            save_static(layer, tmp_path / "m", layer.inputs, ["logits"])


class TestShapes:
    def sides(self, **shapes):
        return {name: spec.shape for name, spec in resolved(INPUTS, shapes).items()}

    def test_a_side_fixed_once_is_fixed_everywhere(self):
        free = {name: spec.shape for name, spec in INPUTS.items()}
        assert self.sides() == free
        assert self.sides(x=[4, 3, 32, -1]) == {
            "image": (4, 3, 32, "W"), "valid": (4, 32, "W"), "crop_face": (4, 3, "h", "w"), "size": (2,)
        }  # fmt: skip
        assert self.sides(image=[-1, 3, -1, 48], crop_face=[-1, 3, 112, 96]) == {
            "image": ("B", 3, "H", 48), "valid": ("B", "H", 48), "crop_face": ("B", 3, 112, 96), "size": (2,)
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("shapes", "message"),
        [
            ({"imag": [1, 3, 4, 4]}, r"no input 'imag' \(inputs: x, valid, crop_face, size\)"),
            ({"x": [1, 4, 4, 4]}, r"shape of 'x' is \[B, 3, H, W\], -1 for a free side, got \[1, 4, 4, 4\]"),
            ({"x": [1, 3, -2, 4]}, "got"),
            ({"valid": [1, 3, 4, 4]}, r"shape of 'valid' is \[B, H, W\]"),
            ({"size": [3]}, r"shape of 'size' is \[2\]"),
        ],
    )
    def test_refused(self, shapes, message):
        with pytest.raises(UserError, match=message):
            self.sides(**shapes)

    def test_two_that_contradict_each_other(self):
        with pytest.raises(UserError, match="H is 32 in one shape and 40 in that of 'valid'"):
            self.sides(x=[1, 3, 32, 48], valid=[1, 40, 48])


POINTS = {
    "points": Input(("P", 3), kind="points"),
    "offsets": Input(("B+1",), "int64", "offsets"),
    "code": Input(("B", 5), kind="vector"),
}


@pytest.mark.parametrize("shapes", [{"offsets": [5]}, {"code": [4, -1]}, {"code": [4, 5], "offsets": [-1]}])
def test_offsets_are_one_more_than_the_batch(shapes):
    found = resolved(POINTS, shapes)
    assert {name: spec.shape for name, spec in found.items()} == {"points": ("P", 3), "offsets": (5,), "code": (4, 5)}
    assert all(found[name].kind == spec.kind for name, spec in POINTS.items())


def test_a_letter_is_one_number_everywhere():
    found = resolved({"image": IMAGE, "valid": VALID}, {"x": [-1, 3, 40, -1]})
    assert found["image"].shape == ("B", 3, 40, "W") and found["valid"].shape == ("B", 40, "W")


def test_what_the_network_does_not_have():
    with pytest.raises(UserError, match=r"no input 'y' \(inputs: x, valid\)"):
        resolved({"image": IMAGE, "valid": VALID}, {"y": [1]})
    with pytest.raises(UserError, match=r"the shape of 'code' is \[B, 5\]"):
        resolved(POINTS, {"code": [4, 6]})
