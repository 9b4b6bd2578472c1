from __future__ import annotations

import numpy as np
import paddle

from ppvision.nn.mlp import Mlp


def test_it_is_linear_layers_with_relu_between():
    mlp = Mlp(5, 7, 3, 3)
    x = np.random.default_rng(0).standard_normal((4, 2, 5)).astype("float32")
    y = x
    for i in range(3):
        y = y @ mlp.layers[i].weight.numpy() + mlp.layers[i].bias.numpy()
        y = np.maximum(y, 0) if i < 2 else y
    np.testing.assert_allclose(mlp(paddle.to_tensor(x)).numpy(), y, atol=1e-5)
    assert y.min() < 0  # the last layer has no ReLU


def test_names_and_shapes():
    shapes = {k: list(v.shape) for k, v in Mlp(5, 7, 3, 2).state_dict().items()}
    assert shapes == {
        "layers.0.weight": [5, 7],
        "layers.0.bias": [7],
        "layers.1.weight": [7, 3],
        "layers.1.bias": [3],
    }
    assert list(Mlp(5, 7, 3, 1).state_dict()) == ["layers.0.weight", "layers.0.bias"]
