"""Decoders: from an encoder's maps back to the input's grid.

Knows modules and shapes; knows no encoder, task or loss. Axes: N batch, C channels, D H W depth, height, width.

Normalisation is by groups within one sample: no statistics run along, so that a learning rate of 0 leaves every weight
unchanged, a batch of one is no special case, and a map of one voxel (a small patch at the deepest stage) still works.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from monai.networks.blocks.unetr_block import UnetrBasicBlock, UnetrUpBlock
from torch import Tensor, nn

FULL_RESOLUTION_WIDTHS = (8, 32)
"""Least and most channels at the input's own resolution, where a voxel's channel costs most."""
PYRAMID_SHARE = 48
"""Channels of a token for each channel at full resolution: UNETR's 768 for 16."""
GROUPS = 4
_Three = tuple[int, int, int]


class UpBlock(nn.Module):
    """Transposed convolution and a residual block, for a resolution that has no skip."""

    def __init__(self, in_channels: int, out_channels: int, stride: _Three) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(in_channels, out_channels, stride, stride=stride)
        self.block = _basic_block(out_channels, out_channels)

    def forward(self, deep_NCDHW: Tensor) -> Tensor:
        """Upsamples by the block's stride."""
        return cast(Tensor, self.block(self.up(deep_NCDHW)))


class MergeBlock(nn.Module):
    """Joins two maps of one resolution (ProFound's last two stages) where `UnetrUpBlock` would upsample by 1."""

    def __init__(self, deep_channels: int, skip_channels: int) -> None:
        super().__init__()
        self.block = _basic_block(deep_channels + skip_channels, skip_channels)

    def forward(self, deep_NCDHW: Tensor, skip_NCDHW: Tensor) -> Tensor:
        """Concatenates and reduces to the skip's channels."""
        return cast(Tensor, self.block(torch.cat((deep_NCDHW, skip_NCDHW), dim=1)))


