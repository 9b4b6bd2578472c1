"""The counter against published figures and closed formulas."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from ppvision.cli import main
from ppvision.models.profile import profile, profile_model

EXPECTED = [
    ("rtformer_slim", (512, 512), 5_365_043, 4.73e9),
    ("rtformer_slim", (512, 1024), 5_365_043, 9.46e9),
    ("rtformer_base", (512, 512), 17_765_971, 17.4e9),
    ("uhrnet_w18_small", (512, 1024), 13_240_782, 19.61e9),
]


@pytest.mark.parametrize(("name", "size", "params", "macs"), EXPECTED)
def test_published_networks(name, size, params, macs):
    cost = profile_model(name, size)
    assert cost.params == params
    assert cost.macs == pytest.approx(macs, rel=0.002)


class Everything(nn.Layer):
    """One of each kind of operation, most of them functional."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(4, 6, 3, padding=1, groups=2)
        self.up = nn.Conv2DTranspose(6, 2, 2, stride=2)
        self.linear = nn.Linear(8, 5)

    def forward(self, image):
        x = self.conv(image)
        y = self.linear(x)
        tokens = x.flatten(2).transpose([0, 2, 1])
        scores = paddle.matmul(tokens, tokens, transpose_y=True)
        z = paddle.einsum("blc,bmc->blm", tokens, tokens)
        heads = tokens.unsqueeze(2)
        a = F.scaled_dot_product_attention(heads, heads, heads)
        return self.up(x).sum() + y.sum() + scores.sum() + z.sum() + a.sum()


def test_every_operation_is_counted_however_it_is_called():
    net = Everything()
    net.train()
    cost = profile(net, {"image": ((2, 4, 8, 8), "float32")})
    conv, up, linear = 2 * 6 * 64 * 2 * 9, 2 * 6 * 64 * 2 * 4, 2 * 6 * 64 * 5
    product = 2 * 64 * 64 * 6
    assert cost.macs == conv + up + linear + product + product + 2 * product
    assert cost.params == sum(p.size for p in net.parameters())
    assert net.training and "forward" not in vars(net)


def test_command(capsys):
    assert main(["models", "maformer_debug", "--macs", "--size", "32", "32"]) == 0
    assert "0.391 M params" in capsys.readouterr().out
    assert main(["models", "maformer_debug", "--size", "32", "32"]) == 2
