"""COCO detection: `{root}/annotations/instances_{split}.json` with boxes, images in `{root}/{split}/`.

Paper:    T.-Y. Lin et al., "Microsoft COCO", arXiv:1405.0312; the format as cocodataset.org and pycocotools define it.
Checked:  boxes, areas, crowd flags, classes and masks against pycocotools in the tests.
Deviates: classes are numbered in ascending order of their category ids (pycocotools: in the order of the file, which is
          the same in every published file), so that two files with one set of categories agree. A box that is absent is
          taken from the outline; an area that is absent is the outline's, or the box's where there is none.

Boxes may leave the image: as DETR does, they are clipped to it when a sample is read, and that is no fault. A box
without area (train2017 holds two), one with NaN, or one that lies outside altogether is refused, or left out with
`bad_boxes: drop`. Crowd regions stay, flagged: a Method keeps them out of its losses, the metric out of its counts.
Images without annotation stay too.

The file is read entry by entry and its annotations are kept as arrays: about 40 bytes each, no object per item.
Outlines are not kept; `masks` reads them from the file again.
"""

from __future__ import annotations

import array
import glob
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NoReturn

import numpy as np

from ppvision.data import io
from ppvision.data.base import Dataset, voc_palette
from ppvision.data.index import PackedStrings
from ppvision.errors import UserError, did_you_mean

LISTS = ("images", "annotations", "categories")
_BLANK = re.compile(r"[ \t\r\n]*")
_LARGEST = 2**31 - 1


