"""What an architecture is, wherever it comes from: the registry, a MONAI bundle, or a file of a user's own.

Knows nothing of weights or storage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from vfmalign.core.domain.artifacts import LayerSpec, Preprocessing
from vfmalign.models.architectures import upstream
from vfmalign.models.encoder import Encoder


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        name: its key in `ARCHITECTURES`.
        build: makes the encoder with random weights drawn from torch's global generator.
        preprocessing: how the encoder wants its input unless a model card says otherwise.
        layers: layers that a check may compare: those on the path of any head's gradient. The encoder's `pooled`
            feature is not among them, for a dense head sends no gradient through the final norm.
        primary_layer: the layer declared in advance for a check's main number.
        convert: reads upstream's state dicts.
        files: what the files of a foreign checkpoint hold, in order; one unless the encoder joins several networks.
    """

    name: str
    build: Callable[[], Encoder]
    preprocessing: Preprocessing
    layers: tuple[LayerSpec, ...]
    primary_layer: str
    convert: upstream.Convert = upstream.dense
    files: tuple[str, ...] = ("weights",)

    def build_empty(self) -> Encoder:
        """The encoder on the meta device: shapes without memory, and no random numbers drawn."""
        with torch.device("meta"):
            return self.build()
