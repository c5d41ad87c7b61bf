"""The interface of all encoders, and pooling of a layer to one row per study.

An input may contain padded slices beyond its volume, or only some of the volume's slices. Encoders that read single
slices need to know this. For each study of a batch, `slices_N2` contains the index of the input's first slice in the
volume (negative if slices were padded before the volume), and the number of slices of the volume.

Axes: N batch, C channels, D H W depth, height, width of a map. A token model returns its patch tokens as the map that
they tile, and a slice model puts the slices along D, so that the mean over space is the mean over patches and slices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

Stride = tuple[int, int, int]
StateDict = dict[str, Tensor]

POOLED_LAYER = "pooled"
"""Name of the layer that is one vector per study; classification heads and projectors read it."""


class Encoder(nn.Module, ABC):
    """An image encoder.

    Attributes:
        in_channels: channels of the input, one per MRI sequence.
        memory_format: memory layout of the convolutions' weights.
        studies_at_once: number of studies per forward pass on a CPU; more than one if this is faster and needs little
            memory.
    """

    in_channels: int
    studies_at_once: int = 1
    memory_format: torch.memory_format = torch.contiguous_format

    @abstractmethod
    def layer_channels(self) -> dict[str, int]:
        """The number of channels of every layer that `feature_maps` returns, including `pooled`."""

    @abstractmethod
    def dense_layers(self) -> dict[str, Stride]:
        """The layers that a dense head reads, shallow to deep, with their strides along D, H, W."""

    def input_multiple(self) -> Stride:
        """The stride of the deepest dense layer; D, H and W of an input must be multiples of it."""
        return list(self.dense_layers().values())[-1]

    @abstractmethod
    def feature_maps(self, input_NCDHW: Tensor, slices_N2: Tensor | None = None) -> dict[str, Tensor]:
        """Runs the encoder.

        Args:
            input_NCDHW: float input, preprocessed as the architecture requires.
            slices_N2: first slice and number of slices, see the module; None for whole volumes without padding. Only
                encoders of single slices use it.

        Returns:
            Every layer of `layer_channels`: (N, C, D, H, W), or (N, C) for `pooled`.
        """

    def forward(self, input_NCDHW: Tensor, slices_N2: Tensor | None = None) -> Tensor:
        """Returns the (N, C) layer `pooled`."""
        return self.feature_maps(input_NCDHW, slices_N2)[POOLED_LAYER]

    def padded_slices(self, map_NCDHW: Tensor, slices_N2: Tensor | None) -> Tensor | None:
        """Returns a mask of a map's padding, bool (N, 1, D, 1, 1); None if map and input have different slices."""
        return None


def whole_volumes(count: int, depth: int) -> Tensor:
    """Returns `slices_N2` of `count` inputs that hold whole volumes without padding."""
    return torch.tensor([[0, depth]]).expand(count, -1)


def pool_volume(encoder: Encoder, map_NCDHW: Tensor, slices_N2: Tensor | None) -> Tensor:
    """Averages a layer over space, without padded slices: (N, C, D, H, W) to (N, C). A layer (N, C) is unchanged."""
    padded = None if map_NCDHW.ndim == 2 else encoder.padded_slices(map_NCDHW, slices_N2)
    if padded is None:
        return pool(map_NCDHW)
    totals_NC = map_NCDHW.masked_fill(padded, 0.0).sum(dim=(2, 3, 4))
    places_N1 = (~padded).sum(dim=(2, 3, 4)) * (map_NCDHW.shape[3] * map_NCDHW.shape[4])
    return totals_NC / places_N1.clamp(min=1)


def pool(map_NCDHW: Tensor) -> Tensor:
    """Mean over space: (N, C, D, H, W) to (N, C). A layer of shape (N, C) is returned unchanged."""
    return map_NCDHW if map_NCDHW.ndim == 2 else map_NCDHW.mean(dim=(2, 3, 4))
