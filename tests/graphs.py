"""A network as the files that other programs read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import paddle
from paddle import nn

from ppvision.models.inputs import IMAGE, Input

PICTURES = {"image": IMAGE}


def write_graphs(net: nn.Layer, folder: Path, inputs: Mapping[str, Input] = PICTURES) -> str:
    """Write a static graph and an ONNX file, without the exporter of the suite.

    Args:
        net: what to write.
        folder: where to.
        inputs: by name, as the zoo gives them: a side that is no number is free.

    Returns:
        Their common path without ending: `.json`, `.pdiparams` and `.onnx` are there.
    """
    import paddle2onnx

    stem = str(folder / "model")
    spec = [
        paddle.static.InputSpec([side if isinstance(side, int) else None for side in given.shape], given.dtype, name)
        for name, given in inputs.items()
    ]
    paddle.jit.save(net, stem, input_spec=spec)
    paddle2onnx.export(
        f"{stem}.json", f"{stem}.pdiparams", f"{stem}.onnx", opset_version=17, optimize_tool="None", verbose=False
    )
    return stem
