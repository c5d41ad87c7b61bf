"""The interface of all encoders, and pooling of a layer to one row per study.

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
        studies_at_once: studies per forward pass on a CPU; more than one where that is faster and needs little memory.
    """

    in_channels: int
    studies_at_once: int = 1
    memory_format: torch.memory_format = torch.contiguous_format

    @abstractmethod
    def layer_channels(self) -> dict[str, int]:
        """Every layer that `feature_maps` returns, with its number of channels; `pooled` is among them."""

    @abstractmethod
    def dense_layers(self) -> dict[str, Stride]:
        """The layers whose maps a dense head reads, shallow to deep, with their strides along D, H, W."""

    @abstractmethod
    def feature_maps(self, input_NCDHW: Tensor) -> dict[str, Tensor]:
        """Run the encoder.

        Args:
            input_NCDHW: float input, preprocessed as the architecture requires.

        Returns:
            Every layer of `layer_channels`: (N, C, D, H, W), or (N, C) for `pooled`.
        """

    def forward(self, input_NCDHW: Tensor) -> Tensor:
        """Return the (N, C) layer `pooled`."""
        return self.feature_maps(input_NCDHW)[POOLED_LAYER]


def pool(map_NCDHW: Tensor) -> Tensor:
    """Mean over space: (N, C, D, H, W) to (N, C). A layer of shape (N, C) is returned unchanged."""
    return map_NCDHW if map_NCDHW.ndim == 2 else map_NCDHW.mean(dim=(2, 3, 4))
