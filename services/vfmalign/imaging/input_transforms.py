"""Input transforms of tasks: degradations of a study that the encoder sees instead of the clean study.

A transform is applied to the signal on the common grid, before normalisation and cropping. At this stage, zero means no
signal, and values may be summed. After normalisation, the values equal the values of a study that was acquired in the
degraded form. If a model normalises by a window in Hounsfield units, the signal is measured from the window's lower
bound, and no voxel counts as empty.

Transforms are deterministic. Feature requests and manifests contain the names of the transforms. The same inputs are
therefore used for features before and after fine-tuning. A name such as `hidden:t2w+flair` applies a transform only to
the named modalities. To add a transform, write a function and register it in `INPUT_TRANSFORMS`, or in
`MODALITY_TRANSFORMS` if it takes modalities.

Legend: C channels (modalities), D slices, H rows, W columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor

from vfmalign.core.domain.declarations import MAX_MODALITIES, Modality
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.record import VOLUME_KIND
from vfmalign.imaging.distortion import displace_ratio, distort, simulate_displacement
from vfmalign.imaging.volumes import Voxels


@dataclass(frozen=True)
class StudyContext:
    """Properties of a study, besides its signal, that a transform may use.

    Attributes:
        modalities: names of the channels.
        spacing_mm: along D, H, W.
        reference_XYZ: the stored voxels of the reference.
        window: bounds of a normalisation window in HU; None for other normalisations.
    """

    modalities: tuple[Modality, ...]
    spacing_mm: tuple[float, float, float]
    reference_XYZ: Voxels
    window: tuple[float, float] | None = None

    def seed(self, purpose: str = "") -> int:
        """Returns a seed derived from the case's values and, if a case needs several seeds, from a purpose.

        The values are sorted first. The degradation therefore depends neither on where a case is read nor on the order
        of its axes.
        """
        values_N = np.sort(self.reference_XYZ, axis=None)
        digest = hashlib.sha256()
        for start in range(0, len(values_N), _VALUES_PER_UPDATE):
            digest.update(values_N[start : start + _VALUES_PER_UPDATE].astype("<f4").data)
        digest.update(purpose.encode())
        return int.from_bytes(digest.digest()[:8], "big")


_VALUES_PER_UPDATE = 2**20
NOISE_SHARE = 0.09
"""SD of the noise relative to the bright tissue, the highest level of BrainWeb (Cocosco et al., NeuroImage 5, 1997), or
to the width of a window: 36 HU for −160 to 240 HU.
"""
BRIGHT_QUANTILE = 0.98
RATIOS: tuple[Modality, ...] = ("adc",)
"""Modalities that are ratios of two signals in the same field. The field displaces them, but they do not pile up."""
InputTransform = Callable[[Tensor, StudyContext], Tensor]


def identity(signal_CDHW: Tensor, context: StudyContext) -> Tensor:
    """Returns the study unchanged."""
    return signal_CDHW


def half_resolution(signal_CDHW: Tensor, context: StudyContext) -> Tensor:
    """Halves the in-plane resolution on the same grid. The super-resolution task uses this input.

    As in an acquisition at half resolution, only the inner half of k-space along H and W is kept. All other frequencies
    are set to zero. The frequencies that are kept are exact. Edges ring slightly, as they do in MRI. Voxels that the
    scanner left empty stay empty. In Hounsfield units, no voxel counts as empty.
    """
    height, width = signal_CDHW.shape[-2:]
    passband_H = torch.fft.fftfreq(height).abs() < 0.25
    passband_W = torch.fft.rfftfreq(width) < 0.25
    spectrum = torch.fft.rfft2(signal_CDHW) * (passband_H[:, None] & passband_W)
    filtered_CDHW: Tensor = torch.fft.irfft2(spectrum, s=(height, width))
    return filtered_CDHW if context.window is not None else filtered_CDHW * (signal_CDHW != 0)


def half_resolution_of(signal_CDHW: Tensor, context: StudyContext, modalities: tuple[Modality, ...]) -> Tensor:
    """Halves the in-plane resolution of some modalities; see `half_resolution`."""
    chosen = torch.tensor([modality in modalities for modality in context.modalities])[:, None, None, None]
    return torch.where(chosen, half_resolution(signal_CDHW, context), signal_CDHW)


def noisy(signal_CDHW: Tensor, context: StudyContext) -> Tensor:
    """Adds noise to every modality; see `noisy_of`. The denoising task uses this input."""
    return noisy_of(signal_CDHW, context, context.modalities)


def noisy_of(signal_CDHW: Tensor, context: StudyContext, modalities: tuple[Modality, ...]) -> Tensor:
    """Adds Rician noise to some modalities. For modalities in Hounsfield units, the noise is normal.

    A magnitude image shows the magnitude of a complex signal. The real and imaginary parts of this signal have
    independent normal noise of equal SD (Gudbjartsson & Patz, "The Rician distribution of noisy MRI data", MRM 34,
    1995). The SD of the noise is `NOISE_SHARE` of the channel's bright tissue. Voxels that the scanner left empty stay
    empty. CT images are not magnitudes. The noise of CT images is positive or negative, and the SD of the noise is
    `NOISE_SHARE` of the window.
    """
    channels = []
    for modality, channel_DHW in zip(context.modalities, signal_CDHW, strict=True):
        if modality in modalities:
            draw = torch.Generator().manual_seed(context.seed(modality))
            channel_DHW = _add_noise(channel_DHW, draw, context.window)  # noqa: PLW2901
        channels.append(channel_DHW)
    return torch.stack(channels)


def _add_noise(channel_DHW: Tensor, draw: torch.Generator, window: tuple[float, float] | None) -> Tensor:
    if window is not None:
        return channel_DHW + torch.randn(channel_DHW.shape, generator=draw) * (NOISE_SHARE * (window[1] - window[0]))
    noise_2DHW = torch.randn((2, *channel_DHW.shape), generator=draw) * (NOISE_SHARE * _bright(channel_DHW))
    return torch.hypot(channel_DHW + noise_2DHW[0], noise_2DHW[1]) * (channel_DHW != 0)


def _bright(channel_DHW: Tensor) -> float:
    """Signal of the bright tissue: a high quantile of the voxels that are not empty; 0 if all are empty."""
    values = channel_DHW[channel_DHW != 0].numpy()
    return float(np.quantile(values, BRIGHT_QUANTILE)) if values.size else 0.0


def distorted_diffusion(signal_CDHW: Tensor, context: StudyContext) -> Tensor:
    """Displaces the diffusion volumes by a simulated susceptibility field. The distortion task uses this input.

    DWI shows the signal itself, which is displaced and piles up. ADC is a ratio of two signals, which is displaced but
    does not pile up. T2W is acquired with a spin-echo train and is not distorted.
    """
    return distorted(signal_CDHW, context, ("dwi", "adc"))


def distorted(signal_CDHW: Tensor, context: StudyContext, modalities: tuple[Modality, ...]) -> Tensor:
    """Displaces some modalities by one simulated susceptibility field; see `distorted_diffusion`.

    Raises:
        BadOption: the modalities are in Hounsfield units.
    """
    if context.window is not None:
        raise BadOption(
            "CT has no susceptibility distortion",
            field="input_transform",
            remedy="choose another transform, such as half_resolution or noisy",
        )
    field_DEW = simulate_displacement(
        cast(tuple[int, int, int], tuple(signal_CDHW.shape[1:])), context.spacing_mm, context.seed()
    )
    channels = zip(context.modalities, signal_CDHW, strict=True)
    return torch.stack(
        [
            (displace_ratio if modality in RATIOS else distort)(channel_DHW, field_DEW)
            if modality in modalities
            else channel_DHW
            for modality, channel_DHW in channels
        ]
    )


def hidden_adc(signal_CDHW: Tensor, context: StudyContext) -> Tensor:
    """Sets ADC to zero. A translation to ADC uses this input."""
    return hidden(signal_CDHW, context, ("adc",))


def hidden(signal_CDHW: Tensor, context: StudyContext, modalities: tuple[Modality, ...]) -> Tensor:
    """Sets some modalities to zero: the target of a translation, and the modalities that it does not use."""
    visible = [modality not in modalities for modality in context.modalities]
    return signal_CDHW * torch.tensor(visible, dtype=signal_CDHW.dtype)[:, None, None, None]


INPUT_TRANSFORMS: dict[str, InputTransform] = {
    "identity": identity,
    "half_resolution": half_resolution,
    "noisy": noisy,
    "distorted_diffusion": distorted_diffusion,
    "hidden_adc": hidden_adc,
}


class ModalityTransform(Protocol):
    """Function that applies a transform to some modalities of a study."""

    def __call__(self, signal_CDHW: Tensor, context: StudyContext, modalities: tuple[Modality, ...]) -> Tensor:
        """Returns the study with these modalities transformed, and the others as they are."""


MODALITY_TRANSFORMS: dict[str, ModalityTransform] = {
    "half_resolution": half_resolution_of,
    "noisy": noisy_of,
    "distorted": distorted,
    "hidden": hidden,
}
"""Transforms of some modalities, by the part of the name before the colon."""


def get_input_transform(name: str) -> InputTransform:
    """Looks up an input transform by its name in `INPUT_TRANSFORMS`, or by `NAME:MODALITY+MODALITY`.

    Raises:
        BadOption: no transform has this name.
    """
    if name in INPUT_TRANSFORMS:
        return INPUT_TRANSFORMS[name]
    base, _, rest = name.partition(":")
    modalities = tuple(rest.split("+"))
    valid = len(modalities) <= MAX_MODALITIES and all(VOLUME_KIND.matches(each) for each in modalities)
    if base in MODALITY_TRANSFORMS and valid:
        return partial(MODALITY_TRANSFORMS[base], modalities=modalities)
    known = ", ".join((*sorted(INPUT_TRANSFORMS), *(f"{each}:MODALITY" for each in sorted(MODALITY_TRANSFORMS))))
    raise BadOption(f"unknown input transform {name[:64]!r}", field="input_transform", remedy=f"choose one of: {known}")
