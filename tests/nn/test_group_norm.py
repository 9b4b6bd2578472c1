"""Group norm whose ONNX form has its epsilon."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppvision.models.inputs import IMAGE
from ppvision.nn.group_norm import GroupNorm
from tests.graphs import write_graphs
from tests.models.golden import fill


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    net = paddle.nn.Sequential(paddle.nn.Conv2D(3, 12, 3, 2, 1), GroupNorm(4, 12, epsilon=0.3))
    fill(net)
    net.eval()
    return net, write_graphs(net, tmp_path_factory.mktemp("group_norm"), {"x": IMAGE})


def test_names_are_those_of_paddles():
    assert list(GroupNorm(2, 4).state_dict()) == list(paddle.nn.GroupNorm(2, 4).state_dict())


@pytest.mark.parametrize("shape", [(1, 3, 16, 24), (3, 3, 37, 11)])
def test_graph_and_onnx_equal_eager_where_the_epsilon_matters(exported, shape):
    import onnxruntime

    net, stem = exported
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    expected = net(paddle.to_tensor(x)).numpy()
    np.testing.assert_allclose(paddle.jit.load(stem)(paddle.to_tensor(x)).numpy(), expected, atol=1e-5)
    session = onnxruntime.InferenceSession(f"{stem}.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, atol=1e-5)
