"""Preprocessing of a study: converts volumes to the input tensor of an encoder.

The steps are resampling to the common grid, the input transform, cropping and padding, and normalisation. One modality
(`Preprocessing.reference`) defines the grid. ProFound (github.com/pipiwang/ProFound, branch demo) computes the z-score
of each channel over its nonzero voxels. ProFound then crops to the centre and pads with zeros. ProFound's own data
already lie on one grid. This module therefore first resamples all volumes to one grid (`grid`). A window in Hounsfield
units needs no statistics. Signals are measured from this window's lower bound. The value 0 in padding, outside a volume
or in a hidden channel therefore represents this bound. ProViCNet (github.com/pimed/ProViCNet) crops 128 mm, normalises
by mean and SD inside the gland and resizes each slice to 448 pixels. A grid spacing of 2/7 mm is equivalent to that
resizing and interpolates every volume only once.

Legend: C channels (modalities), D slices (feet to head), H rows (front to back), W columns (right to left), K planes
(each slice is a weighted sum of planes).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vfmalign.core.domain.declarations import LabelMap, Modality, VolumeKind
from vfmalign.core.domain.errors import BadVolume
from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.domain.patches import Extent
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.imaging.grid import Grid, PlaneStack, common_grid, resample, resample_planes, study_grid
from vfmalign.imaging.input_transforms import InputTransform, StudyContext, get_input_transform, identity
from vfmalign.imaging.normalisation import (
    CONTRAST_TOLERANCE,
    Moments,
    Scale,
    compute_moments,
    scale_from_gland,
    scale_from_moments,
    scale_from_quantiles,
    scale_from_window,
)
from vfmalign.imaging.volumes import Volume, Voxels

MIN_COVERAGE = 0.5
"""Share of the voxels of a label map that must lie in the centre crop, if the map may not be empty."""
GLAND = LabelMap(name="gland", values={1: "gland"})
"""The mask within which `zscore_gland` takes its statistics."""


@dataclass(frozen=True, eq=False)
class PreparedStudy:
    """Tensors of one study.

    An encoder and the head of a task read them. All tensors lie on one grid and have the same shape.

    Attributes:
        input_CDHW: float32, after the input transform.
        clean_CDHW: float32, without the input transform, but in the scale of the input. It is normalised by the
            statistics of `input_CDHW`, because a really degraded study offers no other statistics. A channel hidden by
            the transform keeps its own units. If the transform changes nothing, this tensor shares memory with the
            input.
        scale: converts the input's signal into z-scores.
        labels: label maps by id, (D, H, W) uint8. A missing label map does not mean an empty label map.
        label_max: highest value of each whole label map, including values outside the crop.
        spacing_mm: along D, H, W.
        slices: index of the tensors' first slice in the study's grid, and number of slices of this grid. The index is
            negative if slices of padding precede the grid.
        image: the part of the tensors that lies in the study's grid. The rest is padding.
    """

    input_CDHW: Tensor
    clean_CDHW: Tensor
    labels: dict[VolumeKind, Tensor]
    spacing_mm: tuple[float, float, float]
    slices: tuple[int, int]
    scale: Scale
    label_max: dict[VolumeKind, int]
    image: Extent


def prepare_study(
    volumes: Mapping[VolumeKind, Volume],
    preprocessing: Preprocessing,
    input_transform: str = "identity",
    subject: str = "study",
    labels: Sequence[LabelMap] = (),
    *,
    allow_cut: bool = False,
    context: WorkContext = UNLIMITED,
) -> PreparedStudy:
    """Prepares one study for an encoder.

    Args:
        volumes: at least the `needed_kinds`, and all label maps of the study.
        preprocessing: input format of the encoder.
        input_transform: name of an input transform; see `input_transforms.get_input_transform`.
        subject: the study's name in error messages: a request field or a generated id.
        labels: label maps to prepare. Labels that the study lacks are ignored.
        allow_cut: whether to accept label maps outside the crop, even if they may not be empty; see `field_of_view`.
        context: checked before every volume.

    Raises:
        BadOption: the input transform is unknown.
        BadVolume: a modality is missing, does not overlap the reference, has no contrast or is too fine for the grid.
            Or a label map is empty but may not be, or less than `MIN_COVERAGE` of it lies in the crop.
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    transform = get_input_transform(input_transform)
    labels = [label for label in _add_gland(labels, preprocessing) if label.name in volumes]
    study = _select_volumes(volumes, preprocessing, labels, subject)
    grid = study_grid(study, preprocessing.reference, preprocessing.spacing_mm, subject)
    x_mm, y_mm, z_mm = (round(float(s), 6) for s in np.linalg.norm(grid.affine[:3, :3], axis=0))
    label_maps = {
        label.name: _prepare_label(
            study[label.name], label, grid, preprocessing.shape_dhw, subject, allow_cut=allow_cut
        )
        for label in labels
    }
    channels = _resample_channels(study, grid, preprocessing, subject, context)
    properties = StudyContext(
        preprocessing.modalities, (z_mm, y_mm, x_mm), study[preprocessing.reference].array_XYZ, preprocessing.window
    )
    clean_CDHW, degraded_CDHW, scale = _degrade(channels, transform, properties, preprocessing, subject)
    context.checkpoint()
    if preprocessing.normalisation == "zscore_gland":
        scale = _native_gland_scale(study, preprocessing, transform, subject, context)
    # Normalisation works in place: a clean signal that shares the input's memory must not be scaled twice.
    shared = clean_CDHW is degraded_CDHW
    input_CDHW = scale.apply_(degraded_CDHW)
    return PreparedStudy(
        input_CDHW=input_CDHW,
        clean_CDHW=input_CDHW if shared else scale.apply_(clean_CDHW),
        labels=label_maps,
        spacing_mm=(z_mm, y_mm, x_mm),
        slices=(-padding_before(grid.shape_XYZ[2], preprocessing.shape_dhw[0]), grid.shape_XYZ[2]),
        scale=scale,
        label_max={label.name: int(study[label.name].array_XYZ.max()) for label in labels},
        image=_find_image(grid.shape_XYZ[::-1], preprocessing.shape_dhw),
    )


