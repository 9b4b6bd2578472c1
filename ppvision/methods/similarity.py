"""Pictures of what a masked-image model has learnt: what it saw, and how similar all patches are to one of them, in the
features it was to predict and in those it did.

Arrays only, so that any method can be drawn: unit features per patch, and which patches were hidden.
"""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["panel", "salient", "similarity_map"]

GREY = 127
GAP = 4  # white pixels between the parts of a panel
MARK = (255, 0, 0)


def similarity_map(features: np.ndarray, query: int) -> np.ndarray:
    """Cosine of every patch to patch `query`: unit features [N,C] -> float32 [h,w] in -1..1; N is a square.

    Raises:
        ValueError: N is not a square, or there is no such patch.
    """
    count = len(features)
    side = round(count**0.5)
    if side * side != count or not 0 <= query < count:
        raise ValueError(f"similarity_map: {count} patches are no square grid with a patch {query}")
    return (features @ features[query]).reshape(side, side).astype(np.float32)


def panel(
    image: np.ndarray, masked: np.ndarray, target: np.ndarray, output: np.ndarray, query: int, size: int = 224
) -> np.ndarray:
    """One row of five pictures, RGB uint8 [size, 5 size + gaps, 3]: image, what the encoder saw, similarity to the
    marked patch in the teacher's features and in the predicted ones, and how well each prediction points at its target.

    Similarities run from dark (0 and below) to bright (1); each map has its own scale but for the last one.

    Args:
        image: RGB uint8 [H,W,3], square as the encoder saw it.
        masked: bool [N].
        target: [N,C], length 1.
        output: likewise.
        query: number of the marked patch, row-major.
        size: of each picture.
    """
    side = round(len(masked) ** 0.5)
    picture = cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)
    hidden = cv2.resize(masked.reshape(side, side).astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST)
    seen = np.where(hidden[..., None] > 0, np.uint8(GREY), picture)
    maps = [_stretch(similarity_map(features, query)) for features in (target, output)]
    agreement = np.clip((target * output).sum(1).reshape(side, side), 0, 1)
    parts = [_mark(p, query, side) for p in (picture, seen, *(_colour(m, size) for m in maps))]
    parts.append(_colour(agreement, size))
    gap = np.full((size, GAP, 3), 255, np.uint8)
    row = [piece for part in parts for piece in (part, gap)][:-1]
    return np.concatenate(row, axis=1)


def salient(image: np.ndarray, masked: np.ndarray) -> int:
    """The hidden patch (bool [N], N a square) whose pixels differ most from the mean of the image [H,W,3]."""
    side = round(len(masked) ** 0.5)
    energy = np.abs(image.astype(np.float32) - image.mean()).mean(-1)
    height, width = (n // side for n in energy.shape)
    cells = energy[: side * height, : side * width].reshape(side, height, side, width).mean((1, 3)).flatten()
    hidden = np.flatnonzero(masked)
    return int(hidden[cells[hidden].argmax()])


def _stretch(values: np.ndarray) -> np.ndarray:
    low, high = float(np.clip(values.min(), 0, 1)), float(values.max())
    return np.clip((values - low) / max(high - low, 1e-6), 0, 1)


def _colour(values: np.ndarray, size: int) -> np.ndarray:
    grey = cv2.resize(np.rint(values * 255).astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST)
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def _mark(picture: np.ndarray, query: int, side: int) -> np.ndarray:
    picture, step = picture.copy(), picture.shape[0] / side
    row, column = divmod(query, side)
    corners = [round(v * step) for v in (column, row, column + 1, row + 1)]
    cv2.rectangle(
        picture, (corners[0], corners[1]), (corners[2] - 1, corners[3] - 1), MARK, max(picture.shape[0] // 112, 1)
    )
    return picture
