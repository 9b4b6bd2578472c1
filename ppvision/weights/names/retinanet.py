"""RetinaNet's names in torchvision: ours, and those of its versions up to 0.12, which had no layer around a convolution
and counted the ReLUs of a tower."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppvision.weights.names.engine import Dialect, Names

if TYPE_CHECKING:
    from paddle import nn

OLD = (
    ("head.{tower}.conv.{i*2}.{leaf:weight|bias}", "head.{tower}.conv.{i}.0.{leaf}"),
    ("backbone.fpn.{kind:inner|layer}_blocks.{i}.{leaf:weight|bias}", "backbone.fpn.{kind}_blocks.{i}.0.{leaf}"),
    ("{rest}", "{rest}"),
)


def names(net: nn.Layer) -> Names:
    """Of 91 classes, COCO's category ids, a network of 80 takes those in use."""
    return Names(
        {
            "torchvision": Dialect(of="torchvision's RetinaNet", rules=(("{rest}", "{rest}"),), torch=True),
            "torchvision_0_12": Dialect(
                of="torchvision's RetinaNet",
                pattern=r"head\.\w+\.conv\.\d+\.(weight|bias)|backbone\.fpn\.(inner|layer)_blocks\.\d+\.(weight|bias)",
                rules=OLD,
                torch=True,
            ),
        },
        backbone="backbone.body",
        whole=r"(backbone|head)\..+",
        heads=r".*\.cls_logits\..+",
        num_classes=net.num_classes,
        cells=len(net.ratios) * net.octaves,
    )
