"""The device of a process: what it switches off on the CPU, and tensors that hold an array's content."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppvision import device
from ppvision.device import tensor_of, use_device


def test_transposes_are_copies_on_the_cpu_and_stay_views_elsewhere(monkeypatch):
    flag = "FLAGS_use_stride_kernel"
    before = paddle.get_flags(flag)
    try:
        use_device("cpu")
        assert paddle.ones([3, 4]).transpose([1, 0]).is_contiguous()
        monkeypatch.setattr(paddle, "set_device", lambda name: None)  # there may be no GPU here
        use_device("gpu:0")
        assert not paddle.ones([3, 4]).transpose([1, 0]).is_contiguous()
    finally:
        paddle.set_flags(before)


def test_a_command_chooses_its_device_this_way(monkeypatch):
    asked = []
    monkeypatch.setattr(device, "use_device", asked.append)
    assert device.set_device("CPU") == "cpu"
    assert asked == ["cpu"]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "int64", "float32", "float64"])
@pytest.mark.parametrize("shape", [(2, 3), (0, 4), ()])
def test_tensors_have_the_content_of_arrays(dtype, shape):
    array = np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape) % 3, dtype)
    tensor = tensor_of(array)
    assert np.array_equal(tensor.numpy(), array)
    assert (tensor.numpy().dtype, tensor.numpy().shape) == (array.dtype, array.shape)