class TokenPyramid(nn.Module):
    """Maps of one stride, a transformer's, as the pyramid that a decoder expects: the shallower, the finer.

    As in UNETR (Hatamizadeh et al., WACV 2022): each map is brought to a level of its own by a transposed convolution,
    and its channels are brought down to what its level can afford. Maps that are more than the levels stay at the
    stride; the finest level is one step short of the input's own resolution.

    Args:
        channels: of the maps, shallow to deep.
        stride: of all of them along D, H, W.
    """

    def __init__(self, channels: Sequence[int], stride: _Three) -> None:
        super().__init__()
        levels = [stride]
        for step in upsampling_steps(stride)[:-1]:
            levels.append(cast(_Three, tuple(side // by for side, by in zip(levels[-1], step, strict=True))))
        finest_first = levels[::-1][-len(channels) :]
        self.strides = [*finest_first, *[stride] * (len(channels) - len(finest_first))]
        full = max(FULL_RESOLUTION_WIDTHS[0], channels[-1] // PYRAMID_SHARE // GROUPS * GROUPS)
        self.channels = [min(c, full * max(level)) for c, level in zip(channels, self.strides, strict=True)]
        self.lifts = nn.ModuleList()
        for given, width, level in zip(channels, self.channels, self.strides, strict=True):
            ratio = cast(_Three, tuple(side // to for side, to in zip(stride, level, strict=True)))
            # Every block adds to one stream, which grows from block to block: hence the norm.
            self.lifts.append(nn.Sequential(nn.GroupNorm(1, given), nn.ConvTranspose3d(given, width, ratio, ratio)))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The maps of `strides` and `channels`, shallow to deep as they came."""
        return [lift(map_NCDHW) for lift, map_NCDHW in zip(self.lifts, maps, strict=True)]


class DenseDecoder(nn.Module):
    """A UNETR-like decoder: from the encoder's stage maps back to the input's grid.

    Every stage map is a skip, so the gradient reaches each of the encoder's stages; with `input_skip` the input itself
    is one as well, at the resolutions above the stage maps', for detail that a stride-4 stem cannot keep. Maps that all
    have one stride become a `TokenPyramid` first.

    Args:
        channels: channels of the stage maps, shallow to deep.
        strides: their strides along D, H, W relative to the input, shallow to deep.
        in_channels: channels of the input.
        out_channels: channels of the output.
        input_skip: whether the input is shown to the decoder; off for masked reconstruction, where everything must pass
            through the encoder.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[_Three],
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

        full = max(FULL_RESOLUTION_WIDTHS[0], min(channels[0] // 2, FULL_RESOLUTION_WIDTHS[1]))
        steps = upsampling_steps(strides[0])
        widths = _widths_to_full(channels[0], full, len(steps))
        self.stems = nn.ModuleList()
        self.ups = nn.ModuleList()
        coarse = strides[0]
        for (deep, fine), step in zip(pairwise(widths), steps, strict=True):
            coarse = cast(_Three, tuple(c // s for c, s in zip(coarse, step, strict=True)))
            if input_skip:
                self.stems.append(_stem(in_channels, fine, coarse))
                # Without the residual branch at full resolution, where it would cost a sixth of a training step.
                self.ups.append(_up_block(deep, fine, step, res_block=coarse != (1, 1, 1)))
            else:
                self.ups.append(UpBlock(deep, fine, step))
        self.out = nn.Conv3d(widths[-1], out_channels, 1)

    def forward(self, input_NCDHW: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Decodes.

        Args:
            input_NCDHW: the encoder's input; D, H, W multiples of the deepest stride.
            maps: stage maps, shallow to deep.

        Returns:
            (N, out_channels, D, H, W).
        """
        if self.pyramid is not None:
            maps = self.pyramid(maps)
        deep_NCDHW = maps[-1]
        for merge, skip_NCDHW in zip(self.merges, reversed(maps[:-1]), strict=True):
            deep_NCDHW = merge(deep_NCDHW, skip_NCDHW)
        if self.stems:
            for stem, up in zip(self.stems, self.ups, strict=True):
                deep_NCDHW = up(deep_NCDHW, stem(input_NCDHW))
        else:
            for up in self.ups:
                deep_NCDHW = up(deep_NCDHW)
        return cast(Tensor, self.out(deep_NCDHW))


def group_norm() -> tuple[str, dict[str, int]]:
    """MONAI's name and arguments of the norm that every block has."""
    return ("group", {"num_groups": GROUPS})


def upsampling_steps(stride: _Three) -> list[_Three]:
    """Factors that lead from a stride to full resolution: each axis by its prime factors, the largest first.

    A patch of 14 pixels is first brought up by 7, then by 2: a step at half resolution is worth having, one at a
    seventh is not.
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


def _widths_to_full(deep: int, full: int, steps: int) -> list[int]:
    """Channels from the shallowest stage map to full resolution: half as many a step, but no fewer than `full`."""
    widths = [deep]
    for step in range(steps):
        widths.append(full if step == steps - 1 else max(full, widths[-1] // 2))
    return widths


def _stem(in_channels: int, out_channels: int, stride: _Three) -> nn.Conv3d:
    """A convolution that brings the input down by `stride`: a kernel of 3 up to stride 2, of the stride above."""
    kernel = tuple(max(3, side) for side in stride)
    padding = tuple(1 if side <= 2 else 0 for side in stride)
    return nn.Conv3d(in_channels, out_channels, cast(_Three, kernel), stride, cast(_Three, padding))


def _up_block(deep: int, skip: int, ratio: tuple[int, ...], *, res_block: bool = True) -> nn.Module:
    return cast(nn.Module, UnetrUpBlock(3, deep, skip, 3, ratio, group_norm(), res_block=res_block))


def _basic_block(in_channels: int, out_channels: int) -> nn.Module:
    return cast(nn.Module, UnetrBasicBlock(3, in_channels, out_channels, 3, 1, group_norm(), res_block=True))
