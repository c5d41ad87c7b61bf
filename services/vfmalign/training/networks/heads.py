"""Networks built around an encoder, and specialised networks without an encoder.

Normalisation is over groups of channels within one sample, as in `decoder`. Axes: N batch, C channels, D H W depth,
height, width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from monai.networks.nets.densenet import DenseNet
from monai.networks.nets.unet import UNet
from torch import Tensor, nn

from vfmalign.core.domain.errors import BadOption
from vfmalign.models.encoder import POOLED_LAYER, Encoder, Stride, pool_volume
from vfmalign.training.networks.decoder import DenseDecoder, group_norm

EVIDENCE_CHANNELS = 16
"""Channels of a classifier's evidence at each voxel of a dense map."""
STRUCTURE_PRIOR = 0.01
"""Probability of each structure in an untrained segmentation with features of zero; the rest is background."""
SMALL_SIDE = 64
"""Longest side in voxels of the volumes that get the small specialised network."""


class EncoderDecoder(nn.Module):
    """An encoder with a dense decoder.

    Args:
        encoder: the VFM. The encoder is trained together with the decoder.
        out_channels: channels of the output.
        input_skip: see `DenseDecoder`.
        residual: for each output channel, the input channel to which it is added; empty if no channel is added. If
            `residual` is not empty, the last convolution starts at zero. The untrained network then returns these input
            channels.
        background_first: whether the output has one channel per class and the first class is by far the most frequent.
            If true, the untrained network predicts small probabilities for the other classes.
    """

    def __init__(
        self,
        encoder: Encoder,
        out_channels: int,
        *,
        input_skip: bool = True,
        residual: Sequence[int] = (),
        background_first: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.residual = list(residual)
        channels, strides = stage_shapes(encoder)
        self.decoder = DenseDecoder(channels, strides, encoder.in_channels, out_channels, input_skip=input_skip)
        _initialise_output(self.decoder.out, zero=bool(residual), background_first=background_first)
        self.decoder.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, input_NCDHW: Tensor, slices_N2: Tensor | None = None) -> Tensor:
        """Returns (N, out_channels, D, H, W)."""
        maps = _feature_maps(self.encoder, input_NCDHW, slices_N2)
        output_NCDHW = self.decoder(input_NCDHW, [maps[name] for name in self.encoder.dense_layers()])
        return _add_residual(self.residual, input_NCDHW, output_NCDHW)


class CaseClassifier(nn.Module):
    """Predicts logits or numbers of a case from local evidence in every dense map and from the pooled feature.

    Of the evidence at all voxels, only its maximum and mean are used. A lesion fills about a hundredth of the volume.
    A lesion would be lost in the mean alone, and in the coarse voxels of the deepest map.
    """

    def __init__(self, encoder: Encoder, outputs: int = 1) -> None:
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
        self.out = nn.Linear(channels[POOLED_LAYER] + 2 * EVIDENCE_CHANNELS * len(self.maps), outputs)

    def forward(self, input_NCDHW: Tensor, slices_N2: Tensor | None = None) -> Tensor:
        """Returns (N, outputs)."""
        maps = _feature_maps(self.encoder, input_NCDHW, slices_N2)
        features = [self.norm(maps[POOLED_LAYER])]
        for name, evidence in zip(self.maps, self.evidence, strict=True):
            map_NCDHW = evidence(maps[name])
            padded = self.encoder.padded_slices(map_NCDHW, slices_N2)
            seen_NCDHW = map_NCDHW if padded is None else map_NCDHW.masked_fill(padded, -torch.inf)
            features += [seen_NCDHW.amax((2, 3, 4)), pool_volume(self.encoder, map_NCDHW, slices_N2)]
        return cast(Tensor, self.out(torch.cat(features, dim=1)))


class SpecialisedClassifier(nn.Module):
    """Logits or numbers of a case without a foundation model: MONAI's 3D DenseNet.

    Small volumes get a small network. Others get DenseNet-121.

    Args:
        in_channels: channels of the input.
        shape_DHW: size of the volumes.
        outputs: number of logits or numbers.
    """

    def __init__(self, in_channels: int, shape_DHW: Stride, outputs: int = 1) -> None:
        super().__init__()
        small = max(shape_DHW) <= SMALL_SIDE
        self.stride_DHW = (16, 16, 16) if small else (32, 32, 32)
        self.net = DenseNet(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=outputs,
            init_features=16 if small else 64,
            growth_rate=8 if small else 32,
            block_config=(2, 2, 2) if small else (6, 12, 24, 16),
            norm=group_norm(),
        )
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, input_NCDHW: Tensor, slices_N2: Tensor | None = None) -> Tensor:
        """Returns (N, outputs)."""
        return cast(Tensor, self.net(input_NCDHW))


