"""Classification and feature extraction."""

import numpy as np
import paddle
import pytest

from ppvision.predict.tasks.base import create_task, ending_of
from tests.nets import Net

IMAGE = {"image": paddle.zeros([2, 3, 1, 1])}


def test_probabilities_and_names():
    logits = np.array([[0.0, np.log(3.0)], [2.0, 0.0]], np.float32)
    task, batch = create_task("classification", class_names=["a", "b"], top=1), {"name": ["x", "y"]}
    results = task.results(task.run({"model": Net(lambda _: paddle.to_tensor(logits))}, IMAGE), batch)
    assert results[0].scores == pytest.approx([0.25, 0.75]) and results[0].name == "x"
    assert results[1].to_json()["classes"][0]["name"] == "a"


def test_a_graph_that_gives_probabilities_is_left_alone():
    task = create_task("classification", probabilities=True)
    outputs = task.run({"model": Net(lambda _: paddle.to_tensor([[0.9, 0.1]]))}, IMAGE)
    assert outputs["scores"].numpy()[0] == pytest.approx([0.9, 0.1])


@pytest.mark.parametrize(
    "output, names",
    [
        (lambda: {"cls": paddle.ones([2, 4]), "tokens": paddle.zeros([2, 3, 4])}, ["cls", "tokens"]),
        (lambda: paddle.ones([2, 4]), ["features"]),
        (lambda: [paddle.ones([2, 4]), paddle.ones([2, 4])], ["features0", "features1"]),
    ],
)
def test_features(output, names):
    task = create_task("features")
    results = task.results(task.run({"model": Net(lambda _: output())}, IMAGE), {})
    assert len(results) == 2 and list(results[0].arrays) == names
    assert results[1].arrays[names[0]].shape == (4,)


def test_the_ending_gives_probabilities_of_each_picture_and_tells_the_task_so():
    name, ending = ending_of(create_task("classification"), None)
    logits = paddle.to_tensor([[0.0, np.log(3.0), 0.0], [0.0, 0.0, np.log(2.0)]], "float32")
    found = ending(logits)
    np.testing.assert_allclose(found["probabilities"].numpy(), [[0.2, 0.6, 0.2], [0.25, 0.25, 0.5]], atol=1e-6)
    assert name == "softmax" and [output.name for output in ending.outputs(logits)] == list(found)
    task = create_task("classification", **ending.options())
    again = task.run({"model": Net(lambda _: found["probabilities"])}, IMAGE)["scores"]
    np.testing.assert_array_equal(again.numpy(), found["probabilities"].numpy())
