"""ConvNeXt V2 in three dimensions, the convolutional encoder of ProFound.

Source: Woo et al., "ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders", CVPR 2023, arXiv
2301.00808; the 3D layout (a stem of 4×4×4, then strides 2, 2 and 1) comes from ProFound. Parameters have the same names
as in ProFound, so that its state dicts load unchanged.

Axes: N batch, C channels, D depth (z), H height (y), W width (x).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import cast

import torch
from torch import Tensor, nn

from vfmalign.models.encoder import POOLED_LAYER, Encoder, Stride, pool

STEM_STRIDE = 4
STAGE_STRIDES = (STEM_STRIDE, 2, 2, 1)
DEPTHWISE_KERNEL = 7
EPSILON = 1e-6


class ChannelsFirstLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of an (N, C, D, H, W) map."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=EPSILON)

    def forward(self, input_NCDHW: Tensor) -> Tensor:
        """Normalises every voxel over its channels. The shape stays the same."""
        # In channels_last_3d this permutation is a view, and the result is channels_last_3d again: nothing is copied.
        return super().forward(input_NCDHW.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)


class GlobalResponseNorm(nn.Module):
    """Global response normalisation (GRN) of an (N, D, H, W, C) map.

    The relative norm of a channel is its L2 norm over space, divided by the mean of this norm over all channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, 1, channels))

    def forward(self, map_NDHWC: Tensor) -> Tensor:
        """Returns gamma · x · n + beta + x, where n is the relative norm. The shape stays the same."""
        norm_N111C = torch.linalg.vector_norm(map_NDHWC, dim=(1, 2, 3), keepdim=True)
        relative_N111C = norm_N111C / (norm_N111C.mean(dim=-1, keepdim=True) + EPSILON)
        # x · (1 + gamma · n) + beta reads the map once instead of three times.
        return torch.addcmul(self.beta, map_NDHWC, 1 + self.gamma * relative_N111C)


class Block(nn.Module):
    """Residual block: depthwise 7³ convolution, LayerNorm, Linear ×4, GELU, GRN, Linear."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv3d(channels, channels, DEPTHWISE_KERNEL, padding=DEPTHWISE_KERNEL // 2, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=EPSILON)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.act = nn.GELU()
        self.grn = GlobalResponseNorm(4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)

    def forward(self, input_NCDHW: Tensor) -> Tensor:
        """Applies the block. The shape stays the same."""
        hidden_NDHWC = self.norm(self.dwconv(input_NCDHW).permute(0, 2, 3, 4, 1))
        hidden_NDHWC = self.pwconv2(self.grn(self.act(self.pwconv1(hidden_NDHWC))))
        return input_NCDHW + cast(Tensor, hidden_NDHWC).permute(0, 4, 1, 2, 3)


class ConvNeXtV2(Encoder):
    """3D ConvNeXt V2 encoder with four stages. Their total strides are 4, 8, 16 and 16.

    Args:
        depths: number of blocks of each stage.
        dims: number of channels of each stage.
        in_channels: number of input channels, one per MRI sequence.
    """

    # oneDNN's depthwise 7³ kernels are about five times faster in this layout than in the contiguous one.
    memory_format = torch.channels_last_3d

    def __init__(self, depths: Sequence[int], dims: Sequence[int], in_channels: int = 3) -> None:
        super().__init__()
        if len(depths) != len(STAGE_STRIDES) or len(dims) != len(STAGE_STRIDES):
            raise ValueError(f"expected {len(STAGE_STRIDES)} depths and dims, got {tuple(depths)} and {tuple(dims)}")
        self.depths, self.dims, self.in_channels = tuple(depths), tuple(dims), in_channels
        stem = nn.Conv3d(in_channels, dims[0], STEM_STRIDE, stride=STEM_STRIDE)
        self.downsample_layers = nn.ModuleList([nn.Sequential(stem, ChannelsFirstLayerNorm(dims[0]))])
        for stride, (narrow, wide) in zip(STAGE_STRIDES[1:], pairwise(dims), strict=True):
            self.downsample_layers.append(
                nn.Sequential(ChannelsFirstLayerNorm(narrow), nn.Conv3d(narrow, wide, stride, stride=stride))
            )
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(channels) for _ in range(depth)))
            for depth, channels in zip(depths, dims, strict=True)
        )
        self.norm = nn.LayerNorm(dims[-1], eps=EPSILON)
        self.apply(_initialise)
        self.to(memory_format=self.memory_format)  # type: ignore[call-overload]

    def layer_channels(self) -> dict[str, int]:
        """Number of channels of each of the four stages and of `pooled`."""
        return {**{f"stages.{i}": channels for i, channels in enumerate(self.dims)}, POOLED_LAYER: self.dims[-1]}

    def dense_layers(self) -> dict[str, Stride]:
        """Maps each of the four stages to its stride: 4, 8, 16 and 16."""
        sides = accumulate(STAGE_STRIDES, operator.mul)
        return {f"stages.{i}": (side, side, side) for i, side in enumerate(sides)}

    def feature_maps(self, input_NCDHW: Tensor, slices_N2: Tensor | None = None) -> dict[str, Tensor]:
        """Runs the encoder.

        Args:
            input_NCDHW: float input of at least 16 voxels along D, H and W. If an axis is not a multiple of the stride,
                the remaining voxels at its end are dropped.
            slices_N2: not used.

        Returns:
            `stages.0` to `stages.3`: the map after each stage, (N, C, D/s, H/s, W/s) with s = 4, 8, 16, 16.
            `pooled`: (N, C), the mean of the last map over space after the final norm. ProFound uses this feature
                itself.
        """
        maps = {}
        map_NCDHW = input_NCDHW.contiguous(memory_format=torch.channels_last_3d)
        for i, (downsample, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            map_NCDHW = stage(downsample(map_NCDHW))
            maps[f"stages.{i}"] = map_NCDHW
        maps[POOLED_LAYER] = self.norm(pool(map_NCDHW))
        return maps


def _initialise(module: nn.Module) -> None:
    """Initialises weights as in ConvNeXt: truncated normal with SD 0.02, and biases of 0."""
    if isinstance(module, nn.Conv3d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
