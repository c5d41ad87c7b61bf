"""What every encoder offers, whatever its family, and how a layer becomes one row per study.

Knows the shape of the answer alone; knows no architecture, no weights, no storage. Axes: N batch, C channels, D H W
depth, height, width of a map. A model of tokens returns its patch tokens as the map they tile, and a model of slices
puts the slices along D, so that the mean over space is the mean over patches and slices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

Stride = tuple[int, int, int]

POOLED_LAYER = "pooled"
"""The layer that is one vector per study by itself: what a classification head or a projector reads."""


class Encoder(nn.Module, ABC):
    """An image encoder.

    Attributes:
        in_channels: channels of the input, one per MRI sequence.
        memory_format: how its convolutions' weights lie in memory.
        studies_at_once: how many share a pass on a CPU; more than one where it is faster and takes little memory.
    """

    in_channels: int
    studies_at_once: int = 1
    memory_format: torch.memory_format = torch.contiguous_format

    @abstractmethod
    def layer_channels(self) -> dict[str, int]:
        """Every layer that `feature_maps` returns, with its channels; `pooled` is among them."""

    @abstractmethod
    def dense_layers(self) -> dict[str, Stride]:
        """The layers whose maps a dense head reads, shallow to deep, with their strides along D, H, W."""

    @abstractmethod
    def feature_maps(self, input_NCDHW: Tensor) -> dict[str, Tensor]:
        """Runs the encoder.

        Args:
            input_NCDHW: float input, as the architecture's preprocessing makes it.

        Returns:
            Every layer of `layer_channels`: (N, C, D, H, W), or (N, C) for `pooled`.
        """

    def forward(self, input_NCDHW: Tensor) -> Tensor:
        """The (N, C) feature `pooled`."""
        return self.feature_maps(input_NCDHW)[POOLED_LAYER]


def pool(map_NCDHW: Tensor) -> Tensor:
    """Mean over space: (N, C, D, H, W) to (N, C). A layer that is (N, C) already is returned as it is."""
    return map_NCDHW if map_NCDHW.ndim == 2 else map_NCDHW.mean(dim=(2, 3, 4))
