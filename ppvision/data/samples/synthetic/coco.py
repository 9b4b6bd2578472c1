"""Synthetic detection data with exact boxes and outlines, in the layout of COCO: scenes composed of real photographs,
and coloured shapes on noise.

A scene is a photograph with objects cut out of other photographs in front of it, in depth order. What is annotated is
what is seen: the outline, box and area of an object are those of its visible pixels, and an object of which too little
is left is taken out of the picture altogether, so that nothing visible goes without an annotation. Dense heaps of one
class are annotated as one crowd region, as COCO does. A scene is a function of its generator: same seed, same picture.

Checked:   visible outlines against a search for the frontmost object of every pixel; boxes and areas against the runs
           by pycocotools; the files by `ppvision data check --format coco`; ground truth as prediction has AP 1.
Deviates:  from COCO (Lin et al., arXiv:1405.0312) in that objects neither touch the ground nor cast shadows, that all
           outlines are run lengths (COCO draws polygons except for crowds), and that sizes are balanced: small, medium
           and large are equally likely, with COCO's limits of 32 and 96 pixels scaled from a picture of 480x640 to the
           scene's own size.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ppvision.data.formats import coco
from ppvision.errors import UserError

MIN_VISIBLE = 0.15  # share of an object's pixels, those outside the picture included
MIN_PIXELS = 12  # visible ones, of an object that is annotated
BINS = ((14.0, 32.0), (32.0, 96.0), (96.0, 210.0))  # square root of the area, in a picture of 480x640
SPLITS = ("train", "val")
SHAPES = ("disc", "square", "triangle", "cross")


@dataclass(frozen=True)
class CutOut:
    """An object out of a photograph: `image` uint8 [h,w,3], `mask` bool [h,w], and its class, an index."""

    image: np.ndarray
    mask: np.ndarray
    label: int


@dataclass(frozen=True)
class Sources:
    """What scenes are made of. No cut-out and no background should serve two splits.

    Attributes:
        categories: (id in the file, name) of every class.
        cutouts: per split, objects of all classes.
        photos: per split, backgrounds uint8 [H,W,3].
    """

    categories: Sequence[tuple[int, str]]
    cutouts: Mapping[str, Sequence[CutOut]]
    photos: Mapping[str, Sequence[np.ndarray]]


@dataclass
class Layer:
    """One object, or one heap, as it would be seen alone: `mask` bool [H,W] within the picture; `whole` is the number
    of its pixels if the picture went on; `colour` float [H,W,3] and `alpha` float [H,W] paint it."""

    label: int
    crowd: bool
    mask: np.ndarray
    whole: float
    colour: np.ndarray
    alpha: np.ndarray


@dataclass
class Scene:
    """`image` uint8 [H,W,3]; `layers` from back to front; `visible` bool [n,H,W], what is seen of each."""

    image: np.ndarray
    layers: list[Layer]
    visible: np.ndarray


def cut(photo: np.ndarray, outline: np.ndarray, label: int) -> CutOut:
    """The part of `photo` [H,W,3] inside a polygon [n,2] of x, y. One pixel is taken off all around, where an outline
    drawn by hand shows what is behind."""
    height, width = photo.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.rint(outline).astype(np.int32)], 1)
    mask = cv2.erode(mask, np.ones((3, 3), np.uint8), borderValue=0)
    if not mask.any():
        raise ValueError("outline holds no pixel of the photo")
    left, top, w, h = cv2.boundingRect(mask)
    window = np.s_[top : top + h, left : left + w]
    return CutOut(np.ascontiguousarray(photo[window]), mask[window].astype(bool), label)


def compose(
    rng: np.random.Generator,
    size: tuple[int, int],
    cutouts: Sequence[CutOut],
    photos: Sequence[np.ndarray],
    objects: tuple[int, int] = (2, 8),
    crowd: float = 0.12,
    near: float = 0.4,
) -> Scene:
    """One scene.

    Args:
        rng: all randomness.
        size: (height, width) in pixels.
        cutouts: objects to place; every class among them is equally likely.
        photos: backgrounds.
        objects: smallest and largest number of objects placed (some may be hidden and left out).
        crowd: probability of one heap of 8 to 14 small objects of a class.
        near: probability that an object is placed near an earlier one, so that the two may overlap.
    """
    height, width = size
    scale = math.sqrt(height * width / (480 * 640))
    by_class: dict[int, list[CutOut]] = {}
    for item in cutouts:
        by_class.setdefault(item.label, []).append(item)
    labels = sorted(by_class)

    def draw(side: float, centre: np.ndarray, label: int) -> Layer:
        choice = by_class[label]
        return place(rng, choice[int(rng.integers(len(choice)))], side, centre, size)

    picture = background(rng, photos[int(rng.integers(len(photos)))], size)
    num = int(rng.integers(objects[0], objects[1] + 1))
    bins = np.concatenate([rng.permutation(3) for _ in range(-(-num // 3))])[:num]
    layers, depth, centres = [], [], []
    for which in bins.tolist():
        low, high = BINS[which]
        side = scale * math.exp(rng.uniform(math.log(low), math.log(high)))
        centre = rng.uniform(0.08, 0.92, 2) * (width, height)
        if centres and rng.random() < near:
            neighbour, reach = centres[int(rng.integers(len(centres)))]
            centre = np.clip(neighbour + rng.normal(0, 0.6 * reach, 2), 0, (width, height))
        centres.append((centre, side))
        layers.append(draw(side, centre, labels[int(rng.integers(len(labels)))]))
        # Mostly the larger stand behind the smaller; else most of the small ones would be hidden.
        depth.append(-math.log(side / scale) + rng.normal(0, 0.6))
    if rng.random() < crowd:
        label, centre = labels[int(rng.integers(len(labels)))], rng.uniform(0.25, 0.75, 2) * (width, height)
        side, count = scale * rng.uniform(22, 40), int(rng.integers(8, 15))
        spread = side * np.array([1.3, 0.8]) * math.sqrt(count) / 2
        spots = centre + rng.normal(0, 0.6, (count, 2)) * spread
        layers.append(pile([draw(side * rng.uniform(0.8, 1.2), spot, label) for spot in spots]))
        depth.append(rng.uniform(-5, -3))
    layers = [layers[i] for i in np.argsort(depth, kind="stable")]
    kept = [layer for layer, seen in zip(layers, visible(layers, size)) if is_seen(layer, seen)]
    for layer in kept:
        alpha = layer.alpha[..., None]
        picture = picture * (1 - alpha) + layer.colour * alpha
    picture += rng.normal(0, 2, (height, width, 1))
    return Scene(np.clip(np.rint(picture), 0, 255).astype(np.uint8), kept, visible(kept, size))


def background(rng: np.random.Generator, photo: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A random window of the photo at the scene's size, mirrored half the time: float64 [H,W,3]."""
    height, width = size
    fit = min(photo.shape[0] / height, photo.shape[1] / width) * rng.uniform(0.6, 1.0)
    h, w = max(int(height * fit), 1), max(int(width * fit), 1)
    top, left = int(rng.integers(photo.shape[0] - h + 1)), int(rng.integers(photo.shape[1] - w + 1))
    window = photo[top : top + h, left : left + w]
    window = window[:, ::-1] if rng.random() < 0.5 else window
    shrunk = cv2.INTER_AREA if fit > 1 else cv2.INTER_LINEAR
    resized = cv2.resize(np.ascontiguousarray(window), (width, height), interpolation=shrunk)
    return resized * rng.uniform(0.75, 1.15)


