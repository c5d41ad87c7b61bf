"""One grid for all volumes of a study.

Knows affines, orientations and interpolation. Knows nothing of NIfTI, intensities or tensors.
The common grid takes its directions and field of view from the T2-weighted volume, turned to LPS order (X runs to the
patient's left, Y to the back, Z to the head, whatever order the file has), and its spacing from the caller. Every
volume is interpolated once, straight onto it.

Legend: X, Y, Z are array axes of a volume or grid; positions are in mm in NIfTI's RAS+ frame. D, H, W are those of a
grid from feet to head, front to back and right to left; K the planes that its slices are sums of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from vfmalign.core.domain.artifacts import VolumeKind
from vfmalign.core.domain.errors import BadVolume
from vfmalign.imaging.normalisation import SLAB_SLICES
from vfmalign.imaging.volumes import MAX_VOXELS, Volume

REFERENCE: VolumeKind = "t2w"
MIN_COVERAGE = 0.5
"""Share of the reference's field of view that every other volume must cover."""
REACH_SIGMAS = 3.0
"""Where the Gaussian low-pass ends."""
_LINES_AT_ONCE = 16
MAX_TURN_VOXELS = 1e-2
"""Axes of two volumes agree where this bounds what their turn moves a voxel; affines of one examination are float32."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Where voxels lie: `shape_XYZ` voxels placed by `affine` (4x4, index to mm)."""

    shape_XYZ: tuple[int, int, int]
    affine: NDArray[np.float64]


def common_grid(reference: Volume, spacing_DHW_mm: tuple[float, float, float] | None) -> Grid:
    """The grid of a study: the reference's directions, centre and field of view, at another spacing.

    Args:
        reference: the T2-weighted volume.
        spacing_DHW_mm: spacing along Z, Y and X of the LPS-ordered grid in mm; None keeps the reference's own.

    Raises:
        BadVolume: the grid would hold more than `volumes.MAX_VOXELS` voxels.
    """
    own = _lps(reference)
    own_mm = np.linalg.norm(own.affine[:3, :3], axis=0)
    new_mm = own_mm if spacing_DHW_mm is None else np.array(spacing_DHW_mm[::-1], dtype=np.float64)
    sizes = np.array(own.array_XYZ.shape)
    new_sizes = np.maximum(1, np.rint(sizes * own_mm / new_mm)).astype(int)
    if float(np.prod(new_sizes.astype(float))) > MAX_VOXELS:
        raise BadVolume(
            "the field of view is too large for the model's voxel spacing",
            subject=REFERENCE,
            remedy="crop the series around the prostate",
        )
    affine = np.eye(4)
    affine[:3, :3] = own.affine[:3, :3] / own_mm * new_mm
    centre_mm = own.affine[:3, :3] @ ((sizes - 1) / 2) + own.affine[:3, 3]
    affine[:3, 3] = centre_mm - affine[:3, :3] @ ((new_sizes - 1) / 2)
    return Grid((int(new_sizes[0]), int(new_sizes[1]), int(new_sizes[2])), affine)


@dataclass(frozen=True, eq=False)
class Resampled:
    """A volume on a grid, each of its slices a weighted sum of planes: written out it may be several times as large.

    Attributes:
        planes_KHW: float32, on the grid within themselves.
        weights_DK: float32, none negative; a slice without any is zero.
    """

    planes_KHW: Tensor
    weights_DK: Tensor

    def write(self, values_DHW: Tensor) -> None:
        """Overwrites contiguous memory by all slices."""
        planes_KN, values_DN = self.planes_KHW.flatten(1), values_DHW.view(len(values_DHW), -1)
        for weights, band, some in _products(self.weights_DK.numpy(), SLAB_SLICES):
            torch.mm(weights, planes_KN[band], out=values_DN[some])

    def values(self) -> Tensor:
        """All slices, (D, H, W)."""
        values_DHW = self.planes_KHW.new_empty((len(self.weights_DK), *self.planes_KHW.shape[1:]))
        self.write(values_DHW)
        return values_DHW


def resample(volume: Volume, grid: Grid, *, labels: bool) -> NDArray[np.float32]:
    """The volume's values on a grid; zero where the volume does not reach.

    Images are interpolated linearly, after a Gaussian low-pass along axes on which the grid is coarser than the volume
    (sigma = (factor - 1) / 2 voxels, as in scikit-image and monai); label maps take the nearest voxel.
    """
    return _nearest(volume, grid) if labels else resampled(volume, grid).values().numpy().T


