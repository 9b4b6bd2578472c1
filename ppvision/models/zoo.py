"""Names of networks: what builds each, what it takes, where its published weights and figures come from.

Listing names imports no Paddle; a network's module is imported when it is asked for. To add a family: its builder
`f(variant, **overrides) -> Network` (the return annotation names the class, whose `__init__` is the schema of a
recipe's `model:`) and its rows in `ZOO`.
"""

from __future__ import annotations

import fnmatch
import importlib
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ppvision.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from paddle import Tensor, nn

__all__ = [
    "ZOO",
    "Entry",
    "create_model",
    "deployables",
    "entry",
    "example_inputs",
    "list_models",
    "network_class",
    "signature",
]

IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
HALF = ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
CLIP = (
    (0.48145466 * 255, 0.4578275 * 255, 0.40821073 * 255),
    (0.26862954 * 255, 0.26130258 * 255, 0.27577711 * 255),
)
IMAGE = {"image": (("B", 3, "H", "W"), "float32")}


@dataclass(frozen=True)
class Entry:
    """One row of the zoo.

    Attributes:
        builder: "module:function"; `function(variant, **overrides)` builds the network.
        variant: the builder's first argument.
        task: "segmentation", …: which `predict.Task` reads the outputs.
        example: height and width that tests and exports use.
        inputs: argument name of `forward` -> (shape, dtype); "B", "H" and "W" stand for the free sides.
        mean_std: per channel, on the 0..255 scale, RGB; travels with the weights and ends inside the exported graph.
        weights: where the published weights are: URL, or URL#sha256 once somebody has verified the file.
        license: licence of those weights.
        published: figure -> (value, source).
    """

    builder: str
    variant: str
    task: str
    example: tuple[int, int]
    inputs: dict[str, tuple[tuple[int | str, ...], str]] = field(default_factory=lambda: dict(IMAGE))
    mean_std: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    weights: str | None = None
    license: str | None = None
    published: dict[str, tuple[float, str]] = field(default_factory=dict)


def _miou(source: str, **figures: tuple[float, float, float]) -> dict[str, tuple[float, str]]:
    """Rows "data set: (single scale, flip, multi-scale and flip)" of a PaddleSeg table as figures in percent."""
    names = ("mIoU", "mIoU flip", "mIoU ms+flip")
    return {
        f"{data} {name}": (value, source)
        for data, row in figures.items()
        for name, value in zip(names, row, strict=True)
    }


_SEG = "https://paddleseg.bj.bcebos.com/dygraph/cityscapes"
_BJ = "https://bj.bcebos.com/paddleseg/dygraph/cityscapes"
_RTFORMER = "ppvision.models.rtformer:rtformer"
_UHRNET = "ppvision.models.uhrnet:uhrnet"
_MAFORMER = "ppvision.models.maformer:maformer"
_UPERNET_MAFORMER = "ppvision.models.upernet:upernet_maformer"
_CAE_V2 = "ppvision.models.cae_v2:cae_v2"
_UPERNET_CAE_V2 = "ppvision.models.upernet_cae_v2:upernet_cae_v2"
_CLIP = "ppvision.models.clip_vision:clip_vision"
_DAB_DETR = "ppvision.models.dab_detr:dab_detr"
_DEFORMABLE_DETR = "ppvision.models.deformable_detr:deformable_detr"
_RESNET = "ppvision.models.resnet:resnet"
_DINO = "ppvision.models.dino:dino"
_RETINANET = "ppvision.models.retinanet:retinanet"
_VIT_DET = "ppvision.models.vit_det:vit_det"
_PADDLEDET = "https://bj.bcebos.com/v1/paddledet/models"
_RTFORMER_TABLE = "PaddleSeg configs/rtformer/README.md"
_UHRNET_TABLE = "PaddleSeg configs/uhrnet/README.md, 120k iterations, batch 12"

