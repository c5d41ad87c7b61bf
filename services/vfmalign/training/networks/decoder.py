"""Decoders from an encoder's maps to the input's grid.

Normalisation is over groups of channels within one sample. It keeps no running statistics. A learning rate of 0
therefore leaves every weight unchanged. Normalisation also works for a batch of one sample, and for a map of one voxel
(the deepest stage of a small patch).

Axes: N batch, C channels, D H W depth, height, width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from monai.networks.blocks.unetr_block import UnetrBasicBlock, UnetrUpBlock
from torch import Tensor, nn

from vfmalign.models.encoder import Stride

FULL_RESOLUTION_WIDTHS = (8, 32)
"""Smallest and largest number of channels at the input's resolution, where a channel costs most."""
PYRAMID_SHARE = 48
"""Channels of a token per channel at full resolution: UNETR's 768 for 16."""
GROUPS = 4


class UpBlock(nn.Module):
    """Upsamples by a transposed convolution and a residual block, for a resolution without a skip connection."""

    def __init__(self, in_channels: int, out_channels: int, stride: Stride) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(in_channels, out_channels, stride, stride=stride)
        self.block = _basic_block(out_channels, out_channels)

    def forward(self, deep_NCDHW: Tensor) -> Tensor:
        """Upsamples by the block's stride."""
        return cast(Tensor, self.block(self.up(deep_NCDHW)))


class MergeBlock(nn.Module):
    """Merges two maps of the same resolution, such as ProFound's last two stages.

    `UnetrUpBlock` would upsample by 1.
    """

    def __init__(self, deep_channels: int, skip_channels: int) -> None:
        super().__init__()
        self.block = _basic_block(deep_channels + skip_channels, skip_channels)

    def forward(self, deep_NCDHW: Tensor, skip_NCDHW: Tensor) -> Tensor:
        """Concatenates the two maps and reduces the result to the number of channels of the skip connection."""
        return cast(Tensor, self.block(torch.cat((deep_NCDHW, skip_NCDHW), dim=1)))


