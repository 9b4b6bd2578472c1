"""Test-time augmentation against slow references, and the way from logits to masks of the original size."""

from types import SimpleNamespace

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from ppvision.errors import UserError
from ppvision.predict.tasks.base import create_task, ending_of
from ppvision.predict.tasks.segmentation import SegmentationTask
from tests.exporting.samples import TinyNet, randomise
from tests.nets import Net


@pytest.fixture(scope="module")
def net():
    return randomise(TinyNet())


@pytest.fixture(scope="module")
def image():
    return paddle.to_tensor(np.random.default_rng(1).standard_normal((2, 3, 22, 31)).astype(np.float32))


def logits_of(net, image, **options):
    with paddle.no_grad():
        return SegmentationTask(**options).run({"model": Net(net)}, {"image": image})["logits"].numpy()


def flipped(array, horizontal, vertical):
    array = array[..., ::-1] if horizontal else array
    return np.ascontiguousarray(array[..., ::-1, :] if vertical else array)


def slow_reference(net, image, flips, scales):
    height, width = image.shape[2:]
    total, count = 0.0, 0
    with paddle.no_grad():
        for scale in scales:
            size = [int(height * scale + 0.5), int(width * scale + 0.5)]
            scaled = F.interpolate(image, size=size, mode="bilinear").numpy()
            for h, v in flips:
                logits = net(paddle.to_tensor(flipped(scaled, h, v))).numpy()
                logits = paddle.to_tensor(flipped(logits, h, v))
                total = total + F.interpolate(logits, size=[height, width], mode="bilinear").numpy().astype(np.float64)
                count += 1
    return total / count


def test_a_scaled_side_is_at_least_one_pixel(net):
    for size in ([1, 1], [1, 40], [3, 4]):
        image = paddle.ones([1, 3, *size])
        assert list(logits_of(net, image, scales=[0.1]).shape[2:]) == size


def test_endings_decide_over_the_classes():
    logits = paddle.to_tensor(np.random.default_rng(3).standard_normal((2, 4, 3, 5)).astype(np.float32))
    task = create_task("segmentation")
    name, decided = ending_of(task, None)
    labels = decided(logits)["labels"]
    assert name == "argmax" and labels.dtype == paddle.int32
    np.testing.assert_array_equal(labels.numpy(), logits.numpy().argmax(1))
    soft = ending_of(task, "softmax")[1](logits)["probabilities"].numpy()
    powers = np.exp(logits.numpy())
    np.testing.assert_allclose(soft, powers / powers.sum(1, keepdims=True), atol=1e-6)
    for ending in (decided, ending_of(task, "softmax")[1]):
        told = [(output.name, output.dtype) for output in ending.outputs(logits)]
        assert told == [(key, str(value.dtype).rpartition(".")[2]) for key, value in ending(logits).items()]


class TestAugmentation:
    @pytest.mark.parametrize(
        "options, flips, scales",
        [
            ({}, [(0, 0)], [1.0]),
            ({"flip": True}, [(0, 0), (1, 0)], [1.0]),
            ({"flip_vertical": True}, [(0, 0), (0, 1)], [1.0]),
            ({"flip": True, "flip_vertical": True}, [(0, 0), (1, 0), (0, 1), (1, 1)], [1.0]),
            ({"scales": [0.5, 1.0, 1.75], "flip": True}, [(0, 0), (1, 0)], [0.5, 1.0, 1.75]),
            ({"scales": 0.75}, [(0, 0)], [0.75]),
        ],
    )
    def test_equals_the_slow_reference(self, net, image, options, flips, scales):
        expected = slow_reference(net, image, flips, scales)
        assert np.abs(logits_of(net, image, **options) - expected).max() < 2e-5

    def test_augmentation_does_something(self, net, image):
        plain = logits_of(net, image)
        for options in ({"flip": True}, {"flip_vertical": True}, {"scales": [0.5]}):
            assert np.abs(logits_of(net, image, **options) - plain).max() > 1e-3

    def test_sides_round_half_up(self, net):
        sizes = []
        task = SegmentationTask(scales=[0.5, 1.5])
        seen = Net(lambda x: sizes.append(x.shape[2:]) or net(x))
        task.run({"model": seen}, {"image": paddle.zeros([1, 3, 21, 31])})
        assert [list(s) for s in sizes] == [[11, 16], [32, 47]]