class Projector(nn.Module):
    """SimCLR's two-layer projection of the encoder's pooled feature (Chen et al., ICML 2020)."""

    def __init__(self, encoder: Encoder, channels: int) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.layer_channels()[POOLED_LAYER]
        self.projection = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, channels))

    def forward(self, input_NCDHW: Tensor, slices_N2: Tensor | None = None) -> Tensor:
        """Returns (N, channels)."""
        return cast(Tensor, self.projection(self.encoder(input_NCDHW, slices_N2)))


class SpecialisedUNet(nn.Module):
    """The task's own network without a foundation model: MONAI's residual UNet, starting at full resolution.

    For volumes with sides of at most 64 voxels, the network has 8 channels and 3 downsamplings. A CPU can train this
    network. For larger volumes, the network has 32 channels and 4 downsamplings.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        shape_DHW: size of the whole volumes. The sides of an input may be any multiples of `stride_DHW`.
        residual: as in `EncoderDecoder`.
        background_first: as in `EncoderDecoder`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        shape_DHW: Stride,
        *,
        residual: Sequence[int] = (),
        background_first: bool = False,
    ) -> None:
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
            norm=group_norm(),
        )
        self.out = nn.Conv3d(width, out_channels, 1)
        _initialise_output(self.out, zero=bool(residual), background_first=background_first)
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, input_NCDHW: Tensor, slices_N2: Tensor | None = None) -> Tensor:
        """Returns (N, out_channels, D, H, W)."""
        output_NCDHW = self.out(self.net(input_NCDHW))
        return _add_residual(self.residual, input_NCDHW, output_NCDHW)


def freeze_encoder(network: EncoderDecoder | CaseClassifier) -> None:
    """Excludes the encoder's parameters from training. The trainer also keeps a frozen encoder in evaluation mode.

    Raises:
        BadOption: the network has no other parameters.
    """
    network.encoder.requires_grad_(requires_grad=False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise BadOption("the network has no parameters outside its encoder", field="frozen", remedy="leave it out")


def _feature_maps(encoder: Encoder, input_NCDHW: Tensor, slices_N2: Tensor | None) -> dict[str, Tensor]:
    """Returns the maps of the encoder, which take a gradient in training even if the encoder is frozen."""
    maps = encoder.feature_maps(input_NCDHW, slices_N2)
    # On CPUs, torch's GroupNorm crashes in the backward pass if its input is channels-last and takes no gradient.
    for map_NCDHW in maps.values() if torch.is_grad_enabled() else ():
        if not map_NCDHW.requires_grad:
            map_NCDHW.requires_grad_()
    return maps


def stage_shapes(encoder: Encoder) -> tuple[list[int], list[Stride]]:
    """Channels and strides of the encoder's dense layers, shallow to deep."""
    channels, strides = encoder.layer_channels(), encoder.dense_layers()
    return [channels[name] for name in strides], list(strides.values())


def check_shape(shape_DHW: Sequence[int], stride_DHW: Stride, *, field: str) -> None:
    """Checks that a network can have an output of the same size as its input.

    Raises:
        BadOption: a side is not a multiple of the deepest stride.
    """
    if any(size % stride for size, stride in zip(shape_DHW, stride_DHW, strict=True)):
        raise BadOption(
            f"a shape of {tuple(shape_DHW)} voxels does not fit the network",
            field=field,
            remedy=f"use multiples of {stride_DHW}",
        )


def _initialise_output(out: nn.Conv3d, *, zero: bool, background_first: bool) -> None:
    """Initialises the last convolution: to zero, or so that every class but the first is improbable.

    Structures are a few voxels in a hundred. From equal probabilities, training first lowers all of them, and
    features that only lower them can leave a structure just below one half however long the training goes on. From
    small ones, the structure's own voxels have the largest gradient (Lin et al., ICCV 2017, section 3.3).
    """
    if out.bias is None:
        raise TypeError("the last convolution has a bias")
    if zero:
        nn.init.zeros_(out.weight)
        nn.init.zeros_(out.bias)
    if background_first:
        nn.init.constant_(out.bias, math.log(STRUCTURE_PRIOR / (1 - STRUCTURE_PRIOR)))
        nn.init.zeros_(out.bias[:1])


def _add_residual(residual: list[int], input_NCDHW: Tensor, output_NCDHW: Tensor) -> Tensor:
    return input_NCDHW[:, residual] + output_NCDHW if residual else output_NCDHW
