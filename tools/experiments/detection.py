"""Average precision without waiting: how long the metric `coco` takes for a whole validation set, and how long
pycocotools, the reference everyone quotes, takes for the same boxes.

`scenes` and `by_pycocotools` are also what tests/metrics/test_coco.py compares with.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ppvision.metrics.coco import CocoAP
from ppvision.predict.results import Boxes
from tools.experiments import FAIL, PASS, Experiment, Outcome, Settings

CLASSES, IMAGES, DETECTIONS = 80, 5000, 300
LEAST = 3.0
METRICS = ("mAP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR1", "AR10", "AR100")


def scenes(
    rng: np.random.Generator,
    images: int,
    classes: int,
    detections: int,
    objects: int = 8,
    empty: float = 0.1,
    crowds: float = 0.1,
    tied: bool = False,
) -> tuple[list[Boxes], list[dict[str, Any]]]:
    """Random annotations of all sizes and detections of them, near, shifted, of a wrong class, or of nothing.

    Args:
        images: how many.
        classes: K.
        detections: per image at most; exactly so many where there are objects and `empty` is 0.
        objects: per image at most.
        empty: share of images without objects, and of those without detections.
        crowds: share of objects that are crowd regions.
        tied: scores have two digits, so that many are equal.
    """
    results, targets = [], []
    ids = rng.permutation(images * 3)[:images]
    for number in ids.tolist():
        count = 0 if rng.random() < empty else int(rng.integers(1, objects + 1))
        truth, kinds = random_boxes(rng, count), rng.integers(0, classes, count)
        crowd = rng.random(count) < crowds
        sides = truth[:, 2:] - truth[:, :2]
        targets.append(
            {
                "image_id": number,
                "boxes": truth,
                "classes": kinds,
                "crowd": crowd,
                "areas": (sides.prod(1) * rng.uniform(0.5, 1.0, count)).astype(np.float32),  # of an outline
            }
        )
        total = 0 if rng.random() < empty else detections
        near = min(total // 2, count * 6)
        source = rng.integers(0, max(count, 1), near)
        moved = truth[source] + rng.normal(0, 0.12, (near, 4)) * np.tile(sides[source], 2) if near else truth[:0]
        boxes = np.concatenate([moved, random_boxes(rng, total - near)]).astype(np.float32)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        labels = np.concatenate([kinds[source] if near else kinds[:0], rng.integers(0, classes, total - near)])
        wrong = rng.random(total) < 0.1
        labels[wrong] = rng.integers(0, classes, int(wrong.sum()))
        scores = rng.random(total) * np.where(np.arange(total) < near, 1.0, 0.6)
        scores = (np.round(scores, 2) if tied else scores).astype(np.float32)
        order = np.argsort(-scores, kind="stable")
        results.append(Boxes(f"{number}.jpg", boxes[order], scores[order], labels[order].astype(np.int64)))
    return results, targets


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """float32 [count,4] xyxy with sides from 8 to 300 pixels, evenly on a logarithmic scale."""
    sides = np.exp(rng.uniform(np.log(8), np.log(300), (count, 2)))
    corners = rng.uniform(0, 640, (count, 2))
    return np.concatenate([corners, corners + sides], axis=1).astype(np.float32)


def by_pycocotools(results: Sequence[Boxes], targets: Sequence[dict[str, Any]], classes: int) -> Any:
    """A `COCOeval` that has run: its `stats` and `eval`."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations, found = [], []
    for result, target in zip(results, targets):
        number = target["image_id"]
        rows = zip(
            _xywh(target["boxes"]), target["classes"].tolist(), target["crowd"].tolist(), target["areas"].tolist()
        )
        for box, k, crowd, area in rows:
            row = {"id": len(annotations) + 1, "image_id": number, "category_id": k, "bbox": box, "area": area}
            annotations.append({**row, "iscrowd": int(crowd)})
        for box, k, score in zip(_xywh(result.boxes), result.classes.tolist(), result.scores.tolist()):
            found.append({"image_id": number, "category_id": k, "bbox": box, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": target["image_id"]} for target in targets],
            "categories": [{"id": k} for k in range(classes)],
            "annotations": annotations,
        }
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(found) if found else COCO(), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run


def _xywh(boxes: np.ndarray) -> list[list[float]]:
    corners = boxes.astype(np.float64)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()


def evaluation_speed(settings: Settings) -> Outcome:
    """Both on the same boxes in this process, one after the other, each from arrays to figures."""
    images = 60 if settings.quick else IMAGES
    results, targets = scenes(
        np.random.default_rng(settings.seeds[0]), images, CLASSES, DETECTIONS, empty=0.0, crowds=0.01
    )
    seconds = {}
    begin = time.perf_counter()
    metric = CocoAP(CLASSES)
    for result, target in zip(results, targets):
        metric.update([result], [target])
    metric.load(metric.merge([metric.state()]))
    ours = metric.compute()
    seconds["coco"] = time.perf_counter() - begin
    begin = time.perf_counter()
    theirs = dict(zip(METRICS, by_pycocotools(results, targets, CLASSES).stats.tolist()))
    seconds["pycocotools"] = time.perf_counter() - begin
    ratio = seconds["pycocotools"] / seconds["coco"]
    error = max(abs(ours[key] - theirs[key]) for key in ours)
    metrics = {
        "images": images,
        "detections": sum(len(result.scores) for result in results),
        "seconds": {key: round(value, 2) for key, value in seconds.items()},
        "ratio": round(ratio, 2),
        "largest_difference": error,
        "mAP": ours["mAP"],
    }
    verdict = PASS if ratio >= LEAST and error <= 1e-6 else FAIL
    return Outcome(verdict, f"{ratio:.1f} times as fast, figures differ by {error:.1e} at most", metrics)


EXPERIMENTS = {
    "evaluation_speed": Experiment(
        f"The metric coco judges {IMAGES} images with {DETECTIONS} detections each at least {LEAST:.0f} times faster "
        "than pycocotools, and says the same.",
        evaluation_speed,
        seeds=(0,),
        caveats=("One run of each on a machine that did other work as well.",),
    )
}
