"""Data: one file per on-disk format, transforms shared by train, eval and deploy, collate, the loader.

Importing this package imports neither Paddle nor OpenCV; the public names below load their module when first used.
`DATASETS` and `TRANSFORMS` map the short names a recipe uses to `"module:attribute"`.
"""

from __future__ import annotations

import importlib
from typing import Any

DATASETS: dict[str, str] = {
    "ade20k": "ppvision.data.formats.ade20k:Ade20k",
    "cityscapes": "ppvision.data.formats.cityscapes:Cityscapes",
    "coco": "ppvision.data.formats.coco:Coco",
    "imagefolder": "ppvision.data.formats.imagefolder:ImageFolder",
    "images": "ppvision.data.formats.images:Images",
    "seg_list": "ppvision.data.formats.seg_list:SegList",
    "idx": "ppvision.data.formats.idx:Idx",
    "list_file": "ppvision.data.formats.list_file:ListFile",
}

TRANSFORMS: dict[str, str] = {
    name: f"ppvision.data.transforms.image:{name}"
    for name in (
        "CenterCrop",
        "ColorJitter",
        "PadTo",
        "RandomCrop",
        "RandomFlip",
        "RandomResizedCrop",
        "RandomScale",
        "Resize",
    )
}
TRANSFORMS |= {name: f"ppvision.data.transforms.classification:{name}" for name in ("RandAugment", "RandomErasing")}
TRANSFORMS |= {
    name: f"ppvision.data.transforms.detection:{name}" for name in ("RandomChoice", "RandomShortSide", "RandomSizeCrop")
}

_PUBLIC = {
    "Compose": "ppvision.data.transforms.image",
    "Dataset": "ppvision.data.base",
    "Loader": "ppvision.data.loader",
    "PackedStrings": "ppvision.data.index",
    "SegmentationDataset": "ppvision.data.base",
    "build_transforms": "ppvision.data.transforms.image",
    "read_image": "ppvision.data.io",
    "read_mask": "ppvision.data.io",
}
__all__ = ["DATASETS", "TRANSFORMS", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'ppvision.data' has no attribute '{name}'")