def resampled(volume: Volume, grid: Grid) -> Resampled:
    """What `resample` gives for an image, not written out."""
    source = _lps(volume)
    matrix, offset = _index_map(source, grid)
    if not _parallel(matrix, grid):
        values_XYZ = _by_voxel(_low_pass(source.array_XYZ, _sigmas(matrix)), matrix, offset, grid, order=1)
        return _written_out(torch.from_numpy(np.ascontiguousarray(values_XYZ.T)))
    # One matrix of weights an axis: ten times as fast as voxel by voxel.
    axes = zip(source.array_XYZ.shape, grid.shape_XYZ, np.diag(matrix), offset, _sigmas(matrix), strict=True)
    across, down, through = (_weights(*axis) for axis in axes)
    found = Resampled(_planes(source.array_XYZ.T, down, across), torch.from_numpy(through))
    # Of few slices it is the slices that are kept: sums of many planes each would take longer to measure.
    return found if len(found.planes_KHW) <= len(through) else _written_out(found.values())


def _written_out(values_DHW: Tensor) -> Resampled:
    return Resampled(values_DHW, torch.eye(len(values_DHW)))


def coverage(volume: Volume, grid: Grid) -> float:
    """Share of the grid's voxels that lie in the volume, from 0 to 1."""
    source = _lps(volume)
    matrix, offset = _index_map(source, grid)
    return float(_inside(matrix, offset, source.array_XYZ.shape, grid.shape_XYZ).mean())


def check_study(volumes: Mapping[VolumeKind, Volume], subject: str = "study") -> None:
    """Checks that a study's volumes lie together in space.

    Args:
        volumes: the study.
        subject: what errors call the study: a request field or a generated id.

    Raises:
        BadVolume: the T2-weighted volume is missing, or a volume covers too little of its field of view.
    """
    if REFERENCE not in volumes:
        raise BadVolume(
            "no t2w volume", subject=subject, remedy="the T2-weighted volume is the grid of a study: send it"
        )
    reference = volumes[REFERENCE]
    coarse = common_grid(reference, (4.0, 4.0, 4.0))
    for kind, volume in volumes.items():
        if kind != REFERENCE and (share := coverage(volume, coarse)) < MIN_COVERAGE:
            raise BadVolume(
                f"irreconcilable grids: {kind} covers {share:.0%} of t2w's field of view, less than {MIN_COVERAGE:.0%}",
                subject=subject,
                remedy="check that both belong to one examination and carry their own geometry",
                reason="IRRECONCILABLE_GRIDS",
            )


def study_grid(
    volumes: Mapping[VolumeKind, Volume], spacing_DHW_mm: tuple[float, float, float] | None, subject: str = "study"
) -> Grid:
    """The common grid of a study whose volumes lie together in space (see `check_study` and `common_grid`)."""
    check_study(volumes, subject)
    return common_grid(volumes[REFERENCE], spacing_DHW_mm)


def _lps(volume: Volume) -> Volume:
    """The same volume with its axes permuted and flipped to the order nearest to left, posterior, superior."""
    current = nib.orientations.io_orientation(volume.affine)
    change = nib.orientations.ornt_transform(current, nib.orientations.axcodes2ornt("LPS"))
    array_XYZ = nib.orientations.apply_orientation(volume.array_XYZ, change)
    affine = volume.affine @ nib.orientations.inv_ornt_aff(change, volume.array_XYZ.shape)
    return Volume(array_XYZ, affine)


