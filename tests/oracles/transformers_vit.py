"""Runs inside the oracle environment: small CLIP towers and BEiT layers of `transformers` with random weights.

    .venv-oracles/bin/python tests/oracles/transformers_vit.py FOLDER

writes into FOLDER: for each of `CLIPS` clip_<name>.safetensors (Hugging Face names), clip_<name>_openai.pth (the same
weights under OpenAI's names, with a text tower beside them) and clip_<name>.npz with `image` and `tokens` [B,1+N,C],
every token after the last norm and the projection; clip_a_openai.pt, a half-precision TorchScript archive as OpenAI
publishes them; beit.npz with `image`, `keep`, `tokens` of all and `kept` of the kept patches, and beit.pth under the
names of a CAE v2 pre-training checkpoint.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import BeitConfig, BeitModel, CLIPVisionConfig, CLIPVisionModelWithProjection

CLIPS = {
    "a": dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=24, patch_size=4),
    "b": dict(hidden_size=48, num_hidden_layers=3, num_attention_heads=3, image_size=28, patch_size=7),
    "c": dict(hidden_size=64, num_hidden_layers=1, num_attention_heads=8, image_size=32, patch_size=16),
}
PROJECTION = {"a": 20, "b": 64, "c": 64}  # "c": a square projection, whose layout no shape tells


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Every weight away from its neutral value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim >= 2 and "embed" not in name:
                p.copy_(noise / p[0].numel() ** 0.5)
            elif "norm" in name and name.endswith("weight"):
                p.copy_(1 + 0.2 * noise)
            else:
                p.copy_(0.3 * noise)


def openai_names(state: dict[str, torch.Tensor], depth: int) -> dict[str, torch.Tensor]:
    """The tower as OpenAI publishes it, half of a whole CLIP."""
    get = lambda name: state[f"vision_model.{name}"]
    out = {
        "visual.conv1.weight": get("embeddings.patch_embedding.weight"),
        "visual.class_embedding": get("embeddings.class_embedding"),
        "visual.positional_embedding": get("embeddings.position_embedding.weight"),
        "visual.proj": state["visual_projection.weight"].T.contiguous(),
        "positional_embedding": torch.zeros(7, 5),
        "text_projection": torch.zeros(5, 5),
        "logit_scale": torch.zeros(()),
        "token_embedding.weight": torch.zeros(11, 5),
        "transformer.resblocks.0.attn.in_proj_weight": torch.zeros(15, 5),
        "ln_final.weight": torch.zeros(5),
    }
    for ours, theirs in (("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm")):
        for leaf in ("weight", "bias"):
            out[f"visual.{ours}.{leaf}"] = get(f"{theirs}.{leaf}")
    for i in range(depth):
        here, there = f"visual.transformer.resblocks.{i}", f"encoder.layers.{i}"
        for leaf in ("weight", "bias"):
            parts = [get(f"{there}.self_attn.{p}_proj.{leaf}") for p in "qkv"]
            out[f"{here}.attn.in_proj_{leaf}"] = torch.cat(parts)
            for ours, theirs in (
                ("attn.out_proj", "self_attn.out_proj"),
                ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"),
                ("mlp.c_fc", "mlp.fc1"),
                ("mlp.c_proj", "mlp.fc2"),
            ):
                out[f"{here}.{ours}.{leaf}"] = get(f"{there}.{theirs}.{leaf}")
    return out


class Tree(torch.nn.Module):
    """Modules and parameters by dotted name, to be written as TorchScript."""

    def __init__(self, state: dict[str, torch.Tensor]):
        super().__init__()
        self.width: int = 3  # OpenAI's modules have plain attributes too
        self.sizes: list[int] = [1, 2]
        for head in dict.fromkeys(k.split(".")[0] for k in state):
            if head in state:
                self.register_parameter(head, torch.nn.Parameter(state[head].half()))
            else:
                inside = {k.partition(".")[2]: v for k, v in state.items() if k.startswith(f"{head}.")}
                self.add_module(head, Tree(inside))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.width


def clip(folder: Path, name: str, seed: int) -> None:
    config = CLIPVisionConfig(
        **CLIPS[name], intermediate_size=4 * CLIPS[name]["hidden_size"], projection_dim=PROJECTION[name]
    )
    model = CLIPVisionModelWithProjection(config).eval()
    randomise(model, seed)
    image = torch.randn(3, 3, config.image_size, config.image_size, generator=torch.Generator().manual_seed(seed + 1))
    with torch.no_grad():
        last = model.vision_model(image).last_hidden_state  # before the last norm
        tokens = model.visual_projection(model.vision_model.post_layernorm(last))
        assert torch.allclose(tokens[:, 0], model(image).image_embeds, atol=1e-6)
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    save_file(state, folder / f"clip_{name}.safetensors")
    openai = openai_names(state, config.num_hidden_layers)
    torch.save(openai, folder / f"clip_{name}_openai.pth")
    if name == "a":
        torch.jit.script(Tree(openai)).save(str(folder / "clip_a_openai.pt"))
    np.savez(folder / f"clip_{name}.npz", image=image.numpy(), tokens=tokens.numpy())


def beit(folder: Path) -> None:
    """An encoder of CAE v2 computed by BEiT's layers, on all tokens and on kept ones."""
    config = BeitConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128, image_size=24, patch_size=4,
        use_absolute_position_embeddings=False, use_relative_position_bias=False,
        use_shared_relative_position_bias=False,
        layer_scale_init_value=0.1, layer_norm_eps=1e-6, hidden_act="gelu",
    )  # fmt: skip
    model = BeitModel(config, add_pooling_layer=False).eval()
    randomise(model, 5)
    generator = torch.Generator().manual_seed(6)
    image = torch.randn(4, 3, 24, 24, generator=generator)
    positions = torch.randn(1, 37, 32, generator=generator)
    positions[:, 0] = 0
    norm = torch.nn.LayerNorm(32, eps=1e-6)
    randomise(norm, 7)
    keep = torch.stack([torch.randperm(36, generator=generator)[:20].sort().values for _ in range(4)])
    patches = model.embeddings.patch_embeddings.projection(image).flatten(2).transpose(1, 2) + positions[:, 1:]

    def run(tokens: torch.Tensor) -> np.ndarray:
        x = torch.cat([model.embeddings.cls_token.expand(4, -1, -1), tokens], 1)
        for layer in model.encoder.layer:
            x = layer(x)[0]
        return norm(x).numpy()

    with torch.no_grad():
        every = run(patches)
        kept = run(torch.gather(patches, 1, keep[..., None].expand(-1, -1, 32)))
    state = {
        "encoder.cls_token": model.embeddings.cls_token,
        "encoder.pos_embed": positions,
        "encoder.norm.weight": norm.weight,
        "encoder.norm.bias": norm.bias,
    }
    for leaf in ("weight", "bias"):
        state[f"encoder.patch_embed.proj.{leaf}"] = getattr(model.embeddings.patch_embeddings.projection, leaf)
    for i, layer in enumerate(model.encoder.layer):
        own, attention = f"encoder.blocks.{i}", layer.attention.attention
        state[f"{own}.attn.qkv.weight"] = torch.cat([getattr(attention, p).weight for p in ("query", "key", "value")])
        state[f"{own}.attn.q_bias"], state[f"{own}.attn.v_bias"] = attention.query.bias, attention.value.bias
        state[f"{own}.gamma_1"], state[f"{own}.gamma_2"] = layer.lambda_1, layer.lambda_2
        for leaf in ("weight", "bias"):
            for ours, module in (
                ("norm1", layer.layernorm_before),
                ("norm2", layer.layernorm_after),
                ("attn.proj", layer.attention.output.dense),
                ("mlp.fc1", layer.intermediate.dense),
                ("mlp.fc2", layer.output.dense),
            ):
                state[f"{own}.{ours}.{leaf}"] = getattr(module, leaf)
    torch.save({"model": {k: v.detach().contiguous() for k, v in state.items()}}, folder / "beit.pth")
    np.savez(folder / "beit.npz", image=image.numpy(), keep=keep.numpy(), tokens=every, kept=kept)


if __name__ == "__main__":
    out = Path(sys.argv[1])
    for number, key in enumerate(CLIPS):
        clip(out, key, 10 * number)
    beit(out)
