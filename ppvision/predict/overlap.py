"""How boxes overlap, in numpy: what matching predictions with each other or with annotations needs on the host."""

from __future__ import annotations

import numpy as np

__all__ = ["covered", "greedy_pairs", "pairwise_iou"]


def _shared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.clip(high - low, 0, None).prod(-1)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(-1)


def pairwise_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of xyxy [n,4] and [m,4] -> float64 [n,m]; 0 where both are empty."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    shared = _shared(a, b)
    union = _areas(a)[:, None] + _areas(b)[None] - shared
    return shared / np.maximum(union, 1e-12)


def covered(boxes: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Share of each box [n,4] that lies inside each region [m,4] -> float64 [n,m]: COCO's overlap with a crowd."""
    boxes, regions = np.asarray(boxes, np.float64), np.asarray(regions, np.float64)
    return _shared(boxes, regions) / np.maximum(_areas(boxes)[:, None], 1e-12)


def greedy_pairs(scores: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows and columns by falling score, each used once, none below `least`.

    Args:
        scores: [n,m].
        least: what a pair must reach.

    Returns:
        (rows, columns), int64 [p] each; equal scores go to the lower row, then to the lower column.
    """
    rows, columns = np.nonzero(scores >= least)
    order = np.argsort(-scores[rows, columns], kind="stable")
    free_row, free_column = np.ones(scores.shape[0], bool), np.ones(scores.shape[1], bool)
    pairs = []
    for r, c in zip(rows[order].tolist(), columns[order].tolist()):
        if free_row[r] and free_column[c]:
            free_row[r] = free_column[c] = False
            pairs.append((r, c))
    found = np.asarray(pairs, np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]
