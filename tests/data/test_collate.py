from __future__ import annotations

import numpy as np
import pytest

from ppvision.data.collate import collate, rows_of, select
from ppvision.data.transforms.image import Compose, PadTo


def sample(height: int, width: int, num_boxes: int = 0, **more) -> dict:
    rng = np.random.default_rng(height)
    return {
        "image": rng.integers(1, 256, (height, width, 3), np.uint8),
        "boxes": rng.random((num_boxes, 4)).astype(np.float32),
        "classes": np.full(num_boxes, height),
        "crowd": np.zeros(num_boxes, bool),
        "areas": np.full(num_boxes, width, np.float32),
        "name": f"{height}.png",
        **more,
    }


def test_pads_at_the_bottom_and_right():
    samples = [sample(4, 7, label=np.ones((4, 7), np.uint8)), sample(6, 5, label=np.ones((6, 5), np.uint8))]
    batch = collate(samples)
    assert batch["image"].shape == (2, 6, 7, 3) and batch["image"].dtype == np.uint8
    assert np.array_equal(batch["image"][0, :4, :7], samples[0]["image"]) and not batch["image"][0, 4:].any()
    assert (batch["label"][1, :, 5:] == 255).all() and (batch["label"][1, :, :5] == 1).all()
    assert np.array_equal(batch["valid"], batch["label"] == 1) and batch["valid"].dtype == bool
    assert batch["size"].tolist() == [[4, 7], [6, 5]] and batch["size"].dtype == batch["inner"].dtype == np.int32
    assert np.array_equal(batch["geometry"], [np.eye(3)] * 2) and batch["name"] == ["4.png", "6.png"]


def test_padding_of_a_transform_is_not_valid():
    batch = collate([Compose([PadTo([8, 8])])(sample(4, 7))])
    assert batch["valid"].sum() == 28 and batch["valid"][0, :4, :7].all()
    assert batch["inner"].tolist() == [[4, 7]]


def test_ragged_rows_are_concatenated():
    batch = collate([sample(4, 4, 2), sample(5, 5, 0), sample(6, 6, 3)])
    assert batch["boxes"].shape == (5, 4) and batch["boxes"].dtype == np.float32
    assert batch["boxes_offsets"].tolist() == [0, 2, 2, 5] and batch["boxes_offsets"].dtype == np.int64
    assert batch["classes"].tolist() == [4, 4, 6, 6, 6] and batch["crowd"].dtype == bool
    assert batch["areas"].tolist() == [4, 4, 6, 6, 6] and batch["areas"].dtype == np.float32


def test_boxes_of_mixed_sizes_and_of_none():
    """Upright, lying and padded pictures together; then a batch without a single object."""
    samples = [Compose([PadTo(multiple=8)])(sample(5, 9, 2)), sample(12, 3, 1), sample(2, 2, 0)]
    batch = collate(samples)
    assert batch["image"].shape == (3, 12, 16, 3) and batch["canvas"].tolist() == [[8, 16], [12, 3], [2, 2]]
    assert batch["valid"].sum((1, 2)).tolist() == [45, 36, 4] == batch["inner"].prod(1).tolist()
    for row, (height, width) in enumerate(batch["inner"]):
        assert batch["valid"][row, :height, :width].all()
    assert batch["boxes_offsets"].tolist() == [0, 2, 3, 3] and np.array_equal(batch["boxes"][2:], samples[1]["boxes"])
    none = collate([sample(4, 4), sample(5, 5)])
    assert none["boxes"].shape == (0, 4) and none["boxes_offsets"].tolist() == [0, 0, 0]
    assert none["classes"].dtype == np.int64 and none["crowd"].dtype == bool and none["areas"].dtype == np.float32


def test_class_labels_and_other_keys():
    batch = collate(
        [sample(4, 4, label=3, index=9, embedding=np.ones(5)), sample(4, 4, label=1, index=2, embedding=np.ones(5))]
    )
    assert batch["label"].tolist() == [3, 1] and batch["label"].dtype == batch["index"].dtype == np.int64
    assert batch["embedding"].shape == (2, 5)


def test_paired_pictures_share_one_canvas():
    batch = collate(
        [
            sample(4, 7, image_virtual=np.ones((4, 7, 3), np.uint8)),
            sample(6, 5, image_virtual=np.ones((6, 5, 3), np.uint8)),
        ]
    )
    assert np.array_equal(batch["image_virtual"].any(-1), batch["valid"])


