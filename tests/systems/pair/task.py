"""What the two networks are asked, and what their answers mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from paddle import Tensor

from ppvision.data.io import read_image
from ppvision.errors import UserError
from ppvision.predict import drawing
from ppvision.predict.results import Result
from ppvision.predict.tasks.base import Ending, Extra, Net, Output, Task, class_agreement, image_inputs, named

YELLOW = np.array([[0, 0, 0], [255, 220, 0]], np.uint8)


@dataclass
class Marks(Result):
    """What is alike in a picture.

    Attributes:
        marks: uint8 [H,W], 1 where it is like the reference; in the size that was asked for.
        share: of the picture, by the graph.
    """

    marks: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.uint8))
    share: float = 0.0

    def save(self, folder: str | Path, stem: str, image: np.ndarray | None = None) -> list[Path]:
        """`<stem>.json`, the mask `<stem>.png`, with `image` the drawing `<stem>_overlay.jpg`."""
        files = super().save(folder, stem)
        files.append(Path(folder) / f"{stem}.png")
        drawing.write_label_png(files[-1], self.marks, YELLOW)
        if image is not None:
            files.append(Path(folder) / f"{stem}_overlay.jpg")
            drawing.write_image(files[-1], self.overlay(image))
        return files

    def overlay(self, image: np.ndarray) -> np.ndarray:
        """The picture with the marks on it."""
        import cv2

        marks = cv2.resize(self.marks, image.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        return drawing.blend(image, drawing.colourise(marks, YELLOW))

    def to_json(self) -> dict[str, Any]:
        """Size and share."""
        height, width = self.marks.shape
        return {"name": self.name, "height": height, "width": width, "share": round(self.share, 6)}


class MarkEnding(Ending):
    """Logits of the decoder -> `marks`, and the `share` of them."""

    parts = ("decode",)

    def __call__(self, outputs: Any) -> dict[str, Tensor]:
        marks_BHW = outputs.argmax(1).astype("int32")
        return {"marks": marks_BHW, "share": marks_BHW.astype("float32").mean([1, 2])}

    def outputs(self, given: Any) -> tuple[Output, ...]:
        """Two."""
        about = "[batch, height, width] in the size that was asked for, 1 where it is like the reference"
        return Output("marks", "labels", about, "int32"), Output("share", "scores", "[batch], mean of marks")


class PairTask(Task):
    """Marks of a picture. The reference lies beside the picture, or is given; so is the scale of the answer."""

    endings: ClassVar[Mapping[str, Ending]] = {"marks": MarkEnding(), "none": Ending()}
    extras: ClassVar[Mapping[str, Extra]] = {
        "reference": Extra("a picture of what is looked for", lambda value: {"crop_ref": read_image(str(value))}),
        "scale": Extra("size of the answer, as a share of the picture's", lambda value: {"scale": float(value)}),
    }
    way_back = "marks have the size that was asked for, times the share of the padded picture that is picture"

    def read(self, source: Any) -> dict[str, Any]:
        """Also `crop_ref`, where `../references/<name>` is a file."""
        sample = super().read(source)
        if "name" in sample:
            path = Path(sample["name"])
            reference = path.parent.parent / "references" / path.name
            if reference.is_file():
                sample["crop_ref"] = read_image(str(reference))
        return sample

    def inputs(self, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """`image`, `crop_ref`, `size`, and `valid` where something is padded."""
        if "crop_ref" not in batch:
            raise UserError("PairTask: no reference beside the picture; give --extra reference=FILE")
        scale = batch["scale"][0] if "scale" in batch else 1.0
        size = np.rint(np.asarray(batch["image"].shape[1:3]) * scale).astype(np.int32)
        pictures = image_inputs(batch, self.fill) | image_inputs(batch, self.fill, "crop_ref")
        return {**pictures, "size": np.maximum(size, 1)}

    def run(self, nets: Mapping[str, Net], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One network after the other."""
        pictures = {key: value for key, value in inputs.items() if key != "size"}
        outputs = nets["decode"](**nets["encode"](**pictures), size=inputs["size"])
        return named(outputs) if isinstance(outputs, Mapping) else self.endings["marks"](outputs)

    def results(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Any]) -> list[Result]:
        """Marks without what was padded."""
        height, width = batch["image"].shape[1:3]
        found = []
        for name, marks, share, inner in zip(
            batch["name"], outputs["marks"].numpy(), outputs["share"].numpy(), batch["inner"]
        ):
            rows, columns = np.rint(marks.shape * inner / (height, width)).astype(int)
            found.append(Marks(name, marks[:rows, :columns].astype(np.uint8), float(share)))
        return found

    def agreement(
        self, reference: Mapping[str, np.ndarray], product: Mapping[str, np.ndarray], tolerance: float
    ) -> tuple[float, float] | None:
        """Of the decoder, pixel by pixel; the encoder decides nothing."""
        return None if "features" in reference else class_agreement(reference, product, tolerance)

    def restore(self, folder: Path, record: Mapping[str, Any]) -> Result:
        """The marks of a saved mask."""
        from PIL import Image

        stem = next(file for file in record["files"] if file.endswith(".json"))
        content = json.loads((folder / stem).read_text(encoding="utf-8"))
        mask = np.asarray(Image.open(folder / next(file for file in record["files"] if file.endswith(".png"))))
        return Marks(record["image"], mask, content["share"])