class TestSlide:
    @pytest.mark.parametrize("crop", [(22, 31), (50, 50)])
    def test_equals_whole_when_the_crop_covers(self, net, image, crop):
        slide = {"crop": crop, "stride": (8, 8)}
        assert np.array_equal(logits_of(net, image, slide=slide), logits_of(net, image))

    @pytest.mark.parametrize("crop, stride", [((10, 12), (7, 12)), ((22, 9), (22, 5)), ((8, 64), (8, 64))])
    def test_equals_the_slow_reference(self, net, image, crop, stride):
        height, width = image.shape[2:]
        total, count = np.zeros((2, 3, height, width)), np.zeros((height, width))
        tops = {min(t, max(height - crop[0], 0)) for t in range(0, max(height - crop[0], 0) + stride[0], stride[0])}
        lefts = {min(c, max(width - crop[1], 0)) for c in range(0, max(width - crop[1], 0) + stride[1], stride[1])}
        for top in tops:
            for left in lefts:
                window = (slice(top, top + crop[0]), slice(left, left + crop[1]))
                total[(..., *window)] += net(image[(slice(None), slice(None), *window)]).numpy()
                count[window] += 1
        assert count.min() >= 1
        got = logits_of(net, image, slide=SimpleNamespace(crop=crop, stride=stride))
        assert np.abs(got - total / count).max() < 2e-5

    @pytest.mark.parametrize(
        "slide", [{"crop": [4, 4]}, {"crop": [4, 4], "stride": [5, 4]}, {"crop": [4, 0], "stride": [1, 1]}]
    )
    def test_wrong_slide_is_refused(self, slide):
        with pytest.raises(UserError, match="slide"):
            SegmentationTask(slide=slide)


class TestResults:
    def test_padding_is_cut_off_and_the_size_restored(self):
        logits = np.full((2, 3, 8, 10), -1.0, np.float32)
        logits[0, 1, :4, :5] = 1.0  # upper left of the image proper, which is 8 x 10
        logits[1, 2, :6, :7] = 1.0  # all of the image proper, which is 6 x 7
        logits[1, 0, 6:], logits[1, 0, :, 7:] = 9.0, 9.0  # padding
        logits[0, 0] += 0.5
        batch = {
            "size": np.array([[16, 20], [3, 4]], np.int32),
            "inner": paddle.to_tensor(np.array([[8, 10], [6, 7]], np.int32)),
            "name": ["a", "b"],
        }
        a, b = SegmentationTask(["x", "y", "z"]).results({"logits": paddle.to_tensor(logits)}, batch)
        assert a.labels.shape == (16, 20) and a.labels.dtype == np.uint8 and a.name == "a"
        assert a.labels[0, 0] == 1 and a.labels[15, 19] == 0 and a.labels[:7, :9].min() == 1
        assert b.labels.shape == (3, 4) and (b.labels == 2).all()

    def test_decided_graphs_are_resized_to_the_nearest_pixel(self):
        labels = np.arange(12, dtype=np.int32).reshape(1, 3, 4)
        batch = {"size": np.array([[6, 8]]), "inner": np.array([[3, 4]])}
        (mask,) = SegmentationTask().results({"labels": paddle.to_tensor(labels)}, batch)
        assert np.array_equal(mask.labels, np.kron(labels[0], np.ones((2, 2))))
        (half,) = SegmentationTask().results({"labels": paddle.to_tensor(labels)}, {"size": np.array([[1, 2]])})
        assert half.labels.tolist() == [[5, 7]]

    def test_ids_beyond_uint8_are_kept(self):
        (mask,) = SegmentationTask().results({"labels": paddle.to_tensor(np.array([[[0, 300]]], np.int32))}, {})
        assert mask.labels.tolist() == [[0, 300]]

    def test_labels_cannot_be_averaged(self):
        decided = {"model": Net(lambda x: paddle.zeros([1, 4, 4], "int32"))}
        with pytest.raises(UserError, match="--output_op none"):
            SegmentationTask(flip=True).run(decided, {"image": paddle.zeros([1, 3, 4, 4])})

    def test_lists_of_other_packages(self, net, image):
        outputs = SegmentationTask().run({"model": Net(lambda x: [net(x), None])}, {"image": image})
        assert list(outputs["logits"].shape) == [2, 3, 22, 31]


class TestCreateTask:
    def test_options_that_are_off_are_ignored_by_tasks_without_them(self):
        options = {"flip": False, "flip_vertical": False, "scales": [1.0], "slide": None}
        assert create_task("classification", **options).top == 5
        assert create_task("segmentation", **options, palette=[[1, 2, 3]]).palette.shape == (1, 3)

    @pytest.mark.parametrize(
        "name, options, message",
        [
            ("segmantation", {}, "did you mean 'segmentation'"),
            ("classification", {"flip": True}, "no option 'flip'"),
            ("segmentation", {"scale": [0.5]}, "did you mean 'scales'"),
            ("segmentation", {"scales": [0.0]}, "positive"),
        ],
    )
    def test_mistakes(self, name, options, message):
        with pytest.raises(UserError, match=message):
            create_task(name, **options)
