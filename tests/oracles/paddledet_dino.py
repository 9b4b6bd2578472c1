"""Runs inside the oracle environment: PaddleDetection's DINOTransformer with random weights on given maps.

    .venv-oracles/bin/python tests/oracles/paddledet_dino.py FOLDER

writes FOLDER/dino.npz: its state as `state/transformer.<key>`, the backbone's maps `map0` and `map1`, `valid` [B,H,W],
and for a batch without padding (`whole/`) and with it (`padded/`) boxes and logits of all decoder layers and of the
encoder's selection.

paddledet 2.6.0 was written for Paddle 2.4: what it needs of that (no tensors without axes, integers promoted to floats)
is put back here, and its package is imported in parts, since the whole needs a dozen others.
"""

# ruff: noqa: I001  (cv2 and PIL come before paddle: some of their wheels crash a process that imported Paddle first)

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path

import cv2  # noqa: F401
import PIL.Image  # noqa: F401
import numpy as np
import paddle

SIZE = dict(num_classes=5, hidden_dim=32, num_queries=12, num_levels=3, nhead=4, dim_feedforward=64)
LAYERS = dict(num_encoder_layers=2, num_decoder_layers=3, backbone_feat_channels=[16, 24])


def upstream() -> types.ModuleType:
    root = Path(importlib.util.find_spec("ppdet").origin).parent
    for name in ("", ".modeling", ".modeling.transformers", ".modeling.heads", ".modeling.backbones"):
        package = types.ModuleType(f"ppdet{name}")
        package.__path__ = [str(root / name[1:].replace(".", "/"))]
        sys.modules[f"ppdet{name}"] = package
    for name in ("pycocotools", "pycocotools.mask"):  # imported by the heads, used for masks alone
        sys.modules[name] = types.ModuleType(name)
    return importlib.import_module("ppdet.modeling.transformers.dino_transformer")


def as_paddle_2_4() -> None:
    concat = paddle.concat
    paddle.concat = lambda x, axis=0, name=None: concat([t.reshape([1]) if t.ndim == 0 else t for t in x], axis)
    for name in ("__truediv__", "__mul__", "__add__", "__sub__"):
        setattr(paddle.Tensor, name, _promoting(getattr(paddle.Tensor, name)))


def _promoting(plain):
    def operate(a, b):
        if isinstance(b, paddle.Tensor) and a.dtype != b.dtype:
            if paddle.is_floating_point(a):
                b = b.astype(a.dtype)
            elif paddle.is_floating_point(b):
                a = a.astype(b.dtype)
        return plain(a, b)

    return operate


def main(folder: Path) -> None:
    as_paddle_2_4()
    net = upstream().DINOTransformer(**SIZE, **LAYERS, pe_temperature=20, pe_offset=0.0)
    net.eval()
    rng = np.random.default_rng(2)
    arrays = {}
    for key, tensor in net.state_dict().items():
        noise = rng.standard_normal(tensor.shape)
        if "norm" in key and key.endswith("weight"):
            value = 1 + 0.2 * noise
        elif noise.ndim >= 2 and "embed" not in key:
            value = noise / np.prod(noise.shape[1:] if noise.ndim == 4 else noise.shape[:1]) ** 0.5
        else:
            value = 0.3 * noise
        tensor.set_value(value.astype("float32"))
        arrays[f"state/transformer.{key}"] = tensor.numpy()
    maps = [rng.standard_normal(shape).astype("float32") for shape in ([2, 16, 9, 13], [2, 24, 5, 7])]
    valid = np.zeros([2, 72, 104], bool)
    valid[0], valid[1, :48, :67] = True, True
    arrays |= {"map0": maps[0], "map1": maps[1], "valid": valid}
    for name, mask in (("whole", None), ("padded", paddle.to_tensor(valid.astype("float32")))):
        with paddle.no_grad():
            outputs = net([paddle.to_tensor(m) for m in maps], mask)[:4]
        named = zip(("boxes", "logits", "proposal_boxes", "proposal_logits"), outputs, strict=True)
        arrays |= {f"{name}/{key}": value.numpy() for key, value in named}
    np.savez(folder / "dino.npz", **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
