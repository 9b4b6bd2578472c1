"""Segmenters."""

from __future__ import annotations

from ppvision.models.zoo.entry import HALF, Entry

_SEG = "https://paddleseg.bj.bcebos.com/dygraph/cityscapes"
_BJ = "https://bj.bcebos.com/paddleseg/dygraph/cityscapes"
_RTFORMER_TABLE = "PaddleSeg configs/rtformer/README.md"
_UHRNET_TABLE = "PaddleSeg configs/uhrnet/README.md, 120k iterations, batch 12"
_RTFORMER = "ppvision.models.rtformer:RTFormer"
_UHRNET = "ppvision.models.uhrnet:UHRNet"
_UPERNET_MAFORMER = "ppvision.models.upernet:UperNetMAFormer"
_UPERNET_CAE_V2 = "ppvision.models.upernet_cae_v2:UperNetCaeV2"


def _miou(source: str, **scores: tuple[float, float, float]) -> dict[str, tuple[float, str]]:
    """Rows "data set: (single scale, flip, multi-scale and flip)" of a PaddleSeg table as figures in percent."""
    names = ("mIoU", "mIoU flip", "mIoU ms+flip")
    return {
        f"{data} {name}": (value, source)
        for data, row in scores.items()
        for name, value in zip(names, row, strict=True)
    }


ROWS: dict[str, Entry] = {
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
    "upernet_maformer_small": Entry(_UPERNET_MAFORMER, "small", "segmentation", (512, 512)),
    "upernet_maformer_base": Entry(_UPERNET_MAFORMER, "base", "segmentation", (512, 512)),
    "upernet_maformer_large": Entry(_UPERNET_MAFORMER, "large", "segmentation", (512, 512)),
    "upernet_maformer_debug": Entry(_UPERNET_MAFORMER, "debug", "segmentation", (64, 96)),
    "upernet_cae_v2_tiny": Entry(_UPERNET_CAE_V2, "tiny", "segmentation", (512, 512)),
    "upernet_cae_v2_small": Entry(_UPERNET_CAE_V2, "small", "segmentation", (512, 512)),
    "upernet_cae_v2_base": Entry(_UPERNET_CAE_V2, "base", "segmentation", (512, 512)),
    "upernet_cae_v2_large": Entry(_UPERNET_CAE_V2, "large", "segmentation", (512, 512)),
    "upernet_cae_v2_debug": Entry(_UPERNET_CAE_V2, "debug", "segmentation", (64, 96)),
}
