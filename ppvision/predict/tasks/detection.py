"""Object detection by a set of queries: the best of all (query, class) pairs, back to the pixels of the original image.

Papers:   the DETR family (see `ppvision.models.detr`). As Deformable DETR, DINO and Group DETR do it, every pair of
          query and class is a candidate: the `top_k` highest sigmoids over N * C are the detections, label = index mod
          C, box = index div C. One query may answer with two classes; there is no suppression of overlapping boxes.
          Test-time augmentation merges views by weighted box fusion (R. Solovyev et al., arXiv:1910.13302).
Deviates: the candidates are ranked by logit instead of by probability, so that scores near 1 are not tied; boxes are
          clipped to the image.

Boxes of a network are relative to the image proper, whatever was padded, since it is told by `valid`; so are those of
an exported graph, which takes the mask as an input. Of a network that takes none (of another package), boxes are
relative to the padded image and are brought to the image proper here, but the padding was looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ppvision.device import tensor_of
from ppvision.errors import UserError
from ppvision.predict.overlap import greedy_pairs, pairwise_iou
from ppvision.predict.results import Boxes, Result
from ppvision.predict.tasks.base import Ending, Net, Output, Task, images_of, only_net

TOP_K = 300
FUSION_IOU = 0.7  # boxes of several views that overlap so much are one object
MIN_SCORE, MIN_COMPARED = 0.05, 10  # see `Detection.agreement`


def detections(logits_BQC: Tensor, boxes_BQ4: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """What a network predicts -> what it says. The same operators in eager mode and inside an exported graph.

    Args:
        logits_BQC: of every class.
        boxes_BQ4: cxcywh in 0..1.
        top_k: at most so many; fewer where there are fewer pairs of query and class.

    Returns:
        boxes [B,k,4] xyxy in 0..1, scores [B,k] by falling score, labels int32 [B,k].
    """
    queries, classes = logits_BQC.shape[1:]
    known = queries > 0 and classes > 0  # -1: a graph that does not know; then there must be enough
    count = min(top_k, queries * classes) if known else top_k
    best, index = paddle.topk(logits_BQC.flatten(1), count, axis=1)
    labels, row = index % classes, index // classes
    # `broadcast=True` would freeze the batch size of the example into an exported graph.
    chosen = paddle.take_along_axis(boxes_BQ4, row.unsqueeze(-1).tile([1, 1, 4]), axis=1, broadcast=False)
    centre, half = chosen[:, :, :2], chosen[:, :, 2:] * 0.5
    corners = paddle.concat([centre - half, centre + half], axis=-1).clip(0.0, 1.0)
    return corners, F.sigmoid(best), labels.astype("int32")


class Detections(Ending):
    """The best pairs of query and class."""

    def __call__(self, outputs: Any) -> dict[str, Tensor]:
        found = detections(outputs["logits"], outputs["boxes"], TOP_K)
        return dict(zip(("boxes", "scores", "labels"), found))

    def outputs(self, given: Any) -> tuple[Output, ...]:
        return (
            Output("boxes", "boxes", "[B,N,4] x1 y1 x2 y2, shares of width and height of the picture without padding"),
            Output("scores", "scores", "[B,N] 0..1, falling"),
            Output("labels", "labels", "[B,N] class ids", "int32"),
        )


class Detection(Task):
    """Networks give {"logits": [B,Q,C], "boxes": [B,Q,4] cxcywh}, or {"boxes": [B,k,4] xyxy, "scores": [B,k], "labels":
    [B,k]} where an exported graph ends with "detections"; both in 0..1, relative to the picture proper.

    Args:
        class_names: by class id.
        palette: uint8 [K,3] RGB, for drawing.
        top_k: detections per image at most.
        threshold: what scores below is no detection. Average precision wants 0.
        draw_threshold: what scores below is not drawn.
        flip: also the mirrored image.
        scales: of the input, merged; (1.0,) is plain.
    """

    endings = {"detections": Detections(), "none": Ending()}
    class_axis = -1
    way_back = (
        "x1 and x2 times the width, y1 and y2 times the height of the original picture, clipped to it; what scores "
        "below threshold is no detection, what scores below draw_threshold is not drawn"
    )

    def __init__(
        self,
        class_names: Sequence[str] = (),
        palette: Any = None,
        top_k: int = TOP_K,
        threshold: float = 0.0,
        draw_threshold: float = 0.5,
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
    ):
        super().__init__(class_names, palette)
        self.scales = tuple(float(s) for s in ([scales] if isinstance(scales, (int, float)) else scales))
        if not self.scales or min(self.scales) <= 0:
            raise UserError(f"scales must be positive numbers, got {list(self.scales)}")
        if top_k < 1:
            raise UserError(f"top_k must be at least 1, got {top_k}")
        if not (0 <= threshold <= 1 and 0 <= draw_threshold <= 1):
            raise UserError(f"threshold and draw_threshold must be in 0..1, got {threshold} and {draw_threshold}")
        self.top_k = top_k
        self.threshold = threshold
        self.draw_threshold = draw_threshold
        self.mirrors = (False, True) if flip else (False,)

    def defaults(self) -> dict[str, Any]:
        """Thresholds and the number of detections."""
        return {"top_k": self.top_k, "threshold": self.threshold, "draw_threshold": self.draw_threshold}

    def run(self, nets: Mapping[str, Net], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{"boxes": [B,k,4] xyxy, "scores": [B,k], "labels": int32 [B,k]}; boxes in 0..1, relative to the picture
        proper."""
        net = only_net(nets)
        image = inputs["image"]
        valid = inputs.get("valid")
        inner_B2 = _inner(image, valid)
        views = []
        for scale in self.scales:
            size = [max(int(side * scale + 0.5), 1) for side in image.shape[2:]]
            scaled = image if scale == 1.0 else F.interpolate(image, size=size, mode="bilinear", align_corners=False)
            inner = inner_B2 if scale == 1.0 else np.clip(np.rint(inner_B2 * scale).astype(np.int64), 1, size)
            for mirror in self.mirrors:
                boxes, scores, labels = self._look(net, _mirrored(scaled, inner) if mirror else scaled, inner)
                if mirror:
                    boxes = paddle.stack([1.0 - boxes[..., 2], boxes[..., 1], 1.0 - boxes[..., 0], boxes[..., 3]], -1)
                views.append((boxes, scores, labels))
        names = ("boxes", "scores", "labels")
        if len(views) == 1:
            return dict(zip(names, views[0]))
        return {key: paddle.to_tensor(value) for key, value in zip(names, self._merged(views))}

    def results(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Any]) -> list[Result]:
        """One `Boxes` per image, in pixels of the original image, by falling score."""
        boxes, scores, labels = (outputs[key].numpy() for key in ("boxes", "scores", "labels"))
        count = len(boxes)
        names = batch.get("name") or [""] * count
        rows = [images_of(batch, key, count) for key in ("inner", "size", "geometry")]
        found = []
        for i, (name, inner, size, geometry) in enumerate(zip(names, *rows)):
            canvas = batch["image"].shape[1:3] if inner is None else inner
            height, width = (float(side) for side in canvas)
            corners = boxes[i].astype(np.float64) * (width, height, width, height)
            if geometry is not None:
                corners = _moved(corners, np.linalg.inv(geometry))
            limit_h, limit_w = (height, width) if size is None else (float(side) for side in size)
            corners = np.clip(corners, 0, (limit_w, limit_h, limit_w, limit_h)).astype(np.float32)
            keep = (labels[i] >= 0) & (scores[i] >= self.threshold)
            found.append(
                Boxes(
                    str(name),
                    corners[keep],
                    scores[i][keep],
                    labels[i][keep].astype(np.int64),
                    self.class_names,
                    self.palette,
                    self.draw_threshold,
                )
            )
        return found

    def agreement(
        self, reference: Mapping[str, np.ndarray], product: Mapping[str, np.ndarray], tolerance: float
    ) -> tuple[float, float] | None:
        """Share of detections that the other side has as well, counted both ways: (in any order, at the same place).

        Judged are those that score above 0.05, at least the ten best of an image. Two are the same when they have one
        label, overlap by more than 0.99 (or differ by the tolerance) and score alike: logits within the tolerance,
        which for the score s is s (1 - s) times as much. A detection whose score is that close to the last one of the
        list may be missing there.
        """
        margin = tolerance * float(np.abs(reference["logits"]).max())
        expected = _detected(reference["logits"], reference["boxes"], self.top_k)
        if "scores" in product:
            given = (product["boxes"], product["scores"], product["labels"])
        else:
            given = _detected(product["logits"], product["boxes"], self.top_k)
        if any(a.shape != b.shape for a, b in zip(expected, given)):
            return 0.0, 0.0
        same = 0
        in_place = 0
        compared = 0
        places = 0
        for ours, theirs in zip(zip(*expected), zip(*given)):
            like = _alike(ours, theirs, tolerance, margin)
            pairs = greedy_pairs(like, 1e-9)
            counts = [max(int((side[1] >= MIN_SCORE).sum()), MIN_COMPARED) for side in (ours, theirs)]
            for matched, side, other, count in zip(pairs, (ours, theirs), (theirs, ours), counts):
                scores = side[1][:count]
                excused = scores <= other[1][-1] + _allowance(other[1][-1], margin)
                hit = np.isin(np.arange(len(scores)), matched)
                same += int((hit | excused).sum())
                compared += len(scores)
            first = np.arange(min(counts[0], len(ours[1])))
            in_place += int((like[first, first] > 0).sum())
            places += len(first)
        return same / compared, in_place / places

    def _look(self, net: Net, image: Tensor, inner_B2: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """The network's detections; boxes relative to `inner`."""
        height, width = (int(side) for side in image.shape[2:])
        padded = bool((inner_B2 != (height, width)).any())
        asks = padded and "valid" in net.inputs
        if asks:
            rows, columns = (np.arange(n)[None] < inner_B2[:, i : i + 1] for i, n in enumerate((height, width)))
            output = net(image=image, valid=tensor_of(rows[:, :, None] & columns[:, None]))
        else:
            output = net(image=image)
        given = set(output) if isinstance(output, Mapping) else {type(output).__name__}
        if {"logits", "boxes"} <= given:
            found = detections(output["logits"], output["boxes"], self.top_k)
        elif {"boxes", "scores", "labels"} <= given:
            found = tuple(output[key][:, : self.top_k] for key in ("boxes", "scores", "labels"))
        else:
            names = ", ".join(sorted(given))
            raise UserError(f"detection: the network gives {names}, not logits and boxes, nor boxes, scores and labels")
        if padded and not asks:
            ratio = np.tile(np.array([width, height]) / inner_B2[:, ::-1], 2).astype(np.float32)
            found = (found[0] * paddle.to_tensor(ratio).unsqueeze(1), *found[1:])
        return found

    def _merged(self, views: Sequence[tuple[Tensor, Tensor, Tensor]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The views of each image fused; rows that are left over have label -1 and score 0."""
        arrays = [[tensor.numpy() for tensor in view] for view in views]
        rows = len(arrays[0][0])
        boxes = np.zeros((rows, self.top_k, 4), np.float32)
        scores, labels = np.zeros((rows, self.top_k), np.float32), np.full((rows, self.top_k), -1, np.int32)
        for i in range(rows):
            joined = (np.concatenate([view[part][i] for view in arrays]) for part in range(3))
            fused = fuse(*joined, len(views))
            count = min(len(fused[1]), self.top_k)
            for target, source in zip((boxes, scores, labels), fused):
                target[i, :count] = source[:count]
        return boxes, scores, labels


def fuse(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, num_views: int, iou: float = FUSION_IOU
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted box fusion: boxes of a class that overlap are averaged with their scores as weights; the score is their
    mean, lowered where fewer boxes than views agree.

    Args:
        boxes: xyxy [n,4] of all views.
        scores: [n].
        labels: [n].
        num_views: how many boxes an object should have.
        iou: least overlap with what was fused so far.

    Returns:
        boxes float32 [m,4], scores float32 [m] falling, labels int32 [m].
    """
    sums: dict[int, list[np.ndarray]] = {}  # per class, rows of: weighted corners, sum of scores, number
    for i in np.argsort(-scores, kind="stable"):
        if scores[i] <= 0:
            break
        entry = np.concatenate([boxes[i] * scores[i], [scores[i], 1.0]]).astype(np.float64)
        clusters = sums.setdefault(int(labels[i]), [])
        if clusters:
            known = np.stack(clusters)
            overlap = pairwise_iou(boxes[i][None], known[:, :4] / known[:, 4:5])[0]
            best = int(overlap.argmax())
            if overlap[best] > iou:
                clusters[best] = clusters[best] + entry
                continue
        clusters.append(entry)
    rows = np.asarray([row for clusters in sums.values() for row in clusters], np.float64).reshape(-1, 6)
    classes = np.asarray([k for k, clusters in sums.items() for _ in clusters], np.int32)
    fused_scores = rows[:, 4] / np.maximum(rows[:, 5], num_views)
    order = np.argsort(-fused_scores, kind="stable")
    fused = rows[order, :4] / rows[order, 4:5]
    return fused.astype(np.float32), fused_scores[order].astype(np.float32), classes[order]


def _inner(image: Tensor, valid: Tensor | None) -> np.ndarray:
    """int64 [B,2]: height and width of each picture without padding, which is at the bottom and right."""
    if valid is None:
        return np.full((image.shape[0], 2), image.shape[2:], np.int64)
    mask = valid.numpy()
    return np.stack([mask[:, :, 0].sum(1), mask[:, 0].sum(1)], axis=1).astype(np.int64)


def _mirrored(image: Tensor, inner_B2: np.ndarray) -> Tensor:
    """Every image turned left to right inside its `inner` area: padding stays at the right."""
    width = int(image.shape[3])
    if (inner_B2[:, 1] == width).all():
        return paddle.flip(image, [3])
    rows = []
    for i, (_, w) in enumerate(inner_B2.tolist()):
        rows.append(paddle.concat([paddle.flip(image[i : i + 1, :, :, :w], [3]), image[i : i + 1, :, :, w:]], axis=3))
    return paddle.concat(rows)


def _moved(corners: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """xyxy [n,4] through a [3,3] that scales, mirrors and shifts."""
    scale, shift = np.array([matrix[0, 0], matrix[1, 1]]), matrix[:2, 2]
    a, b = corners[:, :2] * scale + shift, corners[:, 2:] * scale + shift
    return np.concatenate([np.minimum(a, b), np.maximum(a, b)], axis=1)


def _detected(logits_BQC: np.ndarray, boxes_BQ4: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`detections` without Paddle."""
    rows, queries, classes = logits_BQC.shape
    flat = logits_BQC.reshape(rows, -1)
    index = np.argsort(-flat, axis=1, kind="stable")[:, : min(top_k, queries * classes)]
    chosen = np.take_along_axis(boxes_BQ4, (index // classes)[:, :, None], axis=1)
    centre, half = chosen[..., :2], chosen[..., 2:] * 0.5
    corners = np.clip(np.concatenate([centre - half, centre + half], axis=-1), 0, 1)
    scores = 1.0 / (1.0 + np.exp(-np.take_along_axis(flat, index, axis=1).astype(np.float64)))
    return corners, scores, index % classes


def _allowance(scores: np.ndarray, margin: float) -> np.ndarray:
    """How far a sigmoid may move when its logit does by `margin`, and by rounding."""
    scores = np.asarray(scores, np.float64)
    return margin * scores * (1 - scores) + 1e-6 * scores


def _alike(a: tuple[np.ndarray, ...], b: tuple[np.ndarray, ...], tolerance: float, margin: float) -> np.ndarray:
    """[n,m]: how alike two detections are, above 0 where they are the same."""
    difference = np.abs(a[0][:, None].astype(np.float64) - b[0][None]).max(-1)
    near = (pairwise_iou(a[0], b[0]) > 0.99) | (difference <= tolerance)
    scores = np.abs(a[1][:, None].astype(np.float64) - b[1][None])
    same = near & (a[2][:, None] == b[2][None]) & (scores <= _allowance(a[1], margin)[:, None])
    return np.where(same, 1.0 - np.minimum(difference, 0.5), 0.0)
