"""Numbers that belong to the code: outside every state dict, constants of a graph, one tensor per device."""

import json

import numpy as np
import paddle
import pytest
from paddle import nn

from ppvision.nn.constant import Constant
from ppvision.predict.runtime import Runtime, open_session


class Weighted(nn.Layer):
    def __init__(self):
        super().__init__()
        self.linear, self.table = nn.Linear(3, 3), Constant(np.array([[1.0, 20.0, 300.0]], np.float32))

    def forward(self, x):
        return self.linear(x) * self.table()


def test_is_in_no_state_dict():
    net = Weighted()
    assert set(net.state_dict()) == {"linear.weight", "linear.bias"}
    assert not [name for name, _ in net.named_buffers()]


def test_one_tensor_per_device(monkeypatch):
    constant = Constant(np.arange(3))
    first = constant()
    assert constant() is first and first.tolist() == [0, 1, 2] and first.dtype == paddle.int64
    with monkeypatch.context() as patch:
        patch.setattr(paddle.device, "get_device", lambda: "gpu:1")
        other = constant()
        assert other is not first and constant() is other
    assert constant() is first


def test_holds_a_copy():
    array = np.zeros(2, np.float32)
    constant = Constant(array)
    array[:] = 7
    assert constant().tolist() == [0, 0]


def test_is_a_constant_of_the_graph(tmp_path):
    """The file of parameters holds those of the linear layer alone, whether the tensor was there before or not."""
    net = Weighted()
    net.eval()
    x = np.array([[1.0, 2.0, 3.0], [0.5, 0.0, -1.0]], np.float32)
    expected = net(paddle.to_tensor(x)).numpy()
    paddle.jit.save(net, str(tmp_path / "m"), input_spec=[paddle.static.InputSpec([None, 3], "float32", "x")])
    ops = json.loads((tmp_path / "m.json").read_text())["program"]["regions"][0]["blocks"][0]["ops"]
    assert [op["#"] for op in ops].count("p") == 2
    assert sorted(v.shape for v in paddle.jit.load(str(tmp_path / "m")).state_dict().values()) == [[3], [3, 3]]
    files = {"model": tmp_path / "m.json", "params": tmp_path / "m.pdiparams"}
    (output,) = open_session("paddle", "cpu", Runtime(mkldnn=False), **files)({"x": x}).values()
    assert output == pytest.approx(expected, rel=1e-6)
    assert net(paddle.to_tensor(x)).numpy() == pytest.approx(expected, abs=0)  # and eager mode goes on
