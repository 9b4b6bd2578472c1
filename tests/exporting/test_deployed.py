"""The exported layer: normalisation and decision."""

import numpy as np
import paddle
import pytest
from paddle import nn

from ppvision.errors import UserError
from ppvision.exporting import Deployed
from ppvision.predict.tasks.base import create_task, ending_of, named
from tests.exporting.samples import TinyDetector, TinyNet, randomise

MEAN, STD = (120.0, 110.0, 100.0), (58.0, 57.0, 56.0)


def deployed(net, task="segmentation", output_op="none"):
    """The graph's layer with an ending of the task, as a function of the picture; one output by itself."""
    layer = Deployed(net, MEAN, STD, ending_of(create_task(task), output_op)[1])

    def graph(x):
        outputs = layer({"x": x})
        return outputs[0] if len(outputs) == 1 else outputs

    return graph


@pytest.fixture(scope="module")
def net():
    return randomise(TinyNet())


@pytest.fixture(scope="module")
def x():
    return paddle.to_tensor(np.random.default_rng(0).uniform(0, 255, (2, 3, 16, 24)).astype(np.float32))


def test_normalises_by_channel(net, x):
    by_hand = (x.numpy() - np.reshape(MEAN, (1, 3, 1, 1))) / np.reshape(STD, (1, 3, 1, 1))
    expected = net(paddle.to_tensor(by_hand.astype(np.float32))).numpy()
    assert np.abs(deployed(net)(x).numpy() - expected).max() < 1e-5


def test_decisions(net, x):
    logits = deployed(net)(x).numpy()
    decided = deployed(net, output_op="argmax")(x)
    assert decided.dtype == paddle.int32 and np.array_equal(decided.numpy(), logits.argmax(1))
    soft = deployed(net, output_op="softmax")(x).numpy()
    assert soft.sum(1) == pytest.approx(1, abs=1e-5) and np.array_equal(soft.argmax(1), logits.argmax(1))


def test_has_no_parameters_of_its_own(net):
    assert {k.removeprefix("net.") for k in Deployed(net, MEAN, STD).state_dict()} == set(net.state_dict())


def test_outputs_in_order():
    class Two(nn.Layer):
        def forward(self, x):
            return {"b": x, "a": x + 1}

    outputs = deployed(Two())(paddle.zeros([1, 3, 2, 2]))
    assert (outputs[1] - outputs[0]).min().item() == 1
    assert list(named(Two()(paddle.zeros([1])))) == ["b", "a"]
    assert named([1, 2]) == {"output": 1, "output1": 2} and named(1) == {"output": 1}


def test_detections():
    """Boxes, scores and labels of the best pairs; as many as there are, 300 at most."""
    detector = randomise(TinyDetector(num_queries=12))
    image = paddle.to_tensor(np.random.default_rng(1).uniform(0, 255, (2, 3, 40, 56)).astype(np.float32))
    raw = dict(zip(("logits", "boxes"), deployed(detector)(image)))
    boxes, scores, labels = deployed(detector, "detection", "detections")(image)
    assert boxes.shape == [2, 36, 4] and scores.shape == labels.shape == [2, 36] and labels.dtype == paddle.int32
    assert 0 <= boxes.min() and boxes.max() <= 1 and (scores.diff(axis=1) <= 0).all()
    order = np.argsort(-raw["logits"].numpy().reshape(2, -1), axis=1)
    assert np.array_equal(labels.numpy(), order % 3)
    centre = np.take_along_axis(raw["boxes"].numpy(), (order // 3)[..., None], 1)
    assert boxes.numpy()[..., 0] == pytest.approx(np.clip(centre[..., 0] - centre[..., 2] / 2, 0, 1), abs=1e-6)
    many = deployed(randomise(TinyDetector(num_queries=120)), "detection", "detections")(image)
    assert many[1].shape == [2, 300]


def test_unknown_operator():
    with pytest.raises(UserError, match="did you mean 'argmax'"):
        deployed(nn.Identity(), output_op="argmx")
