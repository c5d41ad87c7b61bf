"""ProFound's transformer: a masked autoencoder with a three-dimensional vision transformer.

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv 2111.06377; the 3D patches come
from ProFound. Parameters have the same names as in ProFound, so that its state dicts load unchanged.

Axes: N batch, L tokens, K visible patches, C channels, P voxels of a patch times input channels, D depth, H height, W
width. Tokens and patches are ordered by D, H, W.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from vfmalign.models.architectures.transformer import (
    CLASS_LAYER,
    EPSILON,
    PATCH_LAYER,
    TransformerSize,
    build_blocks,
    select_dense_blocks,
    token_layers,
)
from vfmalign.models.encoder import POOLED_LAYER, Encoder, Stride, pool


class ProFoundViT(Encoder):
    """Encoder that passes a class token and patch tokens through transformer blocks and a final norm.

    Args:
        shape_DHW: size of the largest input. It determines the size of the position embedding.
        patch_DHW: size of a patch.
        size: size of the transformer.
        in_channels: number of input channels, one per MRI sequence.
        eps: epsilon of every norm.
    """

    studies_at_once = 2  # two studies read the weights once, which saves a tenth of a pass of the base size

    def __init__(
        self,
        shape_DHW: Stride,
        patch_DHW: Stride,
        size: TransformerSize,
        in_channels: int = 3,
        eps: float = EPSILON,
    ) -> None:
        super().__init__()
        self.patch_DHW, self.dim, self.in_channels, self.eps = patch_DHW, size.dim, in_channels, eps
        self.grid_DHW = patch_grid(shape_DHW, patch_DHW)
        self.patch_embed = PatchEmbed3D(in_channels, patch_DHW, size.dim)
        self.cls_token = nn.Parameter(torch.empty(1, 1, size.dim))
        # Fixed, not learned. A checkpoint replaces it by upstream's embedding. Upstream's `xy` meshgrid scrambles the
        # axes: patch (d, h, w) of a 4×8×8 grid has the coordinates (h mod 4, 2d + h // 4, w) there.
        self.pos_embed = nn.Parameter(position_embedding(self.grid_DHW, size.dim), requires_grad=False)
        self.blocks = build_blocks(size, eps)
        self.norm = nn.LayerNorm(size.dim, eps=eps)
        nn.init.normal_(self.cls_token, std=0.02)
        self.apply(initialise)

    def layer_channels(self) -> dict[str, int]:
        """Number of channels of every block, of both token kinds after the final norm, and of `pooled`."""
        return dict.fromkeys(token_layers(len(self.blocks)), self.dim)

    def dense_layers(self) -> dict[str, Stride]:
        """Four blocks. The stride of each layer is the size of a patch."""
        return dict.fromkeys(select_dense_blocks(len(self.blocks)), self.patch_DHW)

    def feature_maps(self, input_NCDHW: Tensor, slices_N2: Tensor | None = None) -> dict[str, Tensor]:
        """Runs the encoder on whole inputs, without masked patches.

        Returns:
            `blocks.i`: patch tokens after block i, (N, C, D/p, H/p, W/p), where p are the sides of a patch.
            `patch_tokens`: patch tokens after the final norm, with the same shape.
            `class_token`: the class token after the final norm, (N, C, 1, 1, 1).
            `pooled`: the class token as (N, C).
        """
        maps = {}
        grid_DHW = patch_grid(tuple(input_NCDHW.shape[2:]), self.patch_DHW)
        tokens_NLC = self.embed(input_NCDHW)
        for i, block in enumerate(self.blocks):
            tokens_NLC = block(tokens_NLC)
            maps[f"blocks.{i}"] = _as_map(tokens_NLC[:, 1:], grid_DHW)
        tokens_NLC = self.norm(tokens_NLC)
        maps[PATCH_LAYER] = _as_map(tokens_NLC[:, 1:], grid_DHW)
        maps[CLASS_LAYER] = tokens_NLC[:, 0, :, None, None, None]
        maps[POOLED_LAYER] = pool(maps[CLASS_LAYER])
        return maps

    def tokens(self, input_NCDHW: Tensor, visible_NK: Tensor | None = None) -> Tensor:
        """Returns the class token and the patch tokens after the final norm.

        Args:
            input_NCDHW: the input.
            visible_NK: indices of the K patches that the encoder sees; None for all patches.

        Returns:
            (N, 1 + K, C): the class token, then the patches in the order of `visible_NK`.
        """
        tokens_NLC = self.embed(input_NCDHW)
        if visible_NK is not None:
            patches_NKC = tokens_NLC[:, 1:].gather(1, visible_NK[..., None].expand(-1, -1, self.dim))
            tokens_NLC = torch.cat((tokens_NLC[:, :1], patches_NKC), dim=1)
        for block in self.blocks:
            tokens_NLC = block(tokens_NLC)
        return cast(Tensor, self.norm(tokens_NLC))

    def embed(self, input_NCDHW: Tensor) -> Tensor:
        """Tokens before the first block: (N, 1 + L, C)."""
        place_1LC = crop_position_embedding(
            self.pos_embed, self.grid_DHW, patch_grid(tuple(input_NCDHW.shape[2:]), self.patch_DHW)
        )
        patches_NLC = self.patch_embed(input_NCDHW) + place_1LC[:, 1:]
        class_NLC = (self.cls_token + place_1LC[:, :1]).expand(len(patches_NLC), -1, -1)
        return torch.cat((class_NLC, patches_NLC), dim=1)


class PatchEmbed3D(nn.Module):
    """Patch embedding by a convolution with a stride equal to its kernel size."""

    def __init__(self, in_channels: int, patch_DHW: Stride, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(in_channels, dim, patch_DHW, stride=patch_DHW)

    def forward(self, input_NCDHW: Tensor) -> Tensor:
        """Returns (N, L, C)."""
        return cast(Tensor, self.proj(input_NCDHW)).flatten(2).transpose(1, 2)


class MaeDecoder(nn.Module):
    """Decoder of the masked autoencoder. Predicts the voxels of all patches from the tokens of the visible patches.

    Args:
        encoder: the encoder that provides the tokens.
        size: size of the transformer in the decoder.
    """

    def __init__(self, encoder: ProFoundViT, size: TransformerSize) -> None:
        super().__init__()
        self.grid_DHW = encoder.grid_DHW
        self.decoder_embed = nn.Linear(encoder.dim, size.dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, size.dim))
        self.decoder_pos_embed = nn.Parameter(position_embedding(encoder.grid_DHW, size.dim), requires_grad=False)
        self.decoder_blocks = build_blocks(size, encoder.eps)
        self.decoder_norm = nn.LayerNorm(size.dim, eps=encoder.eps)
        self.decoder_pred = nn.Linear(size.dim, math.prod(encoder.patch_DHW) * encoder.in_channels)
        nn.init.normal_(self.mask_token, std=0.02)
        self.apply(initialise)

    def forward(self, tokens_NLC: Tensor, visible_NK: Tensor, grid_DHW: Stride | None = None) -> Tensor:
        """Predicts the voxels of every patch.

        Args:
            tokens_NLC: the encoder's class token and the tokens of the visible patches.
            visible_NK: indices of the visible patches.
            grid_DHW: number of patches along each axis of the input; None for the largest input.

        Returns:
            (N, L, P). The voxels of a patch are ordered by D, H, W and then channel.
        """
        seen_NKC = self.decoder_embed(tokens_NLC)
        place_1LC = crop_position_embedding(self.decoder_pos_embed, self.grid_DHW, grid_DHW or self.grid_DHW)
        all_NLC = self.mask_token.expand(len(seen_NKC), place_1LC.shape[1] - 1, -1)
        all_NLC = all_NLC.scatter(1, visible_NK[..., None].expand(-1, -1, seen_NKC.shape[2]), seen_NKC[:, 1:])
        hidden_NLC = torch.cat((seen_NKC[:, :1], all_NLC), dim=1) + place_1LC
        for block in self.decoder_blocks:
            hidden_NLC = block(hidden_NLC)
        return cast(Tensor, self.decoder_pred(self.decoder_norm(hidden_NLC)))[:, 1:]


def to_volume(patches_NLP: Tensor, grid_DHW: Stride, patch_DHW: Stride) -> Tensor:
    """Arranges the patches from `MaeDecoder` as a volume (N, C, D, H, W)."""
    (d, h, w), (p, q, r) = grid_DHW, patch_DHW
    tiles = patches_NLP.reshape(len(patches_NLP), d, h, w, p, q, r, -1).permute(0, 7, 1, 4, 2, 5, 3, 6)
    return tiles.reshape(len(patches_NLP), -1, d * p, h * q, w * r)


def patch_grid(shape_DHW: tuple[int, ...], patch_DHW: Stride) -> Stride:
    """Number of patches along D, H, W."""
    if any(side % patch for side, patch in zip(shape_DHW, patch_DHW, strict=True)):
        raise ValueError(f"an input of {shape_DHW} cannot be divided into patches of {patch_DHW}")
    d, h, w = (side // patch for side, patch in zip(shape_DHW, patch_DHW, strict=True))
    return d, h, w


def position_embedding(grid_DHW: Stride, dim: int) -> Tensor:
    """Sines and cosines of the patch positions. Each of the three axes uses a third of the channels.

    Returns:
        Embedding (1, 1 + L, dim). The embedding of the class token is 0.
    """
    if dim % 6:
        raise ValueError(f"{dim} channels cannot be shared by sine and cosine of three axes: choose a multiple of 6")
    frequencies_F = 10_000 ** -(torch.arange(dim // 6, dtype=torch.float64) / (dim // 6))
    axes = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid_DHW), indexing="ij")
    angles = [axis.flatten()[:, None] * frequencies_F for axis in axes]
    patches_LC = torch.cat([wave(angle_LF) for angle_LF in angles for wave in (torch.sin, torch.cos)], dim=1)
    return torch.cat((torch.zeros(1, dim), patches_LC.float()))[None]


def crop_position_embedding(embedding_1LC: Tensor, whole_DHW: Stride, part_DHW: Stride) -> Tensor:
    """Position embedding of a smaller input, such as a training patch.

    The result is the centre of the embedding of the whole grid.

    The embeddings of neighbouring patches then differ as much as in a whole volume. If the grid were resampled, these
    differences would change.

    Args:
        embedding_1LC: position embedding of the class token and of the whole grid.
        whole_DHW: number of patches of the whole grid.
        part_DHW: number of patches of the input.
    """
    if part_DHW == whole_DHW:
        return embedding_1LC
    if any(part > whole for part, whole in zip(part_DHW, whole_DHW, strict=True)):
        raise ValueError(f"an input of {part_DHW} patches is larger than the grid of {whole_DHW}")
    grid_DHWC = embedding_1LC[0, 1:].reshape(*whole_DHW, -1)
    for axis, (part, whole) in enumerate(zip(part_DHW, whole_DHW, strict=True)):
        grid_DHWC = grid_DHWC.narrow(axis, (whole - part) // 2, part)
    return torch.cat((embedding_1LC[:, :1], grid_DHWC.flatten(0, 2)[None]), dim=1)


def _as_map(tokens_NLC: Tensor, grid_DHW: Stride) -> Tensor:
    return tokens_NLC.transpose(1, 2).reshape(len(tokens_NLC), -1, *grid_DHW)


def initialise(module: nn.Module) -> None:
    """Initialises as in the paper: Xavier uniform weights and zero biases. The patch projection counts as a matrix."""
    if isinstance(module, nn.Conv3d | nn.Linear):
        nn.init.xavier_uniform_(module.weight.view(len(module.weight), -1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