def place(rng: np.random.Generator, item: CutOut, side: float, centre: np.ndarray, size: tuple[int, int]) -> Layer:
    """A cut-out of `side` squared pixels about `centre` (x, y): turned up to 25 degrees, half the time mirrored, with
    its own light."""
    height, width = size
    scale = side / math.sqrt(item.mask.sum())
    image, mask = item.image, item.mask.astype(np.float32)
    if scale < 1:  # shrink by area first: a warp takes single pixels
        shape = tuple(max(2, round(n * scale)) for n in mask.shape)
        image = cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA)
        mask = cv2.resize(mask, shape[::-1], interpolation=cv2.INTER_AREA)
        scale = 1.0
    angle, mirror = math.radians(rng.uniform(-25, 25)), -1.0 if rng.random() < 0.5 else 1.0
    c, s = scale * math.cos(angle), scale * math.sin(angle)
    linear = np.array([[c * mirror, s], [-s * mirror, c]])
    middle = np.array([mask.shape[1] - 1, mask.shape[0] - 1]) / 2
    matrix = np.concatenate([linear, (centre - 0.5 - linear @ middle)[:, None]], 1)
    colour = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(mask, matrix, (width, height), flags=cv2.INTER_LINEAR)
    light = rng.uniform(0.75, 1.2) * rng.uniform(0.92, 1.08, 3)
    whole = float(mask.sum()) * scale**2
    return Layer(item.label, False, alpha >= 0.5, whole, colour.astype(np.float32) * light.astype(np.float32), alpha)


