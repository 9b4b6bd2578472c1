"""Pictures of how a detector does: curves, confusion matrix, and images with hits, false alarms and misses."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppvision.data.io import read_image
from ppvision.errors import UserError
from ppvision.predict import drawing
from ppvision.predict.inputs import result_stems
from ppvision.predict.overlap import greedy_pairs, pairwise_iou

__all__ = ["draw", "plot", "verdict"]

logger = logging.getLogger("ppvision")

MAX_CURVES = 20  # classes that get a line of their own; the worst ones
MAX_TICKS = 40  # class names that fit beside a matrix


def verdict(
    predicted: Mapping[str, np.ndarray], objects: Mapping[str, np.ndarray], iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """(which predictions are hits, which objects were found), bool each: paired by falling overlap within a class."""
    overlap = pairwise_iou(predicted["boxes"], objects["boxes"])
    overlap[predicted["classes"][:, None] != objects["classes"][None]] = 0.0
    rows, columns = greedy_pairs(overlap, iou)
    hit, found = np.zeros(len(predicted["boxes"]), bool), np.zeros(len(objects["boxes"]), bool)
    hit[rows], found[columns] = True, True
    return hit, found


def draw(
    folder: Path, images: Sequence[tuple[str, Mapping, Mapping, tuple[np.ndarray, np.ndarray]]], names: Sequence[str]
) -> list[Path]:
    """One PNG per (path of the image, predictions, objects, verdict); an image that is not there is left out."""
    files = []
    for stem, (path, predicted, objects, (hit, found)) in zip(result_stems([i[0] for i in images]), images):
        try:
            image = read_image(path)
        except (UserError, OSError) as error:
            logger.debug("no picture: %s", error)
            continue
        folder.mkdir(parents=True, exist_ok=True)
        picture = drawing.draw_hits(image, predicted, hit, objects, found, names)
        files.append(folder / f"{stem}.png")
        drawing.write_image(files[-1], picture)
    return files


def plot(folder: Path, curves: Mapping[str, Any], matrix: np.ndarray, names: Sequence[str]) -> list[Path]:
    """`curves.png` and `confusion.png`; nothing where matplotlib is not installed, and a line that says so."""
    try:
        from matplotlib.figure import Figure  # without pyplot: no display, no state
    except ImportError:
        logger.warning("curves and confusion matrix are not drawn: pip install 'ppvision[detection]'")
        return []
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    areas = {name: float(np.mean(curve["0.50"])) for name, curve in curves["classes"].items()}
    for name in sorted(areas, key=areas.get)[:MAX_CURVES]:
        axes.plot(
            curves["recall"], curves["classes"][name]["0.50"], lw=0.8, alpha=0.7, label=f"{name} {areas[name]:.3f}"
        )
    for level, values in curves["mean"].items():
        axes.plot(
            curves["recall"],
            values,
            lw=2.5,
            color="black",
            ls="-" if level == "0.50" else "--",
            label=f"mean, IoU {level}",
        )
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title="IoU 0.50")
    if areas:
        figure.legend(loc="outside right upper", fontsize=6)
    figure.savefig(folder / "curves.png", dpi=120)

    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = min(max(5.0, 0.28 * len(matrix)), 14.0)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    figure.colorbar(axes.imshow(share, vmin=0, vmax=1, cmap="Blues"), shrink=0.7, label="share of the row")
    if len(matrix) <= MAX_TICKS:
        ticks = [*names, "nothing"]
        axes.set_xticks(range(len(ticks)), ticks, rotation=90, fontsize=7)
        axes.set_yticks(range(len(ticks)), ticks, fontsize=7)
        for row, column in np.argwhere(matrix):
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=6, color=colour)
    axes.set(xlabel="predicted", ylabel="annotated")
    figure.savefig(folder / "confusion.png", dpi=120)
    return [folder / "curves.png", folder / "confusion.png"]
