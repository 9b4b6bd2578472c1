"""What of a batch goes onto the device."""

import numpy as np
import paddle

from ppvision.data.batch import to_device
from ppvision.data.collate import collate


def test_numbers_become_tensors_and_the_rest_stays():
    samples = [
        {
            "image": np.full((2, 3, 3), 7 * i, np.uint8),
            "label": 4 - i,
            "note": None,
            "name": f"p{i}",
            "target": {"a": i},
        }
        for i in range(2)
    ]
    batch = collate(samples)
    found = to_device(batch)
    assert list(found) == list(batch)
    assert found["image"].dtype == paddle.uint8 and found["image"].numpy().tolist() == batch["image"].tolist()
    assert found["label"].dtype == paddle.int64 and found["label"].tolist() == [4, 3]
    assert found["valid"].dtype == paddle.bool
    assert found["name"] == ["p0", "p1"] and found["target"] == [{"a": 0}, {"a": 1}]
    assert found["note"] is batch["note"] and found["note"].tolist() == [None, None]  # no numbers
