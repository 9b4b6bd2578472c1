"""What a prediction is, for a person or a program: one class per kind of answer, each can be saved, drawn and put into
JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ppvision.predict import drawing

# What `save` of the results below adds to a stem: files that must not be the images themselves.
RESULT_SUFFIXES = (".png", "_overlay.jpg", ".json", ".npz")


@dataclass
class Result:
    """Base class. `name` is the image's path, or its number when an array was given."""

    name: str = ""

    def save(self, folder: str | Path, stem: str, image: np.ndarray | None = None) -> list[Path]:
        """Write the result into `folder` under `stem`; with `image` (RGB uint8 [H,W,3]) a drawing too. Returns the
        files."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{stem}.json"
        path.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")
        return [path]

    def overlay(self, image: np.ndarray) -> np.ndarray:
        """`image` (RGB uint8 [H,W,3], the original) with the result drawn on a copy of it."""
        return image.copy()

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts."""
        return {"name": self.name}


class _OfClasses:
    """Results that speak of classes."""

    class_names: Sequence[str]

    def _class_name(self, index: int) -> str:
        return self.class_names[index] if index < len(self.class_names) else str(index)


class _Drawn(_OfClasses):
    """Results whose drawing is a file of its own."""

    def save(self, folder: str | Path, stem: str, image: np.ndarray | None = None) -> list[Path]:
        """`<stem>.json`; with `image` also the drawing `<stem>.png`."""
        files = super().save(folder, stem)
        if image is not None:
            files.append(Path(folder) / f"{stem}.png")
            drawing.write_image(files[-1], self.overlay(image))
        return files


@dataclass
class Mask(_OfClasses, Result):
    """Semantic segmentation in the size of the original image.

    Args:
        labels: uint8 or int32 [H,W], class ids.
        class_names: by class id; may be empty.
        palette: uint8 [K,3] RGB, or None for the default colours.
    """

    labels: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.uint8))
    class_names: Sequence[str] = ()
    palette: np.ndarray | None = None

    def save(self, folder: str | Path, stem: str, image: np.ndarray | None = None) -> list[Path]:
        """`<stem>.png`, a palette PNG of class ids; with `image` also `<stem>_overlay.jpg`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"{stem}.png"]
        drawing.write_label_png(files[0], self.labels, self.palette)
        if image is not None:
            files.append(folder / f"{stem}_overlay.jpg")
            drawing.write_image(files[1], self.overlay(image))
        return files

    def overlay(self, image: np.ndarray) -> np.ndarray:
        """60 % image and 40 % class colours."""
        return drawing.blend(image, drawing.colourise(self.labels, self.palette))

    def to_json(self) -> dict[str, Any]:
        """Size and the share of each class that occurs; the mask itself is the PNG file."""
        ids, counts = np.unique(self.labels, return_counts=True)
        return {
            "name": self.name,
            "height": int(self.labels.shape[0]),
            "width": int(self.labels.shape[1]),
            "classes": [
                {"id": int(i), "name": self._class_name(int(i)), "share": round(int(n) / self.labels.size, 6)}
                for i, n in zip(ids, counts)
            ],
        }


@dataclass
class Classes(_Drawn, Result):
    """Image classification.

    Args:
        scores: float32 [K], probabilities.
        class_names: by class id; may be empty.
        top: how many classes `to_json` lists.
    """

    scores: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    class_names: Sequence[str] = ()
    top: int = 5

    @property
    def ids(self) -> np.ndarray:
        """Class ids by falling score, int64 [K]; equal scores by rising id."""
        return np.argsort(-self.scores, kind="stable")

    def overlay(self, image: np.ndarray) -> np.ndarray:
        """The best class, written in the upper left corner."""
        from PIL import Image, ImageDraw

        best = int(self.ids[0])
        picture = Image.fromarray(image)
        pen = ImageDraw.Draw(picture)
        text = f"{self._class_name(best)} {self.scores[best]:.3f}"
        pen.rectangle(pen.textbbox((2, 2), text), fill=(0, 0, 0))
        pen.text((2, 2), text, fill=(255, 255, 255))
        return np.asarray(picture)

    def to_json(self) -> dict[str, Any]:
        """The `top` best classes with id, name and score."""
        best = [
            {"id": int(i), "name": self._class_name(int(i)), "score": float(self.scores[i])}
            for i in self.ids[: self.top]
        ]
        return {"name": self.name, "classes": best}


@dataclass
class Boxes(_Drawn, Result):
    """Objects found in an image.

    Args:
        boxes: float32 [n,4] xyxy in pixels of the original image.
        scores: float32 [n].
        classes: int64 [n].
        class_names: by class id; may be empty.
        palette: uint8 [K,3] RGB, or None for the default colours.
        draw_threshold: what scores below is not drawn.
    """

    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    classes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    class_names: Sequence[str] = ()
    palette: np.ndarray | None = None
    draw_threshold: float = 0.5

    def overlay(self, image: np.ndarray) -> np.ndarray:
        """A frame in the colour of its class around everything that scores at least `draw_threshold`, with name and
        score."""
        keep = self.scores >= self.draw_threshold
        classes = self.classes[keep]
        colours = drawing.full_palette(self.palette, max(256, int(classes.max(initial=0)) + 1))[classes]
        dark = colours.sum(1, keepdims=True, dtype=np.int64) < 96  # a frame of that colour would not be seen
        colours = np.where(dark, 255 - colours, colours)
        texts = [f"{self._class_name(int(k))} {s:.2f}" for k, s in zip(classes, self.scores[keep])]
        return drawing.draw_boxes(image, self.boxes[keep], colours, texts)

    def to_json(self) -> dict[str, Any]:
        """All objects in their order, with class id, name, score and box [x1, y1, x2, y2]."""
        objects = [
            {
                "id": int(k),
                "name": self._class_name(int(k)),
                "score": round(float(s), 6),
                "box": np.round(box, 2).tolist(),
            }
            for k, s, box in zip(self.classes, self.scores, self.boxes.astype(np.float64))
        ]
        return {"name": self.name, "objects": objects}


@dataclass
class Features(Result):
    """Vectors an encoder gives, for retrieval or as input of another program.

    Args:
        arrays: name -> float32 array, e.g. {"cls": [D], "tokens": [N,D]}.
    """

    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def save(self, folder: str | Path, stem: str, image: np.ndarray | None = None) -> list[Path]:
        """`<stem>.npz` with all arrays and `<stem>.json` with their shapes; there is nothing to draw."""
        files = super().save(folder, stem)
        files.append(Path(folder) / f"{stem}.npz")
        np.savez(files[-1], **self.arrays)
        return files

    def to_json(self) -> dict[str, Any]:
        """Shape and Euclidean length of each array."""
        arrays = {
            key: {"shape": list(value.shape), "norm": float(np.linalg.norm(value))}
            for key, value in self.arrays.items()
        }
        return {"name": self.name, "arrays": arrays}
