"""Classifiers."""

from __future__ import annotations

from ppvision.models.zoo.entry import Entry

_MAFORMER = "ppvision.models.maformer:MAFormer"
_RESNET = "ppvision.models.resnet:ResNet"

ROWS: dict[str, Entry] = {
    "maformer_small": Entry(_MAFORMER, "small", "classification", (224, 224)),
    "maformer_base": Entry(_MAFORMER, "base", "classification", (224, 224)),
    "maformer_large": Entry(
        _MAFORMER,
        "large",
        "classification",
        (224, 224),
        published={"ImageNet-1K top-1": (85.9, "paper, abstract; not reproduced")},
    ),
    "maformer_debug": Entry(_MAFORMER, "debug", "classification", (64, 96)),
    "resnet18": Entry(
        _RESNET,
        "18",
        "classification",
        (224, 224),
        weights="https://download.pytorch.org/models/resnet18-f37072fd.pth",
        license="BSD-3-Clause",
        published={"ImageNet-1K top-1": (69.758, "torchvision documentation, IMAGENET1K_V1")},
    ),
    "resnet34": Entry(
        _RESNET,
        "34",
        "classification",
        (224, 224),
        weights="https://download.pytorch.org/models/resnet34-b627a593.pth",
        license="BSD-3-Clause",
        published={"ImageNet-1K top-1": (73.314, "torchvision documentation, IMAGENET1K_V1")},
    ),
    "resnet50": Entry(
        _RESNET,
        "50",
        "classification",
        (224, 224),
        weights="https://download.pytorch.org/models/resnet50-0676ba61.pth",
        license="BSD-3-Clause",
        published={"ImageNet-1K top-1": (76.13, "torchvision documentation, IMAGENET1K_V1")},
    ),
    "resnet101": Entry(
        _RESNET,
        "101",
        "classification",
        (224, 224),
        weights="https://download.pytorch.org/models/resnet101-63fe2227.pth",
        license="BSD-3-Clause",
        published={"ImageNet-1K top-1": (77.374, "torchvision documentation, IMAGENET1K_V1")},
    ),
    "resnet_debug": Entry(_RESNET, "debug", "classification", (64, 96)),
}
