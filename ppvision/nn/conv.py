"""Convolutions with the initialisations, padding rules and key names that the published networks use."""

from __future__ import annotations

import paddle
from paddle import Tensor, nn
from paddle.nn import initializer as init

__all__ = ["INITIALIZERS", "ConvBN", "conv2d"]

INITIALIZERS = {  # how a recipe names the start of a convolution's weight
    "kaiming": lambda: init.KaimingNormal(),  # fan in, gain sqrt 2
    "normal_0.001": lambda: init.Normal(std=0.001),
    "trunc_normal_0.02": lambda: init.TruncatedNormal(std=0.02),
}


def conv2d(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    *,
    padding: int | str | None = None,
    bias: bool = False,
    weight_init: str = "kaiming",
) -> nn.Conv2D:
    """A 2-D convolution whose weight starts from `INITIALIZERS[weight_init]` and whose bias, if any, starts from 0.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel: height and width of the kernel.
        stride: step of the kernel.
        padding: None pads `kernel // 2` on every side; "SAME" as Paddle does it: the output is ceil(n / stride), and
            with stride 2 and kernel 3 an even side gets 0 before and 1 after, an odd side 1 and 1.
        bias: whether the convolution has a bias.
        weight_init: name in `INITIALIZERS`.
    """
    if padding is None or (padding == "SAME" and stride == 1):  # odd kernels: the two rules agree at stride 1
        padding = kernel // 2
    return nn.Conv2D(
        in_channels,
        out_channels,
        kernel,
        stride,
        padding,
        weight_attr=paddle.ParamAttr(initializer=INITIALIZERS[weight_init]()),
        bias_attr=None if bias else False,
    )


class ConvBN(nn.Layer):
    """Convolution (SAME padding), batch norm and, if `relu`, ReLU; PaddleSeg's key names `_conv` and `_batch_norm`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        *,
        relu: bool = True,
        bias: bool = False,
        weight_init: str = "kaiming",
        bn_momentum: float = 0.9,
    ):
        super().__init__()
        self._conv = conv2d(
            in_channels, out_channels, kernel, stride, padding="SAME", bias=bias, weight_init=weight_init
        )
        self._batch_norm = nn.BatchNorm2D(out_channels, momentum=bn_momentum)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self._batch_norm(self._conv(x))
        return nn.functional.relu(x) if self.relu else x
