"""Registry of the architectures by name, with their input and the layers that a check may compare.

To add an architecture, add one entry to `ARCHITECTURES` (see docs/models.md).
"""

from __future__ import annotations

from functools import partial

from vfmalign.core.domain.declarations import Modality
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.models import Layer, Preprocessing
from vfmalign.models.architectures import upstream
from vfmalign.models.architectures.base import Architecture
from vfmalign.models.architectures.convnextv2 import ConvNeXtV2
from vfmalign.models.architectures.profound_vit import ProFoundViT
from vfmalign.models.architectures.provicnet import REGISTERS, DinoEncoder, FusionEncoder, SliceEncoder
from vfmalign.models.architectures.transformer import TransformerSize
from vfmalign.models.encoder import Stride
from vfmalign.models.formats import exported_program, monai_bundle, stack_checkpoint
from vfmalign.models.formats.families import FAMILIES

MPMRI: tuple[Modality, ...] = ("t2w", "dwi", "adc")
# ProFound's published grid and sizes.
PROFOUND_INPUT = Preprocessing(modalities=MPMRI, spacing_mm=(1.0, 0.5, 0.5), shape_dhw=(64, 224, 224))
PROFOUND_VIT_INPUT = Preprocessing(modalities=MPMRI, spacing_mm=(1.0, 0.5, 0.5), shape_dhw=(64, 256, 256))
# Small enough to train on two cores in a minute; 48 × 64 × 64 mm contains a whole prostate with a margin.
MICRO_INPUT = Preprocessing(modalities=MPMRI, spacing_mm=(3.0, 1.0, 1.0), shape_dhw=(16, 64, 64))
MINI_INPUT = Preprocessing(modalities=MPMRI, spacing_mm=(2.0, 0.75, 0.75), shape_dhw=(32, 96, 96))

SINGLE_INPUT = Preprocessing(
    modalities=("input",), spacing_mm=(1.0, 1.0, 1.0), shape_dhw=(32, 48, 32), normalisation="quantile_range"
)
"""Input of one volume of any modality. It equals that of `stack_checkpoint`, so that both share baselines."""

MICRO = TransformerSize(dim=96, depth=4, heads=4)
MICRO_STREAM = TransformerSize(dim=48, depth=4, heads=2)
"""Size of each of the three streams. Every stream processes every slice."""

_Stages = tuple[int, int, int, int]


def _convnextv2(size: str, depths: _Stages, dims: _Stages, preprocessing: Preprocessing) -> Architecture:
    return Architecture(
        name=f"profound_conv_{size}",
        build=partial(ConvNeXtV2, depths, dims, in_channels=len(preprocessing.modalities)),
        preprocessing=preprocessing,
        layers=tuple(Layer(name=f"stages.{i}", channels=channels) for i, channels in enumerate(dims)),
        primary_layer="stages.3",
        convert=upstream.convert_profound_conv,
    )


def _profound_vit(name: str, patch_DHW: Stride, size: TransformerSize, preprocessing: Preprocessing) -> Architecture:
    channels = len(preprocessing.modalities)
    return Architecture(
        name=f"profound_vit_{name}",
        build=partial(ProFoundViT, preprocessing.shape_dhw, patch_DHW, size, in_channels=channels),
        preprocessing=preprocessing,
        layers=_blocks(size.depth, size.dim),
        primary_layer=f"blocks.{size.depth - 1}",
        convert=upstream.convert_profound_vit,
    )


def _provicnet(name: str, *modalities: Modality, small: bool = False) -> Architecture:
    """Creates a ProViCNet architecture. Slices are 3 mm apart and show 128 mm (448 pixels of 2/7 mm)."""
    pixel_mm, shape_DHW = (1.0, MICRO_INPUT.shape_dhw) if small else (2 / 7, (24, 448, 448))
    fused = len(modalities) > 1
    size, patch = (MICRO_STREAM if fused else MICRO, 8) if small else (TransformerSize(384, 12, 6), 14)
    return Architecture(
        name=f"provicnet_{name}",
        build=partial(FusionEncoder, modalities, size, patch) if fused else partial(SliceEncoder, size, patch),
        preprocessing=Preprocessing(
            modalities=modalities,
            spacing_mm=(3.0, pixel_mm, pixel_mm),
            shape_dhw=shape_DHW,
            normalisation="zscore_gland",
        ),
        layers=_blocks(size.depth, size.dim * len(modalities)),
        primary_layer=f"blocks.{size.depth - 1}",
        convert=upstream.convert_provicnet_fusion(modalities) if fused else upstream.convert_provicnet,
        files=modalities if fused else ("weights",),
    )