class Coco(Dataset):
    """Images with boxes from a COCO json.

    Args:
        root: folder of the data set.
        split: name in the default paths, e.g. train2017.
        annotations: the json, below `root` (default `annotations/instances_{split}.json`).
        images: folder of the images, below `root` (default `{split}`).
        category_ids: ids of the categories to use, in the order of their classes; annotations of others are left out.
            Default: all of the file, ascending.
        drop_empty: leave out images without annotation (crowd regions do not count).
        bad_boxes: what to do with a box that has no area, is not finite or lies outside the image: `raise` refuses the
            sample, `drop` leaves the box out.
        clip: clip boxes to the image, as DETR does. Evaluation against the file's own boxes, as pycocotools does it,
            wants false.
        group_by_aspect: batches of upright or of lying images only, which wastes less on padding (training).

    Attributes:
        category_ids: class -> category id of the file.
        sizes: int32 [N,2] height and width of every image, as the file says.
        groups: uint8 [N], 1 for images at least as wide as high; None without `group_by_aspect`.

    Raises:
        UserError: the file cannot be used as a whole; names the file and the entry.
    """

    groups: np.ndarray | None = None

    def __init__(
        self,
        root: str,
        split: str,
        annotations: str | None = None,
        images: str | None = None,
        category_ids: list[int] | None = None,
        drop_empty: bool = False,
        bad_boxes: Literal["raise", "drop"] = "raise",
        clip: bool = True,
        group_by_aspect: bool = False,
    ):
        if bad_boxes not in ("raise", "drop"):
            raise UserError(f"bad_boxes must be raise or drop, not {bad_boxes!r}")
        super().__init__(root, split)
        relative, self.images = annotations or default_table(split), split if images is None else images
        self.table = os.path.join(self.root, relative)
        if not os.path.isfile(self.table):
            there = self.splits(self.root)
            hint = did_you_mean(split, there) or (f" (there is {', '.join(there[:5])})" if there else "")
            raise UserError(f"data.root '{self.root}' has no file '{relative}'{hint}; it should hold {self.layout()}")
        self.folder(self.images)
        self.bad_boxes, self.clip = bad_boxes, clip

        def refuse(fault: str) -> NoReturn:
            raise UserError(fault)

        index = Index(self.table, refuse)
        self._select(index, category_ids)
        if drop_empty:
            has = np.bincount(self._image_of[~self._crowd], minlength=len(self._ids)) > 0
            self._keep_images(np.flatnonzero(has))
        self.palette = voc_palette(self.num_classes)
        if group_by_aspect:
            self.groups = (self.sizes[:, 1] >= self.sizes[:, 0]).astype(np.uint8)
        self._sort_rows()
        self.require_samples()

    def layout(self) -> str:
        return f"{default_table(self.split)} and images in {self.split}/"

    @classmethod
    def splits(cls, root: str) -> list[str]:
        pattern = os.path.join(glob.escape(os.fspath(root)), "annotations", "instances_*.json")
        return sorted(os.path.basename(p).removeprefix("instances_").removesuffix(".json") for p in glob.glob(pattern))

    def __len__(self) -> int:
        return len(self._ids)

    def name(self, index: int) -> str:
        return os.path.join(self.root, self.images, self._names[index])

    def where(self, index: int) -> str:
        return self.table

    def image_id(self, index: int) -> int:
        """The image's id in the file."""
        return int(self._ids[index])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`image` uint8 [H,W,3]; `boxes` float32 [n,4] xyxy in pixels, `classes` int64 [n], `crowd` bool [n], `areas`
        float32 [n] (of the outline, in pixels, as the file says); `image_id`, `name`."""
        image = self.read_image(index, os.path.join(self.images, self._names[index]))
        self._check_size(index, *image.shape[:2])
        boxes, rows = self.boxes(index)
        return {
            "image": image,
            "boxes": boxes,
            "classes": self._classes[rows].astype(np.int64),
            "crowd": self._crowd[rows].copy(),
            "areas": self._areas[rows].copy(),
            "image_id": self.image_id(index),
            "name": self.name(index),
        }

    def boxes(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes float32 [n,4] xyxy of image `index`, and the rows of the table they are (for `annotation`).

        Raises:
            UserError: one cannot be used and `bad_boxes` is `raise`; names file, annotation and image.
        """
        rows = np.arange(self._offsets[index], self._offsets[index + 1])
        height, width = self.sizes[index]
        boxes = self._boxes[rows]
        inside = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
        good = ((inside[:, 2:] > inside[:, :2]) & (boxes[:, 2:] > boxes[:, :2])).all(1)  # False for NaN
        good &= self._areas[rows] >= 0
        if not good.all():
            if self.bad_boxes == "raise":
                entry = self.annotation(int(rows[~good][0]))
                reason = annotation_fault(entry, (int(height), int(width))) or "box lies outside the image"
                self.fail(index, f"annotation {entry.get('id')} of '{self._names[index]}': {reason}")
            boxes, inside, rows = boxes[good], inside[good], rows[good]
        return (inside if self.clip else boxes), rows

    def annotation(self, row: int) -> dict[str, Any]:
        """One annotation as the file has it, read from there."""
        start, length = int(self._spans[row, 0]), int(self._spans[row, 1])
        try:
            with open(self.table, "rb") as file:
                file.seek(start)
                return json.loads(file.read(length))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.table}: changed while in use, annotations are no longer there ({error})") from None

    def masks(self, index: int) -> np.ndarray:
        """Outlines of image `index` filled in: uint8 [n,H,W], 0 or 1, one for each of its `boxes`; where an annotation
        has none, the box.

        Raises:
            UserError: an outline cannot be used.
        """
        height, width = (int(n) for n in self.sizes[index])
        boxes, rows = self.boxes(index)
        out = np.zeros((len(rows), height, width), np.uint8)
        for mask, box, row in zip(out, boxes, rows.tolist()):
            entry = self.annotation(row)
            outline = entry.get("segmentation")
            if not outline:
                x0, y0, x1, y1 = np.rint(box).astype(int)
                mask[y0:y1, x0:x1] = 1
                continue
            try:
                mask[:] = fill(outline, height, width)
            except ValueError as error:
                self.fail(index, f"annotation {entry.get('id')} of '{self._names[index]}': {error}")
        return out

    def _check_size(self, index: int, height: int, width: int) -> None:
        declared = tuple(self.sizes[index].tolist())
        if declared != (height, width):
            path = self.name(index)
            turned = declared == (width, height) and io.orientation(io.read_bytes(path)) >= 5
            why = " after its EXIF orientation" if turned else ""
            self.fail(
                index,
                f"image '{self._names[index]}' is {height}x{width}{why} but is said to be {declared[0]}x{declared[1]}, "
                "so its boxes cannot be trusted",
            )

    def _select(self, index: Index, wanted: list[int] | None) -> None:
        """Take over the index, with the categories asked for."""
        order = np.argsort(index.category_ids, kind="stable")
        known = index.category_ids[order]
        if wanted is None:
            chosen = known
        else:
            chosen = np.array(wanted, np.int64)
            strange = np.setdiff1d(chosen, known)
            if len(strange) or len(set(wanted)) != len(wanted) or not wanted:
                what = f"{strange[0]} is none of them" if len(strange) else "ids must be distinct, at least one"
                raise UserError(f"{self.table}: category_ids: {what}; the file has {_some(known.tolist())}")
        if not len(chosen):
            raise UserError(f"{self.table}: 'categories' is empty, so there are no classes")
        class_of = np.full(len(known), -1, np.int64)
        class_of[np.searchsorted(known, chosen)] = np.arange(len(chosen))
        self.category_ids = [int(c) for c in chosen]
        names = [index.category_names[i] for i in order]
        self.class_names = [names[i] for i in np.searchsorted(known, chosen)]
        self.num_classes = len(chosen)
        self._ids, self._names, self.sizes = index.image_ids, index.names, index.sizes
        position = np.empty(len(order), np.int64)
        position[order] = np.arange(len(order))
        classes = class_of[position[index.category_of]] if len(known) else index.category_of
        kept = classes >= 0
        self._image_of = index.image_of[kept]
        self._classes = classes[kept].astype(np.int32)
        self._boxes, self._areas = index.boxes[kept], index.areas[kept]
        self._crowd, self._spans = index.crowd[kept], index.spans[kept]

    def _keep_images(self, kept: np.ndarray) -> None:
        new = np.full(len(self._ids), -1, np.int64)
        new[kept] = np.arange(len(kept))
        self._ids, self.sizes = self._ids[kept], self.sizes[kept]
        self._names = PackedStrings(self._names[i] for i in kept.tolist())
        self._keep_rows(np.flatnonzero(new[self._image_of] >= 0))
        self._image_of = new[self._image_of]

    def _keep_rows(self, rows: np.ndarray) -> None:
        for key in ("_image_of", "_classes", "_boxes", "_areas", "_crowd", "_spans"):
            setattr(self, key, getattr(self, key)[rows])

    def _sort_rows(self) -> None:
        """Annotations of an image side by side, in the order of the file."""
        self._keep_rows(np.argsort(self._image_of, kind="stable"))
        self._offsets = np.searchsorted(self._image_of, np.arange(len(self._ids) + 1))
        del self._image_of


