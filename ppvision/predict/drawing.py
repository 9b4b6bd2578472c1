"""Palettes, palette PNG files and overlays. Colours are RGB, arrays uint8."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ppvision.data.base import voc_palette


def full_palette(palette: np.ndarray | None, num_colours: int = 256) -> np.ndarray:
    """`palette` padded to at least `num_colours` rows with the colours of Pascal VOC; 255 stays white for "not
    judged"."""
    num_colours = max(num_colours, 0 if palette is None else len(palette))
    full = voc_palette(num_colours)
    if palette is not None:
        full[: len(palette)] = palette
    if num_colours == 256 and (palette is None or len(palette) < 256):
        full[255] = 255
    return full


def write_label_png(path: str | Path, labels: np.ndarray, palette: np.ndarray | None = None) -> None:
    """Write class ids [H,W] as a palette PNG: the pixel values are the ids, viewers show the colours.

    Ids above 255 do not fit a palette; they are written as a 16-bit grey PNG.
    """
    from PIL import Image

    if labels.size and labels.max() > 255:
        Image.fromarray(labels.astype(np.uint16)).save(path, format="PNG")
        return
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(full_palette(palette)[:256].flatten().tolist())
    image.save(path, format="PNG")


def colourise(labels: np.ndarray, palette: np.ndarray | None = None) -> np.ndarray:
    """Class ids [H,W] -> RGB uint8 [H,W,3]."""
    highest = int(labels.max()) + 1 if labels.size else 1
    return full_palette(palette, max(256, highest))[labels]


def blend(image: np.ndarray, drawing: np.ndarray, weight: float = 0.6) -> np.ndarray:
    """`weight` of the image and the rest of the drawing; RGB uint8 [H,W,3]. 0.6 is PaddleSeg's default."""
    mixed = image.astype(np.float32) * weight + drawing.astype(np.float32) * (1.0 - weight)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def write_image(path: str | Path, image: np.ndarray) -> None:
    """RGB uint8 [H,W,3] to a file; the suffix decides the format (JPEG with quality 95)."""
    from PIL import Image

    Image.fromarray(image).save(path, **({"quality": 95} if str(path).lower().endswith((".jpg", ".jpeg")) else {}))