def test_without_image():
    batch = collate([{"points": np.zeros((3, 4), np.float32)}, {"points": np.ones((2, 4), np.float32)}])
    assert batch["points"].shape == (5, 4) and batch["points_offsets"].tolist() == [0, 3, 5] and "valid" not in batch


def test_refusals_name_the_sample():
    with pytest.raises(ValueError, match="5.png: keys differ from those of '4.png' in the same batch: label"):
        collate([sample(4, 4), sample(5, 5, label=1)])
    with pytest.raises(ValueError, match=r"5.png: 'extra' has shape \(2,\), the first of the batch \(3,\)"):
        collate([sample(4, 4, extra=np.zeros(3)), sample(5, 5, extra=np.zeros(2))])
    with pytest.raises(ValueError, match="4.png: inner area 9x9 is larger than the image 4x4"):
        collate([sample(4, 4, inner=(9, 9))])


def test_crops_have_a_size_of_their_own():
    rng = np.random.default_rng(2)
    sides = [(4, 3), (2, 5)]
    samples = [
        {"image": rng.integers(0, 255, (6, 8, 3), np.uint8), "crop_face": rng.integers(1, 255, (*side, 3), np.uint8)}
        for side in sides
    ]
    batch = collate(samples)
    assert batch["image"].shape == (2, 6, 8, 3) and batch["crop_face"].shape == (2, 4, 5, 3)
    assert batch["canvas_crop_face"].tolist() == [[4, 3], [2, 5]] and batch["canvas"].tolist() == [[6, 8], [6, 8]]
    for sample, row, (height, width) in zip(samples, batch["crop_face"], sides):
        np.testing.assert_array_equal(row[:height, :width], sample["crop_face"])
        assert row.sum() == sample["crop_face"].sum()  # what is added is 0
    part = select(batch, [1])
    assert part["canvas_crop_face"].tolist() == [[2, 5]] and part["crop_face"].shape == (1, 4, 5, 3)


def ragged() -> list[dict]:
    """Three samples with 2, 0 and 1 boxes and 1, 3 and 0 points."""
    samples = [sample(4 + i, 6, num_boxes=n) for i, n in enumerate((2, 0, 1))]
    for i, (each, n) in enumerate(zip(samples, (1, 3, 0))):
        each["points"] = np.full((n, 4), 10 * i, np.float32) + np.arange(n, dtype=np.float32)[:, None]
    return samples


@pytest.mark.parametrize("rows", [[0], [1], [2, 0], [1, 2], [2, 1, 0], [0, 0]])
def test_selecting_is_collating_the_chosen(rows):
    """Every key of the part, ragged ones with their offsets, is that of a batch of those samples."""
    samples = ragged()
    whole, chosen = collate(samples), collate([samples[i] for i in rows])
    part = select(whole, rows)
    assert part.keys() == whole.keys() and rows_of(part) == len(rows)
    height = chosen["valid"].shape[1]
    for key, expected in chosen.items():
        got = part[key][:, :height] if key in ("image", "valid") else part[key]
        assert list(got) == list(expected) if isinstance(expected, list) else np.array_equal(got, expected), key


def test_rows_are_samples_whatever_stands_first():
    batch = collate(ragged())
    for first in batch:
        assert rows_of({first: batch[first], **batch}) == 3, first
    with pytest.raises(ValueError, match="empty batch"):
        rows_of({})


def test_batches_of_points_alone():
    samples = [{"points": np.full((n, 4), n, np.float32), "name": str(n), "label": n} for n in (3, 0, 2)]
    batch = collate(samples)
    assert "valid" not in batch and "canvas" not in batch and rows_of(batch) == 3
    assert batch["points"][:, 0].tolist() == [3, 3, 3, 2, 2] and batch["points_offsets"].tolist() == [0, 3, 3, 5]
    part = select(batch, [2, 1])
    assert part["points"].tolist() == [[2] * 4] * 2 and part["points_offsets"].tolist() == [0, 2, 2]
    assert part["name"] == ["2", "0"] and part["label"].tolist() == [2, 0]
    assert rows_of({"points": batch["points"], "points_offsets": batch["points_offsets"]}) == 3
