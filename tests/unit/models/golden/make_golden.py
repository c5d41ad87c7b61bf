"""Makes `convnextv2_small.safetensors`: random weights, an input, and what the formulas of the papers give for them.

The outputs do not come from the code under test: `reference` is a plain transcription in float64 of ConvNeXt V2 (arXiv
2301.00808, blocks and GRN) in ProFound's 3D layout, without any of the encoder's modules. Run it again only when the
architecture itself changes:  python tests/unit/models/golden/make_golden.py
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

DEPTHS = (1, 1, 2, 1)
DIMS = (4, 8, 12, 16)
STRIDES = (4, 2, 2, 1)
SEED = 20240607
PATH = Path(__file__).parent / "convnextv2_small.safetensors"


def weights() -> dict[str, torch.Tensor]:
    """Every parameter drawn from a normal, so that none sits at a value that hides it (GRN starts at 0)."""
    generator = torch.Generator().manual_seed(SEED)

    def draw(*shape: int, scale: float = 0.3, mean: float = 0.0) -> torch.Tensor:
        return mean + scale * torch.randn(*shape, generator=generator)

    state = {}
    before = 3
    for i, (depth, dim, stride) in enumerate(zip(DEPTHS, DIMS, STRIDES, strict=True)):
        conv, norm, normed = (0, 1, dim) if i == 0 else (1, 0, before)
        state[f"downsample_layers.{i}.{conv}.weight"] = draw(dim, before, stride, stride, stride)
        state[f"downsample_layers.{i}.{conv}.bias"] = draw(dim)
        state[f"downsample_layers.{i}.{norm}.weight"] = draw(normed, mean=1.0)
        state[f"downsample_layers.{i}.{norm}.bias"] = draw(normed)
        for j in range(depth):
            block = f"stages.{i}.{j}"
            state[f"{block}.dwconv.weight"] = draw(dim, 1, 7, 7, 7, scale=0.1)
            state[f"{block}.dwconv.bias"] = draw(dim)
            state[f"{block}.norm.weight"] = draw(dim, mean=1.0)
            state[f"{block}.norm.bias"] = draw(dim)
            state[f"{block}.pwconv1.weight"] = draw(4 * dim, dim)
            state[f"{block}.pwconv1.bias"] = draw(4 * dim)
            state[f"{block}.grn.gamma"] = draw(1, 1, 1, 1, 4 * dim)
            state[f"{block}.grn.beta"] = draw(1, 1, 1, 1, 4 * dim)
            state[f"{block}.pwconv2.weight"] = draw(dim, 4 * dim)
            state[f"{block}.pwconv2.bias"] = draw(dim)
        before = dim
    state["norm.weight"] = draw(before, mean=1.0)
    state["norm.bias"] = draw(before)
    return state


def layer_norm(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, axis: int) -> torch.Tensor:
    """(x − mean) / √(var + 1e-6) · w + b over `axis`."""
    shape = [1] * x.ndim
    shape[axis] = -1
    mean = x.mean(axis, keepdim=True)
    variance = ((x - mean) ** 2).mean(axis, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-6) * w.reshape(shape) + b.reshape(shape)


def reference(state: dict[str, torch.Tensor], input_NCDHW: torch.Tensor) -> dict[str, torch.Tensor]:
    """The stage maps and the pooled feature, in float64."""
    p = {name: tensor.double() for name, tensor in state.items()}
    x, out = input_NCDHW.double(), {}
    for i, (depth, dim, stride) in enumerate(zip(DEPTHS, DIMS, STRIDES, strict=True)):
        down = f"downsample_layers.{i}"
        if i == 0:
            x = F.conv3d(x, p[f"{down}.0.weight"], p[f"{down}.0.bias"], stride=stride)
            x = layer_norm(x, p[f"{down}.1.weight"], p[f"{down}.1.bias"], 1)
        else:
            x = layer_norm(x, p[f"{down}.0.weight"], p[f"{down}.0.bias"], 1)
            x = F.conv3d(x, p[f"{down}.1.weight"], p[f"{down}.1.bias"], stride=stride)
        for j in range(depth):
            b = f"stages.{i}.{j}"
            h = F.conv3d(x, p[f"{b}.dwconv.weight"], p[f"{b}.dwconv.bias"], padding=3, groups=dim)
            h = layer_norm(h, p[f"{b}.norm.weight"], p[f"{b}.norm.bias"], 1)
            h = torch.einsum("ncdhw,kc->nkdhw", h, p[f"{b}.pwconv1.weight"])
            h = h + p[f"{b}.pwconv1.bias"].reshape(1, -1, 1, 1, 1)
            h = 0.5 * h * (1 + torch.erf(h / 2**0.5))
            g = (h**2).sum((2, 3, 4), keepdim=True).sqrt()
            n = g / (g.mean(1, keepdim=True) + 1e-6)
            gamma, beta = (p[f"{b}.grn.{name}"].reshape(1, -1, 1, 1, 1) for name in ("gamma", "beta"))
            h = gamma * (h * n) + beta + h
            h = torch.einsum("nkdhw,ck->ncdhw", h, p[f"{b}.pwconv2.weight"])
            x = x + h + p[f"{b}.pwconv2.bias"].reshape(1, -1, 1, 1, 1)
        out[f"map{i}_NCDHW"] = x
    out["pooled_NC"] = layer_norm(x.mean((2, 3, 4)), p["norm.weight"], p["norm.bias"], 1)
    return out


def main() -> None:
    """Writes the file."""
    state = weights()
    input_NCDHW = torch.randn(1, 3, 16, 34, 16, generator=torch.Generator().manual_seed(SEED + 1))
    tensors = {f"state.{name}": tensor for name, tensor in state.items()}
    tensors["input_NCDHW"] = input_NCDHW
    tensors |= {name: tensor.float().contiguous() for name, tensor in reference(state, input_NCDHW).items()}
    save_file(tensors, PATH, metadata={"seed": str(SEED), "depths": str(DEPTHS), "dims": str(DIMS)})


if __name__ == "__main__":
    main()