def _find_image(grid_DHW: tuple[int, int, int], shape_DHW: tuple[int, int, int]) -> Extent:
    """The voxels of the result of `crop_or_pad` that are not padding."""
    d, h, w = (
        (max(0, before := padding_before(size, target)), min(target, before + size))
        for size, target in zip(grid_DHW, shape_DHW, strict=True)
    )
    return d, h, w


def _add_gland(labels: Sequence[LabelMap], preprocessing: Preprocessing) -> list[LabelMap]:
    """The label maps with the gland mask, where normalisation needs it."""
    needed = preprocessing.normalisation == "zscore_gland" and all(label.name != GLAND.name for label in labels)
    return [*labels, GLAND] if needed else list(labels)


def _select_volumes(
    volumes: Mapping[VolumeKind, Volume], preprocessing: Preprocessing, labels: Sequence[LabelMap], subject: str
) -> dict[VolumeKind, Volume]:
    """The volumes that preprocessing needs, and the label maps."""
    needed = needed_kinds(preprocessing)
    for kind in needed:
        if kind not in volumes:
            raise BadVolume(f"no {kind} volume", subject=subject, remedy=f"send {kind}, which the model's input needs")
    return {kind: volumes[kind] for kind in (*needed, *(label.name for label in labels))}


def _prepare_label(
    volume: Volume, label: LabelMap, grid: Grid, shape_DHW: tuple[int, int, int], subject: str, *, allow_cut: bool
) -> Tensor:
    """A label map on the grid, cropped or padded."""
    whole_DHW = _resample_labels(volume, grid)
    cropped_DHW = crop_or_pad(whole_DHW, shape_DHW)
    if not label.may_be_empty:
        _check_not_empty(volume.array_XYZ if allow_cut else whole_DHW, label.name, subject)
        if not allow_cut:
            _check_coverage(whole_DHW, cropped_DHW, label.name, subject)
    return cropped_DHW


