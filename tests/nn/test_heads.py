"""Heads a Method may attach: the table resolves, and the head has the published layout."""

from __future__ import annotations

import importlib

import paddle

import ppvision.nn
from ppvision.nn.heads import SegHead


def test_every_head_of_the_table_can_be_built():
    for target in ppvision.nn.HEADS.values():
        module, _, attribute = target.partition(":")
        head = getattr(importlib.import_module(module), attribute)(num_in=6, channels=8, num_classes=5)
        assert head(paddle.randn([2, 6, 7, 9])).shape == [2, 5, 7, 9]


def test_public_names_are_found_lazily():
    assert ppvision.nn.SegHead is SegHead
    for name in ppvision.nn.__all__:
        assert getattr(ppvision.nn, name) is not None


def test_layout_of_the_segmentation_head():
    head = SegHead(6, 8, 5)
    shapes = {k: list(v.shape) for k, v in head.state_dict().items() if "bn" not in k}
    assert shapes == {"conv1.weight": [8, 6, 3, 3], "conv2.weight": [5, 8, 1, 1], "conv2.bias": [5]}
    assert head.bn1._momentum == head.bn2._momentum == 0.1
    assert SegHead(6, 8, 5, bn_momentum=0.9).bn2._momentum == 0.9
