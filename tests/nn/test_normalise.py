"""One normalisation for training, evaluation, prediction and graphs."""

import numpy as np
import paddle
import pytest

from ppvision.data.batch import to_device
from ppvision.data.collate import collate
from ppvision.exporting.deployed import Deployed
from ppvision.exporting.graph import save_static
from ppvision.methods.base import Method
from ppvision.models.network import IMAGE, VALID, Network, graph_name
from ppvision.nn.normalise import Normalise, normaliser_of
from ppvision.predict.nets import EagerNet, GraphNet, on_device
from ppvision.predict.runtime import Runtime, open_session
from ppvision.predict.tasks.base import Task

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class Echo(Network):
    """Gives what it sees."""

    def __init__(self):
        super().__init__()
        self.one = self.create_parameter([1], default_initializer=paddle.nn.initializer.Constant(1.0))

    def inputs(self):
        return {"image": IMAGE, "valid": VALID}

    def forward(self, image, valid=None):
        return image * self.one


class Plain(Method):
    """A method with the default preparation."""

    def __init__(self):
        super().__init__()
        self.mean, self.std = MEAN, STD


@pytest.fixture
def batch():
    """Three pictures of three sizes, padded by collate."""
    rng = np.random.default_rng(0)
    sizes = ((17, 23), (11, 31), (29, 8))
    return collate([{"image": rng.integers(0, 256, (*size, 3), dtype=np.uint8)} for size in sizes])


def by_hand(batch):
    x = (batch["image"].astype(np.float32) - np.float32(MEAN)) / np.float32(STD)
    return (x * batch["valid"][..., None]).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_four_ways_agree_to_the_bit(batch, tmp_path, threads):
    assert 0 < batch["valid"].mean() < 1
    task, net = Task(), Echo()
    net.eval()
    found = {"Method.prepare": Plain().prepare(to_device(batch))["image"].numpy()}
    eager = EagerNet(net, MEAN, STD)
    found["evaluator"] = eager(**on_device(task.inputs(batch))).numpy()  # padding is black
    task.fill = MEAN
    inputs = task.inputs(batch)
    assert inputs["image"].dtype == np.float32 and inputs["image"][0, :, -1, -1].tolist() == list(np.float32(MEAN))
    found["Predictor"] = eager(**on_device(inputs)).numpy()
    layer = Deployed(net, MEAN, STD)
    layer.eval()
    save_static(layer, tmp_path / "m", net.inputs(), ["output"])
    files = {"model": tmp_path / "m.json", "params": tmp_path / "m.pdiparams"}
    session = open_session("paddle", "cpu", Runtime(mkldnn=False, cpu_threads=threads), **files)
    assert set(session.inputs) == {graph_name(name) for name in net.inputs()}
    found["graph"] = GraphNet(session, net.inputs())(**on_device(inputs)).numpy()
    for way, array in found.items():
        assert array.dtype == np.float32 and np.array_equal(array, by_hand(batch)), way


def test_a_whole_batch_travels_as_bytes_and_needs_no_mask(batch):
    whole = collate([{"image": batch["image"][0]}] * 2)
    inputs = Task().inputs(whole)
    assert list(inputs) == ["image"] and inputs["image"].dtype == np.uint8
    assert np.array_equal(EagerNet(Echo(), MEAN, STD)(**on_device(inputs)).numpy(), by_hand(whole))


def test_channels_have_statistics_of_their_own():
    x = Normalise((1.0, 20.0, 100.0), (2.0, 5.0, 50.0))(paddle.full([1, 3, 1, 1], 100, "uint8"))
    assert x.flatten().tolist() == [49.5, 16.0, 0.0]


def test_one_layer_for_one_pair_of_statistics():
    assert normaliser_of(MEAN, STD) is normaliser_of(MEAN, STD) is not normaliser_of(STD, MEAN)
    assert not Normalise(MEAN, STD).state_dict()
