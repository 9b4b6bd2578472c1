"""Runs inside the oracle environment: small DAB-DETRs of `transformers` with random weights.

    .venv-oracles/bin/python tests/oracles/transformers_dab_detr.py FOLDER

writes into FOLDER
- stem.safetensors, stem_release.pth and stem_old.safetensors: one network on a plain convolutional backbone under the
  names `transformers` writes, those of the authors' release, and those older conversion scripts wrote; stem.npz with
  `image`, `valid`, `memory`, per layer `logits_<i>` and `boxes_<i>`, and `injected` anchors with their answers
  `injected_logits`, `injected_boxes`;
- resnet.safetensors and resnet.npz: a network on a small ResNet of `transformers`, with `image`, `valid`, `logits`,
  `boxes`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import DabDetrConfig, DabDetrForObjectDetection, ResNetConfig
from transformers.models.dab_detr.modeling_dab_detr import DabDetrFrozenBatchNorm2d, inverse_sigmoid

CLASSES = 7
COMMON = dict(
    use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, num_queries=20, encoder_layers=2,
    encoder_ffn_dim=96, encoder_attention_heads=4, decoder_layers=3, decoder_ffn_dim=96, decoder_attention_heads=4,
    hidden_size=48, dropout=0.0, num_labels=CLASSES,
)  # fmt: skip


class Stem(nn.Module):
    """The backbone of `dab_detr_debug`."""

    def __init__(self, widths: tuple[int, ...] = (12, 24, 32, 32)):
        super().__init__()
        inputs = (3, *widths[:-1])
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, 2 if i < 3 else 1, 1, bias=False) for i, (a, b) in enumerate(zip(inputs, widths))
        )
        self.norms = nn.ModuleList(nn.GroupNorm(4, w) for w in widths)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv, norm in zip(self.convs, self.norms):
            x = torch.relu(norm(conv(x)))
        return x


class ConvEncoder(nn.Module):
    """A backbone where `transformers` keeps one of timm: image and mask -> [(map, mask)]."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.model = nn.Module()
        self.model._backbone = backbone

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        x = self.model._backbone(image)
        return [(x, nn.functional.interpolate(mask[None].float(), size=x.shape[-2:]).to(torch.bool)[0])]


def randomise(model: nn.Module, seed: int) -> None:
    """Every weight and statistic away from its neutral value."""
    generator = torch.Generator().manual_seed(seed)
    norms = {id(p) for m in model.modules() if "Norm" in type(m).__name__ for p in [*m.parameters(), *m.buffers()]}
    with torch.no_grad():
        for name, p in [*model.named_parameters(), *model.named_buffers()]:
            if not p.is_floating_point():
                continue
            noise = torch.randn(p.shape, generator=generator)
            if "refpoint" in name:
                p.copy_(noise)
            elif id(p) in norms and name.endswith(("weight", "running_var")):
                p.copy_((1 + 0.2 * noise).abs() + 0.1)
            elif p.ndim >= 2:
                p.copy_(noise * (1.5 / p[0].numel()) ** 0.5)
            else:
                p.copy_(0.2 * noise)


