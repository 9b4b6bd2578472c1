"""Runs inside the oracle environment: small VitDet backbones of `transformers` with random weights.

    .venv-oracles/bin/python tests/oracles/transformers_vitdet.py FOLDER

writes for each of `BACKBONES` <name>.safetensors (Hugging Face names) and <name>.npz with `image<i>` and `map<i>`, the
last block's output [B,D,H,W], for several sizes of pictures.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import VitDetBackbone, VitDetConfig

COMMON = dict(hidden_size=32, num_attention_heads=4, mlp_ratio=3, patch_size=4, pretrain_image_size=24)
BACKBONES = {
    "windows": dict(num_hidden_layers=3, window_block_indices=[0, 2], window_size=4, image_size=40),
    "absolute": dict(
        num_hidden_layers=2, window_block_indices=[0], window_size=3, image_size=24,
        use_relative_position_embeddings=False,
    ),
    "both": dict(num_hidden_layers=4, window_block_indices=[0, 1, 3], window_size=5, image_size=48),
}  # fmt: skip
SIZES = [(2, 40, 40), (1, 24, 24), (2, 28, 52), (1, 60, 36)]


def build(name: str) -> VitDetBackbone:
    # transformers 4.57 cannot be built without absolute positions: for "windows" they are zero
    options = {"use_absolute_position_embeddings": True, "use_relative_position_embeddings": True}
    model = VitDetBackbone(VitDetConfig(**{**COMMON, **options, **BACKBONES[name]})).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for key, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if "norm" in key and key.endswith("weight"):
                p.copy_(1 + 0.2 * noise)
            elif p.ndim >= 2 and "rel_pos" not in key and "position" not in key:
                p.copy_(noise / p[0].numel() ** 0.5)
            else:
                p.copy_(0.5 * noise)
        if name == "windows":
            model.embeddings.position_embeddings.zero_()
    return model


def main(folder: Path) -> None:
    for name in BACKBONES:
        model = build(name)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / f"{name}.safetensors")
        arrays = {}
        for i, (batch, *size) in enumerate(SIZES):
            image = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(i))
            with torch.no_grad():
                arrays |= {f"image{i}": image.numpy(), f"map{i}": model(image).feature_maps[-1].numpy()}
        np.savez(folder / f"{name}.npz", **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
