"""The architectures that can be built, by name: what they are, how they want their input, which layers can be compared.

Adding an architecture is one entry here. Knows nothing of weights or storage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from vfmalign.core.artifacts import LayerSpec, Preprocessing
from vfmalign.core.errors import BadOption
from vfmalign.models.convnextv2 import Encoder


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
    """

    name: str
    build: Callable[[], Encoder]
    preprocessing: Preprocessing
    layers: tuple[LayerSpec, ...]
    primary_layer: str

    def build_empty(self) -> Encoder:
        """The encoder on the meta device: shapes without memory, and no random numbers drawn."""
        with torch.device("meta"):
            return self.build()


# ProFound's own grid and size (convolutional variant).
PROFOUND_INPUT = Preprocessing(spacing_mm=(1.0, 0.5, 0.5), shape_DHW=(64, 224, 224))
# Sizes that a two-core machine trains in a minute; 48 × 64 × 64 mm holds a whole prostate with a margin.
MICRO_INPUT = Preprocessing(spacing_mm=(3.0, 1.0, 1.0), shape_DHW=(16, 64, 64))
MINI_INPUT = Preprocessing(spacing_mm=(2.0, 0.75, 0.75), shape_DHW=(32, 96, 96))

_Four = tuple[int, int, int, int]


def _convnextv2(size: str, depths: _Four, dims: _Four, preprocessing: Preprocessing) -> Architecture:
    return Architecture(
        name=f"profound_conv_{size}",
        build=partial(Encoder, depths, dims, in_channels=len(preprocessing.modalities)),
        preprocessing=preprocessing,
        layers=tuple(LayerSpec(name=f"stages.{i}", channels=channels) for i, channels in enumerate(dims)),
        primary_layer="stages.3",
    )


ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        _convnextv2("micro", (1, 1, 2, 1), (16, 32, 64, 128), MICRO_INPUT),
        _convnextv2("mini", (2, 2, 4, 2), (24, 48, 96, 192), MINI_INPUT),
        _convnextv2("atto", (2, 2, 6, 2), (40, 80, 160, 320), PROFOUND_INPUT),
        _convnextv2("femto", (2, 2, 6, 2), (48, 96, 192, 384), PROFOUND_INPUT),
        _convnextv2("pico", (2, 2, 6, 2), (64, 128, 256, 512), PROFOUND_INPUT),
        _convnextv2("nano", (2, 2, 8, 2), (80, 160, 320, 640), PROFOUND_INPUT),
        _convnextv2("tiny", (3, 3, 9, 3), (96, 192, 384, 768), PROFOUND_INPUT),
        _convnextv2("base", (3, 3, 27, 3), (128, 256, 512, 1024), PROFOUND_INPUT),
        _convnextv2("large", (3, 3, 27, 3), (192, 384, 768, 1536), PROFOUND_INPUT),
        _convnextv2("huge", (3, 3, 27, 3), (352, 704, 1408, 2816), PROFOUND_INPUT),
    )
}


def get_architecture(name: str) -> Architecture:
    """Looks an architecture up.

    Raises:
        BadOption: no architecture has this name.
    """
    if name not in ARCHITECTURES:
        raise BadOption(
            f"no architecture is called {name[:64]!r}",
            field="architecture",
            remedy=f"choose one of {', '.join(ARCHITECTURES)}",
        )
    return ARCHITECTURES[name]
