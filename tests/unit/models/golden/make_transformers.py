"""Makes `profound_vit_small.safetensors` and `provicnet_small.safetensors`: weights, inputs, and what formulas give.

The outputs do not come from the code under test: they are plain transcriptions in float64 of the papers' formulas
(ViT blocks, the masked autoencoder, DINOv2 with registers and ProViCNet's tokens), without any of the encoders'
modules. Run it again only when an architecture itself changes:  python tests/unit/models/golden/make_transformers.py
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

FOLDER = Path(__file__).parent
SEED = 20261125
DIM, DEPTH, HEADS, DECODER_DIM = 12, 2, 3, 6
SHAPE, PATCH = (8, 8, 12), (4, 4, 4)
DINO_PATCH, SIDE = 14, 42

Weights = dict[str, torch.Tensor]


class Draw:
    """Weights from one generator; none sits at a value that hides it."""

    def __init__(self, seed: int) -> None:
        self.generator, self.state = torch.Generator().manual_seed(seed), {}

    def __call__(self, name: str, *shape: int, scale: float = 0.3, mean: float = 0.0) -> None:
        self.state[name] = mean + scale * torch.randn(*shape, generator=self.generator)

    def line(self, name: str, wide: int, narrow: int, *kernel: int) -> None:
        self(f"{name}.weight", wide, narrow, *kernel)
        self(f"{name}.bias", wide)

    def norm(self, name: str, dim: int) -> None:
        self(f"{name}.weight", dim, mean=1.0)
        self(f"{name}.bias", dim)

    def blocks(self, prefix: str, dim: int, depth: int, *, scaled: bool = False) -> None:
        for i in range(depth):
            b = f"{prefix}.{i}"
            self.norm(f"{b}.norm1", dim)
            self.line(f"{b}.attn.qkv", 3 * dim, dim)
            self.line(f"{b}.attn.proj", dim, dim)
            self.norm(f"{b}.norm2", dim)
            self.line(f"{b}.mlp.fc1", 4 * dim, dim)
            self.line(f"{b}.mlp.fc2", dim, 4 * dim)
            if scaled:
                self(f"{b}.ls1.gamma", dim, mean=1.0)
                self(f"{b}.ls2.gamma", dim, mean=1.0)


def layer_norm(x: torch.Tensor, p: Weights, name: str) -> torch.Tensor:
    """(x − mean) / √(var + 1e-6) · w + b over the last axis."""
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-6) * p[f"{name}.weight"] + p[f"{name}.bias"]


def line(x: torch.Tensor, p: Weights, name: str) -> torch.Tensor:
    """x·Wᵀ + b."""
    return torch.einsum("...c,kc->...k", x, p[f"{name}.weight"]) + p[f"{name}.bias"]


def gelu(x: torch.Tensor) -> torch.Tensor:
    """x · Φ(x)."""
    return 0.5 * x * (1 + torch.erf(x / 2**0.5))


def block(x: torch.Tensor, p: Weights, b: str, heads: int) -> torch.Tensor:
    """x + a·attention(norm x), then x + c·mlp(norm x); a and c are 1 where there is no layer scale."""
    n, length, dim = x.shape
    q, k, v = line(layer_norm(x, p, f"{b}.norm1"), p, f"{b}.attn.qkv").reshape(n, length, 3, heads, -1).unbind(2)
    scores = torch.einsum("nlhd,nmhd->nhlm", q, k) / (dim // heads) ** 0.5
    seen = torch.einsum("nhlm,nmhd->nlhd", scores.exp() / scores.exp().sum(-1, keepdim=True), v)
    x = x + p.get(f"{b}.ls1.gamma", 1.0) * line(seen.reshape(n, length, dim), p, f"{b}.attn.proj")
    hidden = gelu(line(layer_norm(x, p, f"{b}.norm2"), p, f"{b}.mlp.fc1"))
    return x + p.get(f"{b}.ls2.gamma", 1.0) * line(hidden, p, f"{b}.mlp.fc2")


def doubles(state: Weights) -> Weights:
    """The same in float64."""
    return {name: tensor.double() for name, tensor in state.items()}


def profound_vit() -> None:
    """Writes the masked autoencoder's file."""
    draw = Draw(SEED)
    grid = [side // patch for side, patch in zip(SHAPE, PATCH, strict=True)]
    n_patches = grid[0] * grid[1] * grid[2]
    draw.line("patch_embed.proj", DIM, 3, *PATCH)
    draw("cls_token", 1, 1, DIM)
    draw("pos_embed", 1, 1 + n_patches, DIM)
    draw.blocks("blocks", DIM, DEPTH)
    draw.norm("norm", DIM)
    draw.line("decoder_embed", DECODER_DIM, DIM)
    draw("mask_token", 1, 1, DECODER_DIM)
    draw("decoder_pos_embed", 1, 1 + n_patches, DECODER_DIM)
    draw.blocks("decoder_blocks", DECODER_DIM, 1)
    draw.norm("decoder_norm", DECODER_DIM)
    draw.line("decoder_pred", 3 * PATCH[0] * PATCH[1] * PATCH[2], DECODER_DIM)
    input_NCDHW = torch.randn(2, 3, *SHAPE, generator=draw.generator)
    kept_NK = torch.stack([torch.randperm(n_patches, generator=draw.generator)[:3] for _ in range(2)])

    p, x = doubles(draw.state), input_NCDHW.double()
    patches = [
        x[:, :, 4 * d : 4 * d + 4, 4 * h : 4 * h + 4, 4 * w : 4 * w + 4]
        for d in range(grid[0])
        for h in range(grid[1])
        for w in range(grid[2])
    ]
    embedded = [torch.einsum("ncdhw,kcdhw->nk", patch, p["patch_embed.proj.weight"]) for patch in patches]
    tokens = torch.stack(embedded, 1) + p["patch_embed.proj.bias"] + p["pos_embed"][:, 1:]
    start = (p["cls_token"] + p["pos_embed"][:, :1]).expand(2, -1, -1)

    out, hidden = {}, torch.cat((start, tokens), 1)
    for i in range(DEPTH):
        hidden = block(hidden, p, f"blocks.{i}", HEADS)
        out[f"block{i}_NLC"] = hidden
    out["tokens_NLC"] = layer_norm(hidden, p, "norm")

    kept = torch.stack([tokens[n, kept_NK[n]] for n in range(2)])
    hidden = torch.cat((start, kept), 1)
    for i in range(DEPTH):
        hidden = block(hidden, p, f"blocks.{i}", HEADS)
    hidden = line(layer_norm(hidden, p, "norm"), p, "decoder_embed")
    full = p["mask_token"].expand(2, n_patches, -1).clone()
    for n in range(2):
        for k, place in enumerate(kept_NK[n].tolist()):
            full[n, place] = hidden[n, 1 + k]
    full = torch.cat((hidden[:, :1], full), 1) + p["decoder_pos_embed"]
    full = layer_norm(block(full, p, "decoder_blocks.0", HEADS), p, "decoder_norm")
    out["predicted_NLP"] = line(full, p, "decoder_pred")[:, 1:]
    out["patches_NLP"] = torch.stack([patch.permute(0, 2, 3, 4, 1).flatten(1) for patch in patches], 1)
    write("profound_vit_small", draw.state, {"input_NCDHW": input_NCDHW, "kept_NK": kept_NK}, out)


def provicnet() -> None:
    """Writes the file of ProViCNet's encoder."""
    draw = Draw(SEED + 1)
    draw("backbone.cls_token", 1, 1, DIM)
    draw("backbone.register_tokens", 1, 4, DIM)
    draw("backbone.pos_embed", 1, 1370, DIM)
    draw("backbone.mask_token", 1, DIM)
    draw.line("backbone.patch_embed.proj", DIM, 3, DINO_PATCH, DINO_PATCH)
    draw.blocks("backbone.blocks", DIM, DEPTH, scaled=True)
    draw.norm("backbone.norm", DIM)
    draw.line("axis_pos", DIM, 1)
    draw.line("axis_max", DIM, 1)
    images = torch.randn(3, 3, SIDE, SIDE, generator=draw.generator)
    position = torch.tensor([[0.0, 20.0], [7.0, 20.0], [15.0, 16.0]])

    p, x, grid, out = doubles(draw.state), images.double(), SIDE // DINO_PATCH, {}
    table = p["backbone.pos_embed"][:, 1:].reshape(1, 37, 37, DIM).permute(0, 3, 1, 2)
    table = F.interpolate(table, (grid, grid), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    weight, bias = p["backbone.patch_embed.proj.weight"], p["backbone.patch_embed.proj.bias"]
    patches = F.conv2d(x, weight, bias, stride=DINO_PATCH).flatten(2).transpose(1, 2) + table
    start = (p["backbone.cls_token"] + p["backbone.pos_embed"][:, :1]).expand(3, -1, -1)
    registers = p["backbone.register_tokens"].expand(3, -1, -1)
    axes = [line(position[:, i : i + 1].double(), p, name)[:, None] for i, name in enumerate(("axis_pos", "axis_max"))]
    hidden = torch.cat((start, registers, *axes, patches), 1)
    for i in range(DEPTH):
        hidden = block(hidden, p, f"backbone.blocks.{i}", HEADS)
        out[f"block{i}_SLC"] = hidden[:, 7:]
    hidden = layer_norm(hidden, p, "backbone.norm")
    out["class_SC"], out["patch_tokens_SLC"] = hidden[:, 0], hidden[:, 7:]
    write("provicnet_small", draw.state, {"images_SCHW": images, "position_S2": position}, out)


def write(name: str, state: Weights, inputs: Weights, outputs: Weights) -> None:
    """Writes one file: `state.*`, the inputs, and the outputs in float32."""
    tensors = {f"state.{key}": tensor.contiguous() for key, tensor in state.items()} | inputs
    tensors |= {key: tensor.float().contiguous() for key, tensor in outputs.items()}
    save_file(tensors, FOLDER / f"{name}.safetensors", metadata={"seed": str(SEED)})


if __name__ == "__main__":
    profound_vit()
    provicnet()
