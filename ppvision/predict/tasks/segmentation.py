"""Semantic segmentation: plain, flipped, multi-scale and sliding-window inference, logits back to the original size,
decision.

Every combination averages raw logits, not probabilities (PaddleSeg 2.8, `paddleseg/core/infer.py`). Sides of a scaled
image are `int(side * scale + 0.5)`, at least 1. Windows of a slide are moved inwards at the right and lower border and
overlaps are averaged; a window at least as large as the image is the plain forward pass.
A graph that decides itself gives labels, which only the nearest pixel can bring to the original size: where the
transforms resize, its borders differ by a pixel from those of resized logits. Export with output_op none where that
matters.
Deviates: the windows' sum stays on the device in float32 (upstream: numpy float64).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ppvision.errors import UserError
from ppvision.predict.results import Mask, Result
from ppvision.predict.tasks.base import Ending, Net, Output, Task, class_agreement, first, images_of, only_net


class Argmax(Ending):
    """Class ids."""

    def __call__(self, outputs: Any) -> dict[str, Tensor]:
        return {"labels": paddle.argmax(first(outputs), axis=1, dtype="int32")}

    def outputs(self, given: Any) -> tuple[Output, ...]:
        return (Output("labels", "labels", "[B,H,W] class ids", "int32"),)


class Softmax(Ending):
    """Probabilities over the classes."""

    def __call__(self, outputs: Any) -> dict[str, Tensor]:
        return {"probabilities": F.softmax(first(outputs), axis=1)}

    def outputs(self, given: Any) -> tuple[Output, ...]:
        return (Output("probabilities", "probabilities", "[B,K,H,W], sum 1 over the classes K"),)


class SegmentationTask(Task):
    """Networks give logits [B,K,H,W] or, when the graph already decided, integer labels [B,H,W].

    Args:
        class_names: by class id.
        palette: uint8 [K,3] RGB.
        flip: also the mirrored image.
        flip_vertical: also the image upside down; with `flip` all four combinations.
        scales: of the input, averaged; (1.0,) is plain.
        slide: {"crop": [h, w], "stride": [h, w]} pixels, or an object with these attributes, or None.
    """

    endings = {"argmax": Argmax(), "softmax": Softmax(), "none": Ending()}
    way_back = (
        "cut off the padding at the bottom and right; labels to the original size by the nearest pixel centre, source "
        "= floor((target + 0.5) * side / original side); scores by INTER_LINEAR per class, then the highest"
    )

    def __init__(
        self,
        class_names: Sequence[str] = (),
        palette: Any = None,
        flip: bool = False,
        flip_vertical: bool = False,
        scales: Sequence[float] = (1.0,),
        slide: Any = None,
    ):
        super().__init__(class_names, palette)
        self.scales = tuple(float(s) for s in ([scales] if isinstance(scales, (int, float)) else scales))
        if not self.scales or min(self.scales) <= 0:
            raise UserError(f"scales must be positive numbers, got {list(self.scales)}")
        self.flips = [()] + [(3,)] * flip + [(2,)] * flip_vertical + [(2, 3)] * (flip and flip_vertical)
        self.slide = None if slide is None else _checked_slide(slide)

    def run(self, nets: Mapping[str, Net], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{"logits": [B,K,H,W]} in the size of the input, or {"labels": [B,h,w]} of a graph that decides itself."""
        net, image = only_net(nets), inputs["image"]
        if len(self.flips) == 1 and self.scales == (1.0,) and self.slide is None:
            output = first(net(**inputs))
            return {"labels": output} if _is_labels(output) else {"logits": output}
        size, total = image.shape[2:], None
        for scale in self.scales:
            scaled = _resized(image, [max(int(side * scale + 0.5), 1) for side in size])
            for axes in self.flips:
                logits = self._logits(net, paddle.flip(scaled, axes) if axes else scaled)
                logits = _resized(paddle.flip(logits, axes) if axes else logits, size)
                total = logits if total is None else total + logits
        return {"logits": total / (len(self.scales) * len(self.flips))}

    def results(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Any]) -> list[Result]:
        """One `Mask` per image: padding cut off (`inner`), resized to `size`, decided."""
        key = "labels" if "labels" in outputs else "logits"
        values = outputs[key]
        count = values.shape[0]
        names = batch.get("name") or [""] * count
        masks = []
        rows = zip(names, images_of(batch, "inner", count), images_of(batch, "size", count))
        for i, (name, inner, size) in enumerate(rows):
            h, w = values.shape[-2:] if inner is None else (int(n) for n in inner)
            size = [h, w] if size is None else [int(n) for n in size]
            if key == "labels":
                labels = _nearest(values[i].numpy()[:h, :w], size)
            else:
                labels = _resized(values[i : i + 1, :, :h, :w], size).argmax(1)[0].numpy()
            small = labels.size == 0 or labels.max() < 256
            masks.append(
                Mask(str(name), labels.astype(np.uint8 if small else np.int32), self.class_names, self.palette)
            )
        return masks

    def agreement(
        self, reference: Mapping[str, np.ndarray], product: Mapping[str, np.ndarray], tolerance: float
    ) -> tuple[float, float] | None:
        """Share of pixels with the same class."""
        return class_agreement(reference, product, tolerance)

    def _logits(self, net: Net, image: Tensor) -> Tensor:
        if self.slide is None:
            return _need_logits(net(image=image))
        (height, width), (crop_h, crop_w), (step_h, step_w) = image.shape[2:], *self.slide
        if crop_h >= height and crop_w >= width:
            return _need_logits(net(image=image))
        total, count = None, np.zeros((1, 1, height, width), np.float32)
        for bottom in _window_ends(height, crop_h, step_h):
            for right in _window_ends(width, crop_w, step_w):
                top, left = max(bottom - crop_h, 0), max(right - crop_w, 0)
                logits = _need_logits(net(image=image[:, :, top:bottom, left:right]))
                if total is None:
                    total = paddle.zeros([*logits.shape[:2], height, width], "float32")
                total[:, :, top:bottom, left:right] += logits
                count[:, :, top:bottom, left:right] += 1
        return total / paddle.to_tensor(count)


