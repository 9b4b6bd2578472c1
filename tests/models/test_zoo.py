"""What must hold for every network of the zoo; `*_debug` sizes stand for their families where it is slow."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import paddle
import pytest

import ppvision
from ppvision.errors import UserError
from ppvision.models import zoo
from ppvision.weights import state_of
from tests.graphs import write_graphs
from tests.models.golden import fill

NAMES = [name for name in zoo.list_models() if zoo.entry(name).task == "segmentation"]  # others: tests of their family
DEBUG = [name for name in zoo.list_models("*_debug") if name in NAMES]
SHAPES = [(1, 64, 96), (3, 37, 61), (2, 97, 131)]
INFERENCE = [("plain", False), ("onednn", True)]


def net_of(name: str) -> paddle.nn.Layer:
    """The network with weights, biases and statistics that make every part matter."""
    net = zoo.create_model(name)
    fill(net)
    return net


class TestTable:
    def test_names_are_listed_by_pattern(self):
        assert zoo.list_models("rtformer_*") == ["rtformer_base", "rtformer_debug", "rtformer_slim"]
        assert {"uhrnet_w18_small", "uhrnet_w18", "uhrnet_w48"} <= set(NAMES)
        assert zoo.list_models("nothing*") == []

    def test_importing_the_zoo_does_not_import_paddle(self):
        code = (
            "import sys, ppvision.models.zoo as z, ppvision.nn; z.list_models(); z.entry('rtformer_slim');"
            "ppvision.nn.HEADS; sys.exit('paddle' in sys.modules)"
        )
        assert subprocess.run([sys.executable, "-c", code]).returncode == 0

    def test_an_unknown_name_is_answered_with_the_nearest(self):
        with pytest.raises(UserError, match="no model 'rtformer_slm'; did you mean 'rtformer_slim'"):
            zoo.create_model("rtformer_slm")

    def test_an_unknown_argument_is_answered_with_the_nearest(self):
        with pytest.raises(UserError, match="unknown argument 'num_clases'; did you mean 'num_classes'"):
            zoo.create_model("rtformer_debug", num_clases=3)

    def test_published_weights_are_fetched_where_there_are_any(self, monkeypatch, tmp_path):
        monkeypatch.setenv("PPVISION_OFFLINE", "1")
        monkeypatch.setenv("PPVISION_CACHE", str(tmp_path))
        address = "rtformer_slim_cityscapes_1024x512_120k/model.pdparams: PPVISION_OFFLINE is set"
        with pytest.raises(UserError, match=address):
            ppvision.create_model("rtformer_slim", pretrained=True)
        with pytest.raises(UserError, match="no weights are published"):
            ppvision.create_model("rtformer_debug", pretrained=True)

    @pytest.mark.parametrize("name", NAMES)
    def test_entry_is_complete(self, name):
        row = zoo.entry(name)
        assert row.task == "segmentation"
        assert (row.weights is None) == (row.license is None)
        assert all(0 < value < 100 and source for value, source in row.published.values())
        mean, std = row.mean_std
        assert mean == pytest.approx((127.5,) * 3 if name.startswith("uhrnet") else (123.675, 116.28, 103.53))
        assert std == pytest.approx((127.5,) * 3 if name.startswith("uhrnet") else (58.395, 57.12, 57.375))

    @pytest.mark.parametrize("name", NAMES)
    def test_signature_has_the_defaults_of_the_variant(self, name):
        parameters = zoo.signature(name).parameters
        assert "self" not in parameters
        assert parameters["num_classes"].default in (19, 150)
        assert parameters["num_classes"].annotation is int
        if name == "rtformer_slim":
            assert parameters["base_channels"].default == 32
            assert parameters["use_injection"].annotation == tuple[bool, bool]

    def test_deployables(self):
        net = zoo.create_model("rtformer_debug")
        assert zoo.deployables(net) == {"model": net}

        class Two(paddle.nn.Layer):
            def deployables(self):
                return {"up": 1}

        assert zoo.deployables(Two()) == {"up": 1}


@pytest.mark.parametrize("name", DEBUG)
class TestEveryNetwork:
    def test_is_small(self, name):
        assert sum(p.size for p in zoo.create_model(name).parameters()) < 500_000

    @pytest.mark.parametrize("shape", [*SHAPES, (2, 33, 64), (1, 16, 8)])
    def test_logits_have_the_size_of_the_image(self, name, shape):
        net = net_of(name)
        net.eval()
        y = net(**zoo.example_inputs(name, shape[0], shape[1:]))
        assert y.shape == [shape[0], 19, *shape[1:]]
        assert y.isfinite().all().item()

    def test_forward_is_features_then_decode(self, name):
        net = net_of(name)
        net.eval()
        (x,) = zoo.example_inputs(name, 2).values()
        assert x.shape[2:] == list(zoo.entry(name).example)
        assert np.array_equal(net(x), net.decode(net.features(x), x.shape[2:]))
        assert net.decode(net.features(x), [50, 70]).shape == [2, 19, 50, 70]

    def test_number_of_classes(self, name):
        assert zoo.create_model(name, num_classes=7)(**zoo.example_inputs(name)).shape[1] == 7

    def test_every_parameter_receives_a_gradient(self, name):
        net = net_of(name)
        net.train()
        net(**zoo.example_inputs(name, 4)).square().mean().backward()
        trained = {k: p for k, p in net.named_parameters() if p.trainable}  # Paddle lists batch-norm statistics too
        assert not [k for k, p in trained.items() if p.grad is None or not p.grad.isfinite().all()]
        assert not [k for k, p in trained.items() if not p.grad.any()]

    def test_two_updates_change_every_parameter_and_lower_the_loss(self, name):
        kwargs = {"drop_path": 0.0} if "drop_path" in zoo.signature(name).parameters else {}
        net = zoo.create_model(name, **kwargs)
        net.train()
        before = state_of(net)
        optimizer = paddle.optimizer.Adam(1e-3, parameters=[p for p in net.parameters() if not p.stop_gradient])
        inputs, losses = zoo.example_inputs(name, 2), []
        label = paddle.to_tensor(np.random.default_rng(0).integers(0, 19, [2, *zoo.entry(name).example]))
        for _ in range(3):
            loss = paddle.nn.functional.cross_entropy(net(**inputs), label, axis=1)
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
            losses.append(loss.item())
        after = state_of(net)
        assert losses[2] < losses[0]
        learnt = dict(net.named_parameters())  # batch-norm statistics too, but no fixed tables
        assert not [k for k in learnt if np.array_equal(before[k], after[k])]

    def test_example_inputs_repeat(self, name):
        first, second = zoo.example_inputs(name, 2, (40, 50)), zoo.example_inputs(name, 2, (40, 50))
        assert list(first) == list(zoo.entry(name).inputs)
        for key in first:
            assert np.array_equal(first[key], second[key])


@pytest.fixture(scope="module", params=DEBUG)
def exported(request, tmp_path_factory):
    """A network and the stem of its static graph and ONNX file, batch, height and width free."""
    net = net_of(request.param)
    net.eval()
    stem = write_graphs(net, tmp_path_factory.mktemp(request.param), zoo.entry(request.param).inputs)
    return request.param, net, stem


def assert_close(measured: np.ndarray, expected: np.ndarray) -> None:
    assert measured.shape == expected.shape
    assert np.abs(measured - expected).max() <= 1e-5 * np.abs(expected).max()


class TestExport:
    def test_static_graph_equals_eager(self, exported):
        name, net, stem = exported
        graph = paddle.jit.load(str(stem))
        for batch, *size in SHAPES:
            inputs = zoo.example_inputs(name, batch, size)
            assert_close(graph(*inputs.values()).numpy(), net(**inputs).numpy())

    def test_onnx_equals_eager(self, exported):
        import onnxruntime

        name, net, stem = exported
        session = onnxruntime.InferenceSession(f"{stem}.onnx", providers=["CPUExecutionProvider"])
        for batch, *size in SHAPES:
            inputs = zoo.example_inputs(name, batch, size)
            (measured,) = session.run(None, {k: v.numpy() for k, v in inputs.items()})
            assert_close(measured, net(**inputs).numpy())

    @pytest.mark.parametrize(("backend", "onednn"), INFERENCE)
    def test_paddle_inference_equals_eager(self, exported, backend, onednn, paddle_predictor):
        name, net, stem = exported
        predictor = paddle_predictor(stem, onednn)
        for batch, *size in SHAPES:
            inputs = zoo.example_inputs(name, batch, size)
            (measured,) = predictor.run(list(inputs.values()))
            expected = net(**inputs).numpy()
            assert measured.shape == list(expected.shape)
            assert np.abs(measured.numpy() - expected).max() <= 1e-4 * np.abs(expected).max()

    def test_the_graph_holds_the_networks_weights_and_nothing_else(self, exported):
        _, net, stem = exported
        graph = paddle.jit.load(str(stem))
        assert sum(p.size for p in graph.parameters()) == sum(math.prod(p.shape) for p in net.state_dict().values())
