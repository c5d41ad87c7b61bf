"""A study's volumes to the tensor an encoder takes: grid, normalisation, crop and pad, input transform.

Knows preprocessing and tensors. Knows nothing of files, storage or models.
ProFound (github.com/pipiwang/ProFound, branch demo) normalises each channel by its z-score over non-zero voxels, then
crops to the centre and pads with zeros; its data already lay on one grid, ours is brought there first (`grid`).
ProViCNet (github.com/pimed/ProViCNet) crops 128 mm, normalises by mean and SD inside the gland and resizes each slice
to 448 pixels; a spacing of 2/7 mm is that resizing, so that every volume is interpolated once.

Legend: C channels (modalities), D slices (feet to head), H rows (front to back), W columns (right to left).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vfmalign.core.artifacts import Modality, Preprocessing, VolumeKind
from vfmalign.core.errors import BadVolume
from vfmalign.imaging.grid import REFERENCE, resample_study
from vfmalign.imaging.transforms import Scene, identity
from vfmalign.imaging.transforms import input_transform as find_input_transform
from vfmalign.imaging.volumes import LABEL_KINDS, Volume

MIN_GLAND_KEPT = 0.5
"""Share of the gland's voxels that must lie in the centre crop."""
FLAT = 1e-6
"""A channel whose SD is under this share of its mean is one value, and rounding."""


@dataclass(frozen=True, eq=False)
class Scale:
    """Z-scores of channels: (signal − mean) / spread, of voxels that are not zero alone where `zeros_stay`.

    Attributes:
        mean_C, spread_C: float32; 0 and 1 for a channel without contrast.
    """

    mean_C: Tensor  # noqa: N815
    spread_C: Tensor  # noqa: N815
    zeros_stay: bool

    def apply_(self, signal_CDHW: Tensor) -> Tensor:
        """Overwrites a signal by its z-scores; slice by slice, so that what is done to a voxel is done in the cache."""
        scales = zip(signal_CDHW, self.mean_C.tolist(), self.spread_C.tolist(), strict=True)
        for channel_DHW, mean, spread in scales:
            for slice_HW in channel_DHW:
                zeros_HW = slice_HW == 0
                slice_HW.sub_(mean).div_(spread)
                if self.zeros_stay:
                    slice_HW.masked_fill_(zeros_HW, 0.0)
        return signal_CDHW

    def signal(self, scores_CDHW: Tensor) -> Tensor:
        """The signal behind z-scores: the inverse of `apply_`."""
        mean, spread = (values_C[:, None, None, None] for values_C in (self.mean_C, self.spread_C))
        signal_CDHW = scores_CDHW * spread + mean
        return torch.where(scores_CDHW == 0, 0.0, signal_CDHW) if self.zeros_stay else signal_CDHW


@dataclass(frozen=True, eq=False)
class Prepared:
    """What an encoder and a task's head need of one study, all on one grid of one shape.

    Attributes:
        input_CDHW: float32, after the input transform.
        clean_CDHW: float32, before it, on the input's scale: normalised by the statistics of the input, which is all
            that is known where a study is degraded in earnest. A channel that the transform hid keeps its own units.
            The same memory as the input where the transform changes nothing.
        scale: what turned the input's signal into z-scores.
        grade: highest value of the lesion map, None where the study has none.
        gland_DHW: uint8 {0, 1}, None where the study has no gland mask.
        lesions_DHW: uint8 grades, None where the study has no lesion map (which is not the same as no lesion).
        spacing_mm: along D, H, W.
    """

    input_CDHW: Tensor  # noqa: N815
    clean_CDHW: Tensor  # noqa: N815
    gland_DHW: Tensor | None  # noqa: N815
    lesions_DHW: Tensor | None  # noqa: N815
    spacing_mm: tuple[float, float, float]
    scale: Scale
    grade: int | None


