"""Palettes, palette PNG files and overlays. Colours are RGB, arrays uint8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def draw_boxes(
    image: np.ndarray, boxes: np.ndarray, colours: np.ndarray, texts: Sequence[str], width: int | None = None
) -> np.ndarray:
    """`image` (RGB uint8 [H,W,3]) with frames on a copy of it; the first box lies on top.

    Args:
        boxes: xyxy [n,4] in pixels.
        colours: uint8 [n,3] RGB.
        texts: one per box, written inside its upper left corner; may be empty.
        width: of a line; default grows with the image.
    """
    from PIL import Image, ImageDraw

    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    width = width or max(round(max(image.shape[:2]) / 400), 1)
    for box, colour, text in reversed(list(zip(np.asarray(boxes).tolist(), np.asarray(colours).tolist(), texts))):
        x1, y1, x2, y2 = box
        pen.rectangle((x1, y1, max(x2, x1), max(y2, y1)), outline=tuple(colour), width=width)
        if text:
            left, top, right, bottom = pen.textbbox((x1 + width, y1 + width), text)
            shift_x = min(0, image.shape[1] - right)  # text of a box at the right border stays in the picture
            pen.rectangle((left + shift_x - 1, top - 1, right + shift_x + 1, bottom + 1), fill=tuple(colour))
            bright = sum(colour) > 380
            pen.text((x1 + width + shift_x, y1 + width), text, fill=(0, 0, 0) if bright else (255, 255, 255))
    return np.asarray(picture)


HIT = (0, 170, 0)
FALSE_ALARM = (220, 0, 0)
MISS = (255, 210, 0)


def draw_hits(
    image: np.ndarray,
    predicted: Mapping[str, np.ndarray],
    hit: np.ndarray,
    objects: Mapping[str, np.ndarray],
    found: np.ndarray,
    names: Sequence[str],
) -> np.ndarray:
    """Predictions against annotations: hits green, false alarms red, objects that were missed yellow.

    Args:
        image: RGB uint8 [H,W,3].
        predicted: `boxes` xyxy [n,4], `scores` [n], `classes` [n].
        hit: bool [n].
        objects: `boxes` [m,4], `classes` [m].
        found: bool [m].
        names: by class id.
    """
    boxes = np.concatenate([predicted["boxes"], objects["boxes"][~found]])
    colours = np.asarray([HIT if h else FALSE_ALARM for h in hit] + [MISS] * int((~found).sum()), np.uint8)
    texts = [f"{names[k]} {s:.2f}" for k, s in zip(predicted["classes"], predicted["scores"])]
    texts += [f"{names[k]} missed" for k in objects["classes"][~found]]
    return draw_boxes(image, boxes, colours.reshape(-1, 3), texts)


def write_image(path: str | Path, image: np.ndarray) -> None:
    """RGB uint8 [H,W,3] to a file; the suffix decides the format (JPEG with quality 95)."""
    from PIL import Image

    Image.fromarray(image).save(path, **({"quality": 95} if str(path).lower().endswith((".jpg", ".jpeg")) else {}))
