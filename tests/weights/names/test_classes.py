from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppvision.weights.names.classes import COCO_CLASSES, COCO_IDS, NUM_OBJECTS365, coco_rows


def test_the_map_is_one_to_one():
    assert len(COCO_CLASSES) == len(set(COCO_CLASSES)) == 80
    assert min(COCO_CLASSES) == 0 and max(COCO_CLASSES) < NUM_OBJECTS365 == 365


def test_classes_that_both_lists_are_known_by():
    # person, car, dog, cat and toothbrush in the published lists of the two data sets.
    assert [COCO_CLASSES[i] for i in (0, 2, 16, 15, 79)] == [0, 5, 92, 139, 226]


def test_the_category_ids_of_cocos_classes():
    """Ids that instances_val2017.json gives the classes on both sides of every gap."""
    assert len(COCO_IDS) == 80 and list(COCO_IDS) == sorted(set(COCO_IDS))
    ids = {
        **{"person": (0, 1), "fire hydrant": (10, 11), "stop sign": (11, 13), "giraffe": (23, 25)},
        **{"backpack": (24, 27), "umbrella": (25, 28), "handbag": (26, 31), "tennis racket": (38, 43)},
        **{"bottle": (39, 44), "wine glass": (40, 46), "bed": (59, 65), "dining table": (60, 67)},
        **{"toilet": (61, 70), "tv": (62, 72), "refrigerator": (72, 82), "book": (73, 84), "toothbrush": (79, 90)},
    }
    assert {name: COCO_IDS[k] for name, (k, _) in ids.items()} == {name: id for name, (_, id) in ids.items()}


@pytest.mark.parametrize(("shape", "axis"), [((256, 365), 1), ((365,), 0), ((365, 8), 0)])
def test_rows_of_every_kind_of_weight(shape, axis):
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected = np.stack([weight.take(i, axis) for i in COCO_CLASSES], axis)
    assert np.array_equal(coco_rows(weight), expected)
    assert np.array_equal(coco_rows(paddle.to_tensor(weight)).numpy(), expected)


def test_a_square_weight_needs_its_axis():
    square = np.arange(365 * 365).reshape(365, 365)
    with pytest.raises(ValueError, match="no axis that is known"):
        coco_rows(square)
    assert np.array_equal(coco_rows(square, axis=-1)[0], COCO_CLASSES)
    with pytest.raises(ValueError, match=r"\[366\]"):
        coco_rows(np.zeros(366))
