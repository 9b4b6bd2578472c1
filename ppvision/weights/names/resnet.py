"""ResNet's names in PaddleDetection, PaddleClas (dygraph) and `transformers`; ours are torchvision's (and timm's)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppvision.weights.names.engine import Dialect, Names, Rules, below

if TYPE_CHECKING:
    from paddle import nn

TORCHVISION: Rules = (("{rest}", "{rest}"),)
_DETECTION_BLOCK = (
    ("branch2{c@a}.conv.{leaf}", "conv{c+1}.{leaf}"),
    ("branch2{c@a}.norm.{leaf}", "bn{c+1}.{leaf}"),
    ("short.conv.{leaf}", "downsample.0.{leaf}"),
    ("short.norm.{leaf}", "downsample.1.{leaf}"),
)
_CLAS_BLOCK = (
    ("conv{c}.conv.{leaf}", "conv{c+1}.{leaf}"),
    ("conv{c}.bn.{leaf}", "bn{c+1}.{leaf}"),
    ("short.conv.{leaf}", "downsample.0.{leaf}"),
    ("short.bn.{leaf}", "downsample.1.{leaf}"),
)
TRANSFORMERS: Rules = (
    ("embedder.embedder.convolution.{leaf}", "conv1.{leaf}"),
    ("embedder.embedder.normalization.{leaf}", "bn1.{leaf}"),
    ("encoder.stages.{s}.layers.{b}.layer.{c}.convolution.{leaf}", "layer{s+1}.{b}.conv{c+1}.{leaf}"),
    ("encoder.stages.{s}.layers.{b}.layer.{c}.normalization.{leaf}", "layer{s+1}.{b}.bn{c+1}.{leaf}"),
    ("encoder.stages.{s}.layers.{b}.shortcut.convolution.{leaf}", "layer{s+1}.{b}.downsample.0.{leaf}"),
    ("encoder.stages.{s}.layers.{b}.shortcut.normalization.{leaf}", "layer{s+1}.{b}.downsample.1.{leaf}"),
)


def paddledetection(deep: bool) -> Rules:
    """PaddleDetection's names.

    Args:
        deep: a ResNet of more than 50 layers, whose third stage numbers its blocks and letters only the first.
    """
    numbered = below("res{s+1}.res{s+1}b{b:[1-9][0-9]*}.", _DETECTION_BLOCK, "layer{s}.{b}.")
    numbered_third = below("res4.res4b{b:[1-9][0-9]*}.", _DETECTION_BLOCK, "layer3.{b}.")
    lettered = below("res{s+1}.res{s+1}{b@a}.", _DETECTION_BLOCK, "layer{s}.{b}.")
    stem = (("conv1.conv1.conv.{leaf}", "conv1.{leaf}"), ("conv1.conv1.norm.{leaf}", "bn1.{leaf}"))
    return (*stem, *(numbered_third if deep else ()), *lettered, *numbered, *TORCHVISION)


def paddleclas(depths: tuple[int, ...]) -> Rules:
    """PaddleClas' names, which number the blocks of all stages, here `depths`, through."""
    places = [(stage, block) for stage, depth in enumerate(depths, 1) for block in range(depth)]
    blocks = [
        rule
        for i, (stage, block) in enumerate(places)
        for rule in below(f"blocks.{i}.", _CLAS_BLOCK, f"layer{stage}.{block}.")
    ]
    stem = (("stem.0.conv.{leaf}", "conv1.{leaf}"), ("stem.0.bn.{leaf}", "bn1.{leaf}"))
    return (*stem, *blocks, *TORCHVISION)


def is_deep(net: nn.Layer, prefix: str = "") -> bool:
    """Whether the third stage of the ResNet at `prefix` has more than ten blocks."""
    return any(k.startswith(f"{prefix}layer3.10.") for k in net.state_dict())


def names(net: nn.Layer) -> Names:
    """A classifier is ignored where this network has none."""
    return Names(
        {
            "torchvision": Dialect(of="torchvision's ResNet", rules=TORCHVISION, torch=True),
            "paddledetection": Dialect(
                of="PaddleDetection's ResNet",
                pattern=r"conv1\.conv1\..+|res[2-5]\.res[2-5][a-z].*",
                rules=paddledetection(is_deep(net)),
            ),
            "paddleclas": Dialect(
                of="PaddleClas' ResNet",
                pattern=r"stem\.0\.(conv|bn)\..+|blocks\.\d+\.(conv\d|short)\..+",
                rules=paddleclas(net.depths),
            ),
            "transformers": Dialect(
                of="a ResNet of transformers",
                pattern=r"(resnet\.)?(embedder\.embedder|encoder\.stages|classifier\.1)\..+",
                rules=(*below("resnet.", TRANSFORMERS), ("classifier.1.{leaf}", "fc.{leaf}")),
                reads=TRANSFORMERS,
                torch=True,
            ),
        },
        unused="" if net.num_classes else r"fc\..+",
    )
