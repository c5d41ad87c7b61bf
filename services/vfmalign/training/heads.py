"""Networks that training puts around an encoder, and the specialised network that does without one.

Knows modules and shapes; knows nothing of tasks, losses, data or storage. Axes: N batch, C channels, D H W depth,
height, width.

Normalisation is by groups within one sample: no statistics run along, so that a learning rate of 0 leaves every weight
unchanged, a batch of one is no special case, and a map of one voxel (a small patch at the deepest stage) still works.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from monai.networks.blocks.unetr_block import UnetrBasicBlock, UnetrUpBlock
from monai.networks.nets.densenet import DenseNet
from monai.networks.nets.unet import UNet
from torch import Tensor, nn

from vfmalign.core.errors import BadOption
from vfmalign.models.encoder import POOLED_LAYER, Encoder

FULL_RESOLUTION_WIDTHS = (8, 32)
"""Least and most channels at the input's own resolution, where a voxel's channel costs most."""
EVIDENCE_CHANNELS = 16
"""Of a classifier's evidence at each voxel of a dense map."""
SMALL_SIDE = 64
"""Longest side in voxels of a volume that gets the small specialised network."""
_GROUPS = 4
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


class DenseDecoder(nn.Module):
    """A UNETR-like decoder: from the encoder's stage maps back to the input's grid.

    Every stage map is a skip, so the gradient reaches each of the encoder's stages; with `input_skip` the input itself
    is one as well, at full and half resolution, for detail that a stride-4 stem cannot keep.

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
        merges: list[nn.Module] = []
        for (skip, skip_stride), (deep, deep_stride) in pairwise(zip(channels, strides, strict=True)):
            ratio = tuple(d // s for d, s in zip(deep_stride, skip_stride, strict=True))
            merges.append(MergeBlock(deep, skip) if ratio == (1, 1, 1) else _up_block(deep, skip, ratio))
        self.merges = nn.ModuleList(reversed(merges))

        full = max(FULL_RESOLUTION_WIDTHS[0], min(channels[0] // 2, FULL_RESOLUTION_WIDTHS[1]))
        widths, self.steps = _widths_to_full(channels[0], full, strides[0])
        self.stems = nn.ModuleList()
        self.ups = nn.ModuleList()
        coarse = strides[0]
        for (deep, fine), step in zip(pairwise(widths), self.steps, strict=True):
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


class EncoderDecoder(nn.Module):
    """An encoder under a dense decoder.

    Args:
        encoder: the VFM; it is trained together with the decoder.
        out_channels: channels of the output.
        input_skip: see `DenseDecoder`.
        residual: channels of the input that the output is added to, one for each of its own; none for an output by
            itself. The last convolution then starts at zero, so that the untrained network returns those channels.
    """

    def __init__(
        self, encoder: Encoder, out_channels: int, *, input_skip: bool = True, residual: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.residual = list(residual)
        channels, strides = stage_shapes(encoder)
        self.decoder = DenseDecoder(channels, strides, encoder.in_channels, out_channels, input_skip=input_skip)
        if residual:
            _zero(self.decoder.out)
        self.decoder.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, input_NCDHW: Tensor) -> Tensor:
        """(N, out_channels, D, H, W)."""
        maps = self.encoder.feature_maps(input_NCDHW)
        output_NCDHW = self.decoder(input_NCDHW, [maps[name] for name in self.encoder.dense_layers()])
        return _added(self.residual, input_NCDHW, output_NCDHW)


class CaseClassifier(nn.Module):
    """One logit per case: evidence at every voxel of every dense map, its maximum and mean, beside the pooled feature.

    A lesion fills a hundredth of the volume: a mean over space alone would drown it, and so would the deepest voxels.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        channels = encoder.layer_channels()
        self.maps = list(encoder.dense_layers())
        self.evidence = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(1, channels[name]),
                nn.Conv3d(channels[name], EVIDENCE_CHANNELS, 3, padding=1),
                nn.GELU(),
                nn.Conv3d(EVIDENCE_CHANNELS, EVIDENCE_CHANNELS, 1),
            )
            for name in self.maps
        )
        self.norm = nn.LayerNorm(channels[POOLED_LAYER])
        self.out = nn.Linear(channels[POOLED_LAYER] + 2 * EVIDENCE_CHANNELS * len(self.maps), 1)

    def forward(self, input_NCDHW: Tensor) -> Tensor:
        """(N, 1)."""
        maps = self.encoder.feature_maps(input_NCDHW)
        found = [self.norm(maps[POOLED_LAYER])]
        for name, evidence in zip(self.maps, self.evidence, strict=True):
            map_NCDHW = evidence(maps[name])
            found += [map_NCDHW.amax((2, 3, 4)), map_NCDHW.mean((2, 3, 4))]
        return cast(Tensor, self.out(torch.cat(found, dim=1)))