def _degrade(
    channels: Sequence[PlaneStack],
    transform: InputTransform,
    context: StudyContext,
    preprocessing: Preprocessing,
    subject: str,
) -> tuple[Tensor, Tensor, Scale]:
    """Applies the input transform to the resampled channels.

    Returns:
        The clean signal and the degraded one, both (C, D, H, W) of the encoder's shape, and the scale of the degraded
        channels before cropping. Both signals are the same tensor for the identity.

    Raises:
        BadVolume: a channel has no contrast.
    """
    shape_DHW = preprocessing.shape_dhw
    moments: list[Moments] = []
    if preprocessing.window is None:
        moments = [compute_moments(channel.planes_KHW, channel.weights) for channel in channels]
        for kind, channel_moments in zip(context.modalities, moments, strict=True):
            _check_contrast(channel_moments, kind, preprocessing.reference, subject)
    if transform is identity:
        # Cropping planes and weights first means that voxels outside the crop are never formed.
        signal_CDHW = _stack_channels([_crop_or_pad_planes(channel, shape_DHW) for channel in channels])
        whole = (channel.values() for channel in channels)
        return signal_CDHW, signal_CDHW, _whole_scale(preprocessing, moments, whole, subject)
    # A transform needs whole channels: k-space and displacements extend beyond the crop.
    whole_CDHW = _stack_channels(channels)
    clean_CDHW = crop_or_pad(whole_CDHW, shape_DHW)
    whole_CDHW = transform(whole_CDHW, context)
    scale = _whole_scale(preprocessing, map(compute_moments, whole_CDHW), whole_CDHW, subject)
    return clean_CDHW, crop_or_pad(whole_CDHW, shape_DHW), scale


def _whole_scale(
    preprocessing: Preprocessing, moments: Iterable[Moments], channels: Iterable[Tensor], subject: str
) -> Scale:
    """Scales by the statistics of whole channels, their moments or quantiles of their voxels, or by the window."""
    if preprocessing.window is not None:
        return scale_from_window(preprocessing.window, len(preprocessing.modalities))
    if preprocessing.quantiles is not None:
        return scale_from_quantiles(channels, preprocessing.quantiles, preprocessing.modalities, subject)
    return scale_from_moments(moments)


def _native_gland_scale(
    study: Mapping[VolumeKind, Volume],
    preprocessing: Preprocessing,
    transform: InputTransform,
    subject: str,
    context: WorkContext,
) -> Scale:
    """Scales by the statistics inside the gland at the reference volume's own spacing, as upstream computes them.

    Resampling to the model's spacing smooths: on a real case the SD inside the gland was 5 % smaller there.
    """
    modalities, reference = preprocessing.modalities, study[preprocessing.reference]
    grid = common_grid(reference, None, preprocessing.reference)
    gland_DHW = _resample_labels(study["gland"], grid)
    signal_CDHW = _stack_channels(_resample_channels(study, grid, preprocessing, subject, context))
    _check_contrast_in_gland(signal_CDHW, gland_DHW, modalities, subject)
    if transform is not identity:
        x_mm, y_mm, z_mm = (float(step) for step in np.linalg.norm(grid.affine[:3, :3], axis=0))
        signal_CDHW = transform(signal_CDHW, StudyContext(modalities, (z_mm, y_mm, x_mm), reference.array_XYZ))
    return scale_from_gland(signal_CDHW, gland_DHW)


def needed_kinds(preprocessing: Preprocessing) -> tuple[VolumeKind, ...]:
    """Returns the volumes that every study must have.

    They comprise the volume that defines the grid, the modalities and, if normalisation needs it, the gland mask.
    """
    gland: tuple[VolumeKind, ...] = ("gland",) if preprocessing.normalisation == "zscore_gland" else ()
    return tuple(dict.fromkeys((preprocessing.reference, *preprocessing.modalities, *gland)))


