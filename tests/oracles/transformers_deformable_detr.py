"""Runs inside the oracle environment: small Deformable DETRs of `transformers` with random weights.

    .venv-oracles/bin/python tests/oracles/transformers_deformable_detr.py FOLDER

writes into FOLDER for each of `NETS` <name>.safetensors under the names of `transformers` (of a weight with several
names one, as in the files on its hub), <name>_release.pth with the same weights under those of the authors' release,
and <name>.npz: `image`, `valid`, `memory`, per decoder layer `logits_<i>` and `boxes_<i>`, for two stages
`proposal_logits` and `proposal_boxes`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_model
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig
from transformers.models.deformable_detr.modeling_deformable_detr import inverse_sigmoid

BASIC = dict(layer_type="basic", embedding_size=8, hidden_sizes=[8, 16, 32, 64], depths=[1, 2, 1, 1])
BOTTLENECK = dict(layer_type="bottleneck", embedding_size=8, hidden_sizes=[32, 64, 128, 256], depths=[2, 1, 1, 1])
ALL = ["stage2", "stage3", "stage4"]
NETS = {
    "plain": (dict(num_feature_levels=4), dict(**BOTTLENECK, out_features=ALL), (97, 131), (60, 101)),
    "refined": (
        dict(num_feature_levels=5, with_box_refine=True),
        dict(**BASIC, out_features=ALL),
        (128, 96),
        (128, 70),
    ),
    "two_stage": (
        dict(num_feature_levels=4, with_box_refine=True, two_stage=True),
        dict(**BASIC, out_features=ALL),
        (97, 131),
        (75, 131),
    ),
    "single": (dict(num_feature_levels=1), dict(**BASIC, out_features=["stage4"]), (150, 201), (121, 160)),
}
COMMON = dict(
    use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, num_queries=17, two_stage_num_proposals=17,
    d_model=64, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4, decoder_attention_heads=4,
    encoder_ffn_dim=48, decoder_ffn_dim=48, encoder_n_points=3, decoder_n_points=3, dropout=0.0, num_labels=7,
    disable_custom_kernels=True,
)  # fmt: skip


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Every weight and statistic away from its neutral value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("running_var"):
                value.copy_(1 + 0.3 * noise.abs())
            elif value.ndim == 4:
                value.copy_(noise * (2 / value[0].numel()) ** 0.5)
            elif value.ndim == 2 and "embed" not in name:
                value.copy_(noise / value.shape[1] ** 0.5)
            elif value.ndim == 2:
                value.copy_(noise * (value.shape[1] ** -0.5 if "bbox_embed" in name or "class_embed" in name else 0.7))
            elif "norm" in name and name.endswith("weight"):
                value.copy_(1 + 0.2 * noise)
            elif "sampling_offsets.bias" in name:
                value.copy_(2 * noise)
            else:
                value.copy_(0.2 * noise)


RELEASE = (
    (r"model\.(level_embed|reference_points\..+|enc_output.*|pos_trans.*)", r"transformer.\1"),
    (r"model\.(input_proj\..+)", r"\1"),
    (r"model\.query_position_embeddings\.weight", r"query_embed.weight"),
    (r"model\.encoder\.(.+)\.self_attn_layer_norm\.(.+)", r"transformer.encoder.\1.norm1.\2"),
    (r"model\.encoder\.(.+)\.final_layer_norm\.(.+)", r"transformer.encoder.\1.norm2.\2"),
    (r"model\.decoder\.(.+)\.self_attn_layer_norm\.(.+)", r"transformer.decoder.\1.norm2.\2"),
    (r"model\.decoder\.(.+)\.encoder_attn_layer_norm\.(.+)", r"transformer.decoder.\1.norm1.\2"),
    (r"model\.decoder\.(.+)\.final_layer_norm\.(.+)", r"transformer.decoder.\1.norm3.\2"),
    (r"model\.decoder\.(.+)\.encoder_attn\.(.+)", r"transformer.decoder.\1.cross_attn.\2"),
    (r"model\.(..coder\..+)\.fc([12])\.(.+)", r"transformer.\1.linear\2.\3"),
    (r"model\.(..coder\..+)", r"transformer.\1"),
    (r"model\.backbone\.conv_encoder\.model\.(.+)", r"backbone.0.body.\1"),
)


def torchvision_name(name: str) -> str:
    """A parameter of the ResNet of `transformers` as torchvision names it."""
    name = name.replace("embedder.embedder.convolution", "conv1").replace("embedder.embedder.normalization", "bn1")
    name = re.sub(r"encoder\.stages\.(\d)\.layers\.", lambda m: f"layer{int(m[1]) + 1}.", name)
    name = name.replace("shortcut.convolution", "downsample.0").replace("shortcut.normalization", "downsample.1")
    name = re.sub(r"layer\.(\d)\.convolution", lambda m: f"conv{int(m[1]) + 1}", name)
    return re.sub(r"layer\.(\d)\.normalization", lambda m: f"bn{int(m[1]) + 1}", name)


def release(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights as fundamentalvision/Deformable-DETR names them, heads under all their names."""
    out = {}
    for name, value in state.items():
        if name.startswith("model.backbone."):
            name = torchvision_name(name)
        for pattern, new in RELEASE:
            if match := re.fullmatch(pattern, name):
                name = match.expand(new)
                break
        out[name] = value
    for name in [k for k in out if k.endswith("self_attn.q_proj.weight") or k.endswith("self_attn.q_proj.bias")]:
        stem, leaf = name.rsplit("q_proj.", 1)
        out[f"{stem}in_proj_{leaf}"] = torch.cat([out.pop(f"{stem}{part}_proj.{leaf}") for part in "qkv"])
    return out