def prepare_study(
    volumes: Mapping[VolumeKind, Volume],
    preprocessing: Preprocessing,
    input_transform: str = "identity",
    subject: str = "study",
) -> Prepared:
    """Prepares one study.

    Args:
        volumes: at least those of `needed_kinds`; `gland` and `lesions` where there are any.
        preprocessing: how the encoder wants its input.
        input_transform: a name in `transforms.INPUT_TRANSFORMS`.
        subject: what errors call the study: a request field or a generated id.

    Raises:
        BadOption: the input transform is unknown.
        BadVolume: a modality is missing, does not lie on t2w or has no contrast; or the gland lies outside the crop.
    """
    transform = find_input_transform(input_transform)
    needed = needed_kinds(preprocessing)
    for kind in needed:
        if kind not in volumes:
            raise BadVolume(f"no {kind} volume", subject=subject, remedy=f"the model's input needs {kind}: send it")
    labels_sent = (kind for kind in LABEL_KINDS if kind in volumes)
    study: dict[VolumeKind, Volume] = {kind: volumes[kind] for kind in (*needed, *labels_sent)}
    arrays_XYZ, grid = resample_study(study, preprocessing.spacing_mm, subject)
    x_mm, y_mm, z_mm = (round(float(s), 6) for s in np.linalg.norm(grid.affine[:3, :3], axis=0))
    channels = [_to_DHW(arrays_XYZ[kind]) for kind in preprocessing.modalities]
    for kind, channel_DHW in zip(preprocessing.modalities, channels, strict=True):
        _check_contrast(channel_DHW, kind, subject)
    scene = Scene(preprocessing.modalities, (z_mm, y_mm, x_mm), volumes[REFERENCE].array_XYZ)
    untouched = transform is identity
    degraded = channels if untouched else list(transform(torch.stack(channels), scene))
    labels = {kind: _to_DHW(arrays_XYZ[kind]).to(torch.uint8) for kind in LABEL_KINDS if kind in study}
    fitted = {kind: fit(label_DHW, preprocessing.shape_DHW) for kind, label_DHW in labels.items()}
    gland_DHW = fitted.get("gland")
    if gland_DHW is not None:
        _check_gland(labels["gland"], gland_DHW, subject)
        gland_DHW = (gland_DHW > 0).to(torch.uint8)
    channels_CDHW = _fitted(channels, preprocessing.shape_DHW)
    degraded_CDHW = channels_CDHW if untouched else _fitted(degraded, preprocessing.shape_DHW)
    if preprocessing.normalisation == "zscore_gland" and gland_DHW is not None:
        _check_contrast_in_gland(channels_CDHW, gland_DHW, preprocessing.modalities, subject)
        scale = scale_in_gland(degraded_CDHW, gland_DHW)
    else:
        scale = scale_of(degraded)
    input_CDHW = scale.apply_(degraded_CDHW)
    return Prepared(
        input_CDHW=input_CDHW,
        clean_CDHW=input_CDHW if untouched else scale.apply_(channels_CDHW),
        gland_DHW=gland_DHW,
        lesions_DHW=fitted.get("lesions"),
        spacing_mm=(z_mm, y_mm, x_mm),
        scale=scale,
        grade=int(volumes["lesions"].array_XYZ.max()) if "lesions" in volumes else None,
    )


def needed_kinds(preprocessing: Preprocessing) -> tuple[VolumeKind, ...]:
    """The volumes that every study must have: the grid's, the modalities', and the gland mask where it normalises."""
    gland: tuple[VolumeKind, ...] = ("gland",) if preprocessing.normalisation == "zscore_gland" else ()
    return tuple(dict.fromkeys((REFERENCE, *preprocessing.modalities, *gland)))


def fit(volume: Tensor, shape_DHW: tuple[int, int, int]) -> Tensor:
    """Crops the last three axes to their centre and pads them with zeros, voxel for voxel as MONAI does.

    MONAI's `ResizeWithPadOrCrop` itself would take two seconds of every start of the feature service to import.

    Args:
        volume: (…, D, H, W).
        shape_DHW: of the result.
    """
    return _place(volume, volume.new_zeros((*volume.shape[:-3], *shape_DHW)))