ZOO: dict[str, Entry] = {
    "rtformer_slim": Entry(
        _RTFORMER,
        "slim",
        "segmentation",
        (512, 1024),
        weights=f"{_SEG}/rtformer_slim_cityscapes_1024x512_120k/model.pdparams",
        license="Apache-2.0",
        published=_miou(_RTFORMER_TABLE, cityscapes=(76.31, 77.05, 77.91), ade20k=(36.67, 37.32, 37.58)),
    ),
    "rtformer_base": Entry(
        _RTFORMER,
        "base",
        "segmentation",
        (512, 1024),
        weights=f"{_SEG}/rtformer_base_cityscapes_1024x512_120k/model.pdparams",
        license="Apache-2.0",
        published=_miou(_RTFORMER_TABLE, cityscapes=(79.24, 79.80, 80.48), ade20k=(42.02, 42.43, 42.97)),
    ),
    "rtformer_debug": Entry(_RTFORMER, "debug", "segmentation", (64, 96)),
    "uhrnet_w18_small": Entry(
        _UHRNET,
        "w18_small",
        "segmentation",
        (512, 1024),
        mean_std=HALF,
        weights=f"{_BJ}/fcn_uhrnetw18_small_cityscapes_1024x512_120k_bs3/model.pdparams",
        license="Apache-2.0",
        published=_miou(_UHRNET_TABLE, cityscapes=(78.39, 79.09, 79.35)),
    ),
    "uhrnet_w18": Entry(_UHRNET, "w18", "segmentation", (512, 1024), mean_std=HALF),
    "uhrnet_w48": Entry(
        _UHRNET,
        "w48",
        "segmentation",
        (512, 1024),
        mean_std=HALF,
        weights=f"{_BJ}/fcn_uhrnetw48_cityscapes_1024x512_120k_bs3/model.pdparams",
        license="Apache-2.0",
        published=_miou(_UHRNET_TABLE, cityscapes=(81.91, 82.39, 82.71)),
    ),
    "uhrnet_debug": Entry(_UHRNET, "debug", "segmentation", (64, 96), mean_std=HALF),
    "cae_v2_tiny": Entry(_CAE_V2, "tiny", "features", (224, 224)),
    "cae_v2_small": Entry(_CAE_V2, "small", "features", (224, 224)),
    "cae_v2_base": Entry(
        _CAE_V2,
        "base",
        "features",
        (224, 224),
        published={
            "imagenet linear top1": (80.5, "table of a later paper on masked image modelling"),
            "imagenet fine-tuned top1": (85.3, "table of a later paper on masked image modelling"),
            "ade20k mIoU": (52.9, "table of a later paper on masked image modelling"),
        },
    ),
    "cae_v2_large": Entry(
        _CAE_V2,
        "large",
        "features",
        (224, 224),
        published={
            "imagenet linear top1": (81.7, "arXiv:2211.09799, abstract"),
            "imagenet fine-tuned top1": (86.7, "arXiv:2211.09799, abstract"),
            "ade20k mIoU": (55.9, "arXiv:2211.09799, abstract"),
        },
    ),
    "cae_v2_debug": Entry(_CAE_V2, "debug", "features", (24, 24)),
    "cae_v2_debug_l": Entry(_CAE_V2, "debug_l", "features", (24, 24)),
    "clip_vit_b16": Entry(_CLIP, "b16", "features", (224, 224), mean_std=CLIP),
    "clip_vit_l14": Entry(_CLIP, "l14", "features", (224, 224), mean_std=CLIP),
    "clip_vit_debug": Entry(_CLIP, "debug", "features", (24, 24), mean_std=CLIP),
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
    "upernet_maformer_small": Entry(_UPERNET_MAFORMER, "small", "segmentation", (512, 512)),
    "upernet_maformer_base": Entry(_UPERNET_MAFORMER, "base", "segmentation", (512, 512)),
    "upernet_maformer_large": Entry(_UPERNET_MAFORMER, "large", "segmentation", (512, 512)),
    "upernet_maformer_debug": Entry(_UPERNET_MAFORMER, "debug", "segmentation", (64, 96)),
    "upernet_cae_v2_tiny": Entry(_UPERNET_CAE_V2, "tiny", "segmentation", (512, 512)),
    "upernet_cae_v2_small": Entry(_UPERNET_CAE_V2, "small", "segmentation", (512, 512)),
    "upernet_cae_v2_base": Entry(_UPERNET_CAE_V2, "base", "segmentation", (512, 512)),
    "upernet_cae_v2_large": Entry(_UPERNET_CAE_V2, "large", "segmentation", (512, 512)),
    "upernet_cae_v2_debug": Entry(_UPERNET_CAE_V2, "debug", "segmentation", (64, 96)),
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
    "dab_detr_r18": Entry(
        _DAB_DETR,
        "r18",
        "detection",
        (800, 1088),
        published={"COCO AP": (36.2, "arXiv:2211.08071, 50 epochs, its baseline")},
    ),
    "dab_detr_r50": Entry(
        _DAB_DETR,
        "r50",
        "detection",
        (800, 1088),
        weights="https://huggingface.co/IDEA-Research/dab-detr-resnet-50/resolve/main/model.safetensors",
        license="Apache-2.0",
        published={"COCO AP": (42.2, "IDEA-Research/DAB-DETR README, 50 epochs")},
    ),
    "dab_detr_r101": Entry(
        _DAB_DETR,
        "r101",
        "detection",
        (800, 1088),
    ),
    "dab_detr_debug": Entry(_DAB_DETR, "debug", "detection", (64, 96)),
    "vit_det_base": Entry(_VIT_DET, "base", "features", (1024, 1024)),
    "vit_det_large": Entry(_VIT_DET, "large", "features", (1024, 1024)),
    "vit_det_huge": Entry(_VIT_DET, "huge", "features", (1024, 1024)),
    "vit_det_debug": Entry(_VIT_DET, "debug", "features", (64, 64)),
    "deformable_detr_r18": Entry(
        _DEFORMABLE_DETR,
        "r18",
        "detection",
        (800, 1088),
    ),
    "deformable_detr_r50": Entry(
        _DEFORMABLE_DETR,
        "r50",
        "detection",
        (800, 1088),
        weights="https://huggingface.co/SenseTime/deformable-detr/resolve/main/model.safetensors",
        license="Apache-2.0",
        published={
            "COCO AP": (44.5, "fundamentalvision/Deformable-DETR README, 50 epochs"),
            "COCO AP refined": (46.2, "fundamentalvision/Deformable-DETR README, 50 epochs, refine"),
            "COCO AP two-stage": (46.9, "fundamentalvision/Deformable-DETR README, 50 epochs, refine and two_stage"),
        },
    ),
    "deformable_detr_r101": Entry(
        _DEFORMABLE_DETR,
        "r101",
        "detection",
        (800, 1088),
    ),
    "deformable_detr_debug": Entry(_DEFORMABLE_DETR, "debug", "detection", (64, 96)),
    "dino_r18": Entry(_DINO, "r18", "detection", (800, 1088)),
    "dino_r50": Entry(
        _DINO,
        "r50",
        "detection",
        (800, 1088),
        weights="https://paddledet.bj.bcebos.com/models/dino_r50_4scale_2x_coco.pdparams",
        license="Apache-2.0",
        published={
            "COCO AP 12 epochs": (49.0, "IDEA-Research/DINO README, 4 scales"),
            "COCO AP 24 epochs": (50.4, "IDEA-Research/DINO README, 4 scales"),
            "COCO AP 36 epochs": (50.9, "IDEA-Research/DINO README, 4 scales"),
        },
    ),
    "dino_r101": Entry(_DINO, "r101", "detection", (800, 1088)),
    "dino_debug": Entry(_DINO, "debug", "detection", (64, 96)),
    "group_dino_r50": Entry(
        _DINO,
        "r50",
        "detection",
        (800, 1088),
        weights=f"{_PADDLEDET}/group_dino_r50_4scale_1x_coco.pdparams",
        license="Apache-2.0",
        published={"COCO AP 12 epochs": (49.6, "PaddleDetection configs/group_detr/README.md")},
    ),
    "group_detr_v2_vit_huge": Entry(
        _DINO,
        "vit_huge",
        "detection",
        (1184, 2000),
        weights=f"{_PADDLEDET}/group_dino_vit_huge_4scale_1x_coco.pdparams",
        license="Apache-2.0",
        published={
            "COCO AP": (63.3, "PaddleDetection configs/group_detr/README.md, one scale"),
            "COCO test-dev AP": (64.5, "arXiv:2211.03594"),
        },
    ),
    "group_detr_v2_debug": Entry(_DINO, "debug_vit", "detection", (64, 96)),
    "retinanet_r18": Entry(_RETINANET, "r18", "detection", (800, 1088)),
    "retinanet_r50": Entry(_RETINANET, "r50", "detection", (800, 1088)),
    "retinanet_r101": Entry(_RETINANET, "r101", "detection", (800, 1088)),
    "retinanet_debug": Entry(_RETINANET, "debug", "detection", (64, 96)),
}