class Index:
    """A COCO json as arrays. What is wrong in it is handed to `fault`, one line each, and left out.

    Args:
        table: path of the json.
        fault: called with each fault; one that raises stops at the first.

    Attributes:
        image_ids: int64 [N].
        names: file names, N; empty for an entry that cannot be used.
        sizes: int32 [N,2] height and width; -1 likewise.
        category_ids: int64 [K], in the order of the file, with `category_names`.
        image_of: int64 [A], which image (0..N-1) an annotation belongs to.
        category_of: int64 [A], likewise for 0..K-1.
        boxes: float32 [A,4] xyxy; NaN where there is none that can be used.
        areas: float32 [A]; NaN likewise.
        crowd: bool [A].
        annotation_ids: int64 [A].
        spans: int64 [A,2], first byte and number of bytes in the file.
    """

    def __init__(self, table: str, fault: Callable[[str], Any]):
        self.table, self.fault = table, fault
        self.category_names: list[str] = []
        names: list[str] = []
        images, sizes = array.array("q"), array.array("i")
        categories = array.array("q")
        of_image, of_category, ids = array.array("q"), array.array("q"), array.array("q")
        boxes, areas, crowd, spans = array.array("f"), array.array("f"), array.array("B"), array.array("q")
        counts = dict.fromkeys(LISTS, 0)
        for key, entry, start, stop in self._entries():
            number = counts[key]
            counts[key] += 1
            kind = "category" if key == "categories" else key.removesuffix("s")
            id = entry.get("id") if isinstance(entry, dict) else None
            if not _is_id(id):
                fault(f"{table}: {kind} number {number} has no id that is an integer")
            elif key == "annotations":
                what = _reference_fault(entry)
                if what:
                    fault(f"{table}: annotation {id}: {what}")
                    continue
                ids.append(id)
                of_image.append(entry["image_id"])
                of_category.append(entry["category_id"])
                box, area = box_and_area(entry)
                boxes.extend(box)
                areas.append(area)
                crowd.append(entry.get("iscrowd", 0))
                spans.extend((start, stop - start))
            elif key == "images":
                what = _image_fault(entry)
                if what:
                    fault(f"{table}: image {id} {what}")
                images.append(id)
                names.append("" if what else entry["file_name"])
                sizes.extend((-1, -1) if what else (entry["height"], entry["width"]))
            else:
                categories.append(id)
                self.category_names.append(str(entry.get("name", id)))
        self.names = PackedStrings(names)
        self.image_ids, self.sizes = _packed(images, np.int64), _packed(sizes, np.int32).reshape(-1, 2)
        self.category_ids, self.annotation_ids = _packed(categories, np.int64), _packed(ids, np.int64)
        for kind, known in (
            ("image", self.image_ids),
            ("category", self.category_ids),
            ("annotation", self.annotation_ids),
        ):
            values, number = np.unique(known, return_counts=True)
            for id in values[number > 1].tolist():
                fault(f"{table}: {kind} id {id} occurs twice")
        self.image_of, lost_image = _positions(_packed(of_image, np.int64), self.image_ids)
        self.category_of, lost_category = _positions(_packed(of_category, np.int64), self.category_ids)
        for lost, wanted, key in ((lost_image, of_image, "image_id"), (lost_category, of_category, "category_id")):
            for row in np.flatnonzero(lost).tolist():
                fault(f"{table}: annotation {ids[row]}: {key} {wanted[row]} does not exist (dangling)")
        kept = ~(lost_image | lost_category)
        self.image_of, self.category_of = self.image_of[kept], self.category_of[kept]
        self.annotation_ids = self.annotation_ids[kept]
        self.boxes = _packed(boxes, np.float32).reshape(-1, 4)[kept]
        self.areas, self.crowd = _packed(areas, np.float32)[kept], _packed(crowd, np.uint8)[kept].astype(bool)
        self.spans = _packed(spans, np.int64).reshape(-1, 2)[kept]

    def _entries(self) -> Iterator[tuple[str, Any, int, int]]:
        """(list, entry, first byte, byte behind the last) of the three lists; the rest of the file is passed over.

        The bytes are taken as Latin-1, so that a position in the text is one in the file; what has other letters in it
        is decoded by itself.
        """
        try:
            text = io.read_bytes(self.table).decode("latin-1")
        except io.Unreadable as error:
            raise UserError(f"{self.table} {error}") from None
        decode = json.JSONDecoder().raw_decode
        found: set[str] = set()
        try:
            at = _skip(text, 3 if text.startswith("\xef\xbb\xbf") else 0)
            if text[at : at + 1] != "{":
                decode(text, at)
                raise _NotATable("is not a mapping with images, annotations and categories")
            more, at = text[_skip(text, at + 1)] != "}", _skip(text, at + 1)
            while more:
                key, at = decode(text, at)
                at = _skip(text, _expect(text, _skip(text, at), ":"))
                if key in LISTS and text[at : at + 1] == "[":
                    if key in found:
                        raise _NotATable(f"has '{key}' twice")
                    found.add(key)
                    at = _skip(text, at + 1)
                    while text[at : at + 1] != "]":
                        start = at
                        entry, at = decode(text, at)
                        if key != "annotations" and not text[start:at].isascii():
                            entry = json.loads(text[start:at].encode("latin-1"))
                        yield key, entry, start, at
                        at = _skip(text, at)
                        if text[at : at + 1] != "]":
                            at = _skip(text, _expect(text, at, ","))
                    at += 1
                else:
                    value, at = decode(text, at)
                    if key in LISTS:
                        raise _NotATable(f"has '{key}' that is not a list but a {type(value).__name__}")
                at = _skip(text, at)
                more = text[at : at + 1] == ","
                at = _skip(text, at + 1) if more else _expect(text, at, "}")
        except _NotATable as error:
            self.fault(f"{self.table}: {error}")
        except (ValueError, IndexError, RecursionError) as error:
            self.fault(f"{self.table}: not JSON ({str(error) or 'it ends early'})")
        for key in LISTS:
            if key not in found:
                self.fault(f"{self.table}: '{key}' is missing")


