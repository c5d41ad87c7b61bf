"""A study's volumes to the tensor an encoder takes: grid, normalisation, crop and pad, input transform.

Knows preprocessing and tensors. Knows nothing of files, storage or models.
ProFound (github.com/pipiwang/ProFound, branch demo) normalises each channel by its z-score over non-zero voxels, then
crops to the centre and pads with zeros; its data already lay on one grid, ours is brought there first (`grid`).
ProViCNet (github.com/pimed/ProViCNet) crops 128 mm, normalises by mean and SD inside the gland and resizes each slice
to 448 pixels; a spacing of 2/7 mm is that resizing, so that every volume is interpolated once.

Legend: C channels (modalities), D slices (feet to head), H rows (front to back), W columns (right to left), K planes
that slices are sums of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vfmalign.core.domain.artifacts import Modality, Preprocessing, VolumeKind
from vfmalign.core.domain.errors import BadVolume
from vfmalign.imaging.grid import REFERENCE, Grid, Resampled, resample, resampled, study_grid
from vfmalign.imaging.input_transforms import Scene, identity
from vfmalign.imaging.input_transforms import input_transform as find_input_transform
from vfmalign.imaging.normalisation import FLAT, Moments, Scale, moments_of, scale_in_gland, scale_of
from vfmalign.imaging.volumes import LABEL_KINDS, Volume

MIN_GLAND_KEPT = 0.5
"""Share of the gland's voxels that must lie in the centre crop."""


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

    input_CDHW: Tensor
    clean_CDHW: Tensor
    gland_DHW: Tensor | None
    lesions_DHW: Tensor | None
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
    grid = study_grid(study, preprocessing.spacing_mm, subject)
    x_mm, y_mm, z_mm = (round(float(s), 6) for s in np.linalg.norm(grid.affine[:3, :3], axis=0))
    labels = {kind: _labels(study[kind], grid) for kind in LABEL_KINDS if kind in study}
    fitted = {kind: fit(label_DHW, preprocessing.shape_DHW) for kind, label_DHW in labels.items()}
    gland_DHW = fitted.get("gland")
    if gland_DHW is not None:
        _check_gland(labels["gland"], gland_DHW, subject)
        gland_DHW = (gland_DHW > 0).to(torch.uint8)
    channels = [resampled(study[kind], grid) for kind in preprocessing.modalities]
    moments = [moments_of(channel.planes_KHW, channel.weights_DK) for channel in channels]
    for kind, found in zip(preprocessing.modalities, moments, strict=True):
        _check_contrast(found, kind, subject)
    if untouched := transform is identity:
        clean_CDHW = degraded_CDHW = _signal([_fitted(channel, preprocessing.shape_DHW) for channel in channels])
    else:  # a transform sees whole channels
        signal_CDHW = _signal(channels)
        clean_CDHW = fit(signal_CDHW, preprocessing.shape_DHW)
        scene = Scene(preprocessing.modalities, (z_mm, y_mm, x_mm), volumes[REFERENCE].array_XYZ)
        signal_CDHW = transform(signal_CDHW, scene)
        degraded_CDHW = fit(signal_CDHW, preprocessing.shape_DHW)
        moments = [moments_of(channel_DHW) for channel_DHW in signal_CDHW]
    if preprocessing.normalisation == "zscore_gland" and gland_DHW is not None:
        _check_contrast_in_gland(clean_CDHW, gland_DHW, preprocessing.modalities, subject)
        scale = scale_in_gland(degraded_CDHW, gland_DHW)
    else:
        scale = scale_of(moments)
    input_CDHW = scale.apply_(degraded_CDHW)
    return Prepared(
        input_CDHW=input_CDHW,
        clean_CDHW=input_CDHW if untouched else scale.apply_(clean_CDHW),
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
    pads: list[int] = []
    for size, wanted in zip(volume.shape[:-4:-1], shape_DHW[::-1], strict=True):
        kept = min(size, wanted)
        before = (wanted - kept) // 2 - (size // 2 - kept // 2)  # less than none: cropped
        pads += [before, wanted - size - before]
    return functional.pad(volume, pads)


def _fitted(channel: Resampled, shape_DHW: tuple[int, int, int]) -> Resampled:
    """A channel of which no more is ever written than `fit` keeps."""
    planes_KHW, weights_DK = channel.planes_KHW, channel.weights_DK
    depth, height, width = shape_DHW
    return Resampled(
        fit(planes_KHW, (len(planes_KHW), height, width)),
        fit(weights_DK[None], (1, depth, len(planes_KHW)))[0],
    )


def _signal(channels: Sequence[Resampled]) -> Tensor:
    """All channels, written out: (C, D, H, W)."""
    shape_DHW = len(channels[0].weights_DK), *channels[0].planes_KHW.shape[1:]
    signal_CDHW = torch.empty((len(channels), *shape_DHW))
    for channel, values_DHW in zip(channels, signal_CDHW, strict=True):
        channel.write(values_DHW)
    return signal_CDHW


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


def _labels(volume: Volume, grid: Grid) -> Tensor:
    return torch.from_numpy(resample(volume, grid, labels=True).T.astype(np.uint8, order="C"))


def _check_contrast(found: Moments, kind: VolumeKind, subject: str) -> None:
    if not found.varies:
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