def _checked_slide(slide: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    if not isinstance(slide, Mapping):  # the typed section of a recipe
        slide = {"crop": slide.crop, "stride": slide.stride}
    if set(slide) != {"crop", "stride"} or any(len(v) != 2 or min(v) < 1 for v in slide.values()):
        raise UserError(f"slide must be {{crop: [h, w], stride: [h, w]}} with positive pixels, got {dict(slide)}")
    crop, stride = tuple(slide["crop"]), tuple(slide["stride"])
    if stride[0] > crop[0] or stride[1] > crop[1]:
        raise UserError(
            f"slide: stride {list(stride)} is larger than crop {list(crop)}; pixels between would be missed"
        )
    return crop, stride


def _window_ends(length: int, crop: int, stride: int) -> list[int]:
    """Where windows end, so that the last one ends with the image."""
    count = max(-(-(length - crop) // stride), 0) + 1
    return [min(i * stride + crop, length) for i in range(count)]


def _is_labels(output: Tensor) -> bool:
    return output.ndim == 3


def _need_logits(output: Any) -> Tensor:
    output = first(output)
    if _is_labels(output):
        raise UserError(
            "flip, scales and slide average logits, but this graph gives labels; export it with --output_op none, "
            "or predict from the config and the weights"
        )
    return output


def _resized(x_BCHW: Tensor, size: Sequence[int]) -> Tensor:
    if list(x_BCHW.shape[2:]) == list(size):
        return x_BCHW
    return F.interpolate(x_BCHW, size=list(size), mode="bilinear", align_corners=False)


def _nearest(labels: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Nearest pixel centre, so that halving takes no side."""
    if list(labels.shape) == list(size):
        return labels
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) * old / n).astype(np.int64), old - 1) for n, old in zip(size, labels.shape)
    )
    return labels[rows][:, columns]
