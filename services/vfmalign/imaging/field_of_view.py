"""The part of a case's structures that a model sees.

A model's input is centred on the reference volume and has a fixed shape. Training ignores all voxels outside the input,
but scores include them. For scores, label maps are also resampled to the model's grid. For this purpose, the grid is
extended to contain all structures (ADR 0082).

Legend: D slices (feet to head), H rows (front to back), W columns (right to left); X, Y, Z are the axes W, H, D. A box
is an array of two rows, start and stop, in voxels along D, H, W of the study's grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vfmalign.core.domain.declarations import VolumeKind
from vfmalign.core.domain.errors import BadVolume
from vfmalign.core.domain.metrics import Structure
from vfmalign.core.domain.models import Preprocessing
from vfmalign.imaging.axis_weights import SNAP_VOXELS
from vfmalign.imaging.grid import MAX_GRID_VOXELS, Grid, common_grid, resample
from vfmalign.imaging.preprocessing import padding_before
from vfmalign.imaging.volumes import Volume

Box = NDArray[np.int64]
Window = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class WholeLabels:
    """Label maps of a case in which structures extend beyond the field of view.

    Attributes:
        labels: label maps by id, (D, H, W) uint8, on the model's grid extended to contain all structures.
        window: position of the model's input in these label maps.
    """

    labels: dict[VolumeKind, Tensor]
    window: Window


@dataclass(frozen=True, eq=False)
class FieldOfView:
    """The visible part of a case's structures.

    Attributes:
        inside: by structure name, the share of its voxels in the field of view, from 0 to 1. Structures that the case
            lacks are omitted.
        whole: label maps beyond the field of view; None if every structure lies in it.
    """

    inside: dict[VolumeKind, float]
    whole: WholeLabels | None = None


def measure_field_of_view(
    volumes: Mapping[VolumeKind, Volume],
    preprocessing: Preprocessing,
    structures: Sequence[Structure],
    subject: str,
) -> FieldOfView:
    """Measures how much of a case's structures a model sees.

    Args:
        volumes: the reference volume and the case's label maps.
        preprocessing: the model's input.
        structures: the structures. A structure is ignored if the case lacks its label map.
        subject: the case's name in error messages.

    Raises:
        BadVolume: the structures span more than `grid.MAX_GRID_VOXELS` voxels at the model's spacing.
    """
    grid = common_grid(volumes[preprocessing.reference], preprocessing.spacing_mm, preprocessing.reference)
    image: Box = np.array([(0, 0, 0), grid.shape_XYZ[::-1]])
    padding = [padding_before(*sizes) for sizes in zip(grid.shape_XYZ[::-1], preprocessing.shape_dhw, strict=True)]
    window: Box = np.array([(0, 0, 0), preprocessing.shape_dhw]) - np.array(padding)
    seen: Box = np.array([np.maximum(window[0], image[0]), np.minimum(window[1], image[1])])  # padding shows nothing
    structures = [structure for structure in structures if structure.label in volumes]
    extents = {structure: _find_extent(volumes[structure.label], structure, grid) for structure in structures}
    present = {structure: extent for structure, extent in extents.items() if extent is not None}
    shares = {structure: float(_holds(seen, extent)) for structure, extent in present.items()}
    if all(shares.values()):
        return FieldOfView(_by_name(shares))
    boxes = np.array([window, *present.values()], dtype=np.int64)
    reach: Box = np.array([boxes[:, 0].min(0), boxes[:, 1].max(0)])
    labels = _resample_labels(volumes, {structure.label for structure in structures}, grid, reach, subject)
    for structure in present:
        mask_DHW = mask_structure(structure, labels)
        if total := int(mask_DHW.sum()):  # a structure smaller than a voxel may have none
            shares[structure] = int(mask_DHW[_place(seen, reach)].sum()) / total
    whole = WholeLabels(labels, _place(window, reach)) if min(shares.values()) < 1.0 else None
    return FieldOfView(_by_name(shares), whole)


def _by_name(shares: Mapping[Structure, float]) -> dict[VolumeKind, float]:
    """The shares by name; two label maps may have structures of one name."""
    by_name: dict[VolumeKind, float] = {}
    for structure, share in shares.items():
        by_name[structure.name] = min(share, by_name.get(structure.name, 1.0))
    return by_name


def mask_structure(structure: Structure, labels: Mapping[VolumeKind, Tensor]) -> Tensor:
    """Returns a mask of a structure's voxels in its label map, which may have any shape."""
    label = labels[structure.label]
    if not structure.values:
        return label > 0
    return torch.isin(label, torch.tensor(structure.values, dtype=label.dtype, device=label.device))


def _find_extent(volume: Volume, structure: Structure, grid: Grid) -> Box | None:
    """The box of the grid's voxels that may take their value from a structure; None for an absent structure."""
    masks = (np.isin(slab, structure.values) if structure.values else slab > 0 for slab in volume.slabs())
    x, y, z = zip(*([mask.any(axis=other) for other in ((1, 2), (0, 2), (0, 1))] for mask in masks), strict=True)
    indices = list(map(np.flatnonzero, (np.logical_or.reduce(x), np.logical_or.reduce(y), np.concatenate(z))))
    if not len(indices[0]):
        return None
    corners = np.array(list(product(*((index[0] - 0.5, index[-1] + 0.5) for index in indices))))
    to_grid = np.linalg.inv(grid.affine) @ volume.affine
    corners_XYZ = corners @ to_grid[:3, :3].T + to_grid[:3, 3]
    start_XYZ = np.ceil(corners_XYZ.min(0) - SNAP_VOXELS)
    stop_XYZ = np.floor(corners_XYZ.max(0) + SNAP_VOXELS) + 1
    return np.array([start_XYZ[::-1], stop_XYZ[::-1]]).astype(np.int64)


def _holds(outer: Box, inner: Box) -> bool:
    return bool((outer[0] <= inner[0]).all() and (inner[1] <= outer[1]).all())


def _place(box: Box, within: Box) -> Window:
    depth, height, width = (slice(int(start), int(stop)) for start, stop in (box - within[0]).T)
    return depth, height, width


def _resample_labels(
    volumes: Mapping[VolumeKind, Volume], names: set[VolumeKind], grid: Grid, box: Box, subject: str
) -> dict[VolumeKind, Tensor]:
    depth, height, width = (int(size) for size in box[1] - box[0])
    if depth * height * width > MAX_GRID_VOXELS:
        raise BadVolume(
            f"its structures span {width} x {height} x {depth} voxels at the model's spacing, more than "
            f"{MAX_GRID_VOXELS} in all",
            subject=subject,
            remedy="crop the label maps around the organ",
        )
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ box[0, ::-1]
    part = Grid((width, height, depth), affine)
    arrays = {name: resample(volumes[name], part, labels=True) for name in sorted(names)}
    return {name: torch.from_numpy(array.T.astype(np.uint8, order="C")) for name, array in arrays.items()}