def run(folder: Path, name: str, seed: int) -> None:
    options, resnet, size, inner = NETS[name]
    config = DeformableDetrConfig(**COMMON, **options, backbone_config=ResNetConfig(**resnet))
    model = DeformableDetrForObjectDetection(config).eval()
    randomise(model, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    image = torch.randn(2, 3, *size, generator=generator)
    valid = torch.zeros(2, *size, dtype=torch.bool)
    valid[0] = True
    valid[1, : inner[0], : inner[1]] = True
    image = image * valid[:, None]
    with torch.no_grad():
        out = model(image, pixel_mask=valid.long())
    arrays = dict(image=image, valid=valid, memory=out.encoder_last_hidden_state)
    for i in range(config.decoder_layers):
        hidden = out.intermediate_hidden_states[:, i]
        before = out.intermediate_reference_points[:, i - 1] if i else out.init_reference_points
        arrays[f"logits_{i}"], delta = model.class_embed[i](hidden), model.bbox_embed[i](hidden)
        known = inverse_sigmoid(before)
        delta[..., : known.shape[-1]] += known
        arrays[f"boxes_{i}"] = delta.sigmoid()
    assert torch.equal(arrays[f"logits_{i}"], out.logits)
    assert torch.allclose(arrays[f"boxes_{i}"], out.pred_boxes, atol=1e-6)
    if config.two_stage:
        arrays["proposal_logits"] = out.enc_outputs_class
        arrays["proposal_boxes"] = out.enc_outputs_coord_logits.sigmoid()
        best = out.enc_outputs_class[..., 0].topk(COMMON["two_stage_num_proposals"], dim=1).indices
        used = torch.isfinite(out.enc_outputs_coord_logits).all(-1)
        assert used.gather(1, best).all(), "an anchor without use was chosen: take another seed"
    np.savez(folder / f"{name}.npz", **{k: v.detach().numpy() for k, v in arrays.items()})
    save_model(model, str(folder / f"{name}.safetensors"))
    torch.save({"model": release(model.state_dict())}, folder / f"{name}_release.pth")


if __name__ == "__main__":
    for number, key in enumerate(NETS):
        run(Path(sys.argv[1]), key, 10 * number)
