"""What is kept of a skipped update."""

import numpy as np
import paddle

from ppvision.engine.fault import Fault, keep_batch


def batch(value):
    return {
        "image": np.full([2, 3], value, "uint8"),
        "label": np.array([value, 9]),
        "target": [{"label": 1}, {"label": 2}],
        "name": [f"{value}.png", "9.png"],
    }


def test_the_first_batch_is_kept_by_micro_batch(tmp_path):
    path = tmp_path / "fault.npz"
    keep_batch(path, [batch(1), batch(2)])
    kept = np.load(path)
    assert sorted(kept) == ["0/image", "0/label", "0/name", "1/image", "1/label", "1/name"]
    assert kept["1/label"].tolist() == [2, 9] and kept["0/name"].tolist() == ["1.png", "9.png"]
    keep_batch(path, [batch(5)])
    assert np.load(path)["0/label"].tolist() == [1, 9]


def test_terms_become_numbers():
    fault = Fault(
        "g", "loss is not finite", {"fool": paddle.to_tensor([0.25], "float32"), "far": paddle.to_tensor(3.0)}
    )
    assert fault.terms == {"fool": 0.25, "far": 3.0} and str(fault) == "phase 'g': loss is not finite"
    assert not fault.overflow and not fault.elsewhere