class SpecialisedClassifier(nn.Module):
    """One logit per case without a foundation model: MONAI's 3D DenseNet, small for small volumes, else DenseNet-121.

    Args:
        in_channels: channels of the input.
        shape_DHW: size of the volumes it is for.
    """

    def __init__(self, in_channels: int, shape_DHW: _Three) -> None:
        super().__init__()
        small = max(shape_DHW) <= SMALL_SIDE
        self.stride_DHW = (16, 16, 16) if small else (32, 32, 32)
        self.net = DenseNet(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=1,
            init_features=16 if small else 64,
            growth_rate=8 if small else 32,
            block_config=(2, 2, 2) if small else (6, 12, 24, 16),
            norm=_norm(),
        )
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, input_NCDHW: Tensor) -> Tensor:
        """(N, 1)."""
        return cast(Tensor, self.net(input_NCDHW))


class Projector(nn.Module):
    """The encoder's pooled feature through SimCLR's two-layer projection (Chen et al., ICML 2020)."""

    def __init__(self, encoder: Encoder, channels: int) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.layer_channels()[POOLED_LAYER]
        self.projection = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, channels))

    def forward(self, input_NCDHW: Tensor) -> Tensor:
        """(N, channels)."""
        return cast(Tensor, self.projection(self.encoder(input_NCDHW)))


class SpecialisedUNet(nn.Module):
    """The task's own network, without a foundation model: MONAI's residual UNet, which begins at full resolution.

    Its size follows the input's: 8 channels and 3 downsamplings for volumes of at most 64 voxels a side, which a CPU
    can train, else 32 and 4.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        shape_DHW: size of the whole volumes it is for; any multiple of `stride_DHW` can be fed.
        residual: as in `EncoderDecoder`.
    """

    def __init__(self, in_channels: int, out_channels: int, shape_DHW: _Three, *, residual: Sequence[int] = ()) -> None:
        super().__init__()
        width, downsamplings = (8, 3) if max(shape_DHW) <= SMALL_SIDE else (32, 4)
        stride = 2**downsamplings
        self.stride_DHW = (stride, stride, stride)
        self.residual = list(residual)
        self.net = UNet(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=width,
            channels=[width * 2**level for level in range(downsamplings + 2)],
            strides=[1, *[2] * downsamplings],
            num_res_units=2,
            norm=_norm(),
        )
        self.out = nn.Conv3d(width, out_channels, 1)
        if residual:
            _zero(self.out)
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, input_NCDHW: Tensor) -> Tensor:
        """(N, out_channels, D, H, W)."""
        output_NCDHW = self.out(self.net(input_NCDHW))
        return _added(self.residual, input_NCDHW, output_NCDHW)


def stage_shapes(encoder: Encoder) -> tuple[list[int], list[_Three]]:
    """Channels and strides of the encoder's dense layers, shallow to deep."""
    channels, strides = encoder.layer_channels(), encoder.dense_layers()
    return [channels[name] for name in strides], list(strides.values())


def check_shape(shape_DHW: Sequence[int], stride_DHW: _Three, *, field: str) -> None:
    """Refuses an input that a network could not bring back to its own size.

    Raises:
        BadOption: a side is not a multiple of the deepest stride.
    """
    if any(size % stride for size, stride in zip(shape_DHW, stride_DHW, strict=True)):
        raise BadOption(
            f"a shape of {tuple(shape_DHW)} voxels does not fit the network",
            field=field,
            remedy=f"use multiples of {stride_DHW}",
        )


def _widths_to_full(deep: int, full: int, stride: _Three) -> tuple[list[int], list[_Three]]:
    """Channels and upsampling steps from the shallowest stage map to full resolution, at most a factor 2 a step."""
    widths, steps = [deep], []
    while stride != (1, 1, 1):
        step = tuple(2 if side > 1 else 1 for side in stride)
        stride = cast(_Three, tuple(side // by for side, by in zip(stride, step, strict=True)))
        steps.append(cast(_Three, step))
        widths.append(full if stride == (1, 1, 1) else max(full, widths[-1] // 2))
    return widths, steps


def _stem(in_channels: int, out_channels: int, stride: _Three) -> nn.Conv3d:
    """A convolution that brings the input down by `stride`: a kernel of 3 up to stride 2, of the stride above."""
    kernel = tuple(max(3, side) for side in stride)
    padding = tuple(1 if side <= 2 else 0 for side in stride)
    return nn.Conv3d(in_channels, out_channels, cast(_Three, kernel), stride, cast(_Three, padding))


def _up_block(deep: int, skip: int, ratio: tuple[int, ...], *, res_block: bool = True) -> nn.Module:
    return cast(nn.Module, UnetrUpBlock(3, deep, skip, 3, ratio, _norm(), res_block=res_block))


def _basic_block(in_channels: int, out_channels: int) -> nn.Module:
    return cast(nn.Module, UnetrBasicBlock(3, in_channels, out_channels, 3, 1, _norm(), res_block=True))


def _norm() -> tuple[str, dict[str, int]]:
    return ("group", {"num_groups": _GROUPS})


def _added(residual: list[int], input_NCDHW: Tensor, output_NCDHW: Tensor) -> Tensor:
    return input_NCDHW[:, residual] + output_NCDHW if residual else output_NCDHW


def _zero(convolution: nn.Conv3d) -> None:
    nn.init.zeros_(convolution.weight)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
