"""What a plain transformer for detection starts from: MAE, CAE v2 (pre-training or fine-tuned), ViTDet of
`transformers`.

Class token, final norm, heads and decoders serve nothing here. A patch kernel or a table of positions of another size
is resized, as ViTDet does with MAE's patches of 14 pixels. Branch scales (`gamma_1`, `gamma_2`) are multiplied into the
matrices that end the branches, and biases without a part for the keys are completed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ppvision.errors import UserError
from ppvision.weights.names.engine import Dialect, Names, Rules, State, below

if TYPE_CHECKING:
    from paddle import nn

TRANSFORMERS: Rules = (
    ("embeddings.projection.{leaf}", "patch_embed.proj.{leaf}"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("encoder.layer.{i}.attention.{rest}", "blocks.{i}.attn.{rest}"),
    ("encoder.layer.{i}.{rest}", "blocks.{i}.{rest}"),
)
UNUSED = r"cls_token|mask_token|(norm|fc_norm|head|decoder)\..+|decoder_.+|.*\.relative_position_index"


def names(net: nn.Layer) -> Names:
    """Tables of relative positions per pair of tokens have no place, unless they say nothing yet."""
    own = {k: tuple(v.shape) for k, v in net.state_dict().items()}

    def finish(state: State) -> list[str]:
        """Scales, biases, relative positions and sizes."""
        tables = [k for k in state if k.endswith("relative_position_bias_table")]
        for name in tables:
            if np.any(state.pop(name)):
                raise UserError(
                    f"'{name}' holds learned relative positions, which ViTDet cannot take over: fine-tune the encoder "
                    "with rel_pos_bias: false"
                )
        for i in range(net.depth):
            _fold_scales(state, f"blocks.{i}.")
        for name in state.keys() & own.keys():
            state[name] = _resized(name, state[name], own[name])
        return tables

    return Names(
        {
            "transformers": Dialect(
                of="a ViTDet of transformers",
                pattern=r"(backbone\.)?embeddings\..+",
                rules=below("backbone.", TRANSFORMERS),
                reads=TRANSFORMERS,
                torch=True,
            ),
            "cae_v2": Dialect(
                pattern=r"encoder\.patch_embed\.proj\.weight",
                rules=(("encoder.{rest}", "{rest}"),),
                ignored=r"(?!encoder\.).+",
            ),
        },
        unused=UNUSED if net.abs_pos else f"{UNUSED}|pos_embed",
        finish=finish,
    )


def _fold_scales(state: State, block: str) -> None:
    """Turn CAE's block into a plain one, in place."""
    for gamma, matrix in (("gamma_1", "attn.proj"), ("gamma_2", "mlp.fc2")):
        scale = state.pop(block + gamma, None)
        if scale is not None:
            weight, bias = f"{block}{matrix}.weight", f"{block}{matrix}.bias"
            state[weight] = state[weight] * scale
            state[bias] = state[bias] * scale
    q, v = state.pop(f"{block}attn.q_bias", None), state.pop(f"{block}attn.v_bias", None)
    if q is not None and v is not None:
        state[f"{block}attn.qkv.bias"] = np.concatenate([q, np.zeros_like(q), v])


def _resized(name: str, value: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Patch kernels and positions in the network's size; anything else as it is."""
    import paddle
    import paddle.nn.functional as F

    if value.shape == tuple(shape):
        return value

    def interpolated(x: np.ndarray, size: Sequence[int], mode: str) -> np.ndarray:
        x = paddle.to_tensor(np.ascontiguousarray(x, np.float32))
        return F.interpolate(
            x, size=list(size), mode=mode, align_corners=False, data_format="NCW" if x.ndim == 3 else "NCHW"
        ).numpy()

    if name == "patch_embed.proj.weight" and value.ndim == 4 and value.shape[:2] == tuple(shape[:2]):
        return interpolated(value, shape[2:], "bicubic")
    if "rel_pos_" in name and value.ndim == 2 and value.shape[1] == shape[1]:
        return interpolated(value.T[None], [shape[0]], "linear")[0].T
    if name == "pos_embed" and value.ndim == 3 and value.shape[2] == shape[2]:
        count, dim = value.shape[1:]
        old, new = math.isqrt(count - 1), math.isqrt(shape[1] - 1)
        if old * old == count - 1:
            grid = value[:, 1:].reshape(1, old, old, dim).transpose(0, 3, 1, 2)
            grid = interpolated(grid, [new, new], "bicubic").reshape(1, dim, new * new).transpose(0, 2, 1)
            return np.concatenate([value[:, :1], grid], axis=1)
    return value
