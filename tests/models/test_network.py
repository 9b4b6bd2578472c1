"""What networks promise: defaults, and that no network of the zoo hides a part of it by accident."""

from __future__ import annotations

import inspect

import numpy as np
import paddle
import pytest
from paddle import nn

from ppvision.errors import UserError
from ppvision.models import zoo
from ppvision.models.detr import Queries, check_detector
from ppvision.models.inputs import Input
from ppvision.models.network import IMAGE, VALID, Network, promises
from ppvision.nn.promises import Promises

DEBUG = zoo.list_models("*_debug")
PROMISED = [name for name in vars(Network) if not name.startswith("_") and name not in vars(Promises)]


@pytest.mark.parametrize("name", DEBUG)
class TestEveryNetwork:
    def test_inherits(self, name):
        assert issubclass(zoo.network_class(name), Network)

    def test_inputs_are_those_of_its_row_and_arguments_of_forward(self, name):
        net, row = zoo.create_model(name), zoo.entry(name)
        assert net.inputs() == row.inputs
        parameters = inspect.signature(net.forward).parameters
        assert list(parameters)[: len(row.inputs)] == list(row.inputs)
        for key, given in row.inputs.items():
            assert given.optional == (parameters[key].default is not inspect.Parameter.empty)

    def test_takes_every_input_it_declares(self, name):
        net = zoo.create_model(name)
        net.eval()
        given = zoo.example_inputs(name, 2, optional=True, padding=9)
        assert list(given) == list(zoo.entry(name).inputs)
        plain, full = net(**zoo.example_inputs(name, 2)), net(**given)
        first = lambda y: next(iter(y.values())) if isinstance(y, dict) else y
        assert first(full).isfinite().all().item() and first(full).shape == first(plain).shape

    def test_declared_maps_are_given(self, name):
        net = zoo.create_model(name)
        net.eval()
        assert net.offers("features") == bool(net.feature_channels)
        if net.offers("features"):
            image = zoo.example_inputs(name)["image"]
            maps = net.features(image)
            for level, channels in net.feature_channels.items():
                stride = net.feature_strides[level]
                assert maps[level].shape[1:] == [channels, *(-(-side // stride) for side in image.shape[2:])]

    def test_named_parts_exist(self, name):
        net = zoo.create_model(name)
        parts = {path for path, _ in net.named_sublayers()}
        assert {*net.recompute_blocks, *net.training_heads} <= parts


class TestDefaults:
    def test_of_a_layer_of_another_package(self):
        net = nn.Linear(3, 4)
        view = promises(net)
        assert (view.num_classes, view.weights_source, view.mean_std) == (0, "in memory", None)
        assert (view.recompute_blocks, view.training_heads, view.feature_channels) == ((), (), {})
        assert view.inputs() == {"image": IMAGE} and view.deployables() == {"model": net}
        methods = [name for name in PROMISED if name not in ("inputs", "deployables")]
        assert len(methods) > 20 and not any(view.offers(name) for name in methods)
        with pytest.raises(AttributeError, match=r"Linear offers no explained\(\)"):
            view.explained(paddle.ones([1]))

    def test_of_a_network_that_says_nothing(self):
        net = Network()
        assert not any(net.offers(name) for name in PROMISED)
        with pytest.raises(AttributeError, match=r"Network offers no dense\(\)"):
            net.dense(paddle.ones([1]))

    def test_what_kinds_of_networks_offer(self):
        promised = {
            name: {p for p in ("features", "decode", "explained", "encode", "dense", "tokens") if net.offers(p)}
            for name, net in ((n, zoo.create_model(n)) for n in DEBUG)
        }
        assert promised["rtformer_debug"] == {"features", "decode"}
        assert promised["resnet_debug"] == {"features"}
        assert promised["maformer_debug"] == {"features", "tokens"}
        assert promised["dino_debug"] == {"features", "decode", "explained", "encode"}
        assert promised["retinanet_debug"] == {"features", "dense", "explained"}

    def test_of_queries(self):
        asked = {n: zoo.create_model(f"{n}_debug").queries for n in ("dab_detr", "deformable_detr", "dino")}
        promised = ("of_boxes", "of_places", "usual_content")
        assert {n: [p for p in promised if q.offers(p)] for n, q in asked.items()} == {
            "dab_detr": [], "deformable_detr": ["of_places"], "dino": ["usual_content"]
        }  # fmt: skip
        two_stage = zoo.create_model("deformable_detr_debug", two_stage=True).queries
        assert two_stage.offers("of_boxes") and not two_stage.offers("of_places")
        assert promises(nn.Linear(1, 1), Queries).of_boxes(paddle.ones([1, 2, 4])) is None

    def test_a_network_that_is_no_detector_is_refused(self):
        with pytest.raises(UserError, match="RTFormer is no DETR host: it has no encode, own_queries, new_queries"):
            check_detector(zoo.create_model("rtformer_debug"))
        with pytest.raises(UserError, match="Linear is no DETR host: it has no encode, own_queries, decode, new"):
            check_detector(nn.Linear(1, 1))


class TestExampleInputs:
    def test_every_kind(self, monkeypatch):
        inputs = {
            "image": IMAGE,
            "valid": VALID,
            "identity": Input(("B", 3, 112, 112)),
            "code": Input(("B", 7), kind="vector"),
            "size": Input(("B", 2), "int32", "size"),
            "points": Input(("N", 4), kind="points"),
        }
        row = zoo.Entry("mynets:Net", "debug", "segmentation", (64, 96), inputs=inputs)
        monkeypatch.setitem(zoo.ZOO, "mynet", row)
        made = zoo.example_inputs("mynet", 2, (10, 14), optional=True, padding=3)
        assert {k: v.shape for k, v in made.items()} == {
            "image": [2, 3, 10, 14], "valid": [2, 10, 14], "identity": [2, 3, 112, 112], "code": [2, 7],
            "size": [2, 2], "points": [20, 4],
        }  # fmt: skip
        assert made["size"].dtype == paddle.int32 and made["size"].tolist() == [[10, 14]] * 2
        assert made["valid"].dtype == paddle.bool
        mask = np.zeros([10, 14], bool)
        mask[:7, :11] = True
        assert np.array_equal(made["valid"].numpy(), np.stack([mask, mask]))
        assert 0 <= made["points"].min().item() and made["points"].max().item() < 1
        assert zoo.example_inputs("mynet", 1, (10, 14), optional=True)["valid"].all().item()
        assert list(zoo.example_inputs("mynet")) == ["image", "identity", "code", "size", "points"]