def pile(layers: Sequence[Layer]) -> Layer:
    """Layers from back to front as one crowd layer."""
    colour, alpha = layers[0].colour * layers[0].alpha[..., None], layers[0].alpha
    for layer in layers[1:]:
        a = layer.alpha[..., None]
        colour, alpha = colour * (1 - a) + layer.colour * a, alpha + layer.alpha - alpha * layer.alpha
    mask = np.logical_or.reduce([layer.mask for layer in layers])
    colour = colour / np.maximum(alpha, 1e-6)[..., None]
    return Layer(layers[0].label, True, mask, float(mask.sum()), colour, np.where(mask, alpha, np.minimum(alpha, 0.49)))


def visible(layers: Sequence[Layer], size: tuple[int, int]) -> np.ndarray:
    """What is seen of each layer (back to front): bool [n,H,W], disjoint."""
    seen, covered = np.zeros((len(layers), *size), bool), np.zeros(size, bool)
    for i in reversed(range(len(layers))):
        seen[i] = layers[i].mask & ~covered
        covered |= layers[i].mask
    return seen


def is_seen(layer: Layer, seen: np.ndarray) -> bool:
    """Whether enough of a layer is visible to be annotated."""
    pixels = int(seen.sum())
    return pixels >= max(MIN_VISIBLE * layer.whole, MIN_PIXELS)


def shapes(rng: np.random.Generator, size: tuple[int, int] = (64, 64)) -> Scene:
    """1 to 6 shapes of 8 to 28 pixels (in a picture of 64, else in proportion), turned a little, of any colour that
    stands out, on noise; class k is `SHAPES[k]`."""
    height, width = size
    unit = min(height, width) / 64
    ground = rng.uniform(60, 195, 3)
    picture = _texture(rng, size) + ground
    rows, columns = np.mgrid[:height, :width] + 0.5
    layers = []
    for _ in range(int(rng.integers(1, 7))):
        label, half = int(rng.integers(len(SHAPES))), unit * rng.uniform(8, 28) / 2
        angle = math.radians(rng.uniform(-20, 20))
        y, x = rng.uniform(half, height - half), rng.uniform(half, width - half)
        u = ((columns - x) * math.cos(angle) + (rows - y) * math.sin(angle)) / half
        v = ((rows - y) * math.cos(angle) - (columns - x) * math.sin(angle)) / half
        mask = _inside(SHAPES[label], u, v)
        colour = rng.uniform(0, 255, 3)
        while abs(colour - ground).max() < 60:
            colour = rng.uniform(0, 255, 3)
        colour = colour + _texture(rng, size)
        layers.append(Layer(label, False, mask, float(mask.sum()), colour, mask.astype(np.float32)))
    kept = [layer for layer, seen in zip(layers, visible(layers, size)) if is_seen(layer, seen)]
    for layer in kept:
        np.copyto(picture, layer.colour, where=layer.mask[..., None])
    return Scene(np.clip(np.rint(picture), 0, 255).astype(np.uint8), kept, visible(kept, size))


def _texture(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Noise about 0, float64 [H,W,3]: coarse patches and single pixels."""
    height, width = size
    coarse = rng.normal(0, 14, (-(-height // 8) + 1, -(-width // 8) + 1, 1))
    coarse = np.kron(coarse, np.ones((8, 8, 1)))[:height, :width]
    return coarse + rng.normal(0, 18, (height, width, 1)) + rng.normal(0, 8, (height, width, 3))


def _inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Which points lie in a shape that fills the square from -1 to 1 (v points down)."""
    if shape == "disc":
        return u * u + v * v <= 1
    if shape == "square":
        return np.maximum(abs(u), abs(v)) <= 0.9
    if shape == "triangle":
        return (abs(v) <= 1) & (abs(u) <= (v + 1) / 2)
    return (np.minimum(abs(u), abs(v)) <= 0.33) & (np.maximum(abs(u), abs(v)) <= 1)


def runs(mask: np.ndarray) -> dict[str, list[int]]:
    """COCO's uncompressed run lengths of a mask [H,W]: column by column, beginning with zeros."""
    flat = np.concatenate([[0], mask.T.ravel().astype(np.int8)])
    changes = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate([[0], changes, [mask.size]]))
    return {"size": list(mask.shape), "counts": counts.tolist()}