def inputs(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three pictures of unequal size, padded with zeros."""
    image = torch.randn(3, 3, 90, 70, generator=torch.Generator().manual_seed(seed))
    valid = torch.zeros(3, 90, 70, dtype=torch.long)
    for i, (h, w) in enumerate(((90, 70), (61, 70), (90, 33))):
        valid[i, :h, :w] = 1
    return image * valid[:, None], valid


def answers(model: DabDetrForObjectDetection, image: torch.Tensor, valid: torch.Tensor) -> dict[str, np.ndarray]:
    """Memory, and logits and boxes of every layer."""
    with torch.no_grad():
        out = model.model(image, valid, output_hidden_states=True, return_dict=True)
        boxes = (model.bbox_predictor(out.intermediate_hidden_states) + inverse_sigmoid(out.reference_points)).sigmoid()
        logits = model.class_embed(out.intermediate_hidden_states)
        final = model(image, valid)
    assert torch.equal(final.logits, logits[-1]) and torch.equal(final.pred_boxes, boxes[-1])
    layers = range(len(logits))
    return {
        "memory": out.encoder_last_hidden_state.numpy(),
        **{f"logits_{i}": logits[i].numpy() for i in layers},
        **{f"boxes_{i}": boxes[i].numpy() for i in layers},
    }


def release(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names of the authors' release (see the table of its conversion script)."""
    out: dict[str, torch.Tensor] = {}
    packed: dict[str, dict[str, torch.Tensor]] = {}
    plain = (
        (r"model\.backbone\.conv_encoder\.model\._backbone\.(.+)", r"backbone.0.body.\1"),
        (r"model\.input_projection\.(.+)", r"input_proj.\1"),
        (r"model\.query_refpoint_embeddings\.weight", "refpoint_embed.weight"),
        (r"bbox_predictor\.(.+)", r"bbox_embed.\1"),
        (r"model\.encoder\.layers\.(\d+)\.fc(.)\.(.+)", r"transformer.encoder.layers.\1.linear\2.\3"),
        (r"model\.encoder\.layers\.(\d+)\.self_attn_layer_norm\.(.+)", r"transformer.encoder.layers.\1.norm1.\2"),
        (r"model\.encoder\.layers\.(\d+)\.final_layer_norm\.(.+)", r"transformer.encoder.layers.\1.norm2.\2"),
        (r"model\.encoder\.layers\.(\d+)\.activation_fn\.(.+)", r"transformer.encoder.layers.\1.activation.\2"),
        (r"model\.decoder\.layernorm\.(.+)", r"transformer.decoder.norm.\1"),
        (r"(.+)\.mlp\.fc(.)\.(.+)", r"\1.linear\2.\3"),
        (r"(.+)\.mlp\.final_layer_norm\.(.+)", r"\1.norm3.\2"),
        (r"(.+)\.mlp\.activation_fn\.(.+)", r"\1.activation.\2"),
        (r"(.+)\.self_attn\.self_attn_layer_norm\.(.+)", r"\1.norm1.\2"),
        (r"(.+)\.cross_attn\.cross_attn_layer_norm\.(.+)", r"\1.norm2.\2"),
        (r"(.+)\.self_attn\.self_attn\.output_proj\.(.+)", r"\1.self_attn.out_proj.\2"),
        (r"(.+)\.cross_attn\.cross_attn\.output_proj\.(.+)", r"\1.cross_attn.out_proj.\2"),
        (r"(.+)\.self_attn\.self_attn_value_proj\.(.+)", r"\1.sa_v_proj.\2"),
        (r"(.+)\.cross_attn\.cross_attn_value_proj\.(.+)", r"\1.ca_v_proj.\2"),
        (r"(.+)\.self_attn\.self_attn_(query|key)_(content|pos)_proj\.(.+)", None),
        (r"(.+)\.cross_attn\.cross_attn_(query|key)_(content|pos|pos_sine)_proj\.(.+)", None),
    )
    for name, value in state.items():
        if match := re.fullmatch(r"model\.(encoder\.layers\.\d+\.self_attn)\.([qkv])_proj\.(.+)", name):
            packed.setdefault(f"transformer.{match[1]}.in_proj_{match[3]}", {})[match[2]] = value
            continue
        new = name
        for pattern, target in plain:
            if match := re.fullmatch(pattern, name):
                if target is None:
                    kind = "sa" if ".self_attn." in name else "ca"
                    new = f"{match[1]}.{kind}_{match[2][0]}{match[3]}_proj.{match[4]}"
                else:
                    new = match.expand(target)
                break
        out[re.sub(r"^model\.", "transformer.", new)] = value
    for name, parts in packed.items():
        out[name] = torch.cat([parts[p] for p in "qkv"])
    return out


def old_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As older conversion scripts called the three parts of a decoder layer."""
    parts = {"self_attn": "layer.0", "cross_attn": "layer.1", "mlp": "layer.2"}
    pattern = r"(model\.decoder\.layers\.\d+)\.(self_attn|cross_attn|mlp)\.(.+)"
    return {re.sub(pattern, lambda m: f"{m[1]}.{parts[m[2]]}.{m[3]}", k): v for k, v in state.items()}


def stem(folder: Path) -> None:
    tiny = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], out_features=["stage2"])
    config = DabDetrConfig(backbone_config=tiny, **COMMON)
    model = DabDetrForObjectDetection(config).eval()
    model.model.backbone.conv_encoder = ConvEncoder(Stem())
    model.model.input_projection = nn.Conv2d(32, 48, 1)
    model.eval()
    randomise(model, 0)
    image, valid = inputs(1)
    arrays = {"image": image.numpy(), "valid": valid.numpy().astype(bool), **answers(model, image, valid)}
    state = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("model.decoder.bbox_embed")}
    save_file(state, folder / "stem.safetensors")
    save_file(old_names(state), folder / "stem_old.safetensors")
    extra = {f"transformer.decoder.{k}": v for k, v in release(state).items() if k.startswith("bbox_embed")}
    torch.save({"model": {**release(state), **extra}, "epoch": 49}, folder / "stem_release.pth")
    injected = torch.randn(20, 4, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        model.model.query_refpoint_embeddings.weight.copy_(injected)
        out = model(image, valid)
    arrays |= {"injected": injected.numpy(), "injected_logits": out.logits.numpy()}
    np.savez(folder / "stem.npz", **arrays, injected_boxes=out.pred_boxes.numpy())


def resnet(folder: Path) -> None:
    small = ResNetConfig(
        embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic",
        out_features=["stage4"],
    )  # fmt: skip
    model = DabDetrForObjectDetection(DabDetrConfig(backbone_config=small, **COMMON)).eval()
    assert any(isinstance(m, DabDetrFrozenBatchNorm2d) for m in model.modules())
    randomise(model, 5)
    image, valid = inputs(6)
    with torch.no_grad():
        out = model(image, valid)
    save_file({k: v.clone().contiguous() for k, v in model.state_dict().items()}, folder / "resnet.safetensors")
    arrays = {"image": image.numpy(), "valid": valid.numpy().astype(bool)}
    np.savez(folder / "resnet.npz", **arrays, logits=out.logits.numpy(), boxes=out.pred_boxes.numpy())


if __name__ == "__main__":
    out = Path(sys.argv[1])
    stem(out)
    resnet(out)
