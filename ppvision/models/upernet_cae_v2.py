"""UperNet on a CAE v2 encoder: segmentation as published for it (ADE20K, 512x512 windows).

Paper:    X. Zhang et al., arXiv:2211.09799; the pyramid on a plain transformer is BEiT's, arXiv:2106.08254.
Checked:  shapes, keys and loading of encoder checkpoints in the tests; there is no released segmenter to compare with.
Deviates: the debug size has absolute positions and no relative bias, so that any image size works.
"""

from __future__ import annotations

from typing import Literal

from ppvision.models.cae_v2 import VARIANTS as ENCODERS
from ppvision.models.cae_v2 import CaeV2Pyramid
from ppvision.models.upernet import UperNet

__all__ = ["VARIANTS", "UperNetCaeV2"]

VARIANTS = {
    "tiny": dict(backbone="tiny", channels=192),
    "small": dict(backbone="small", channels=384),
    "base": dict(backbone="base", channels=768),
    "large": dict(backbone="large", channels=1024, drop_path=0.15),
    "debug": dict(
        num_classes=19, backbone="debug", channels=16, bins=(1, 2), image_size=64, rel_pos_bias=False, abs_pos=True
    ),
}


class UperNetCaeV2(UperNet):
    """UperNet on `CaeV2Pyramid`.

    Args:
        num_classes: K.
        backbone: size of the encoder.
        channels: of the head.
        bins: grids of the pooled context.
        image_size: side the relative positions are made for: that of training crops and of `eval.slide`.
        rel_pos_bias: learned relative position bias; images must then have that size.
        abs_pos: fixed sin-cos positions.
        drop_path: stochastic depth of the encoder.
    """

    def __init__(
        self,
        num_classes: int = 150,
        *,
        backbone: Literal["tiny", "small", "base", "large", "debug"] = "base",
        channels: int = 768,
        bins: tuple[int, ...] = (1, 2, 3, 6),
        image_size: int = 512,
        rel_pos_bias: bool = True,
        abs_pos: bool = False,
        drop_path: float = 0.1,
    ):
        options = dict(image_size=image_size, rel_pos_bias=rel_pos_bias, abs_pos=abs_pos, drop_path=drop_path)
        super().__init__(CaeV2Pyramid(**{**ENCODERS[backbone], **options}), num_classes, channels, bins)