def _index_map(source: Volume, grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Matrix and offset that take a grid index to the source's index."""
    to_source = np.linalg.inv(source.affine) @ grid.affine
    return to_source[:3, :3], to_source[:3, 3]


def _sigmas(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviations of the low-pass in source voxels, along each source axis."""
    steps = np.linalg.norm(matrix, axis=1)  # source voxels per grid voxel
    sigmas = np.maximum(0.0, (steps - 1.0) / 2.0)
    return np.where(sigmas < 1e-3, 0.0, sigmas).astype(np.float64)


def _low_pass(values: NDArray[Any], sigma: float | NDArray[np.float64]) -> NDArray[Any]:
    return ndimage.gaussian_filter(values, sigma, mode="nearest", truncate=REACH_SIGMAS) if np.any(sigma) else values


def _parallel(matrix: NDArray[np.float64], grid: Grid) -> bool:
    """Whether the axes of a volume and of a grid agree."""
    turned = np.abs(matrix - np.diag(np.diag(matrix))) @ grid.shape_XYZ
    return bool(turned.max() < MAX_TURN_VOXELS)


def _nearest(volume: Volume, grid: Grid) -> NDArray[np.float32]:
    source = _lps(volume)
    matrix, offset = _index_map(source, grid)
    # Voxels midway between two neighbours must not depend on the last bit of the affine.
    offset = offset + 1e-6
    if not _parallel(matrix, grid):
        return _by_voxel(source.array_XYZ, matrix, offset, grid, order=0)
    values_XYZ = source.array_XYZ
    for axis, (size, size_out, step, start) in enumerate(
        zip(source.array_XYZ.shape, grid.shape_XYZ, np.diag(matrix), offset, strict=True)
    ):
        position = _positions(size_out, step, start)
        index = np.clip(np.floor(position + 0.5).astype(int), 0, size - 1)
        values_XYZ = np.take(values_XYZ, index, axis)
        np.moveaxis(values_XYZ, axis, 0)[~_within(position, size)] = 0.0
    return values_XYZ


def _by_voxel(
    array_XYZ: NDArray[np.float32],
    matrix: NDArray[np.float64],
    offset: NDArray[np.float64],
    grid: Grid,
    *,
    order: Literal[0, 1],
) -> NDArray[np.float32]:
    """Nearest or linearly interpolated values where the axes do not agree."""
    values_XYZ: NDArray[np.float32] = ndimage.affine_transform(
        array_XYZ, matrix, offset=offset, output_shape=grid.shape_XYZ, order=order, mode="nearest"
    )
    values_XYZ[~_inside(matrix, offset, array_XYZ.shape, grid.shape_XYZ)] = 0.0
    return values_XYZ


def _planes(array_ZYX: NDArray[np.float32], down_OI: NDArray[np.float32], across_OI: NDArray[np.float32]) -> Tensor:
    """Every plane of a volume, resampled within itself."""
    source_ZYX = torch.from_numpy(np.require(array_ZYX, requirements=["C", "W"]))
    lines_ZYX = source_ZYX.new_empty((len(source_ZYX), len(down_OI), source_ZYX.shape[2]))
    for weights, band, some in _products(down_OI, _LINES_AT_ONCE):
        lines_ZYX[:, some] = torch.matmul(weights, source_ZYX[:, band])
    planes_ZYX = lines_ZYX.new_empty((*lines_ZYX.shape[:2], len(across_OI)))
    for weights, band, some in _products(across_OI, _LINES_AT_ONCE):
        planes_ZYX[:, :, some] = torch.matmul(lines_ZYX[:, :, band], weights.T)
    return planes_ZYX


_Product: TypeAlias = tuple[Tensor, slice, slice]


def _products(weights_OI: NDArray[np.float32], at_once: int) -> list[_Product]:
    """Products that make weighted sums of rows, some sums at once: their weights, the rows that have any, and which."""
    found: list[_Product] = []
    for start in range(0, len(weights_OI), at_once):
        some_OI = weights_OI[start : start + at_once]
        used = np.flatnonzero(some_OI.any(axis=0))
        band = slice(used[0], used[-1] + 1) if len(used) else slice(0, 1)
        weights = torch.from_numpy(np.ascontiguousarray(some_OI[:, band]))
        found.append((weights, band, slice(start, start + len(some_OI))))
    return found


def _positions(count: int, step: float, start: float) -> NDArray[np.float64]:
    return start + step * np.arange(count, dtype=np.float64)


def _weights(size: int, size_out: int, step: float, start: float, sigma: float) -> NDArray[np.float32]:
    """(size_out, size) weights of linear interpolation after the low-pass.

    Beyond the ends the last voxel goes on to its outer face; further out all weights are zero.
    """
    position = _positions(size_out, step, start)
    within = _within(position, size)
    position = np.clip(position, 0, size - 1)
    below = position.astype(int)
    rows, share = np.arange(size_out), position - below
    weights = np.zeros((size_out, size))
    weights[rows, below] = 1.0 - share
    weights[rows, np.minimum(below + 1, size - 1)] += share
    if REACH_SIGMAS * sigma >= 0.5:  # else the filter is one voxel wide
        weights = weights @ _low_pass(np.eye(size), np.array([sigma, 0.0]))
    weights[~within] = 0.0
    return weights.astype(np.float32)


def _within(position: NDArray[np.float64], size: int) -> NDArray[np.bool_]:
    """Whether positions lie in a source axis, to its voxels' outer faces (1 % leeway)."""
    return (position >= -0.51) & (position <= size - 0.49)


def _inside(
    matrix: NDArray[np.float64],
    offset: NDArray[np.float64],
    source_shape: tuple[int, ...],
    grid_shape: tuple[int, int, int],
) -> NDArray[np.bool_]:
    """Which grid voxels have their centre in the source's field of view."""
    inside = np.ones(grid_shape, dtype=np.bool_)
    x, y, z = (np.arange(size) for size in grid_shape)
    for axis, size in enumerate(source_shape):
        plane_YZ = matrix[axis, 1] * y[:, None] + matrix[axis, 2] * z + offset[axis]
        inside &= _within((matrix[axis, 0] * x)[:, None, None] + plane_YZ, size)
    return inside
