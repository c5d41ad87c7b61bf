"""A task's input transforms: what an encoder sees instead of the clean study.

They run on a study's signal as it lies on the common grid, before it is normalised and cropped: there zero is no
signal, sums mean something, and what is normalised afterwards is what a degraded study would have given. They are
deterministic, and named in feature requests and manifests, so that the features before and after fine-tuning see the
same inputs. Adding one means one function and one entry.

Legend: C channels (modalities), D slices, H rows, W columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vfmalign.core.domain.artifacts import Modality
from vfmalign.core.domain.errors import BadOption
from vfmalign.imaging.distortion import displacement, distort, move


@dataclass(frozen=True)
class Scene:
    """What a transform may know of a study besides its signal.

    Attributes:
        modalities: names of the channels.
        spacing_mm: along D, H, W.
        reference_XYZ: the T2-weighted voxels as they are stored.
    """

    modalities: tuple[Modality, ...]
    spacing_mm: tuple[float, float, float]
    reference_XYZ: NDArray[np.float32]

    def seed(self) -> int:
        """A number of the case's own: one case is degraded in one way wherever, and however turned, it is read."""
        values = np.sort(self.reference_XYZ, axis=None).astype("<f4")
        return int.from_bytes(hashlib.sha256(values.tobytes()).digest()[:8], "big")


InputTransform = Callable[[Tensor, Scene], Tensor]


def identity(signal_CDHW: Tensor, scene: Scene) -> Tensor:
    """The study as it is."""
    return signal_CDHW


def half_resolution(signal_CDHW: Tensor, scene: Scene) -> Tensor:
    """Half the in-plane resolution, on the same grid: the input of the super-resolution task.

    As a scanner would acquire it: the inner half of k-space along H and W, and the rest filled with zeros. What is
    within that band comes back as it was; what is not is lost, and edges ring a little, as they do in MRI. Voxels that
    the scanner left empty stay empty.
    """
    height, width = signal_CDHW.shape[-2:]
    keep_H = torch.fft.fftfreq(height).abs() < 0.25
    keep_W = torch.fft.rfftfreq(width) < 0.25
    spectrum = torch.fft.rfft2(signal_CDHW) * (keep_H[:, None] & keep_W)
    coarse_CDHW: Tensor = torch.fft.irfft2(spectrum, s=(height, width))
    return coarse_CDHW * (signal_CDHW != 0)


def distorted_diffusion(signal_CDHW: Tensor, scene: Scene) -> Tensor:
    """Diffusion volumes displaced by a simulated susceptibility field: the input of the distortion task.

    DWI is signal and piles up; ADC is a ratio of two such signals and only moves; T2W is a spin-echo train and stays.
    """
    field_DEW = displacement(cast(tuple[int, int, int], tuple(signal_CDHW.shape[1:])), scene.spacing_mm, scene.seed())
    bent = {"dwi": distort, "adc": move}
    return torch.stack(
        [
            bent[modality](channel_DHW, field_DEW) if modality in bent else channel_DHW
            for modality, channel_DHW in zip(scene.modalities, signal_CDHW, strict=True)
        ]
    )


def hidden_adc(signal_CDHW: Tensor, scene: Scene) -> Tensor:
    """ADC blanked out: the input of the translation task."""
    shown = [modality != "adc" for modality in scene.modalities]
    return signal_CDHW * torch.tensor(shown, dtype=signal_CDHW.dtype)[:, None, None, None]


INPUT_TRANSFORMS: dict[str, InputTransform] = {
    "identity": identity,
    "half_resolution": half_resolution,
    "distorted_diffusion": distorted_diffusion,
    "hidden_adc": hidden_adc,
}


def input_transform(name: str) -> InputTransform:
    """The transform of that name.

    Raises:
        BadOption: there is none.
    """
    if name not in INPUT_TRANSFORMS:
        known = ", ".join(sorted(INPUT_TRANSFORMS))
        raise BadOption(f"unknown input transform {name!r}", field="input_transform", remedy=f"choose one of: {known}")
    return INPUT_TRANSFORMS[name]
