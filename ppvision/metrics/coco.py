"""Average precision of boxes as COCO defines it (T.-Y. Lin et al., arXiv:1405.0312; cocodataset.org/#detection-eval).

AP is the mean over ten overlaps (IoU 0.50 to 0.95), 101 recall levels and all classes that occur; at most 100 boxes
per image and class count. A crowd annotation is a region in which any number of boxes of its class is neither right
nor wrong. Sizes go by the area of the annotation (of its polygon): small below 32^2 pixels, large from 96^2 on.

The counting is done by `faster-coco-eval` (C++). Checked against `pycocotools` 2.0.11, to 1e-6
(tests/metrics/test_coco.py). Deviates in one point: a size of which there is no annotation has no value, where both
packages give -1; without any annotation the rest is 0.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ppvision.errors import UserError
from ppvision.metrics.base import Metric, check_lengths
from ppvision.predict.overlap import covered, greedy_pairs, pairwise_iou

logger = logging.getLogger("ppvision")

SIZES = ("small", "medium", "large")
MAX_BOXES = (1, 10, 100)  # per image and class
NUM_PICTURES = 12
NAMES = ("mAP", "AP50", "AP75", *(f"AP_{size}" for size in SIZES), *(f"AR{n}" for n in MAX_BOXES))
# Of a state: which arrays there are, and how many numbers a row has.
PREDICTED = {"boxes": (np.float32, (4,)), "scores": (np.float32, ()), "classes": (np.int64, ())}
ANNOTATED = {
    "boxes": (np.float32, (4,)),
    "classes": (np.int64, ()),
    "crowd": (np.bool_, ()),
    "areas": (np.float64, ()),
}


@dataclass(frozen=True)
class Image:
    """One evaluated image: `predicted` and `annotated` hold the arrays of `PREDICTED` and `ANNOTATED`."""

    name: str
    predicted: dict[str, np.ndarray]
    annotated: dict[str, np.ndarray]


class CocoAP(Metric):
    """mAP, AP50, AP75, AP_small, AP_medium, AP_large, AR1, AR10, AR100, each in 0..1.

    `update` takes results with `boxes` [n,4] (xyxy, pixels of the original image), `scores` [n] and `classes` [n], and
    targets with `image_id`, `boxes`, `classes`, `crowd` and `areas` (without it: areas of the boxes). An image that
    comes twice counts once. Images are ordered by id, so that neither the order of batches nor the number of processes
    changes a digit.

    Args:
        num_classes: number of classes K.
        ignore_index: not used; every metric takes it.
        class_names: names for the table.
        score: boxes below it are left out of the confusion matrix and of pictures; AP takes all.
        iou: from which overlap on a box has found an object, there.
    """

    tasks = ("detection",)

    def __init__(
        self,
        num_classes: int,
        ignore_index: int | None = 255,
        class_names: Sequence[str] = (),
        score: float = 0.3,
        iou: float = 0.5,
    ):
        super().__init__(num_classes, ignore_index, class_names)
        if not 0 <= score < 1 or not 0 < iou <= 1:
            raise UserError(f"coco: score must be in 0..1 and iou above 0 and at most 1, got {score} and {iou}")
        _evaluator()  # missing: say so before hours of training
        self.score, self.iou = score, iou
        self.category_ids = list(range(1, num_classes + 1))
        self.images: dict[int, Image] = {}
        self._counted: dict[str, np.ndarray] | None = None

    def bind(self, dataset: Any) -> None:
        """Take the category ids of the file, for `detections.json`."""
        self.category_ids = [int(i) for i in dataset.category_ids or self.category_ids]

    def update(self, results: Sequence[Any], targets: Sequence[Mapping[str, Any]]) -> None:
        """Keep the boxes of some images.

        Raises:
            UserError: a target has no image id, a prediction is not finite, or a class is outside 0..K-1.
        """
        check_lengths(results, targets)
        for result, target in zip(results, targets):
            name = str(result.name)
            if "image_id" not in target:
                raise UserError(f"coco: {name or 'the data set'}: the target has no image_id")
            boxes = np.asarray(target["boxes"], np.float32).reshape(-1, 4)
            sides = boxes[:, 2:].astype(np.float64) - boxes[:, :2]
            annotated = _arrays(ANNOTATED, {"crowd": np.zeros(len(boxes), bool), "areas": sides.prod(1), **target})
            predicted = _arrays(PREDICTED, vars(result))
            for what, arrays in (("prediction", predicted), ("annotation", annotated)):
                finite = all(np.isfinite(array).all() for array in arrays.values())
                lengths = {len(array) for array in arrays.values()}
                classes = arrays["classes"]
                if not finite or len(lengths) != 1:
                    fault = "holds NaN or infinity" if not finite else f"has arrays of {sorted(lengths)} rows"
                    raise UserError(f"coco: {name or 'image'}: the {what} {fault}")
                if classes.size and not 0 <= classes.min() <= classes.max() < self.num_classes:
                    raise UserError(
                        f"coco: {name or 'image'}: the {what} has class {classes.min()}..{classes.max()}, "
                        f"expected 0..{self.num_classes - 1}"
                    )
            self.images.setdefault(int(np.asarray(target["image_id"])), Image(name, predicted, annotated))
        self._counted = None

    def state(self) -> dict[str, np.ndarray]:
        """`image_id` [n] and `name` [n]; the predictions of all images one after the other with `predicted.count` [n],
        likewise the annotations."""
        ids = sorted(self.images)
        images = [self.images[i] for i in ids]
        state = {"image_id": np.asarray(ids, np.int64), "name": np.asarray([i.name for i in images], np.str_)}
        for side, form in (("predicted", PREDICTED), ("annotated", ANNOTATED)):
            parts = [getattr(image, side) for image in images]
            state[f"{side}.count"] = np.asarray([len(part["boxes"]) for part in parts], np.int64)
            for key, (dtype, row) in form.items():
                state[f"{side}.{key}"] = np.concatenate([np.zeros((0, *row), dtype), *(part[key] for part in parts)])
        return state

    def merge(self, states: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """All images of all states by rising id, each once."""
        images: dict[int, Image] = {}
        for state in states:
            for key, image in _images(state).items():
                images.setdefault(key, image)
        joined = CocoAP(self.num_classes)
        joined.images = images
        return joined.state()

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Replace the images."""
        self.images, self._counted = _images(state), None

    def compute(self) -> dict[str, float]:
        """`mAP` and the rest; a size without annotations is left out. All are 0 before the first image, which tells
        which values there are."""
        if not self.images:
            return dict.fromkeys(NAMES, 0.0)
        precision, recall = (self._count()[key] for key in ("precision", "recall"))
        scores = {
            "mAP": _mean(precision[..., 0, -1]),
            "AP50": _mean(precision[0, ..., 0, -1]),
            "AP75": _mean(precision[5, ..., 0, -1]),
        }
        for i, size in enumerate(SIZES, start=1):
            if (precision[..., i, -1] > -1).any():
                scores[f"AP_{size}"] = _mean(precision[..., i, -1])
        return scores | {f"AR{n}": _mean(recall[..., 0, i]) for i, n in enumerate(MAX_BOXES)}

    def table(self) -> list[dict[str, Any]]:
        """Rows with class, AP, AP50, AP75, AR100, Objects; nan for a class without annotations."""
        if not self.images:
            return []
        counted = self._count()
        column = {int(k): i for i, k in enumerate(counted["classes"])}
        objects = np.zeros(self.num_classes, np.int64)
        for image in self.images.values():
            np.add.at(objects, image.annotated["classes"][~image.annotated["crowd"]], 1)
        rows = []
        for k, name in enumerate(self.class_names):
            row = dict.fromkeys(("AP", "AP50", "AP75", "AR100"), float("nan"))
            if objects[k]:
                precision = counted["precision"][:, :, column[k], 0, -1]
                row = {
                    "AP": _mean(precision),
                    "AP50": _mean(precision[0]),
                    "AP75": _mean(precision[5]),
                    "AR100": _mean(counted["recall"][:, column[k], 0, -1]),
                }
            rows.append({"class": name, **row, "Objects": int(objects[k])})
        return rows

    def curves(self) -> dict[str, Any]:
        """Precision over recall: {"recall": [101], "mean": {iou: [101]}, "classes": {name: {iou: [101], "score":
        [101]}}} for IoU 0.50 and 0.75; "score" is where the curve of 0.50 has that recall. Classes without annotations
        are left out."""
        counted = self._count()
        precision, scores, levels = (
            counted["precision"][..., 0, -1],
            counted["scores"][..., 0, -1],
            {"0.50": 0, "0.75": 5},
        )
        present = [i for i in range(precision.shape[2]) if (precision[..., i] > -1).any()]
        classes = {
            self.class_names[int(counted["classes"][i])]: {
                **{level: precision[t, :, i].tolist() for level, t in levels.items()},
                "score": scores[0, :, i].tolist(),
            }
            for i in present
        }
        mean = {level: precision[t][:, present].mean(1).tolist() for level, t in levels.items()} if present else {}
        return {"recall": np.linspace(0, 1, 101).round(2).tolist(), "mean": mean, "classes": classes}

    def confusion(self) -> np.ndarray:
        """int64 [K+1,K+1]: rows are annotated classes, columns predicted ones; the last row holds boxes where there
        is nothing, the last column objects that nobody found.

        Boxes of at least `score` and objects are paired by falling overlap from `iou` on, whatever their classes.
        Boxes in a crowd count nowhere.
        """
        none = self.num_classes
        matrix = np.zeros((none + 1, none + 1), np.int64)
        for image in self.images.values():
            predicted, objects = _matched(image, self.score, self.iou)
            rows, columns = greedy_pairs(pairwise_iou(predicted["boxes"], objects["boxes"]), self.iou)
            np.add.at(matrix, (objects["classes"][columns], predicted["classes"][rows]), 1)
            np.add.at(matrix, (none, np.delete(predicted["classes"], rows)), 1)
            np.add.at(matrix, (np.delete(objects["classes"], columns), none), 1)
        return matrix

    def write(self, folder: str | os.PathLike[str]) -> list[Path]:
        """`detections.json` (COCO's result format), `curves.json` and `confusion.json` with drawings where matplotlib
        is installed, and `pictures/` of the images with the most mistakes."""
        from ppvision.metrics import detection_report

        folder = Path(folder)
        files = {
            "detections.json": self.detections(),
            "curves.json": self.curves(),
            "confusion.json": {
                "score": self.score,
                "iou": self.iou,
                "classes": [*self.class_names, "nothing"],
                "rows": "annotated",
                "columns": "predicted",
                "matrix": self.confusion().tolist(),
            },
        }
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content) + "\n", encoding="utf-8")
        plots = detection_report.plot(folder, files["curves.json"], self.confusion(), self.class_names)
        return [*(folder / name for name in files), *plots, *self._pictures(folder / "pictures")]

    def detections(self) -> list[dict[str, Any]]:
        """All predictions as COCO's servers take them: `image_id`, `category_id` of the file, `bbox` xywh (rounded to
        a thousandth of a pixel), `score` (to 1e-6)."""
        rows = []
        for key in sorted(self.images):
            found = self.images[key].predicted
            corners = found["boxes"].astype(np.float64)
            boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).round(3).tolist()
            scores = found["scores"].astype(np.float64).round(6).tolist()
            for box, score, k in zip(boxes, scores, found["classes"].tolist()):
                rows.append({"image_id": key, "category_id": self.category_ids[k], "bbox": box, "score": score})
        return rows

    def _pictures(self, folder: Path) -> list[Path]:
        from ppvision.metrics import detection_report

        wrong = []
        for key, image in sorted(self.images.items()):
            predicted, objects = _matched(image, self.score, self.iou)
            verdict = detection_report.verdict(predicted, objects, self.iou)
            wrong.append((-int((~verdict[0]).sum() + (~verdict[1]).sum()), key, predicted, objects, verdict))
        wrong.sort(key=lambda entry: entry[:2])
        chosen = [(self.images[key].name, *rest) for _, key, *rest in wrong[:NUM_PICTURES]]
        return detection_report.draw(folder, chosen, self.class_names)

    def _count(self) -> dict[str, np.ndarray]:
        """`precision` [10,101,k,4,3], `recall` [10,k,4,3], `scores` like precision: IoU, recall, class, size (all,
        small, medium, large), number of boxes; -1 where there is nothing to find. `classes` [k]: those annotated."""
        if self._counted is not None:
            return self._counted
        annotations, found = [], []
        classes = sorted({int(k) for image in self.images.values() for k in image.annotated["classes"]})
        for key in sorted(self.images):
            image = self.images[key]
            annotations += _rows(key, image.annotated, {"iscrowd": image.annotated["crowd"].astype(int)})
            found += _rows(key, _of_classes(image.predicted, classes), {})
        if not classes:
            empty = np.zeros((10, 101, 0, 4, 3))
            counted = {"precision": empty, "scores": empty, "recall": empty[:, 0]}
        else:
            ids = [{"id": key} for key in sorted(self.images)]
            counted = _evaluate(annotations, found, ids, classes)
        self._counted = {**counted, "classes": np.asarray(classes, np.int64)}
        return self._counted


