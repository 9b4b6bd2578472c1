"""Resampling to the size of a target."""

from __future__ import annotations

import numpy as np
import paddle

from ppvision.nn.resize import resize


def test_bilinear_without_aligned_corners_by_default():
    x = paddle.to_tensor(np.array([0.0, 1.0], "float32").reshape(1, 1, 1, 2))
    assert resize(x, [1, 4]).flatten().tolist() == [0.0, 0.25, 0.75, 1.0]
    aligned = resize(x, [1, 4], align_corners=True).flatten().numpy()
    np.testing.assert_allclose(aligned, [0, 1 / 3, 2 / 3, 1], atol=1e-6)
    assert resize(x, [1, 4], mode="nearest").flatten().tolist() == [0.0, 0.0, 1.0, 1.0]