def list_models(pattern: str = "*") -> list[str]:
    """Names that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(ZOO, pattern))


def entry(name: str) -> Entry:
    """The row of `name`.

    Raises:
        UserError: there is no such name; the nearest one is suggested.
    """
    if name not in ZOO:
        raise UserError(f"no model '{name}'{did_you_mean(name, ZOO)} (all names: ppvision models)")
    return ZOO[name]


def _builder(name: str) -> Callable[..., nn.Layer]:
    module, _, function = entry(name).builder.partition(":")
    return getattr(importlib.import_module(module), function)


def network_class(name: str) -> type[nn.Layer]:
    """The class that `create_model(name)` gives an instance of."""
    return typing.get_type_hints(_builder(name))["return"]


def signature(name: str) -> inspect.Signature:
    """Arguments `create_model(name, …)` takes: those of the network class, with the defaults of this variant and
    resolved types.
    """
    builder = _builder(name)
    cls = typing.get_type_hints(builder)["return"]
    hints = typing.get_type_hints(cls.__init__)
    variant = importlib.import_module(builder.__module__).VARIANTS[entry(name).variant]
    params = [
        p.replace(annotation=hints.get(p.name, p.annotation), default=variant.get(p.name, p.default))
        for p in list(inspect.signature(cls.__init__).parameters.values())[1:]
    ]
    return inspect.Signature(params)


def create_model(name: str, **kwargs: Any) -> nn.Layer:
    """Build the inference network `name`; `ppvision.create_model` also loads weights into it.

    Args:
        name: a name of `list_models()`.
        kwargs: arguments of the network class that differ from the variant's, such as `num_classes`.

    Raises:
        UserError: an unknown name or argument.
    """
    known = signature(name).parameters
    for key in kwargs:
        if key not in known:
            raise UserError(f"{name}: unknown argument '{key}'{did_you_mean(key, known)}")
    return _builder(name)(entry(name).variant, **kwargs)


def example_inputs(name: str, batch: int = 1, size: tuple[int, int] | None = None) -> dict[str, Tensor]:
    """Inputs by argument name, `net(**example_inputs(name))`: standard normal, the same at every call.

    Args:
        name: a name of the zoo.
        batch: number of samples.
        size: height and width; default: the entry's `example`.
    """
    import numpy as np
    import paddle

    row = entry(name)
    free = dict(zip("BHW", (batch, *(size or row.example)), strict=True))
    rng = np.random.default_rng(0)
    return {
        key: paddle.to_tensor(rng.standard_normal([free.get(side, side) for side in shape]).astype(dtype))
        for key, (shape, dtype) in row.inputs.items()
    }


def deployables(net: nn.Layer) -> dict[str, nn.Layer]:
    """What is evaluated, averaged and exported of a network: its own `deployables()`, else itself as "model"."""
    return net.deployables() if hasattr(net, "deployables") else {"model": net}
