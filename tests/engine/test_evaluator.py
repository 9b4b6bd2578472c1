"""Judging: what reaches the task and the metrics, padding, stopping, a second pass."""

import numpy as np
import paddle
import pytest

from ppvision.data.collate import collate
from ppvision.engine.evaluator import Evaluator, by_size
from ppvision.metrics.segmentation import MeanIoU
from ppvision.predict.tasks.segmentation import SegmentationTask
from tests.nets import Function

MEAN, STD = (10.0, 20.0, 30.0), (2.0, 4.0, 5.0)


class Sample:
    """A data set of which only its length is asked."""

    def __len__(self):
        return 3


class Batches:
    """What a Loader gives, from arrays."""

    dataset = Sample()

    def __init__(self, *batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def batch(sizes, classes=3, seed=0):
    """Images of these sizes, padded to the largest; the label of an image is its red channel modulo `classes`."""
    rng = np.random.default_rng(seed)
    height, width = np.max(sizes, axis=0)
    image = np.zeros((len(sizes), height, width, 3), np.uint8)
    valid = np.zeros(image.shape[:3], bool)
    target = []
    for i, (h, w) in enumerate(sizes):
        image[i, :h, :w] = rng.integers(0, 256, (h, w, 3))
        valid[i, :h, :w] = True
        target.append({"label": (image[i, :h, :w, 0] % classes).astype(np.uint8)})
    shape = np.array(sizes, np.int32)
    names = [f"{i}.png" for i in range(len(sizes))]
    return {
        "image": image, "valid": valid, "canvas": shape, "inner": shape, "size": shape, "name": names, "target": target
    }  # fmt: skip


def perfect(x):
    """Logits of the right answer, from the normalised image."""
    red = (x[:, 0] * STD[0] + MEAN[0]).round().astype("int64") % 3
    return paddle.nn.functional.one_hot(red, 3).transpose([0, 3, 1, 2])


def evaluator(*batches):
    return Evaluator(SegmentationTask(), [MeanIoU(3)], Batches(*batches), MEAN, STD)


def test_a_perfect_network_scores_one():
    """The network sees the normalised image, the metric the untouched annotation."""
    metrics = evaluator(batch([(6, 8), (6, 8)]), batch([(4, 5)], seed=1))({"model": Function(perfect)})
    assert list(metrics)[0] == "mIoU" and metrics["mIoU"] == metrics["Acc"] == 1.0


def test_images_of_one_batch_are_judged_without_their_neighbours_padding():
    seen = []

    def net(x):
        seen.append(tuple(x.shape))
        return perfect(x)

    evaluate = evaluator(batch([(6, 8), (4, 5), (6, 8)]))
    assert evaluate({"model": Function(net)})["mIoU"] == 1.0
    assert sorted(seen) == [(1, 3, 4, 5), (2, 3, 6, 8)]


def test_a_second_pass_begins_at_zero():
    evaluate = evaluator(batch([(6, 8)]))
    wrong = evaluate({"model": Function(lambda x: perfect(x).flip(1))})["mIoU"]
    assert wrong < 0.5 and evaluate({"model": Function(perfect)})["mIoU"] == 1.0
    assert evaluate({"model": Function(lambda x: perfect(x).flip(1))})["mIoU"] == wrong


def test_stops_between_batches():
    stops = iter([False, True])
    evaluate = evaluator(batch([(6, 8)]), batch([(6, 8)]))
    assert evaluate({"model": Function(perfect)}, stop=lambda: next(stops)) == {}
    assert evaluate.metrics[0].state()["matrix"].sum() == 48


def test_needs_no_gradient():
    weight = paddle.create_parameter([1], "float32")

    def net(x):
        out = perfect(x) * weight
        assert out.stop_gradient
        return out

    evaluator(batch([(6, 8)]))({"model": Function(net)})


@pytest.mark.parametrize("sizes", [[(6, 8), (6, 8)], [(6, 8), (4, 5), (6, 8)]])
def test_by_size_keeps_every_row_with_its_image(sizes):
    whole = batch(sizes)
    parts = by_size(whole)
    assert len(parts) == len(set(sizes)) and (parts[0] is whole) == (len(parts) == 1)
    rows = {name: i for i, name in enumerate(whole["name"])}
    for part in parts:
        for i, name in enumerate(part["name"]):
            h, w = sizes[rows[name]]
            np.testing.assert_array_equal(part["image"][i], whole["image"][rows[name], :h, :w])
            assert part["target"][i] is whole["target"][rows[name]] and part["valid"][i].all()


def test_crops_of_unlike_size_are_judged_apart():
    """As the Predictor does it: a crop is never seen with what pads it."""
    rng = np.random.default_rng(1)
    sides = [(4, 3), (2, 5), (4, 3)]
    crops = [rng.integers(1, 255, (*side, 3), np.uint8) for side in sides]
    image = rng.integers(0, 255, (6, 8, 3), np.uint8)
    for extra in ({}, {"image": image}):
        whole = collate([{"crop_face": crop, "name": str(i), **extra} for i, crop in enumerate(crops)])
        parts = by_size(whole)
        assert [part["name"] for part in parts] == [["0", "2"], ["1"]]
        assert [part["crop_face"].shape[1:3] for part in parts] == [(4, 3), (2, 5)]
        np.testing.assert_array_equal(parts[0]["crop_face"][1], crops[2])
        np.testing.assert_array_equal(parts[1]["crop_face"][0], crops[1])
        assert all(part["image"].shape[1:3] == (6, 8) for part in parts if extra)
        same = collate([{"crop_face": crops[i], **extra} for i in (0, 2)])
        assert by_size(same)[0] is same


def test_by_size_cuts_ragged_rows_by_their_offsets():
    """Three pictures with 1, 0 and 2 boxes, two of one size: every part has the boxes of its own pictures."""
    rows = {"boxes": np.arange(12, dtype=np.float32).reshape(3, 4), "classes": np.array([7, 8, 9])}
    whole = {**batch([(6, 8), (4, 5), (6, 8)]), **rows, "boxes_offsets": np.array([0, 1, 1, 3])}
    large, small = by_size(whole)
    assert large["name"] == ["0.png", "2.png"] and large["boxes_offsets"].tolist() == [0, 1, 3]
    assert np.array_equal(large["boxes"], rows["boxes"]) and large["classes"].tolist() == [7, 8, 9]
    assert small["boxes"].shape == (0, 4) and small["boxes_offsets"].tolist() == [0, 0]
    parts = by_size({**whole, "boxes_offsets": np.array([0, 0, 2, 3])})
    assert parts[0]["classes"].tolist() == [9] and parts[1]["classes"].tolist() == [7, 8]


def test_by_size_cuts_only_what_was_padded_to_the_canvas():
    """Pictures and maps of the canvas, not a picture of its own size, nor numbers that are as many by chance."""
    whole = batch([(3, 3), (2, 3)])
    whole |= {"label": np.arange(18, dtype=np.uint8).reshape(2, 3, 3), "geometry": np.ones((2, 3, 3))}
    whole |= {"crop_face": np.ones((2, 3, 3, 3), np.uint8), "image_style": np.ones((2, 3, 3, 3), np.uint8)}
    small = by_size(whole)[1]
    assert small["label"].tolist() == [[[9, 10, 11], [12, 13, 14]]] and small["image_style"].shape == (1, 2, 3, 3)
    assert small["geometry"].shape == (1, 3, 3) and small["crop_face"].shape == (1, 3, 3, 3)


def test_batches_without_pictures_are_one_part():
    whole = {"points": np.ones((5, 4), np.float32), "points_offsets": np.array([0, 2, 5]), "target": [{}, {}]}
    (part,) = by_size(whole)
    assert part is whole
