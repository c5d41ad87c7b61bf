"""ProViCNet: DINOv2 with registers, applied to slices. Two tokens encode the position of a slice in its volume.

`DinoEncoder` is DINOv2 itself, applied to slices: without these tokens, and with or without registers.

Sources: Oquab et al., "DINOv2", arXiv 2304.07193; Darcet et al., "Vision Transformers Need Registers", arXiv
2309.16588; position tokens and their order come from ProViCNet (github.com/pimed/ProViCNet). Parameters have the same
names as in ProViCNet, so that its state dicts load unchanged.

Axes: N studies, S slices of all studies, L tokens, C channels, D slices of one study, H rows, W columns. The input of
an encoder consists of whole volumes. Each volume has one channel per sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from vfmalign.models.architectures.transformer import (
    CLASS_LAYER,
    EPSILON,
    PATCH_LAYER,
    TransformerSize,
    build_blocks,
    resample_position_embedding,
    select_dense_blocks,
    token_layers,
)
from vfmalign.models.encoder import POOLED_LAYER, Encoder, Stride, pool_volume, whole_volumes

WINDOW = 3
"""Number of adjacent slices in the input of one slice. They replace the red, green and blue of a photograph."""
DINO_DIM = 384
"""Width of the smallest transformer of DINOv2. ProViCNet is based on this transformer."""
REGISTERS = 4
TABLE_SIDE = 37
"""Number of rows and of columns of the learned position embedding: DINOv2's 518 pixels in patches of 14."""
IMAGENET_MEAN, IMAGENET_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and SD of red, green and blue, by which DINOv2 normalises values between 0 and 1."""
PIXELS_PER_CHUNK = 8 * 448**2
"""Pixels of the slices that one pass processes together: eight slices of the published size, or many small ones."""


class DinoBackbone(nn.Module):
    """DINOv2's transformer with registers.

    Args:
        size: size of the transformer.
        patch: side length of a patch in pixels.
        registers: number of register tokens.
    """

    def __init__(self, size: TransformerSize, patch: int, registers: int = REGISTERS) -> None:
        super().__init__()
        dim = size.dim
        self.patch_embed = PatchEmbed2D(patch, dim)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.register_tokens = nn.Parameter(torch.empty(1, registers, dim)) if registers else None
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + TABLE_SIDE**2, dim))
        # Used only in DINOv2's own pretraining, but part of all its state dicts.
        self.mask_token = nn.Parameter(torch.zeros(1, dim), requires_grad=False)
        self.blocks = build_blocks(size, EPSILON, layer_scale=1.0)
        self.norm = nn.LayerNorm(dim, eps=EPSILON)
        nn.init.normal_(self.cls_token, std=1e-6)
        if self.register_tokens is not None:
            nn.init.normal_(self.register_tokens, std=1e-6)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.apply(partial(_initialise, dim=dim))

    def embed(self, images_SCHW: Tensor, between_SLC: Tensor) -> Tensor:
        """Tokens before the first block: class token, registers, `between_SLC`, then patches ordered by H and W."""
        patches_SCHW = self.patch_embed(images_SCHW)
        rows, columns = patches_SCHW.shape[2:]
        place_1LC = resample_position_embedding(self.pos_embed, rows, columns)
        patches_SLC = patches_SCHW.flatten(2).transpose(1, 2) + place_1LC[:, 1:]
        class_SLC = (self.cls_token + place_1LC[:, :1]).expand(len(images_SCHW), -1, -1)
        if self.register_tokens is not None:
            class_SLC = torch.cat((class_SLC, self.register_tokens.expand(len(images_SCHW), -1, -1)), dim=1)
        return torch.cat((class_SLC, between_SLC, patches_SLC), dim=1)


class PatchEmbed2D(nn.Module):
    """Patch embedding by a convolution with a stride equal to its kernel size."""

    def __init__(self, patch: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(WINDOW, dim, patch, stride=patch)

    def forward(self, images_SCHW: Tensor) -> Tensor:
        """Returns (S, C, H/patch, W/patch)."""
        return cast(Tensor, self.proj(images_SCHW))


class SliceWiseEncoder(Encoder):
    """Encoder whose maps have one slice for each slice of the input."""

    def padded_slices(self, map_NCDHW: Tensor, slices_N2: Tensor | None) -> Tensor | None:
        """Returns a boolean mask (N, 1, D, 1, 1) of the padded slices of a map."""
        if slices_N2 is None:
            return None
        index_ND, count_N1 = slice_indices(slices_N2.to(map_NCDHW.device), map_NCDHW.shape[2])
        return ((index_ND < 0) | (index_ND >= count_N1))[:, None, :, None, None]


class SliceEncoder(SliceWiseEncoder):
    """Encoder of one sequence. Adds two tokens to the backbone. They encode the position of a slice.

    Args:
        size: size of the transformer.
        patch: side length of a patch in pixels.
        registers: number of register tokens.
    """

    def __init__(self, size: TransformerSize, patch: int = 14, registers: int = REGISTERS) -> None:
        super().__init__()
        self.in_channels, self.size, self.patch = 1, size, patch
        self.backbone = DinoBackbone(size, patch, registers)
        self.axis_pos = nn.Linear(1, size.dim)
        self.axis_max = nn.Linear(1, size.dim)
        for line in (self.axis_pos, self.axis_max):
            nn.init.normal_(line.weight, std=0.02)
            nn.init.zeros_(line.bias)

    def layer_channels(self) -> dict[str, int]:
        """Number of channels of every block, of both token kinds after the final norm, and of `pooled`."""
        return dict.fromkeys(token_layers(self.size.depth), self.size.dim)

    def dense_layers(self) -> dict[str, Stride]:
        """Four blocks. The stride of each layer is the size of a patch within a slice, and 1 across slices."""
        return dict.fromkeys(select_dense_blocks(self.size.depth), (1, self.patch, self.patch))

    def stack_slices(self, volumes_NDHW: Tensor, slices_N2: Tensor) -> Tensor:
        """Returns the images of all slices, (N, D, 3, H, W)."""
        return adjacent_slices(volumes_NDHW, slices_N2)

    def position_tokens(self, position_S2: Tensor) -> Tensor:
        """Returns the tokens between the registers and the patches, (S, L, C)."""
        return torch.stack((self.axis_pos(position_S2[:, :1]), self.axis_max(position_S2[:, 1:])), dim=1)

    def slice_maps(self, images_SCHW: Tensor, position_S2: Tensor) -> dict[str, Tensor]:
        """Runs the backbone on slices.

        Args:
            images_SCHW: each slice with its two neighbours as channels; H and W are multiples of `patch`.
            position_S2: index of each slice (from 0) and number of slices of its volume.

        Returns:
            `blocks.i`: patch tokens after block i, (S, C, H/patch, W/patch). `patch_tokens`: patch tokens after the
            final norm. `class_token`: class token after the final norm, (S, C, 1, 1).
        """
        grid = (images_SCHW.shape[2] // self.patch, images_SCHW.shape[3] // self.patch)
        tokens_SLC = self.backbone.embed(images_SCHW, self.position_tokens(position_S2))
        first = tokens_SLC.shape[1] - grid[0] * grid[1]  # the class token, the registers and the positions
        maps = {}
        for i, block in enumerate(self.backbone.blocks):
            tokens_SLC = block(tokens_SLC)
            maps[f"blocks.{i}"] = _as_map(tokens_SLC[:, first:], grid)
        tokens_SLC = self.backbone.norm(tokens_SLC)
        maps[PATCH_LAYER] = _as_map(tokens_SLC[:, first:], grid)
        maps[CLASS_LAYER] = tokens_SLC[:, 0, :, None, None]
        return maps

    def feature_maps(self, input_NCDHW: Tensor, slices_N2: Tensor | None = None) -> dict[str, Tensor]:
        """Runs the encoder on every slice that is not padded. In all maps, padded slices are 0.

        Returns:
            `blocks.i` and `patch_tokens`: (N, C, D, H/patch, W/patch). `class_token`: (N, C, D, 1, 1).
            `pooled`: (N, C), the mean of the class tokens over slices.
        """
        n, _, depth = input_NCDHW.shape[:3]
        volumes_N2 = (whole_volumes(n, depth) if slices_N2 is None else slices_N2).to(input_NCDHW.device)
        index_ND, count_N1 = slice_indices(volumes_N2, depth)
        images_SCHW = self.stack_slices(input_NCDHW[:, 0], volumes_N2).flatten(0, 1)
        position_S2 = torch.stack((index_ND, count_N1.expand_as(index_ND)), -1).flatten(0, 1).to(input_NCDHW.dtype)
        # Without padding there is no mask, so that the shapes depend on no values and the encoder can be exported.
        real_S = None if slices_N2 is None else ((index_ND >= 0) & (index_ND < count_N1)).flatten()
        if real_S is not None:
            images_SCHW, position_S2 = images_SCHW[real_S], position_S2[real_S]
        # A few slices at a time, so that the intermediate results of a block take the memory of a few slices only.
        chunk = max(1, PIXELS_PER_CHUNK // images_SCHW[0, 0].numel())
        parts = [
            self.slice_maps(images, position)
            for images, position in zip(torch.split(images_SCHW, chunk), torch.split(position_S2, chunk), strict=True)
        ]
        maps = {name: _by_study(torch.cat([part[name] for part in parts]), n, real_S) for name in parts[0]}
        maps[POOLED_LAYER] = pool_volume(self, maps[CLASS_LAYER], slices_N2)
        return maps


class DinoEncoder(SliceEncoder):
    """DINOv2 on single slices with values between 0 and 1. Each slice is repeated as red, green and blue.

    Args:
        size: size of the transformer.
        registers: number of register tokens: 0, or 4 for DINOv2 with registers.
    """

    def __init__(self, size: TransformerSize, registers: int) -> None:
        super().__init__(size, registers=registers)
        del self.axis_pos, self.axis_max

    def stack_slices(self, volumes_NDHW: Tensor, slices_N2: Tensor) -> Tensor:
        """Returns every slice as a photograph, normalised as in DINOv2."""
        images_ND3HW = volumes_NDHW[:, :, None].expand(-1, -1, WINDOW, -1, -1)
        mean, sd = (images_ND3HW.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_SD))
        return (images_ND3HW - mean) / sd

    def position_tokens(self, position_S2: Tensor) -> Tensor:
        """Returns no tokens."""
        return position_S2.new_empty((len(position_S2), 0, self.size.dim))


class FusionEncoder(SliceWiseEncoder):
    """Encoder of several sequences. Runs one encoder per sequence and concatenates their layers along the channels.

    Args:
        streams: names of the sequences' encoders, in the order of the input channels.
        size: size of the transformer of each stream.
        patch: side length of a patch in pixels.
    """

    def __init__(self, streams: Sequence[str], size: TransformerSize, patch: int = 14) -> None:
        super().__init__()
        self.in_channels = len(streams)
        self.streams = nn.ModuleDict({name: SliceEncoder(size, patch) for name in streams})

    def _encoders(self) -> list[SliceEncoder]:
        return [cast(SliceEncoder, stream) for stream in self.streams.values()]

    def layer_channels(self) -> dict[str, int]:
        """Number of channels of each layer, summed over all streams."""
        return {name: self.in_channels * width for name, width in self._encoders()[0].layer_channels().items()}

    def dense_layers(self) -> dict[str, Stride]:
        """The dense layers, which are the same as those of one stream."""
        return self._encoders()[0].dense_layers()

    def feature_maps(self, input_NCDHW: Tensor, slices_N2: Tensor | None = None) -> dict[str, Tensor]:
        """Returns the maps of all streams, concatenated along C."""
        streams = [e.feature_maps(input_NCDHW[:, i : i + 1], slices_N2) for i, e in enumerate(self._encoders())]
        return {name: torch.cat([maps[name] for maps in streams], dim=1) for name in streams[0]}


def slice_indices(slices_N2: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """Returns the index of each input slice in its volume, (N, D), and the number of slices of each volume, (N, 1)."""
    return slices_N2[:, :1] + torch.arange(depth, device=slices_N2.device), slices_N2[:, 1:]


def adjacent_slices(volumes_NDHW: Tensor, slices_N2: Tensor | None = None) -> Tensor:
    """Stacks every slice with its two neighbours, (N, D, 3, H, W).

    The first and the last slice of a volume use the stack of their neighbour, as in ProViCNet. If a volume has only one
    slice, this slice is repeated three times. If an input contains only part of a volume, the nearest slice in the
    input replaces a missing neighbour.

    Args:
        volumes_NDHW: slices of one sequence.
        slices_N2: index of the first slice and number of slices (see `models.encoder`); None for whole volumes without
            padding.
    """
    n, depth = volumes_NDHW.shape[:2]
    if slices_N2 is None:
        slices_N2 = whole_volumes(n, depth).to(volumes_NDHW.device)
    index_ND, count_N1 = slice_indices(slices_N2, depth)
    middle_ND = torch.maximum(torch.minimum(index_ND, count_N1 - 2), torch.ones_like(index_ND))
    neighbours_ND3 = middle_ND[..., None] + torch.arange(-1, 2, device=index_ND.device)
    # Within the volume first, for one of a single slice, and then within the input, for a patch.
    neighbours_ND3 = torch.minimum(neighbours_ND3, count_N1[..., None] - 1).clamp(min=0)
    place_ND3 = (neighbours_ND3 - slices_N2[:, :1, None]).clamp(0, depth - 1)
    return volumes_NDHW[torch.arange(n, device=index_ND.device)[:, None, None], place_ND3]


def _as_map(tokens_SLC: Tensor, grid_HW: tuple[int, int]) -> Tensor:
    return tokens_SLC.transpose(1, 2).reshape(len(tokens_SLC), -1, *grid_HW)


def _by_study(map_SCHW: Tensor, studies: int, real_S: Tensor | None) -> Tensor:
    """Converts (N·D, C, H, W) to (N, C, D, H, W). Fills padded slices, which `map_SCHW` lacks, with zeros."""
    if real_S is not None:
        map_SCHW = map_SCHW.new_zeros((len(real_S), *map_SCHW.shape[1:])).index_put((real_S,), map_SCHW)
    return map_SCHW.reshape(studies, -1, *map_SCHW.shape[1:]).transpose(1, 2)


def _initialise(module: nn.Module, dim: int) -> None:
    """Initialises a network of DINOv2's width as in DINOv2: truncated normal weights with SD 0.02, zero biases.

    Narrower networks get larger weights, which keep the gain of a layer constant. At SD 0.02, the patches have almost
    no effect on a class token of 48 channels, so a contrastive loss has no signal at the start.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02 * max(1.0, DINO_DIM / dim) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
