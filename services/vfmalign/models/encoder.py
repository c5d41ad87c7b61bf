"""Interface of all encoders, and pooling of a layer to one row per study.

An input may contain padded slices beyond its volume, or only some slices of the volume. Encoders that process single
slices get this information as `slices_N2`. For each study of a batch, `slices_N2` contains two numbers: the index of
the input's first slice in the volume, and the number of slices of the volume. The index is negative if slices of
padding precede the volume.

Axes: N batch, C channels, D depth, H height, W width of a map. A token model returns its patch tokens as a map. The
slices of a slice model lie along D. The mean over space is therefore the mean over patches and slices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

Stride = tuple[int, int, int]
StateDict = dict[str, Tensor]

POOLED_LAYER = "pooled"
"""Name of the layer with one vector per study. Classification heads and projectors read this layer."""


class Encoder(nn.Module, ABC):
    """Encoder of images.

    Attributes:
        in_channels: number of input channels, one per MRI sequence.
        memory_format: memory layout of convolution weights.
        studies_at_once: number of studies per forward pass on a CPU. The number is above 1 if this is faster and needs
            little memory.
    """

    in_channels: int
    studies_at_once: int = 1
    memory_format: torch.memory_format = torch.contiguous_format

    @abstractmethod
    def layer_channels(self) -> dict[str, int]:
        """Number of channels of every layer that `feature_maps` returns, including `pooled`."""

    @abstractmethod
    def dense_layers(self) -> dict[str, Stride]:
        """Layers that a dense head reads, from shallow to deep, with their strides along D, H, W."""

    def input_multiple(self) -> Stride:
        """Stride of the deepest layer that a dense head reads.

        D, H and W of an input must be multiples of this stride.
        """
        return list(self.dense_layers().values())[-1]

    @abstractmethod
    def feature_maps(self, input_NCDHW: Tensor, slices_N2: Tensor | None = None) -> dict[str, Tensor]:
        """Runs the encoder.

        Args:
            input_NCDHW: float input, preprocessed as the architecture requires.
            slices_N2: first slice and number of slices (see the module); None for whole volumes without padding. Only
                encoders of single slices use this argument.

        Returns:
            Every layer in `layer_channels`, as (N, C, D, H, W); `pooled` as (N, C).
        """

    def forward(self, input_NCDHW: Tensor, slices_N2: Tensor | None = None) -> Tensor:
        """Returns the layer `pooled`, (N, C)."""
        return self.feature_maps(input_NCDHW, slices_N2)[POOLED_LAYER]

    def padded_slices(self, map_NCDHW: Tensor, slices_N2: Tensor | None) -> Tensor | None:
        """Returns a boolean mask (N, 1, D, 1, 1) of a map's padding; None if its slices are not those of the input."""
        return None


def whole_volumes(count: int, depth: int) -> Tensor:
    """Returns `slices_N2` for `count` inputs that contain whole volumes without padding."""
    return torch.tensor([[0, depth]]).expand(count, -1)


def pool_volume(encoder: Encoder, map_NCDHW: Tensor, slices_N2: Tensor | None) -> Tensor:
    """Averages a layer over space except padded slices, (N, C, D, H, W) to (N, C). A layer (N, C) stays unchanged."""
    padded = None if map_NCDHW.ndim == 2 else encoder.padded_slices(map_NCDHW, slices_N2)
    if padded is None:
        return pool(map_NCDHW)
    totals_NC = map_NCDHW.masked_fill(padded, 0.0).sum(dim=(2, 3, 4))
    places_N1 = (~padded).sum(dim=(2, 3, 4)) * (map_NCDHW.shape[3] * map_NCDHW.shape[4])
    return totals_NC / places_N1.clamp(min=1)


def pool(map_NCDHW: Tensor) -> Tensor:
    """Averages a layer over space, (N, C, D, H, W) to (N, C). A layer of shape (N, C) is returned unchanged."""
    return map_NCDHW if map_NCDHW.ndim == 2 else map_NCDHW.mean(dim=(2, 3, 4))