def _dinov2(letter: str, size: TransformerSize, registers: int = 0) -> Architecture:
    return Architecture(
        name=f"dinov2_vit{letter}14" + (f"_reg{registers}" if registers else ""),
        build=partial(DinoEncoder, size, registers),
        preprocessing=FAMILIES["dinov2"].input,
        layers=_blocks(size.depth, size.dim),
        primary_layer=f"blocks.{size.depth - 1}",
    )


def _blocks(depth: int, channels: int) -> tuple[Layer, ...]:
    return tuple(Layer(name=f"blocks.{i}", channels=channels) for i in range(depth))


ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        _convnextv2("micro", (1, 1, 2, 1), (16, 32, 64, 128), MICRO_INPUT),
        _convnextv2("micro_single", (1, 1, 2, 1), (16, 32, 64, 128), SINGLE_INPUT),
        _convnextv2("mini", (2, 2, 4, 2), (24, 48, 96, 192), MINI_INPUT),
        _convnextv2("atto", (2, 2, 6, 2), (40, 80, 160, 320), PROFOUND_INPUT),
        _convnextv2("femto", (2, 2, 6, 2), (48, 96, 192, 384), PROFOUND_INPUT),
        _convnextv2("pico", (2, 2, 6, 2), (64, 128, 256, 512), PROFOUND_INPUT),
        _convnextv2("nano", (2, 2, 8, 2), (80, 160, 320, 640), PROFOUND_INPUT),
        _convnextv2("tiny", (3, 3, 9, 3), (96, 192, 384, 768), PROFOUND_INPUT),
        _convnextv2("base", (3, 3, 27, 3), (128, 256, 512, 1024), PROFOUND_INPUT),
        _convnextv2("large", (3, 3, 27, 3), (192, 384, 768, 1536), PROFOUND_INPUT),
        _convnextv2("huge", (3, 3, 27, 3), (352, 704, 1408, 2816), PROFOUND_INPUT),
        _profound_vit("micro", (4, 8, 8), MICRO, MICRO_INPUT),
        _profound_vit("micro_single", (8, 8, 8), MICRO, SINGLE_INPUT),
        _profound_vit("base", (16, 32, 32), TransformerSize(768, 12, 12), PROFOUND_VIT_INPUT),
        _provicnet("micro", "t2w", small=True),
        _provicnet("fusion_micro", "t2w", "dwi", "adc", small=True),
        _provicnet("t2w", "t2w"),
        _provicnet("dwi", "dwi"),
        _provicnet("adc", "adc"),
        _provicnet("fusion", "t2w", "dwi", "adc"),
        *(_dinov2("s", TransformerSize(384, 12, 6), registers) for registers in (0, REGISTERS)),
        *(_dinov2("b", TransformerSize(768, 12, 12), registers) for registers in (0, REGISTERS)),
        *(_dinov2("l", TransformerSize(1024, 24, 16), registers) for registers in (0, REGISTERS)),
    )
}


def list_architectures() -> tuple[str, ...]:
    """Returns the names of the architectures that can be trained from random weights or read from a checkpoint."""
    return (*ARCHITECTURES, *stack_checkpoint.ALIASES)


def get_architecture(name: str) -> Architecture:
    """Looks up an architecture by name.

    Args:
        name: a name in `ARCHITECTURES` or `stack_checkpoint.ALIASES`, or a name that encodes a MONAI network
            (`formats.monai_bundle`) or a stack of dilated convolutions (`formats.stack_checkpoint`).

    Raises:
        BadOption: no architecture has this name.
    """
    if name == exported_program.ARCHITECTURE:
        raise BadOption(
            "an exported program cannot be initialised or trained, because it has no initial weights",
            field="architecture",
            remedy="compare its features without training, or import the model as a MONAI bundle or with --as",
        )
    if name.startswith(monai_bundle.PREFIX):
        return monai_bundle.decode_architecture_name(name)
    name = stack_checkpoint.ALIASES.get(name, name)
    if name.startswith(stack_checkpoint.PREFIX):
        return stack_checkpoint.decode_stack_name(name)
    if name not in ARCHITECTURES:
        raise BadOption(
            f"no architecture is called {name[:64]!r}",
            field="architecture",
            remedy=f"choose one of {', '.join(list_architectures())}",
        )
    return ARCHITECTURES[name]