def _evaluator() -> tuple[Any, Any]:
    """Classes COCO and COCOeval_faster."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        raise UserError("metric coco: faster-coco-eval is not installed; pip install 'ppvision[detection]'") from None
    return COCO, COCOeval_faster


def _evaluate(
    annotations: list[dict[str, Any]], found: list[dict[str, Any]], images: list[dict[str, Any]], classes: list[int]
) -> dict[str, np.ndarray]:
    coco, evaluator = _evaluator()
    sides = []
    for rows in (annotations, found):
        side = coco()
        side.dataset = {"images": images, "categories": [{"id": k} for k in classes], "annotations": rows}
        for number, row in enumerate(rows, start=1):  # 0 would mean "not matched"
            row["id"] = number
        side.createIndex()
        sides.append(side)
    run = evaluator(*sides, "bbox", print_function=logger.debug)
    run.params.maxDets = list(MAX_BOXES)
    run.evaluate()
    run.accumulate()
    return {key: np.asarray(run.eval[key]) for key in ("precision", "recall", "scores")}


def _rows(key: int, arrays: Mapping[str, np.ndarray], more: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Rows of an annotation file, in plain numbers."""
    corners = arrays["boxes"].astype(np.float64)
    sides = corners[:, 2:] - corners[:, :2]
    columns = {
        "category_id": arrays["classes"],
        "bbox": np.concatenate([corners[:, :2], sides], axis=1),
        "area": arrays.get("areas", sides.prod(1)),
        **({"score": arrays["scores"].astype(np.float64)} if "scores" in arrays else {}),
        **more,
    }
    names = ("image_id", *columns)
    return [dict(zip(names, (key, *row))) for row in zip(*(column.tolist() for column in columns.values()))]