class _NotATable(Exception):
    """What a json is or has, as the end of a sentence whose subject is the file."""


def default_table(split: str) -> str:
    """Where the annotations of a split are, below the root."""
    return os.path.join("annotations", f"instances_{split}.json")


def box_and_area(entry: Mapping[str, Any]) -> tuple[tuple[float, float, float, float], float]:
    """Box (x0, y0, x1, y1) and area of an annotation; NaN for what cannot be used.

    The box is `bbox`, or the outline's where there is none; the area is `area`, or the outline's, or the box's.
    """
    bbox, outline, area = entry.get("bbox"), entry.get("segmentation"), entry.get("area")
    box = None
    if _numbers(bbox, 4):
        x, y, w, h = (_float(v) for v in bbox)
        box = (x, y, x + w, y + h) if w > 0 and h > 0 else (math.nan,) * 4
    elif bbox or not outline:
        box = (math.nan,) * 4
    if (box is None or area is None) and outline:
        try:
            around, inside = outline_box_and_area(outline)
        except ValueError:
            around, inside = (math.nan,) * 4, None
        box = around if box is None else box
        area = inside if area is None else area
    if area is None:
        area = (box[2] - box[0]) * (box[3] - box[1])
    area = _float(area) if _is_number(area) else math.nan
    largest = float(np.finfo(np.float32).max)
    box = tuple(v if abs(v) <= largest else math.nan for v in box)
    return box, area if 0 <= area <= largest else math.nan


