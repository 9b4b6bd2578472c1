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

import glob
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from ppvision.data import io
from ppvision.data.base import Dataset, voc_palette
from ppvision.data.formats.coco_outlines import annotation_fault, fill, outline_fault
from ppvision.data.formats.coco_table import Index
from ppvision.data.index import PackedStrings
from ppvision.data.inspection import Finding, Part, digest, look_at_image
from ppvision.errors import UserError, did_you_mean


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

    unit = "boxes"

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

    @classmethod
    def part(cls, root: str, split: str, **options: Any) -> Part:
        """Boxes. The table is looked at whole, so that one bad entry does not hide the next."""
        relative = options.get("annotations") or default_table(split)
        table, folder = os.path.join(root, relative), options.get("images")
        folder = os.path.join(root, split if folder is None else folder)
        if not os.path.isfile(table):
            raise UserError(
                f"{table} does not exist; a coco data set is annotations/instances_{{split}}.json and {{split}}/"
            )
        faults: list[str] = []
        index = Index(table, faults.append)
        if options and not faults:
            cls(root, split, **options)  # refuses options that do not fit the file
        dropped = options.get("bad_boxes") == "drop"
        rows = np.argsort(index.image_of, kind="stable")
        offsets = np.searchsorted(index.image_of[rows], np.arange(len(index.image_ids) + 1))
        empty = int((np.diff(offsets) == 0).sum())
        notes = [f"{split}: {empty} images have no annotation"] if empty else []
        faults += [
            f"{table}: {n} images are called '{name}'" for name, n in Counter(index.names).items() if n > 1 and name
        ]
        names = list(index.category_names)
        faults += [f"{table}: {n} categories are called '{name}'" for name, n in Counter(names).items() if n > 1]

        def path_of(i: int) -> str:
            return os.path.join(folder, index.names[i])

        def inspect(i: int) -> Finding:
            name, declared, path = index.names[i], tuple(index.sizes[i].tolist()), path_of(i)
            own = rows[offsets[i] : offsets[i + 1]]
            found = Finding(histogram=np.bincount(index.category_of[own], minlength=len(names)))
            if not name:  # the entry cannot be used, which is a fault already
                return found
            try:
                data = io.read_bytes(path)
                found.digest = digest(data)
                found.size, found.faults, turned = look_at_image(path, data)
                io.decode_image(data)
                if declared != found.size:
                    h, w = found.size
                    why = f" ({turned[0]} applied)" if turned and declared == (w, h) else ""
                    found.faults.append(f"{path}: image is {h}x{w}{why} but {table} says {declared[0]}x{declared[1]}")
                elif turned:
                    found.notes.append(
                        f"{path}: {turned[0]} is applied to the image, not to its boxes; look at the pair"
                    )
            except io.Unreadable as error:
                found.faults.append(f"{path}: image {error}")
            if len(own):
                with open(table, "rb") as file:
                    for start, length in index.spans[own].tolist():
                        file.seek(start)
                        entry = json.loads(file.read(length))
                        here = f"{table}: annotation {entry['id']} of '{name}'"
                        problem = annotation_fault(entry, found.size or declared)
                        if problem:
                            (found.notes if dropped else found.faults).append(f"{here}: {problem}")
                        elif entry.get("segmentation"):
                            found.notes += [
                                f"{here}: {what}" for what in outline_fault(entry["segmentation"], declared)
                            ]
            return found

        part = Part(len(index.image_ids), inspect, path_of, names, cls.unit, faults, notes)
        part.categories = (table, sorted(zip(index.category_ids.tolist(), names, strict=True)))
        return part

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

    def _select(self, index: Index, category_ids: list[int] | None) -> None:
        """Take over the index, with the categories asked for."""
        order = np.argsort(index.category_ids, kind="stable")
        known = index.category_ids[order]
        if category_ids is None:
            chosen = known
        else:
            chosen = np.array(category_ids, np.int64)
            strange = np.setdiff1d(chosen, known)
            if len(strange) or len(set(category_ids)) != len(category_ids) or not category_ids:
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


def default_table(split: str) -> str:
    """Where the annotations of a split are, below the root."""
    return os.path.join("annotations", f"instances_{split}.json")


def write(
    root: str | os.PathLike,
    split: str,
    images: Sequence[Mapping[str, Any]],
    annotations: Sequence[Mapping[str, Any]],
    categories: Sequence[Mapping[str, Any]],
    indent: int | None = None,
    **more: Any,
) -> None:
    """Write the annotations of a split; the pictures belong in `{root}/{split}/`.

    Args:
        images: `id`, `file_name`, `height`, `width` of each.
        annotations: `id`, `image_id`, `category_id`, `bbox` [x, y, width, height], `area`, `iscrowd`, and
            `segmentation` where there is one.
        categories: `id` and `name` of each class.
        indent: spaces of a level, for people to read; None for one line.
        more: further entries of the file, such as `info`.
    """
    content = more | {"images": list(images), "annotations": list(annotations), "categories": list(categories)}
    path = Path(root, default_table(split))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(content, indent=indent, separators=None if indent else (",", ":")) + "\n", encoding="utf-8"
    )


def _some(values: Iterable[Any]) -> str:
    values = list(values)
    return ", ".join(map(str, values[:10])) + (f", ... ({len(values)} in all)" if len(values) > 10 else "")
