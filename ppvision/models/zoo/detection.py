"""Detectors: all can be told which pixels are padding."""

from __future__ import annotations

from ppvision.models.inputs import IMAGE, VALID
from ppvision.models.zoo.entry import Entry

_PADDLEDET = "https://bj.bcebos.com/v1/paddledet/models"
_PICTURE = {"image": IMAGE, "valid": VALID}
_DAB_DETR = "ppvision.models.dab_detr:DabDetr"
_DEFORMABLE_DETR = "ppvision.models.deformable_detr:DeformableDetr"
_DINO = "ppvision.models.dino:Dino"
_RETINANET = "ppvision.models.retinanet:RetinaNet"

ROWS: dict[str, Entry] = {
    "dab_detr_r18": Entry(
        _DAB_DETR,
        "r18",
        "detection",
        (800, 1088),
        inputs=_PICTURE,
        published={"COCO AP": (36.2, "arXiv:2211.08071, 50 epochs, its baseline")},
    ),
    "dab_detr_r50": Entry(
        _DAB_DETR,
        "r50",
        "detection",
        (800, 1088),
        inputs=_PICTURE,
        weights="https://huggingface.co/IDEA-Research/dab-detr-resnet-50/resolve/main/model.safetensors",
        license="Apache-2.0",
        published={"COCO AP": (42.2, "IDEA-Research/DAB-DETR README, 50 epochs")},
    ),
    "dab_detr_r101": Entry(
        _DAB_DETR,
        "r101",
        "detection",
        (800, 1088),
        inputs=_PICTURE,
    ),
    "dab_detr_debug": Entry(_DAB_DETR, "debug", "detection", (64, 96), inputs=_PICTURE),
    "deformable_detr_r18": Entry(
        _DEFORMABLE_DETR,
        "r18",
        "detection",
        (800, 1088),
        inputs=_PICTURE,
    ),
    "deformable_detr_r50": Entry(
        _DEFORMABLE_DETR,
        "r50",
        "detection",
        (800, 1088),
        inputs=_PICTURE,
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
        inputs=_PICTURE,
    ),
    "deformable_detr_debug": Entry(_DEFORMABLE_DETR, "debug", "detection", (64, 96), inputs=_PICTURE),
    "dino_r18": Entry(_DINO, "r18", "detection", (800, 1088), inputs=_PICTURE),
    "dino_r50": Entry(
        _DINO,
        "r50",
        "detection",
        (800, 1088),
        inputs=_PICTURE,
        weights="https://paddledet.bj.bcebos.com/models/dino_r50_4scale_2x_coco.pdparams",
        license="Apache-2.0",
        published={
            "COCO AP 12 epochs": (49.0, "IDEA-Research/DINO README, 4 scales"),
            "COCO AP 24 epochs": (50.4, "IDEA-Research/DINO README, 4 scales"),
            "COCO AP 36 epochs": (50.9, "IDEA-Research/DINO README, 4 scales"),
        },
    ),
    "dino_r101": Entry(_DINO, "r101", "detection", (800, 1088), inputs=_PICTURE),
    "dino_debug": Entry(_DINO, "debug", "detection", (64, 96), inputs=_PICTURE),
    "group_dino_r50": Entry(
        _DINO,
        "r50",
        "detection",
        (800, 1088),
        inputs=_PICTURE,
        weights=f"{_PADDLEDET}/group_dino_r50_4scale_1x_coco.pdparams",
        license="Apache-2.0",
        published={"COCO AP 12 epochs": (49.6, "PaddleDetection configs/group_detr/README.md")},
    ),
    "group_detr_v2_vit_huge": Entry(
        _DINO,
        "vit_huge",
        "detection",
        (1184, 2000),
        inputs=_PICTURE,
        weights=f"{_PADDLEDET}/group_dino_vit_huge_4scale_1x_coco.pdparams",
        license="Apache-2.0",
        published={
            "COCO AP": (63.3, "PaddleDetection configs/group_detr/README.md, one scale"),
            "COCO test-dev AP": (64.5, "arXiv:2211.03594"),
        },
    ),
    "group_detr_v2_debug": Entry(_DINO, "debug_vit", "detection", (64, 96), inputs=_PICTURE),
    "retinanet_r18": Entry(_RETINANET, "r18", "detection", (800, 1088), inputs=_PICTURE),
    "retinanet_r50": Entry(_RETINANET, "r50", "detection", (800, 1088), inputs=_PICTURE),
    "retinanet_r101": Entry(_RETINANET, "r101", "detection", (800, 1088), inputs=_PICTURE),
    "retinanet_debug": Entry(_RETINANET, "debug", "detection", (64, 96), inputs=_PICTURE),
}
