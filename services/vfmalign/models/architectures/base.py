"""Definition of an architecture. An encoder comes from the registry, from a MONAI bundle, or from a user's own file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from vfmalign.core.domain.models import Layer, Preprocessing
from vfmalign.models.architectures import upstream
from vfmalign.models.encoder import Encoder


@dataclass(frozen=True)
class Architecture:
    """Architecture of an encoder: how to build the encoder, its input, and the layers that a check may compare.

    Attributes:
        name: key of the architecture in `ARCHITECTURES`.
        build: builds the encoder. Draws random weights from torch's global generator.
        preprocessing: the encoder's input. A model card may replace this default.
        layers: layers that a check may compare. The gradient of every head reaches these layers. These layers exclude
            `pooled`, because a dense head sends no gradient through the final norm.
        primary_layer: the layer for the main result of a check. This layer is fixed before the check.
        convert: converts upstream state dicts to the encoder's weights.
        files: describes each file of a foreign checkpoint, in order. A checkpoint has several files only if the encoder
            joins several networks.
    """

    name: str
    build: Callable[[], Encoder]
    preprocessing: Preprocessing
    layers: tuple[Layer, ...]
    primary_layer: str
    convert: upstream.Converter = upstream.convert_dense
    files: tuple[str, ...] = ("weights",)

    def build_empty(self) -> Encoder:
        """Builds the encoder on the meta device.

        The meta device needs no memory for weights and draws no random numbers.
        """
        with torch.device("meta"):
            return self.build()
