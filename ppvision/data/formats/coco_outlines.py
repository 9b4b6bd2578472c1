"""Boxes and outlines of COCO annotations, taken as they come: what they cover, and what is wrong with them.

Outlines are decoded by faster-coco-eval, as pycocotools does it; it is needed only where there are some.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ppvision.errors import UserError

LARGEST = 2**31 - 1


def box_and_area(entry: Mapping[str, Any]) -> tuple[tuple[float, float, float, float], float]:
    """Box (x0, y0, x1, y1) and area of an annotation; NaN for what cannot be used.

    The box is `bbox`, or the outline's where there is none; the area is `area`, or the outline's, or the box's.
    """
    bbox, outline, area = entry.get("bbox"), entry.get("segmentation"), entry.get("area")
    box = None
    if numbers(bbox, 4):
        x, y, w, h = (to_float(v) for v in bbox)
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
    area = to_float(area) if is_number(area) else math.nan
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
    bad_area = area is not None and not (is_number(area) and 0 <= to_float(area) < math.inf)
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
    if not numbers(box, 4):
        return f"bbox {short(box)} is not four numbers"
    x, y, w, h = (to_float(v) for v in box)
    if not all(math.isfinite(v) for v in (x, y, w, h)):
        return f"bbox {short(box)} is not finite"
    if w <= 0 or h <= 0:
        return f"bbox {box} has no area"
    if size and (x < -0.5 or y < -0.5 or x + w > size[1] + 0.5 or y + h > size[0] + 0.5):
        return f"bbox {box} leaves the image ({size[0]}x{size[1]})"
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
    if not (isinstance(size, list) and len(size) == 2 and all(is_id(n) and 0 < n <= LARGEST for n in size)):
        raise ValueError(f"outline has size {short(size)}, not [height, width]")
    if isinstance(counts, str):
        return {"size": size, "counts": counts.encode("utf-8")}
    runs = isinstance(counts, list) and all(is_id(n) and n >= 0 for n in counts)
    if not runs or sum(counts) != size[0] * size[1]:
        raise ValueError("outline's counts are not run lengths that make up the image")
    return _mask_api().frPyObjects({"size": size, "counts": counts}, *size)


def _polygons(outline: Any) -> list[np.ndarray]:
    """Polygons as float64 [n,2]."""
    if not isinstance(outline, list) or not outline:
        raise ValueError(f"outline {short(outline)} is neither polygons nor runs")
    for polygon in outline:
        if not numbers(polygon) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"outline {short(polygon)} is not a polygon [x, y, x, y, x, y, ...]")
    found = [np.array([to_float(v) for v in polygon]).reshape(-1, 2) for polygon in outline]
    if not all(np.isfinite(p).all() for p in found):
        raise ValueError("outline is not finite")
    return found


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def numbers(value: Any, count: int | None = None) -> bool:
    return isinstance(value, list) and (count is None or len(value) == count) and all(is_number(v) for v in value)


def to_float(value: float) -> float:
    """An integer may be too large for a float."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def short(value: Any) -> str:
    text = str(value) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