class FullResolutionBlock(nn.Module):
    """Reads the input together with a map of the same resolution.

    The map and the input are normalised, because the last map of a stack of convolutions may have any scale. Without
    normalisation, an input in [0, 1] has about a hundredth of the map's variance. The network would then not learn to
    use the detail of the input.

    Args:
        channels: channels of the map.
        in_channels: channels of the input; 0 if the decoder does not receive the input.
        out_channels: channels of the output.
    """

    def __init__(self, channels: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(channels, channels)
        self.stem: nn.Module | None = None
        if in_channels:
            stem = _stem(in_channels, out_channels, (1, 1, 1))
            self.stem = nn.Sequential(stem, nn.GroupNorm(out_channels, out_channels))
            channels += out_channels
        self.block = _basic_block(channels, out_channels, res_block=False)

    def forward(self, map_NCDHW: Tensor, input_NCDHW: Tensor) -> Tensor:
        """Returns (N, out_channels, D, H, W)."""
        deep_NCDHW = self.norm(map_NCDHW)
        if self.stem is not None:
            deep_NCDHW = torch.cat((deep_NCDHW, self.stem(input_NCDHW)), dim=1)
        return cast(Tensor, self.block(deep_NCDHW))


class TokenPyramid(nn.Module):
    """Converts the feature maps of a transformer into a feature pyramid.

    All these maps have the same stride. Shallower maps become finer.

    As in UNETR (Hatamizadeh et al., WACV 2022), a transposed convolution upsamples each map to its own level. Finer
    levels have fewer channels. If there are more maps than levels, the remaining maps keep their stride. The finest
    level of the pyramid is one step coarser than the input.

    Args:
        channels: channels of each map, shallow to deep.
        stride: stride of all maps along D, H, W.
    """

    def __init__(self, channels: Sequence[int], stride: Stride) -> None:
        super().__init__()
        levels = [stride]
        for step in get_upsampling_steps(stride)[:-1]:
            levels.append(cast(Stride, tuple(side // by for side, by in zip(levels[-1], step, strict=True))))
        finest_first = levels[::-1][-len(channels) :]
        self.strides = [*finest_first, *[stride] * (len(channels) - len(finest_first))]
        full_width = max(FULL_RESOLUTION_WIDTHS[0], channels[-1] // PYRAMID_SHARE // GROUPS * GROUPS)
        self.channels = [min(c, full_width * max(level)) for c, level in zip(channels, self.strides, strict=True)]
        self.lifts = nn.ModuleList()
        for width_in, width_out, level in zip(channels, self.channels, self.strides, strict=True):
            ratio = cast(Stride, tuple(side // to for side, to in zip(stride, level, strict=True)))
            # The norm is needed because a transformer's residual stream grows from block to block.
            self.lifts.append(
                nn.Sequential(nn.GroupNorm(1, width_in), nn.ConvTranspose3d(width_in, width_out, ratio, ratio))
            )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Returns maps with `strides` and `channels`, shallow to deep."""
        return [lift(map_NCDHW) for lift, map_NCDHW in zip(self.lifts, maps, strict=True)]


class DenseDecoder(nn.Module):
    """A UNETR-like decoder. It converts the encoder's stage maps to a map on the input's grid.

    Every stage map is a skip connection. The gradient therefore reaches every stage of the encoder. With `input_skip`,
    the input itself is a skip connection at resolutions above those of the stage maps. The input provides detail that
    is lost in a stem of stride 4. If all maps have the same stride, a `TokenPyramid` first converts them. A
    `FullResolutionBlock` reads a map at the input's own resolution.

    Args:
        channels: channels of each stage map, shallow to deep.
        strides: stride of each stage map along D, H, W relative to the input, shallow to deep.
        in_channels: channels of the input.
        out_channels: channels of the output.
        input_skip: whether the decoder receives the input; off for masked reconstruction, where all information must
            pass the encoder.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[Stride],
        in_channels: int,
        out_channels: int,
        *,
        input_skip: bool = True,
    ) -> None:
        super().__init__()
        self.pyramid: TokenPyramid | None = None
        if len(strides) > 1 and len(set(strides)) == 1:
            self.pyramid = TokenPyramid(channels, strides[0])
            channels, strides = self.pyramid.channels, self.pyramid.strides
        merges: list[nn.Module] = []
        for (skip, skip_stride), (deep, deep_stride) in pairwise(zip(channels, strides, strict=True)):
            ratio = tuple(d // s for d, s in zip(deep_stride, skip_stride, strict=True))
            merges.append(MergeBlock(deep, skip) if ratio == (1, 1, 1) else _up_block(deep, skip, ratio))
        self.merges = nn.ModuleList(reversed(merges))

        full_width = max(FULL_RESOLUTION_WIDTHS[0], min(channels[0] // 2, FULL_RESOLUTION_WIDTHS[1]))
        steps = get_upsampling_steps(strides[0])
        widths = _widths_to_full(channels[0], full_width, len(steps))
        self.stems = nn.ModuleList()
        self.ups = nn.ModuleList()
        coarse = strides[0]
        for (deep, fine), step in zip(pairwise(widths), steps, strict=True):
            coarse = cast(Stride, tuple(c // s for c, s in zip(coarse, step, strict=True)))
            if input_skip:
                self.stems.append(_stem(in_channels, fine, coarse))
                # No residual branch at full resolution, where it would cost a sixth of a training step.
                self.ups.append(_up_block(deep, fine, step, res_block=coarse != (1, 1, 1)))
            else:
                self.ups.append(UpBlock(deep, fine, step))
        self.full: FullResolutionBlock | None = None
        if not steps:
            self.full = FullResolutionBlock(widths[0], in_channels if input_skip else 0, full_width)
        self.out = nn.Conv3d(widths[-1] if steps else full_width, out_channels, 1)

    def forward(self, input_NCDHW: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Decodes.

        Args:
            input_NCDHW: the encoder's input. D, H, W must be multiples of the deepest stride.
            maps: stage maps, shallow to deep.

        Returns:
            (N, out_channels, D, H, W).
        """
        if self.pyramid is not None:
            maps = self.pyramid(maps)
        deep_NCDHW = maps[-1]
        for merge, skip_NCDHW in zip(self.merges, reversed(maps[:-1]), strict=True):
            deep_NCDHW = merge(deep_NCDHW, skip_NCDHW)
        if self.full is not None:
            deep_NCDHW = self.full(deep_NCDHW, input_NCDHW)
        elif self.stems:
            for stem, up in zip(self.stems, self.ups, strict=True):
                deep_NCDHW = up(deep_NCDHW, stem(input_NCDHW))
        else:
            for up in self.ups:
                deep_NCDHW = up(deep_NCDHW)
        return cast(Tensor, self.out(deep_NCDHW))


def group_norm(channels: int = GROUPS) -> tuple[str, dict[str, int]]:
    """MONAI's name and arguments for the norm of a block.

    The norm uses fewer groups if `GROUPS` does not divide the number of channels.
    """
    return ("group", {"num_groups": math.gcd(GROUPS, channels)})


def get_upsampling_steps(stride: Stride) -> list[Stride]:
    """Upsampling factors from a stride to full resolution: the prime factors of each axis, largest first.

    A patch of 14 pixels is upsampled by 7 and then by 2. This yields a map at half resolution, which is more useful
    than a map at a seventh.
    """
    factors = [_prime_factors(side) for side in stride]
    length = max(map(len, factors))
    padded = [axis + [1] * (length - len(axis)) for axis in factors]
    return [(d, h, w) for d, h, w in zip(*padded, strict=True)]


def _prime_factors(number: int) -> list[int]:
    factors: list[int] = []
    divisor = 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors[::-1]


def _widths_to_full(deep: int, full_width: int, steps: int) -> list[int]:
    """Channels from the shallowest stage map to full resolution: halved at each step, but at least `full_width`."""
    widths = [deep]
    for step in range(steps):
        widths.append(full_width if step == steps - 1 else max(full_width, widths[-1] // 2))
    return widths


def _stem(in_channels: int, out_channels: int, stride: Stride) -> nn.Conv3d:
    """A convolution that downsamples the input by `stride`: kernel 3 up to stride 2, otherwise the stride."""
    kernel = tuple(max(3, side) for side in stride)
    padding = tuple(1 if side <= 2 else 0 for side in stride)
    return nn.Conv3d(in_channels, out_channels, cast(Stride, kernel), stride, cast(Stride, padding))


def _up_block(deep: int, skip: int, ratio: tuple[int, ...], *, res_block: bool = True) -> nn.Module:
    return cast(nn.Module, UnetrUpBlock(3, deep, skip, 3, ratio, group_norm(skip), res_block=res_block))


def _basic_block(in_channels: int, out_channels: int, *, res_block: bool = True) -> nn.Module:
    return cast(
        nn.Module, UnetrBasicBlock(3, in_channels, out_channels, 3, 1, group_norm(out_channels), res_block=res_block)
    )
