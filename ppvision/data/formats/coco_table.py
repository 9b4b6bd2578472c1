"""The json of a COCO data set, read entry by entry: annotations are kept as arrays, about 40 bytes each, no object per
item, with the place of each in the file.
"""

from __future__ import annotations

import array
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ppvision.data import io
from ppvision.data.formats.coco_outlines import LARGEST, box_and_area, is_id, short
from ppvision.data.index import PackedStrings
from ppvision.errors import UserError

LISTS = ("images", "annotations", "categories")
_BLANK = re.compile(r"[ \t\r\n]*")


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
            if not is_id(id):
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
        for lost, references, key in ((lost_image, of_image, "image_id"), (lost_category, of_category, "category_id")):
            for row in np.flatnonzero(lost).tolist():
                fault(f"{table}: annotation {ids[row]}: {key} {references[row]} does not exist (dangling)")
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


def _reference_fault(entry: Mapping[str, Any]) -> str | None:
    for key in ("image_id", "category_id"):
        if not is_id(entry.get(key)):
            return f"{key} {short(entry.get(key))} does not exist (dangling)"
    if not isinstance(entry.get("iscrowd", 0), int) or entry.get("iscrowd", 0) not in (0, 1):
        return f"iscrowd {short(entry['iscrowd'])} is neither 0 nor 1"
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
        return f"has a file_name that no file can have: {short(name)}"
    for key in ("height", "width"):
        value = entry.get(key)
        if not is_id(value) or not 0 < value <= LARGEST:
            return f"('{name}') has {key} {short(value)}, not a positive integer"
    return None


def _packed(values: array.array, dtype: Any) -> np.ndarray:
    return np.frombuffer(values.tobytes(), values.typecode).astype(dtype, copy=False)


def _positions(references: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each reference stands in `ids`, and whether it is missing there (its position then means nothing)."""
    if not len(ids):
        return np.zeros(len(references), np.int64), np.ones(len(references), bool)
    order = np.argsort(ids, kind="stable")
    place = order[np.minimum(np.searchsorted(ids, references, sorter=order), len(ids) - 1)]
    return place, ids[place] != references


def _skip(text: str, at: int) -> int:
    return _BLANK.match(text, at).end()


def _expect(text: str, at: int, sign: str) -> int:
    if text[at : at + 1] != sign:
        raise json.JSONDecodeError(f"Expecting '{sign}'", text, at)
    return at + 1
