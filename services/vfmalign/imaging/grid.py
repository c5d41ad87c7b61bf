"""The common grid of a study, and resampling onto it.

The common grid takes its directions and field of view from the study's reference volume, reordered to LPS (X runs to
the patient's left, Y to the back, Z to the head, whatever the order in the file), and its spacing from the caller.
Every volume is interpolated once, directly onto this grid.

Legend: X, Y, Z are array axes of a volume or grid; positions are in mm in NIfTI's RAS+ frame. D, H, W are the axes of a
grid from feet to head, front to back and right to left; K source planes, whose weighted sums are the slices; O output
and I input positions along one axis.
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

from vfmalign.core.domain.declarations import VolumeKind
from vfmalign.core.domain.errors import BadVolume
from vfmalign.imaging.normalisation import SLAB_SLICES
from vfmalign.imaging.volumes import MAX_VOXELS, Volume

MIN_COVERAGE = 0.5
"""Share of the reference's field of view that every other volume must cover."""
TRUNCATE_SIGMAS = 3.0
"""Radius of the Gaussian low-pass in standard deviations."""
_LINES_PER_PRODUCT = 16
"""Output lines per matrix product: few enough that each product reads a narrow band of the input."""
SNAP_VOXELS = 1e-4
"""Positions this close to a voxel's centre are the voxel's. Affines carry rounding errors of 1e-16 to 1e-6 voxels (they
are products, inverses and float32 headers), which would give a neighbour a tiny weight. Zeros beside tissue would then
become nonzero, and normalisation over nonzero voxels would count the background as signal.
"""
MAX_OBLIQUENESS_VOXELS = 1e-2
"""Two volumes count as parallel if the angle between their axes displaces no voxel by more than this. The affines of
one examination are stored in float32, so their axes rarely agree exactly.
"""


@dataclass(frozen=True, eq=False)
class Grid:
    """A voxel grid: `shape_XYZ` voxels placed by `affine` (4×4, index to mm)."""

    shape_XYZ: tuple[int, int, int]
    affine: NDArray[np.float64]


def common_grid(reference: Volume, spacing_DHW_mm: tuple[float, float, float] | None, name: str = "reference") -> Grid:
    """Build the grid of a study: the reference's directions, centre and field of view, at another spacing.

    Args:
        reference: the volume that defines the grid.
        spacing_DHW_mm: spacing along Z, Y and X of the LPS-ordered grid in mm; None keeps the reference's spacing.
        name: name of the reference in errors.

    Raises:
        BadVolume: the grid would hold more than `volumes.MAX_VOXELS` voxels.
    """
    reference_lps = _to_lps(reference)
    reference_mm = np.linalg.norm(reference_lps.affine[:3, :3], axis=0)
    grid_mm = reference_mm if spacing_DHW_mm is None else np.array(spacing_DHW_mm[::-1], dtype=np.float64)
    sizes = np.array(reference_lps.array_XYZ.shape)
    grid_sizes = np.maximum(1, np.rint(sizes * reference_mm / grid_mm)).astype(int)
    if float(np.prod(grid_sizes.astype(float))) > MAX_VOXELS:
        raise BadVolume(
            "the field of view holds too many voxels at the model's voxel spacing",
            subject=name,
            remedy="crop the series around the organ",
        )
    affine = np.eye(4)
    affine[:3, :3] = reference_lps.affine[:3, :3] / reference_mm * grid_mm
    centre_mm = reference_lps.affine[:3, :3] @ ((sizes - 1) / 2) + reference_lps.affine[:3, 3]
    affine[:3, 3] = centre_mm - affine[:3, :3] @ ((grid_sizes - 1) / 2)
    return Grid((int(grid_sizes[0]), int(grid_sizes[1]), int(grid_sizes[2])), affine)


