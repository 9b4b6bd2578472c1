"""Synthetic streets: the label map is what depth order demands, nothing is thinner than asked, same seed gives same
bytes."""

import hashlib

import cv2
import numpy as np
import pytest

from ppvision.data.formats.cityscapes import Cityscapes
from ppvision.data.samples.synthetic import street
from ppvision.errors import UserError


def scene(seed, size=(128, 256), thickness=16):
    return street.compose(np.random.default_rng(seed), size, thickness)


def thinnest(labels):
    """Diameter of the largest disc in the region that has the smallest such disc; an independent measure of
    thickness."""
    found = np.inf
    for label in np.unique(labels):
        num, regions = cv2.connectedComponents(np.uint8(labels == label), connectivity=8)
        for region in range(1, num):
            mask = np.pad(np.uint8(regions == region), 1)
            found = min(found, 2 * cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max() - 1)
    return found


@pytest.mark.parametrize("seed", range(6))
def test_labels_follow_depth_order(seed):
    """A slow search: at each pixel the label of the nearest surface, as the surfaces themselves tell their depth."""
    drawn = scene(seed)
    nearest = np.full(drawn.labels.shape, np.inf)
    expected = np.zeros_like(drawn.labels)
    order = np.random.default_rng(seed).permutation(len(drawn.surfaces))  # the order of drawing must not matter
    for surface in (drawn.surfaces[i] for i in order):
        for y, x in np.argwhere(surface.mask):
            at = y + surface.top, x + surface.left
            if surface.depth[y, x] < nearest[at]:
                nearest[at], expected[at] = surface.depth[y, x], surface.label
    assert np.array_equal(expected, drawn.labels)
    assert np.array_equal(nearest.astype(np.float32), drawn.depth)


@pytest.mark.parametrize(("size", "thickness"), [((128, 256), 16), ((256, 512), 16), ((192, 320), 6)])
def test_nothing_is_thinner_than_asked(size, thickness):
    measured = [thinnest(scene([5, i], size, thickness).labels) for i in range(8)]
    assert min(measured) >= thickness


def test_thickness_is_a_parameter():
    """With thin objects allowed they occur: the guarantee above does not come from scenes without objects."""
    assert min(thinnest(scene([5, i], (256, 512), 4).labels) for i in range(4)) < 12


def test_is_thick():
    mask = np.zeros((60, 60), bool)
    mask[10:50, 10:27] = True  # 17 wide
    assert street.is_thick(mask, 16)
    assert not street.is_thick(mask, 18)
    mask[30:34, 27:45] = True  # a sliver of 18 x 4 beside 17 x 40
    assert street.is_thick(mask, 16)
    mask[36:40, 27:55] = True  # with a second one too much of the region is slivers
    assert not street.is_thick(mask, 16)
    other = np.zeros((60, 60), bool)
    other[10:50, 10:27] = other[55:58, 50:53] = True  # a crumb
    assert not street.is_thick(other, 16)
    edge = np.zeros((60, 60), bool)
    edge[:, :10] = True  # cut by the border: only 10 pixels are there
    assert not street.is_thick(edge, 16)


def test_every_class_is_drawn():
    seen = set()
    for i in range(30):
        seen |= set(np.unique(street.render(np.random.default_rng([1, i]), (192, 384), 8)[1]).tolist())
    assert seen == set(street.CLASSES.values())


def test_label_ids_are_those_of_cityscapes():
    from ppvision.data.formats.cityscapes import CLASSES

    ids = {name: number for number, name, _ in CLASSES}
    assert {n: i for n, i in street.CLASSES.items() if n != "ego vehicle"}.items() <= ids.items()


def test_same_seed_same_bytes():
    first, second = (street.render(np.random.default_rng(3), (128, 256)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    other = street.render(np.random.default_rng(4), (128, 256))
    assert not np.array_equal(first[0], other[0])
    assert first[0].dtype == first[1].dtype == np.uint8 and first[0].shape == (128, 256, 3)


def test_global_generators_are_left_alone():
    before = np.random.get_state()[1].copy()
    street.render(np.random.default_rng(0), (128, 256))
    assert np.array_equal(before, np.random.get_state()[1])


def test_colour_alone_does_not_tell_the_class():
    """Learnable, not trivial: the best label for every coarse colour leaves many pixels wrong, yet fewer than
    chance."""
    scenes = [street.render(np.random.default_rng([2, i]), (128, 256), 8) for i in range(12)]
    colour = np.concatenate([(image // 32).reshape(-1, 3) @ [64, 8, 1] for image, _ in scenes])
    label = np.concatenate([labels.ravel() for _, labels in scenes])
    table = np.zeros((512, 34), np.int64)
    np.add.at(table, (colour, label), 1)
    right = table.max(1).sum() / len(label)
    assert np.bincount(label).max() / len(label) < right < 0.85


def test_too_small_for_the_thickness():
    with pytest.raises(UserError, match="100x200 have no room for objects of 16 pixels; use at least 112x160"):
        street.render(np.random.default_rng(0), (100, 200), 16)


def test_written_as_cityscapes(tmp_path):
    street.write(tmp_path, 3, 1, (112, 224), seed=7, min_thickness=8)
    names = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png"))
    assert names[0] == "gtFine/train/synthetic/synthetic_000000_000000_gtFine_labelIds.png"
    assert names[-1] == "leftImg8bit/val/synthetic/synthetic_000000_000000_leftImg8bit.png"
    train, val = Cityscapes(tmp_path, "train"), Cityscapes(tmp_path, "val")
    assert len(train) == 3 and len(val) == 1
    image, ids = street.render(np.random.default_rng([7, 0, 2]), (112, 224), 8)
    sample = train[2]
    assert np.array_equal(sample["image"], image)
    assert np.array_equal(sample["label"] == train.class_names.index("road"), ids == 7)
    assert np.array_equal(sample["label"] == 255, ids == street.CLASSES["ego vehicle"])


def test_a_larger_set_begins_with_the_smaller(tmp_path):
    def digests(folder):
        files = folder.rglob("*.png")
        return {p.relative_to(folder): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    small = digests(street.write(tmp_path / "a", 1, 1, (112, 224), seed=1, min_thickness=8))
    large = digests(street.write(tmp_path / "b", 2, 1, (112, 224), seed=1, min_thickness=8))
    assert len(large) == len(small) + 2
    assert small.items() <= large.items()