def _place(volume: Tensor, whole: Tensor) -> Tensor:
    """Copies what `fit` keeps of a volume into zeros of the wanted shape."""
    into = whole
    for axis, (size, wanted) in enumerate(zip(volume.shape[-3:], into.shape[-3:], strict=True), start=-3):
        kept = min(size, wanted)
        volume = volume.narrow(axis, size // 2 - kept // 2, kept)
        into = into.narrow(axis, (wanted - kept) // 2, kept)
    into.copy_(volume)
    return whole


def _fitted(channels: Sequence[Tensor], shape_DHW: tuple[int, int, int]) -> Tensor:
    """All channels, cropped and padded."""
    fitted_CDHW = torch.zeros((len(channels), *shape_DHW))
    for channel_DHW, whole_DHW in zip(channels, fitted_CDHW, strict=True):
        _place(channel_DHW, whole_DHW)
    return fitted_CDHW


def scale_of(channels: Iterable[Tensor]) -> Scale:
    """Mean and population SD of each channel (DHW) over its voxels that are not zero; zeros stay zero."""
    means, spreads = [], []
    for channel_DHW in channels:
        # Sums over all voxels, less what zeros add to them: several times as fast as picking the others out. Slice by
        # slice, so that what is done to a voxel is done in the cache.
        seen = max(1, _nonzero(channel_DHW))
        zeros = channel_DHW.numel() - seen
        mean = float(channel_DHW.sum()) / seen
        squares = sum(float((slice_HW - mean).square_().sum()) for slice_HW in channel_DHW) - zeros * mean**2
        spread = (max(0.0, squares) / seen) ** 0.5
        varies = spread > FLAT * abs(mean)
        means.append(mean if varies else 0.0)
        spreads.append(spread if varies else 1.0)
    return Scale(torch.tensor(means), torch.tensor(spreads), zeros_stay=True)


def _nonzero(channel_DHW: Tensor) -> int:
    """Voxels that are not zero; torch's own count takes five times as long."""
    return sum(int(np.count_nonzero(slice_HW != 0)) for slice_HW in channel_DHW.numpy())


def scale_in_gland(signal_CDHW: Tensor, gland_DHW: Tensor) -> Scale:
    """Mean and population SD of each channel inside the gland; what was zero is moved as well."""
    inside_CN = signal_CDHW[:, gland_DHW > 0].double()
    spread_C = inside_CN.std(1, correction=0)
    varies_C = spread_C > 0
    mean_C = torch.where(varies_C, inside_CN.mean(1), 0.0)
    return Scale(mean_C.float(), torch.where(varies_C, spread_C, 1.0).float(), zeros_stay=False)


def _check_contrast_in_gland(
    signal_CDHW: Tensor, gland_DHW: Tensor, modalities: Sequence[Modality], subject: str
) -> None:
    inside_CN = signal_CDHW[:, gland_DHW > 0]
    for kind, inside_N in zip(modalities, inside_CN, strict=True):
        if bool(((inside_N - inside_N[0]).abs() <= FLAT * abs(inside_N[0])).all()):
            raise BadVolume(
                f"{kind} shows nothing inside the gland mask (no two different values)",
                subject=subject,
                remedy="check that both belong to one examination",
            )


def _to_DHW(array_XYZ: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array_XYZ.transpose(2, 1, 0)))


def _check_contrast(channel_DHW: Tensor, kind: VolumeKind, subject: str) -> None:
    highest = channel_DHW.max()
    one = highest if bool(highest != 0) else channel_DHW.min()
    if not any(bool(((s_HW != 0) & ((s_HW - one).abs_() > FLAT * abs(one))).any()) for s_HW in channel_DHW):
        raise BadVolume(
            f"{kind} shows nothing in t2w's field of view (no two different values that are not zero)",
            subject=subject,
            remedy="check that both belong to one examination",
        )


def _check_gland(whole_DHW: Tensor, cropped_DHW: Tensor, subject: str) -> None:
    total = int(torch.count_nonzero(whole_DHW))
    if total == 0:
        raise BadVolume("the gland mask is empty on t2w's grid", subject=subject, remedy="send the mask of this study")
    kept = int(torch.count_nonzero(cropped_DHW)) / total
    if kept < MIN_GLAND_KEPT:
        raise BadVolume(
            f"the centre crop holds {kept:.0%} of the gland, less than {MIN_GLAND_KEPT:.0%}",
            subject=subject,
            remedy="centre the field of view on the prostate",
        )
