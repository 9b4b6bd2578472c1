"""Adaptive pooling that exports.

Paddle's own operator is exact in Paddle, but paddle2onnx 2.1 converts it to a fixed window: wrong whenever the output
does not divide the input, unloadable when the input is smaller, and the converter aborts on a free height or width.
Paddle's backward of the operator also writes out of bounds on NaN. The form used here gathers the rows and columns of
every bin and takes a plain maximum.

Checked: bitwise equal to F.adaptive_max_pool2d, gradient included, for outputs smaller and larger than the input;
         Paddle Inference and ONNX Runtime give the same numbers with free batch, height and width.
"""

from __future__ import annotations

import paddle
from paddle import Tensor, nn

__all__ = ["AdaptiveMaxPool2D", "adaptive_max_pool2d"]


def _bin_rows(length: int | Tensor, num_bins: int) -> Tensor:
    """Rows of bin i = [floor(i*L/s), ceil((i+1)*L/s)), padded to one width by repeating the last: a maximum does not
    notice.
    """
    i = paddle.arange(num_bins, dtype="int64")
    start = i * length // num_bins
    stop = ((i + 1) * length + num_bins - 1) // num_bins
    offset = paddle.arange(0, (length + num_bins - 1) // num_bins + 1, dtype="int64")
    return paddle.minimum(start.unsqueeze(1) + offset.unsqueeze(0), (stop - 1).unsqueeze(1)).flatten()


def adaptive_max_pool2d(x: Tensor, num_bins: int) -> Tensor:
    """Maximum over `num_bins` x `num_bins` bins that cover the map; bins overlap when the size is not a multiple.

    Args:
        x: [B,C,H,W], H and W free; they may be smaller than `num_bins`, then cells repeat.
        num_bins: height and width of the result.

    Returns:
        [B,C,num_bins,num_bins].
    """
    h, w = x.shape[2:]
    x = paddle.index_select(x, _bin_rows(h, num_bins), axis=2).reshape([0, 0, num_bins, -1, w]).max(3)
    return paddle.index_select(x, _bin_rows(w, num_bins), axis=3).reshape([0, 0, num_bins, num_bins, -1]).max(4)


class AdaptiveMaxPool2D(nn.Layer):
    """`adaptive_max_pool2d` as a layer without parameters, for use inside `nn.Sequential`."""

    def __init__(self, num_bins: int):
        super().__init__()
        self.num_bins = num_bins

    def forward(self, x: Tensor) -> Tensor:
        return adaptive_max_pool2d(x, self.num_bins)

    def extra_repr(self) -> str:
        return f"num_bins={self.num_bins}"