def annotations(scene: Scene, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """COCO's entries of a scene, front to back, without ids: box and area are those of the visible pixels."""
    out = []
    for layer, mask in zip(reversed(scene.layers), scene.visible[::-1]):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
        out.append(
            {
                "category_id": int(category_ids[layer.label]),
                "iscrowd": int(layer.crowd),
                "bbox": [float(v) for v in box],
                "area": float(mask.sum()),
                "segmentation": runs(mask),
            }
        )
    return out


def write(
    root: str | os.PathLike,
    num_train: int,
    num_val: int,
    sources: Sources,
    sizes: Sequence[tuple[int, int]] = ((192, 256), (256, 192)),
    seed: int = 0,
    **options: Any,
) -> Path:
    """Write scenes of photographs under `root` as COCO is laid out.

    Args:
        root: folder; files that exist are overwritten.
        num_train: scenes to train on. Scene i of a split depends on (seed, split, i) only: a larger set begins with the
            smaller one.
        num_val: scenes to validate on.
        sources: what they are made of.
        sizes: (height, width) that scenes have, equally likely.
        seed: of everything.
        options: further arguments of `compose`.

    Returns:
        `root`.

    Raises:
        UserError: a split has no objects or no photographs.
    """
    for split, count in zip(SPLITS, (num_train, num_val), strict=True):
        if count and not (sources.cutouts.get(split) and sources.photos.get(split)):
            raise UserError(f"synthetic scenes: no cut-outs or no photographs to make split '{split}' of")

    def scene(rng: np.random.Generator, split: str) -> Scene:
        size = sizes[int(rng.integers(len(sizes)))]
        return compose(rng, size, sources.cutouts[split], sources.photos[split], **options)

    return _write(root, (num_train, num_val), scene, sources.categories, seed, ".jpg", {"quality": 92})


def write_shapes(
    root: str | os.PathLike,
    num_train: int = 2000,
    num_val: int = 500,
    size: tuple[int, int] = (64, 64),
    seed: int = 0,
) -> Path:
    """Write `shapes` under `root` as COCO is laid out, as PNG; see `write`.

    Raises:
        UserError: `size` (height, width) is below 32.
    """
    height, width = size
    if min(height, width) < 32:
        raise UserError(f"synthetic shapes need pictures of at least 32x32, not {height}x{width}")
    categories = [(k + 1, name) for k, name in enumerate(SHAPES)]

    def scene(rng: np.random.Generator, split: str) -> Scene:
        return shapes(rng, (height, width))

    return _write(root, (num_train, num_val), scene, categories, seed, ".png", {"compress_level": 3})


def _write(
    root: str | os.PathLike,
    counts: tuple[int, int],
    scene_of: Callable[[np.random.Generator, str], Scene],
    categories: Sequence[tuple[int, str]],
    seed: int,
    suffix: str,
    save: dict[str, Any],
) -> Path:
    root = Path(root)
    for number, (split, count) in enumerate(zip(SPLITS, counts, strict=True)):
        (root / split).mkdir(parents=True, exist_ok=True)
        images, entries = [], []
        for i in range(count):
            scene = scene_of(np.random.default_rng([seed, number, i]), split)
            image_id, name = number * 1_000_000 + i + 1, f"synthetic_{split}_{i:06d}{suffix}"
            Image.fromarray(scene.image).save(root / split / name, **save)
            height, width = scene.image.shape[:2]
            images.append({"id": image_id, "file_name": name, "height": height, "width": width})
            for entry in annotations(scene, [id for id, _ in categories]):
                entries.append({"id": number * 100_000_000 + len(entries) + 1, "image_id": image_id} | entry)
        info = {"description": f"synthetic, made by ppvision.data.samples.synthetic.coco, seed {seed}"}
        classes = [{"id": id, "name": name, "supercategory": "synthetic"} for id, name in categories]
        coco.write(root, split, images, entries, classes, info=info)
    return root
