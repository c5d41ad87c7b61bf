"""Shared parts of the vision transformers: blocks, layer names, and the blocks that a dense head reads."""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from vfmalign.models.encoder import POOLED_LAYER

EPSILON = 1e-6
MLP_RATIO = 4
"""Number of hidden channels of an MLP, as a multiple of a token's channels."""
CLASS_LAYER, PATCH_LAYER = "class_token", "patch_tokens"
N_DENSE_BLOCKS = 4
"""Number of blocks that a dense head reads, as in UNETR (Hatamizadeh et al., 2022): evenly spaced, with the last one.
"""


class TransformerSize(NamedTuple):
    """Size of a transformer: number of channels of a token, of blocks, and of attention heads per block."""

    dim: int
    depth: int
    heads: int


class Attention(nn.Module):
    """Multi-head self-attention: `proj(softmax(q kᵀ / √(dim / heads)) v)`. One product computes q, k and v."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens_NLC: Tensor) -> Tensor:
        """Returns (N, L, C)."""
        # Upstream's order of the product's outputs: q, k and v, each head by head.
        q_NHLK, k_NHLK, v_NHLK = self.qkv(tokens_NLC).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed_NHLK = functional.scaled_dot_product_attention(q_NHLK, k_NHLK, v_NHLK)
        return cast(Tensor, self.proj(mixed_NHLK.transpose(1, 2).flatten(2)))


class MLP(nn.Module):
    """MLP of two linear layers with GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens_NLC: Tensor) -> Tensor:
        """Returns (N, L, C)."""
        return cast(Tensor, self.fc2(functional.gelu(self.fc1(tokens_NLC))))


class LayerScale(nn.Module):
    """Learnt factor for each channel of a residual branch (Touvron et al., 2021)."""

    def __init__(self, dim: int, value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), value))

    def forward(self, tokens_NLC: Tensor) -> Tensor:
        """Returns (N, L, C)."""
        return tokens_NLC * self.gamma


class Block(nn.Module):
    """Transformer block with a norm before each branch (Dosovitskiy et al., 2021).

    The names of the parameters are the same in the checkpoints of ProFound and DINOv2: norm1, attn.qkv, attn.proj,
    ls1.gamma, norm2, mlp.fc1, mlp.fc2 and ls2.gamma.

    Args:
        size: number of channels of a token and of attention heads.
        eps: epsilon of the norms.
        layer_scale: initial value of the factors on both branches; by default, the branches have no factors.
    """

    def __init__(self, size: TransformerSize, eps: float, layer_scale: float | None = None) -> None:
        super().__init__()
        dim = size.dim
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, size.heads)
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = MLP(dim, MLP_RATIO * dim)
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)

    def forward(self, tokens_NLC: Tensor) -> Tensor:
        """Returns (N, L, C)."""
        tokens_NLC = tokens_NLC + self.ls1(self.attn(self.norm1(tokens_NLC)))
        return cast(Tensor, tokens_NLC + self.ls2(self.mlp(self.norm2(tokens_NLC))))


def build_blocks(size: TransformerSize, eps: float, layer_scale: float | None = None) -> nn.ModuleList:
    """Builds the blocks of a transformer, as `Block` describes them."""
    return nn.ModuleList(Block(size, eps, layer_scale) for _ in range(size.depth))


def resample_position_embedding(table_1LC: Tensor, rows: int, columns: int) -> Tensor:
    """Resamples a square table of position embeddings to another grid of patches.

    Args:
        table_1LC: embeddings of the class token and then of the patches, row by row, (1, 1 + side², C).
        rows: number of patches along H.
        columns: number of patches along W.

    Returns:
        The embeddings (1, 1 + rows · columns, C), by bicubic interpolation with antialiasing.
    """
    side = math.isqrt(table_1LC.shape[1] - 1)
    if (rows, columns) == (side, side):
        return table_1LC
    class_11C, patches_1LC = table_1LC[:, :1], table_1LC[:, 1:]
    patches_1CHW = patches_1LC.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    patches_1CHW = functional.interpolate(patches_1CHW, size=(rows, columns), mode="bicubic", antialias=True)
    return torch.cat((class_11C, patches_1CHW.flatten(2).transpose(1, 2)), dim=1)


def token_layers(depth: int) -> list[str]:
    """Returns the names of all layers: every block, both token kinds after the final norm, and `pooled`."""
    return [*(f"blocks.{i}" for i in range(depth)), PATCH_LAYER, CLASS_LAYER, POOLED_LAYER]


def select_dense_blocks(depth: int) -> list[str]:
    """Returns the names of up to four evenly spaced blocks, including the last one."""
    count = min(N_DENSE_BLOCKS, depth)
    return [f"blocks.{depth * (i + 1) // count - 1}" for i in range(count)]
