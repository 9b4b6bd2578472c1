import numpy as np
import paddle
import pytest

from ppvision.errors import ArgumentError
from ppvision.nn.stem import ConvStem


def test_strides_of_four_and_eight_at_any_size():
    net = ConvStem((8, 12, 16, 20))
    for height, width in ((64, 64), (61, 90), (8, 1)):
        maps = net.features(paddle.randn([2, 3, height, width]))
        assert list(maps) == list(net.feature_channels) == list(net.feature_strides) == ["c2", "c3"]
        assert maps["c2"].shape == [2, 12, -(-height // 4), -(-width // 4)]
        assert maps["c3"].shape == [2, 20, -(-height // 8), -(-width // 8)]
        assert [net.feature_channels[k] for k in maps] == [12, 20] and [net.feature_strides[k] for k in maps] == [4, 8]


def test_a_picture_does_not_depend_on_its_batch():
    net = ConvStem((8, 12, 16, 20))
    net.train()
    x = paddle.randn([3, 3, 32, 32])
    np.testing.assert_allclose(net(x)["c3"][1:2].numpy(), net(x[1:2])["c3"].numpy(), atol=1e-6)


@pytest.mark.parametrize("widths", [(8, 16), (8, 12, 15), (8, 12, 0)])
def test_refuses_widths(widths):
    with pytest.raises(ArgumentError, match="'stem'"):
        ConvStem(widths)