@dataclass(frozen=True, eq=False)
class PlaneStack:
    """A resampled volume in factored form: every slice is a weighted sum of planes.

    The planes are as many as the source has slices. A thick-slice volume on a fine grid takes several times less memory
    in this form than written out, and its mean and variance follow from the planes alone
    (`normalisation.compute_moments`).

    Attributes:
        planes_KHW: float32, resampled to the grid within each plane.
        weights_DK: float32, non-negative; the slices whose weights are all 0 lie outside the volume and are 0.
    """

    planes_KHW: Tensor
    weights_DK: Tensor

    def write(self, values_DHW: Tensor) -> None:
        """Write all slices into a contiguous (D, H, W) tensor."""
        planes_KN, values_DN = self.planes_KHW.flatten(1), values_DHW.view(len(values_DHW), -1)
        for weights, band, slices in _banded_products(self.weights_DK.numpy(), SLAB_SLICES):
            torch.mm(weights, planes_KN[band], out=values_DN[slices])

    def values(self) -> Tensor:
        """All slices as a (D, H, W) tensor."""
        values_DHW = self.planes_KHW.new_empty((len(self.weights_DK), *self.planes_KHW.shape[1:]))
        self.write(values_DHW)
        return values_DHW


def resample(volume: Volume, grid: Grid, *, labels: bool) -> NDArray[np.float32]:
    """Resample a volume to a grid; voxels outside the volume are 0.

    Images are interpolated linearly, after a Gaussian low-pass along axes on which the grid is coarser than the volume
    (sigma = (factor − 1) / 2 voxels, as in scikit-image and MONAI). Label maps take the nearest voxel.
    """
    return _resample_nearest(volume, grid) if labels else resample_planes(volume, grid).values().numpy().T


def resample_planes(volume: Volume, grid: Grid) -> PlaneStack:
    """Resample an image to a grid like `resample`, returning it as planes and weights.

    Where the axes of volume and grid agree, linear interpolation is separable: one small weight matrix per axis
    replaces the lookup of every voxel, which is about ten times faster. Oblique volumes are interpolated voxel by
    voxel.
    """
    source = _to_lps(volume)
    matrix, offset = _index_map(source, grid)
    if not _axes_aligned(matrix, grid):
        values_XYZ = _interpolate_voxelwise(
            _low_pass(source.array_XYZ, _low_pass_sigmas(matrix)), matrix, offset, grid, order=1
        )
        return _dense_stack(torch.from_numpy(np.ascontiguousarray(values_XYZ.T)))
    axes = zip(source.array_XYZ.shape, grid.shape_XYZ, np.diag(matrix), offset, _low_pass_sigmas(matrix), strict=True)
    across, down, through = (_interpolation_weights(*axis) for axis in axes)
    stack = PlaneStack(_resample_in_plane(source.array_XYZ.T, down, across), torch.from_numpy(through))
    # Where the grid has fewer slices than the source, each slice is a sum of many planes, and computing statistics from
    # the planes would cost more than from the slices.
    return stack if len(stack.planes_KHW) <= len(through) else _dense_stack(stack.values())


def _dense_stack(values_DHW: Tensor) -> PlaneStack:
    return PlaneStack(values_DHW, torch.eye(len(values_DHW)))


def coverage(volume: Volume, grid: Grid) -> float:
    """Share of the grid's voxels that lie within the volume, from 0 to 1."""
    source = _to_lps(volume)
    matrix, offset = _index_map(source, grid)
    return float(_inside_mask(matrix, offset, source.array_XYZ.shape, grid.shape_XYZ).mean())


def check_study(volumes: Mapping[VolumeKind, Volume], reference: VolumeKind, subject: str = "study") -> None:
    """Check that the volumes of a study overlap in space.

    Args:
        volumes: the study.
        reference: the volume that defines the grid.
        subject: name of the study in errors: a request field or a generated id.

    Raises:
        BadVolume: the reference is missing, or another volume covers too little of its field of view.
    """
    if reference not in volumes:
        raise BadVolume(
            f"no {reference} volume", subject=subject, remedy=f"send {reference}, which defines the grid of a study"
        )
    coarse = common_grid(volumes[reference], (4.0, 4.0, 4.0), reference)
    for kind, volume in volumes.items():
        if kind != reference and (share := coverage(volume, coarse)) < MIN_COVERAGE:
            raise BadVolume(
                f"irreconcilable grids: {kind} covers {share:.0%} of {reference}'s field of view, "
                f"less than {MIN_COVERAGE:.0%}",
                subject=subject,
                remedy="check that both belong to one examination and carry their own geometry",
                reason="IRRECONCILABLE_GRIDS",
            )


