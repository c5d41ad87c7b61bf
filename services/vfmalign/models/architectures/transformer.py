"""Shared parts of the vision transformers: blocks, layer names, and the blocks that a dense head reads."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from torch import nn

from vfmalign.models.encoder import POOLED_LAYER

EPSILON = 1e-6
CLASS_LAYER, PATCH_LAYER = "class_token", "patch_tokens"
N_DENSE_BLOCKS = 4
"""Number of blocks that a dense head reads, evenly spaced and including the last: as in UNETR (Hatamizadeh et al.,
2022).
"""


class TransformerSize(NamedTuple):
    """TransformerSize of a transformer: channels of a token, number of blocks, attention heads of each."""

    dim: int
    depth: int
    heads: int


def build_blocks(size: TransformerSize, eps: float, layer_scale: float | None = None) -> nn.ModuleList:
    """Build timm's blocks: attention with biases, an MLP four times as wide, a norm before each."""
    from timm.models.vision_transformer import Block  # imported here: it takes seconds, and only transformers need it

    norm = partial(nn.LayerNorm, eps=eps)
    return nn.ModuleList(
        Block(size.dim, size.heads, qkv_bias=True, init_values=layer_scale, norm_layer=norm)  # type: ignore[arg-type]
        for _ in range(size.depth)
    )


def token_layers(depth: int) -> list[str]:
    """Names of all layers: every block, both kinds of tokens after the final norm, and `pooled`."""
    return [*(f"blocks.{i}" for i in range(depth)), PATCH_LAYER, CLASS_LAYER, POOLED_LAYER]


def select_dense_blocks(depth: int) -> list[str]:
    """Names of up to four blocks, evenly spaced, ending with the last."""
    count = min(N_DENSE_BLOCKS, depth)
    return [f"blocks.{depth * (i + 1) // count - 1}" for i in range(count)]