def outline_box_and_area(outline: Any) -> tuple[tuple[float, float, float, float], float]:
    """Box and area of `segmentation`: of all its polygons together (corners as they are; overlaps count twice), or of
    its runs.

    Raises:
        ValueError: says what is wrong with it.
    """
    if isinstance(outline, Mapping):
        api, runs = _mask_api(), _runs(outline)
        try:
            (x, y, w, h), area = api.toBbox([runs])[0].tolist(), float(api.area([runs])[0])
        except (ValueError, RuntimeError, TypeError) as error:
            raise ValueError(f"outline cannot be decoded ({error})") from None
        if not area:
            raise ValueError("outline is empty")
        return (x, y, x + w, y + h), area
    polygons = _polygons(outline)
    points = np.concatenate(polygons)
    area = sum(abs(float(p[:, 0] @ np.roll(p[:, 1], -1) - p[:, 1] @ np.roll(p[:, 0], -1))) / 2 for p in polygons)
    return (*points.min(0).tolist(), *points.max(0).tolist()), area


def fill(outline: Any, height: int, width: int) -> np.ndarray:
    """`segmentation` filled in by COCO's own rule: uint8 [height,width], 0 or 1.

    Raises:
        ValueError: says what is wrong with the outline.
    """
    api = _mask_api()
    try:
        if isinstance(outline, Mapping):
            runs = _runs(outline)
            if list(runs["size"]) != [height, width]:
                raise ValueError(f"outline is of {runs['size'][0]}x{runs['size'][1]} pixels")
        else:
            polygons = [p.clip(-4 * width - 4 * height, 5 * width + 5 * height) for p in _polygons(outline)]
            runs = api.merge(api.frPyObjects([p.ravel().tolist() for p in polygons], height, width))
        return np.ascontiguousarray(api.decode(runs))
    except (ValueError, RuntimeError, TypeError) as error:
        what = str(error)
        raise ValueError(what if what.startswith("outline") else f"outline cannot be decoded ({what})") from None


def outline_fault(outline: Any, size: tuple[int, int]) -> list[str]:
    """What is wrong with `segmentation` in an image of (height, width): nothing, or one line. Filling it in is left to
    `fill`."""
    try:
        if isinstance(outline, Mapping) and list(_runs(outline)["size"]) != list(size):
            raise ValueError(f"outline is of {outline['size'][0]}x{outline['size'][1]} pixels")
        outline_box_and_area(outline)
    except ValueError as error:
        return [str(error)]
    return []


def annotation_fault(entry: Mapping[str, Any], size: tuple[int, int] | None) -> str | None:
    """What is wrong with an annotation's box and area in an image of (height, width), or None."""
    area = entry.get("area")
    bad_area = area is not None and not (_is_number(area) and 0 <= _float(area) < math.inf)
    if entry.get("bbox") or not entry.get("segmentation"):
        where = box_fault(entry.get("bbox"), None)
        return where or (f"area {area} is not a number of at least 0" if bad_area else box_fault(entry["bbox"], size))
    try:
        x0, y0, x1, y1 = outline_box_and_area(entry["segmentation"])[0]
    except ValueError as error:
        return str(error)
    where = box_fault([x0, y0, x1 - x0, y1 - y0], None)
    return where or (
        f"area {area} is not a number of at least 0" if bad_area else box_fault([x0, y0, x1 - x0, y1 - y0], size)
    )