def study_grid(
    volumes: Mapping[VolumeKind, Volume],
    reference: VolumeKind,
    spacing_DHW_mm: tuple[float, float, float] | None,
    subject: str = "study",
) -> Grid:
    """Check a study with `check_study` and build its grid with `common_grid`."""
    check_study(volumes, reference, subject)
    return common_grid(volumes[reference], spacing_DHW_mm, reference)


def _to_lps(volume: Volume) -> Volume:
    """Permute and flip the axes to the order nearest to left, posterior, superior."""
    current = nib.orientations.io_orientation(volume.affine)
    change = nib.orientations.ornt_transform(current, nib.orientations.axcodes2ornt("LPS"))
    array_XYZ = nib.orientations.apply_orientation(volume.array_XYZ, change)
    affine = volume.affine @ nib.orientations.inv_ornt_aff(change, volume.array_XYZ.shape)
    return Volume(array_XYZ, affine)


def _index_map(source: Volume, grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Matrix and offset that map a grid index to an index of the source."""
    to_source = np.linalg.inv(source.affine) @ grid.affine
    return to_source[:3, :3], to_source[:3, 3]


def _low_pass_sigmas(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviations of the low-pass in source voxels along each source axis."""
    steps = np.linalg.norm(matrix, axis=1)  # source voxels per grid voxel
    sigmas = np.maximum(0.0, (steps - 1.0) / 2.0)
    return np.where(sigmas < 1e-3, 0.0, sigmas).astype(np.float64)


def _low_pass(values: NDArray[Any], sigma: float | NDArray[np.float64]) -> NDArray[Any]:
    return ndimage.gaussian_filter(values, sigma, mode="nearest", truncate=TRUNCATE_SIGMAS) if np.any(sigma) else values


def _axes_aligned(matrix: NDArray[np.float64], grid: Grid) -> bool:
    """Whether the axes of a volume and a grid agree to within `MAX_OBLIQUENESS_VOXELS`."""
    off_axis = np.abs(matrix - np.diag(np.diag(matrix))) @ grid.shape_XYZ
    return bool(off_axis.max() < MAX_OBLIQUENESS_VOXELS)


def _resample_nearest(volume: Volume, grid: Grid) -> NDArray[np.float32]:
    source = _to_lps(volume)
    matrix, offset = _index_map(source, grid)
    # A position midway between two voxels must not be rounded up or down by the rounding errors of the affine.
    offset = offset + SNAP_VOXELS
    if not _axes_aligned(matrix, grid):
        return _interpolate_voxelwise(source.array_XYZ, matrix, offset, grid, order=0)
    values_XYZ = source.array_XYZ
    for axis, (size, size_out, step, start) in enumerate(
        zip(source.array_XYZ.shape, grid.shape_XYZ, np.diag(matrix), offset, strict=True)
    ):
        position = _positions(size_out, step, start)
        index = np.clip(np.floor(position + 0.5).astype(int), 0, size - 1)
        values_XYZ = np.take(values_XYZ, index, axis)
        np.moveaxis(values_XYZ, axis, 0)[~_within_extent(position, size)] = 0.0
    return values_XYZ


def _interpolate_voxelwise(
    array_XYZ: NDArray[np.float32],
    matrix: NDArray[np.float64],
    offset: NDArray[np.float64],
    grid: Grid,
    *,
    order: Literal[0, 1],
) -> NDArray[np.float32]:
    """Nearest or linearly interpolated values where the axes do not agree, plane by plane to bound the memory."""
    values_XYZ = np.empty(grid.shape_XYZ, np.float32)
    index_XY = np.indices(grid.shape_XYZ[:2], dtype=np.float64)
    first_plane_XY = np.tensordot(matrix[:, :2], index_XY, axes=1) + offset[:, None, None]
    for plane in range(grid.shape_XYZ[2]):
        position_XY = _snap(first_plane_XY + plane * matrix[:, 2, None, None])
        ndimage.map_coordinates(array_XYZ, position_XY, values_XYZ[..., plane], order=order, mode="nearest")
    values_XYZ[~_inside_mask(matrix, offset, array_XYZ.shape, grid.shape_XYZ)] = 0.0
    return values_XYZ


def _resample_in_plane(
    array_ZYX: NDArray[np.float32], down_OI: NDArray[np.float32], across_OI: NDArray[np.float32]
) -> Tensor:
    """Resample every plane of a volume along its rows and columns.

    Args:
        array_ZYX: the source.
        down_OI: interpolation weights along Y.
        across_OI: interpolation weights along X.

    Returns:
        (Z, Y of the grid, X of the grid).
    """
    source_ZYX = torch.from_numpy(np.require(array_ZYX, requirements=["C", "W"]))
    lines_ZYX = source_ZYX.new_empty((len(source_ZYX), len(down_OI), source_ZYX.shape[2]))
    for weights, band, rows in _banded_products(down_OI, _LINES_PER_PRODUCT):
        lines_ZYX[:, rows] = torch.matmul(weights, source_ZYX[:, band])
    planes_ZYX = lines_ZYX.new_empty((*lines_ZYX.shape[:2], len(across_OI)))
    for weights, band, columns in _banded_products(across_OI, _LINES_PER_PRODUCT):
        planes_ZYX[:, :, columns] = torch.matmul(lines_ZYX[:, :, band], weights.T)
    return planes_ZYX


_BandedProduct: TypeAlias = tuple[Tensor, slice, slice]


def _banded_products(weights_OI: NDArray[np.float32], rows_per_product: int) -> list[_BandedProduct]:
    """Split a banded weight matrix into dense products of a few rows each.

    An interpolation matrix is zero outside a narrow band around its diagonal: multiplying it as a whole would spend
    most of the time on zeros.

    Returns:
        For each block of rows: its weights, the input range they refer to, and the output range they produce.
    """
    products: list[_BandedProduct] = []
    for start in range(0, len(weights_OI), rows_per_product):
        block_OI = weights_OI[start : start + rows_per_product]
        used = np.flatnonzero(block_OI.any(axis=0))
        band = slice(used[0], used[-1] + 1) if len(used) else slice(0, 1)
        weights = torch.from_numpy(np.ascontiguousarray(block_OI[:, band]))
        products.append((weights, band, slice(start, start + len(block_OI))))
    return products


def _positions(count: int, step: float, start: float) -> NDArray[np.float64]:
    return _snap(start + step * np.arange(count, dtype=np.float64))


def _snap(position: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move positions within `SNAP_VOXELS` of a voxel's centre onto it."""
    centre = np.rint(position)
    return np.where(np.abs(position - centre) <= SNAP_VOXELS, centre, position)


def _interpolation_weights(size: int, size_out: int, step: float, start: float, sigma: float) -> NDArray[np.float32]:
    """Weights of linear interpolation along one axis after the low-pass, (size_out, size).

    Up to the outer face of the first and last voxel the value of that voxel continues; beyond it all weights are 0.
    """
    position = _positions(size_out, step, start)
    within = _within_extent(position, size)
    position = np.clip(position, 0, size - 1)
    below = position.astype(int)
    rows, fraction = np.arange(size_out), position - below
    weights = np.zeros((size_out, size))
    weights[rows, below] = 1.0 - fraction
    weights[rows, np.minimum(below + 1, size - 1)] += fraction
    if TRUNCATE_SIGMAS * sigma >= 0.5:  # otherwise the filter is one voxel wide
        # Filtering the unit matrix gives the low-pass as a matrix, with the same boundary rule as `ndimage` itself.
        weights = weights @ _low_pass(np.eye(size), np.array([sigma, 0.0]))
    weights[~within] = 0.0
    return weights.astype(np.float32)


def _within_extent(position: NDArray[np.float64], size: int) -> NDArray[np.bool_]:
    """Whether positions lie within a source axis, including the voxels' outer faces (1 % tolerance)."""
    return (position >= -0.51) & (position <= size - 0.49)


def _inside_mask(
    matrix: NDArray[np.float64],
    offset: NDArray[np.float64],
    source_shape: tuple[int, ...],
    grid_shape: tuple[int, int, int],
) -> NDArray[np.bool_]:
    """Mask of the grid voxels whose centre lies in the source's field of view."""
    inside = np.ones(grid_shape, dtype=np.bool_)
    x, y, z = (np.arange(size) for size in grid_shape)
    for axis, size in enumerate(source_shape):
        plane_YZ = matrix[axis, 1] * y[:, None] + matrix[axis, 2] * z + offset[axis]
        inside &= _within_extent((matrix[axis, 0] * x)[:, None, None] + plane_YZ, size)
    return inside
