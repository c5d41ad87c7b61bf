"""The definition of an architecture: from the registry, a MONAI bundle, or a user's own file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from vfmalign.core.domain.models import Layer, Preprocessing
from vfmalign.models.architectures import upstream
from vfmalign.models.encoder import Encoder


@dataclass(frozen=True)
class Architecture:
    """An architecture: how its encoder is built, which input it takes, and which layers a check may compare.

    Attributes:
        name: its key in `ARCHITECTURES`.
        build: builds the encoder with random weights drawn from torch's global generator.
        preprocessing: the encoder's input, unless a model card states another input.
        layers: layers that a check may compare, because the gradient of every head reaches them. The layers exclude the
            encoder's `pooled` feature: a dense head sends no gradient through the final norm.
        primary_layer: the layer declared in advance for a check's main result.
        convert: converts upstream's state dicts.
        files: content of each file of a foreign checkpoint, in order; one file unless the encoder joins several
            networks.
    """

    name: str
    build: Callable[[], Encoder]
    preprocessing: Preprocessing
    layers: tuple[Layer, ...]
    primary_layer: str
    convert: upstream.Converter = upstream.convert_dense
    files: tuple[str, ...] = ("weights",)

    def build_empty(self) -> Encoder:
        """Builds the encoder on the meta device, without memory for weights and without drawing random numbers."""
        with torch.device("meta"):
            return self.build()