def box_fault(box: Any, size: tuple[int, int] | None) -> str | None:
    """What is wrong with a box [x, y, width, height] in an image of (height, width), or None. Half a pixel outside is
    rounding."""
    if box is None or (isinstance(box, list) and not box):
        return "empty annotation, no bbox"
    if not _numbers(box, 4):
        return f"bbox {_short(box)} is not four numbers"
    x, y, w, h = (_float(v) for v in box)
    if not all(math.isfinite(v) for v in (x, y, w, h)):
        return f"bbox {_short(box)} is not finite"
    if w <= 0 or h <= 0:
        return f"bbox {box} has no area"
    if size and (x < -0.5 or y < -0.5 or x + w > size[1] + 0.5 or y + h > size[0] + 0.5):
        return f"bbox {box} leaves the image ({size[0]}x{size[1]})"
    return None


def _reference_fault(entry: Mapping[str, Any]) -> str | None:
    for key in ("image_id", "category_id"):
        if not _is_id(entry.get(key)):
            return f"{key} {_short(entry.get(key))} does not exist (dangling)"
    if not isinstance(entry.get("iscrowd", 0), int) or entry.get("iscrowd", 0) not in (0, 1):
        return f"iscrowd {_short(entry['iscrowd'])} is neither 0 nor 1"
    return None


def _image_fault(entry: Mapping[str, Any]) -> str | None:
    name = entry.get("file_name")
    if not isinstance(name, str) or not name:
        return "has no file_name"
    try:
        usable = b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        usable = False
    if not usable:
        return f"has a file_name that no file can have: {_short(name)}"
    for key in ("height", "width"):
        value = entry.get(key)
        if not _is_id(value) or not 0 < value <= _LARGEST:
            return f"('{name}') has {key} {_short(value)}, not a positive integer"
    return None


def _mask_api() -> Any:
    try:
        from faster_coco_eval.core import mask
    except ImportError:
        raise UserError("outlines are decoded by faster-coco-eval: pip install 'ppvision[detection]'") from None
    return mask


def _runs(outline: Mapping[str, Any]) -> dict[str, Any]:
    """A run-length outline in the compressed form."""
    size, counts = outline.get("size"), outline.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(_is_id(n) and 0 < n <= _LARGEST for n in size)):
        raise ValueError(f"outline has size {_short(size)}, not [height, width]")
    if isinstance(counts, str):
        return {"size": size, "counts": counts.encode("utf-8")}
    runs = isinstance(counts, list) and all(_is_id(n) and n >= 0 for n in counts)
    if not runs or sum(counts) != size[0] * size[1]:
        raise ValueError("outline's counts are not run lengths that make up the image")
    return _mask_api().frPyObjects({"size": size, "counts": counts}, *size)


def _polygons(outline: Any) -> list[np.ndarray]:
    """Polygons as float64 [n,2]."""
    if not isinstance(outline, list) or not outline:
        raise ValueError(f"outline {_short(outline)} is neither polygons nor runs")
    for polygon in outline:
        if not _numbers(polygon) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"outline {_short(polygon)} is not a polygon [x, y, x, y, x, y, ...]")
    found = [np.array([_float(v) for v in polygon]).reshape(-1, 2) for polygon in outline]
    if not all(np.isfinite(p).all() for p in found):
        raise ValueError("outline is not finite")
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _numbers(value: Any, count: int | None = None) -> bool:
    return isinstance(value, list) and (count is None or len(value) == count) and all(_is_number(v) for v in value)


def _float(value: float) -> float:
    """An integer may be too large for a float."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _short(value: Any) -> str:
    text = str(value) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _some(values: Iterable[Any]) -> str:
    values = list(values)
    return ", ".join(map(str, values[:10])) + (f", ... ({len(values)} in all)" if len(values) > 10 else "")


def _packed(values: array.array, dtype: Any) -> np.ndarray:
    return np.frombuffer(values.tobytes(), values.typecode).astype(dtype, copy=False)


def _positions(wanted: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each wanted id stands in `ids`, and whether it is missing there (its position then means nothing)."""
    if not len(ids):
        return np.zeros(len(wanted), np.int64), np.ones(len(wanted), bool)
    order = np.argsort(ids, kind="stable")
    place = order[np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)]
    return place, ids[place] != wanted


def _skip(text: str, at: int) -> int:
    return _BLANK.match(text, at).end()


def _expect(text: str, at: int, sign: str) -> int:
    if text[at : at + 1] != sign:
        raise json.JSONDecodeError(f"Expecting '{sign}'", text, at)
    return at + 1
