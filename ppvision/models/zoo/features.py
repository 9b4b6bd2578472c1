"""Encoders and backbones: networks whose answer is a dict of features."""

from __future__ import annotations

from ppvision.models.zoo.entry import CLIP, Entry

_CAE_V2 = "ppvision.models.cae_v2:CaeV2"
_CLIP = "ppvision.models.clip_vision:ClipVision"
_VIT_DET = "ppvision.models.vit_det:VitDet"

ROWS: dict[str, Entry] = {
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
    "vit_det_base": Entry(_VIT_DET, "base", "features", (1024, 1024)),
    "vit_det_large": Entry(_VIT_DET, "large", "features", (1024, 1024)),
    "vit_det_huge": Entry(_VIT_DET, "huge", "features", (1024, 1024)),
    "vit_det_debug": Entry(_VIT_DET, "debug", "features", (64, 64)),
}