def crop_or_pad(volume: Tensor, shape_DHW: tuple[int, int, int]) -> Tensor:
    """Crops the last three axes to their centre and pads them with zeros.

    Every voxel of the result equals that of MONAI's `ResizeWithPadOrCrop`. MONAI's own transform is not used, because
    its import delays every start of the feature service by two seconds.

    Args:
        volume: (…, D, H, W).
        shape_DHW: shape of the result.
    """
    pads: list[int] = []
    for size, target in zip(volume.shape[:-4:-1], shape_DHW[::-1], strict=True):
        before = padding_before(size, target)
        pads += [before, target - size - before]
    return functional.pad(volume, pads)


def padding_before(size: int, target: int) -> int:
    """Returns how many elements `crop_or_pad` adds before an axis; negative if it crops."""
    overlap = min(size, target)
    return (target - overlap) // 2 - (size // 2 - overlap // 2)


def _crop_or_pad_planes(channel: PlaneStack, shape_DHW: tuple[int, int, int]) -> PlaneStack:
    """Crops or pads a channel in factored form, so that only voxels of the result are ever formed."""
    depth, height, width = shape_DHW
    planes_KHW = crop_or_pad(channel.planes_KHW, (len(channel.planes_KHW), height, width))
    return PlaneStack(planes_KHW, channel.weights.get_window(-padding_before(len(channel.weights), depth), depth))


def _resample_channels(
    study: Mapping[VolumeKind, Volume],
    grid: Grid,
    preprocessing: Preprocessing,
    subject: str,
    context: WorkContext,
) -> list[PlaneStack]:
    origin = 0.0 if preprocessing.window is None else preprocessing.window[0]
    channels = []
    for kind in preprocessing.modalities:
        context.checkpoint()
        channels.append(resample_planes(study[kind], grid, f"{kind} of {subject}", origin))
    return channels


def _stack_channels(channels: Sequence[PlaneStack]) -> Tensor:
    """Forms all channels: (C, D, H, W)."""
    shape_DHW = len(channels[0].weights), *channels[0].planes_KHW.shape[1:]
    signal_CDHW = torch.empty((len(channels), *shape_DHW))
    for channel, values_DHW in zip(channels, signal_CDHW, strict=True):
        channel.write(values_DHW)
    return signal_CDHW


def _check_contrast_in_gland(
    signal_CDHW: Tensor, gland_DHW: Tensor, modalities: Sequence[Modality], subject: str
) -> None:
    _check_not_empty(gland_DHW, GLAND.name, subject)
    inside_CN = signal_CDHW[:, gland_DHW > 0]
    for kind, inside_N in zip(modalities, inside_CN, strict=True):
        if bool(((inside_N - inside_N[0]).abs() <= CONTRAST_TOLERANCE * abs(inside_N[0])).all()):
            raise BadVolume(
                f"{kind} has no contrast inside the gland mask: all values are equal",
                subject=subject,
                remedy="check that both belong to one examination",
            )


def _resample_labels(volume: Volume, grid: Grid) -> Tensor:
    return torch.from_numpy(resample(volume, grid, labels=True).T.astype(np.uint8, order="C"))


def _check_contrast(moments: Moments, kind: VolumeKind, reference: VolumeKind, subject: str) -> None:
    if not moments.has_contrast:
        raise BadVolume(
            f"{kind} has no contrast in {reference}'s field of view: all nonzero values are equal",
            subject=subject,
            remedy="check that both belong to one examination",
        )


def _check_not_empty(mask: Tensor | Voxels, name: VolumeKind, subject: str) -> None:
    if not mask.any():
        raise BadVolume(
            f"the {name} mask is empty on the reference's grid",
            subject=subject,
            remedy=f"send the {name} mask of this study",
        )


def _check_coverage(whole_DHW: Tensor, cropped_DHW: Tensor, name: VolumeKind, subject: str) -> None:
    share = int(torch.count_nonzero(cropped_DHW)) / int(torch.count_nonzero(whole_DHW))
    if share < MIN_COVERAGE:
        raise BadVolume(
            f"the centre crop contains {share:.0%} of the {name}, less than {MIN_COVERAGE:.0%}",
            subject=subject,
            remedy=f"centre the field of view on the {name}",
        )