def _of_classes(arrays: Mapping[str, np.ndarray], classes: Sequence[int]) -> dict[str, np.ndarray]:
    """Rows of classes that occur: the others can neither be right nor lower the precision of a class that counts."""
    keep = np.isin(arrays["classes"], classes)
    return {key: array[keep] for key, array in arrays.items()}


def _arrays(form: Mapping[str, tuple[Any, tuple[int, ...]]], source: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {key: np.asarray(source[key]).astype(dtype).reshape(-1, *row) for key, (dtype, row) in form.items()}


def _images(state: Mapping[str, np.ndarray]) -> dict[int, Image]:
    sides = []
    for side, form in (("predicted", PREDICTED), ("annotated", ANNOTATED)):
        ends = np.cumsum(state[f"{side}.count"])[:-1]
        columns = {key: np.split(np.asarray(state[f"{side}.{key}"]), ends) for key in form}
        sides.append([{key: parts[i] for key, parts in columns.items()} for i in range(len(state["image_id"]))])
    ids, names = state["image_id"].tolist(), state["name"].tolist()
    return {key: Image(name, *pair) for key, name, *pair in zip(ids, names, *sides)}


def _matched(image: Image, score: float, iou: float) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Predictions of at least `score`, by falling score, and the single objects. A prediction inside a crowd of its
    class that meets no single object is left out."""
    order = np.argsort(-image.predicted["scores"], kind="stable")
    order = order[image.predicted["scores"][order] >= score]
    predicted = {key: array[order] for key, array in image.predicted.items()}
    crowd = image.annotated["crowd"]
    objects, crowds = ({key: a[rows] for key, a in image.annotated.items()} for rows in (~crowd, crowd))
    inside = covered(predicted["boxes"], crowds["boxes"]) >= iou
    inside = (inside & (predicted["classes"][:, None] == crowds["classes"][None])).any(1)
    alone = (pairwise_iou(predicted["boxes"], objects["boxes"]) < iou).all(1)
    return {key: array[~(inside & alone)] for key, array in predicted.items()}, objects


def _mean(values: np.ndarray) -> float:
    values = values[values > -1]
    return float(values.mean()) if values.size else 0.0
