"""RetinaNet: a convolutional detector that answers at every anchor of a feature pyramid.

Papers:   T.-Y. Lin et al., "Focal Loss for Dense Object Detection", arXiv:1708.02002; T.-Y. Lin et al., "Feature
          Pyramid Networks for Object Detection", arXiv:1612.03144.
Checked:  against torchvision's RetinaNet with the same weights: logits and offsets, anchors, losses and detections
          (tests/models/test_against_torchvision.py); its parameters are counted as torchvision counts them.
Deviates: the level beyond C5 is made of C5, as in the paper; torchvision's first weights and PaddleDetection make it of
          P5 (`extra_from: pyramid`). Candidates are the best of all levels together, not of each. Batch norms keep
          their statistics, stem and first stage are fixed, as both have it. Anchors: see `ppvision.nn.anchors`.

The names are torchvision's: `backbone.body`, `backbone.fpn`, `head.classification_head`, `head.regression_head`.

Names of axes: B batch, A anchors, K classes, N candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppvision.errors import at_least, require, within
from ppvision.models.deformable_parts import build_backbone, picture_share
from ppvision.models.network import IMAGE, VALID, Input, Network, promises
from ppvision.nn.anchors import Dense, decode_boxes, grid_anchors
from ppvision.nn.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from ppvision.nn.resize import resize
from ppvision.nn.stem import ConvStem
from ppvision.nn.suppression import excess_overlap, kept_boxes

__all__ = ["VARIANTS", "RetinaNet"]

PRIOR = -math.log(99.0)  # bias of a class head whose scores start at 0.01
LOW = -20.0  # logit of a class that a candidate does not stand for: a score of 2e-9, also in half precision

VARIANTS: dict[str, dict[str, Any]] = {
    "r18": dict(backbone="resnet18"),
    "r50": dict(backbone="resnet50"),
    "r101": dict(backbone="resnet101"),
    # ours, for pictures of 64 pixels: anchors of 8 to 51
    "debug": dict(
        num_classes=4, backbone="conv_stem", stem=(24, 48, 64, 64), levels=("c2", "c3"), extra_levels=1, width=48,
        convs=1, start_std=0.05, anchor_scale=2.0, candidates=100,
    ),
}  # fmt: skip


def _conv(num_in: int, num_out: int, kernel: int, stride: int = 1, *, start: Any, bias: float = 0.0) -> nn.Conv2D:
    return nn.Conv2D(
        num_in,
        num_out,
        kernel,
        stride,
        kernel // 2,
        weight_attr=paddle.ParamAttr(initializer=start),
        bias_attr=paddle.ParamAttr(initializer=nn.initializer.Constant(bias)),
    )


class ExtraLevels(nn.Layer):
    """Coarser levels by convolutions with stride 2, with ReLU between: `p6`, `p7`.

    Args:
        num_in: channels of what the first is made of.
        width: channels of every level.
        names: of the levels.
    """

    def __init__(self, num_in: int, width: int, names: Sequence[str]):
        super().__init__()
        self.names = tuple(names)
        for i, name in enumerate(self.names):
            setattr(self, name, _conv(width if i else num_in, width, 3, 2, start=_uniform()))

    def forward(self, x: Tensor) -> list[Tensor]:
        levels: list[Tensor] = []
        for name in self.names:
            levels.append(getattr(self, name)(F.relu(levels[-1]) if levels else x))
        return levels


class FeaturePyramid(nn.Layer):
    """Maps of a backbone, fine to coarse -> as many maps of `width` channels, each with what the coarser ones know, and
    the extra levels.

    Args:
        num_in: channels of the maps.
        width: channels of the pyramid.
        extra: names of the extra levels.
        extra_from: what they are made of: the backbone's last "map", or the last level of the "pyramid".
    """

    def __init__(self, num_in: Sequence[int], width: int, extra: Sequence[str], extra_from: str):
        super().__init__()
        self.inner_blocks = nn.LayerList(nn.Sequential(_conv(n, width, 1, start=_uniform())) for n in num_in)
        self.layer_blocks = nn.LayerList(nn.Sequential(_conv(width, width, 3, start=_uniform())) for _ in num_in)
        self.of_map = extra_from == "map"
        self.extra_blocks = ExtraLevels(num_in[-1] if self.of_map else width, width, extra) if extra else None

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        x = self.inner_blocks[-1](maps[-1])
        levels = [self.layer_blocks[-1](x)]
        for i in range(len(maps) - 2, -1, -1):
            inner = self.inner_blocks[i](maps[i])
            x = inner + resize(x, inner.shape[2:], mode="nearest")
            levels.insert(0, self.layer_blocks[i](x))
        if self.extra_blocks is not None:
            levels.extend(self.extra_blocks(maps[-1] if self.of_map else levels[-1]))
        return levels


def _uniform() -> nn.initializer.Initializer:
    return nn.initializer.KaimingUniform(negative_slope=1.0, nonlinearity="leaky_relu")


class BackboneWithPyramid(nn.Layer):
    """`body` and `fpn`."""

    def __init__(self, body: nn.Layer, fpn: FeaturePyramid):
        super().__init__()
        self.body, self.fpn = body, fpn


class Tower(nn.Layer):
    """Convolutions 3x3 with ReLU, then one that answers for every anchor of a cell: [B,C,h,w] -> [B,h*w*n,answers].

    Args:
        width: C.
        convs: number of convolutions before the last.
        last: name of the last one.
        num_out: its channels: anchors of a cell times `num_values`.
        answers: numbers per anchor.
        std: of the weights at the start.
        bias: of the last one at the start.
    """

    def __init__(
        self, width: int, convs: int, last: str, num_out: int, num_values: int, std: float = 0.01, bias: float = 0.0
    ):
        super().__init__()
        start = nn.initializer.Normal(std=std)
        self.conv = nn.Sequential(
            *(nn.Sequential(_conv(width, width, 3, start=start), nn.ReLU()) for _ in range(convs))
        )
        setattr(self, last, _conv(width, num_out, 3, start=start, bias=bias))
        self.last, self.num_values = last, num_values

    def forward(self, x: Tensor) -> Tensor:
        y = getattr(self, self.last)(self.conv(x))
        return y.transpose([0, 2, 3, 1]).reshape([0, -1, self.num_values])


class Head(nn.Layer):
    """The two towers, shared by all levels."""

    def __init__(self, width: int, convs: int, num_anchors: int, num_classes: int, std: float):
        super().__init__()
        self.classification_head = Tower(width, convs, "cls_logits", num_anchors * num_classes, num_classes, std, PRIOR)
        self.regression_head = Tower(width, convs, "bbox_reg", num_anchors * 4, 4, std)

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        logits = paddle.concat([self.classification_head(x) for x in levels], axis=1)
        return logits, paddle.concat([self.regression_head(x) for x in levels], axis=1)


class RetinaNet(Network):
    """[B,3,H,W] -> {"logits": [B,N,K], "boxes": [B,N,4]}: one row per candidate, which has the logit of its class, and
    `LOW` for all others; everywhere if it was suppressed. With free height and width an exported graph needs pictures
    with at least as many anchors as candidates.

    Args:
        num_classes: K.
        backbone: a name of the zoo, "conv_stem", or a network with `features`.
        backbone_options: its arguments, where they differ from those a detector needs.
        stem: widths of "conv_stem".
        levels: maps of the backbone that are read, fine to coarse.
        extra_levels: coarser levels made by convolutions with stride 2.
        extra_from: what they are made of: the backbone's last "map" (the paper) or the last level of the "pyramid".
        width: channels of pyramid and towers.
        convs: of each tower.
        start_std: of the towers' weights; 0.01 suits 256 channels.
        anchor_scale: side of a level's smallest square anchor, in strides.
        ratios: height / width of the anchors.
        octaves: sizes per level.
        candidates: N, the best pairs of anchor and class, of which duplicates are then suppressed.
        nms_iou: boxes of a class that overlap more are duplicates.
        nms_rounds: see `ppvision.nn.suppression`.
    """

    def __init__(
        self,
        num_classes: int = 80,
        *,
        backbone: str | nn.Layer = "resnet50",
        backbone_options: dict[str, Any] | None = None,
        stem: tuple[int, ...] = (16, 32, 48, 48),
        levels: tuple[str, ...] = ("c3", "c4", "c5"),
        extra_levels: int = 2,
        extra_from: Literal["map", "pyramid"] = "map",
        width: int = 256,
        convs: int = 4,
        start_std: float = 0.01,
        anchor_scale: float = 4.0,
        ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
        octaves: int = 3,
        candidates: int = 1000,
        nms_iou: float = 0.5,
        nms_rounds: int = 20,
    ):
        super().__init__()
        at_least(1, num_classes=num_classes, width=width, octaves=octaves, candidates=candidates)
        at_least(1, nms_rounds=nms_rounds)
        at_least(0, extra_levels=extra_levels, convs=convs, start_std=start_std)
        within(0, 1, nms_iou=nms_iou)
        require(anchor_scale > 0, "anchor_scale", f"must be above 0, got {anchor_scale}")
        require(len(ratios) > 0 and min(ratios) > 0, "ratios", f"are numbers above 0, got {list(ratios)}")
        require(len(levels) >= 1, "levels", "names at least one map of the backbone")
        self.num_classes = num_classes
        self.levels = tuple(levels)
        self.width = width
        self.anchor_scale = float(anchor_scale)
        self.ratios = tuple(ratios)
        self.octaves = octaves
        self.candidates = candidates
        self.nms_iou = nms_iou
        self.nms_rounds = nms_rounds
        body = build_backbone(ConvStem(stem) if backbone == "conv_stem" else backbone, self.levels, backbone_options)
        self.feature_channels, self.feature_strides = dict(body.feature_channels), dict(body.feature_strides)
        strides = [self.feature_strides[level] for level in self.levels]
        last = int(math.log2(strides[-1]))
        names = [f"p{last + i + 1}" for i in range(extra_levels)]
        self.strides = (*strides, *(strides[-1] << (i + 1) for i in range(extra_levels)))
        channels = [self.feature_channels[level] for level in self.levels]
        self.backbone = BackboneWithPyramid(body, FeaturePyramid(channels, width, names, extra_from))
        self.head = Head(width, convs, len(self.ratios) * octaves, num_classes, start_std)
        self.recompute_blocks = tuple(f"backbone.body.{name}" for name in promises(body).recompute_blocks)

    def inputs(self) -> dict[str, Input]:
        """See `Network`."""
        return {"image": IMAGE, "valid": VALID}

    def features(self, image: Tensor) -> dict[str, Tensor]:
        """The backbone's maps by level."""
        return self.backbone.body.features(image)

    def anchors(self, height: int, width: int) -> Tensor:
        """Anchors [A,4] of a canvas, as `dense` gives them."""
        shapes = [(-(-height // stride), -(-width // stride)) for stride in self.strides]
        return self._anchors(shapes, (height, width))

    def _anchors(self, shapes: Sequence[tuple], canvas: tuple) -> Tensor:
        return grid_anchors(shapes, self.strides, canvas, self.anchor_scale, self.ratios, self.octaves)

    def dense(self, image: Tensor) -> Dense:
        """The predictions at every anchor: what losses and teachers look at."""
        maps = self.features(image)
        levels = self.backbone.fpn([maps[level] for level in self.levels])
        logits, deltas = self.head(levels)
        anchors = self._anchors([(x.shape[2], x.shape[3]) for x in levels], (image.shape[2], image.shape[3]))
        return Dense(logits, deltas.astype("float32"), anchors)

    def forward(self, image: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
        """Candidates without duplicates.

        Args:
            image: [B,3,H,W].
            valid: bool [B,H,W], True where the image is no padding; boxes are then relative to that part. The choice
                does not depend on it.
        """
        outputs = self.explained(image, None, None, valid)
        return {"logits": outputs["logits"], "boxes": outputs["boxes"]}

    def explained(
        self,
        image: Tensor,
        chosen: Tensor | None = None,
        kept: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """`forward` of a network that chooses by rank and drops by overlap, to compare it with its exported graph; see
        `ppvision.exporting.parity`.

        Args:
            image: [B,3,H,W].
            chosen: int64 [B,N], pairs of anchor and class (anchor * K + class) to take instead of the best ones.
            kept: [B,N], 1 for candidates that stay, instead of those that suppression keeps.
            valid: as for `forward`.

        Returns:
            logits, boxes; `chosen`; `scores` [B,A*K], by which was chosen; `kept`; `excess` [B,N,N], by which was kept
            (see `excess_overlap`).
        """
        predictions = self.dense(image)
        logits = predictions.logits.astype("float32")
        if chosen is None:
            chosen = self._best(logits)
        count = chosen.shape[1]
        row, label = chosen // self.num_classes, chosen % self.num_classes
        scores = logits.flatten(1)
        score = paddle.take_along_axis(scores, chosen, axis=1, broadcast=False)
        deltas = paddle.take_along_axis(predictions.deltas, row.unsqueeze(-1).tile([1, 1, 4]), axis=1, broadcast=False)
        anchors = paddle.gather(predictions.anchors, row.flatten()).reshape([-1, count, 4])
        corners = cxcywh_to_xyxy(decode_boxes(deltas, anchors)).clip(0.0, 1.0)
        if valid is not None:
            share = picture_share(valid).tile([1, 2])
            corners = (corners / share.unsqueeze(1)).clip(0.0, 1.0)
        excess = excess_overlap(corners, label, self.nms_iou)
        if kept is None:
            kept = kept_boxes(excess, self.nms_rounds)
        classes = paddle.arange(self.num_classes, dtype="int64").reshape([1, 1, -1])
        stands = paddle.logical_and(label.unsqueeze(-1) == classes, kept.unsqueeze(-1) > 0.5)
        rows = paddle.where(stands, score.unsqueeze(-1), paddle.full_like(score, LOW).unsqueeze(-1))
        return {
            "logits": rows,
            "boxes": xyxy_to_cxcywh(corners),
            "chosen": chosen,
            "scores": scores,
            "kept": kept,
            "excess": excess,
        }

    def _best(self, logits: Tensor) -> Tensor:
        """The best pairs of anchor and class, int64 [B,N]. They are among the anchors whose best class is best, so that
        two short lists are sorted instead of one long one.
        """
        count, anchors = self.candidates, logits.shape[1]
        known = isinstance(anchors, int) and anchors >= 0  # free in a static graph
        first = min(count, anchors) if known else count
        rows = paddle.topk(logits.max(-1), first, axis=1)[1]
        index = rows.unsqueeze(-1).tile([1, 1, self.num_classes])
        best = paddle.take_along_axis(logits, index, axis=1, broadcast=False).flatten(1)
        pair = paddle.topk(best, min(count, first * self.num_classes), axis=1)[1]
        row = paddle.take_along_axis(rows, pair // self.num_classes, axis=1, broadcast=False)
        return row * self.num_classes + pair % self.num_classes
