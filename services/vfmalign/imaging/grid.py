"""The common grid of a study, and resampling to this grid.

The common grid has the directions and field of view of the study's reference volume. The caller sets its spacing. The
grid's axes are in LPS order, even if the file has another order: X runs to the patient's left, Y to the back, Z to the
head. Every volume is interpolated only once, directly to this grid.

Legend: X, Y, Z array axes of a volume or grid; positions are in mm in NIfTI's RAS+ frame. D, H, W axes of a grid from
feet to head, front to back and right to left; K source planes. Slices are weighted sums of these planes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from vfmalign.core.domain.declarations import VolumeKind
from vfmalign.core.domain.errors import BadVolume
from vfmalign.imaging.axis_weights import (
    SNAP_VOXELS,
    TRUNCATE_SIGMAS,
    AxisWeights,
    get_positions,
    is_within_extent,
    snap,
)
from vfmalign.imaging.headers import MAX_AXIS_VOXELS
from vfmalign.imaging.normalisation import SLAB_SLICES
from vfmalign.imaging.volumes import Volume, Voxels

MAX_GRID_VOXELS = 2**26
"""Largest grid: 256 MiB for each channel in float32, because resampling and transforms hold whole channels."""
MIN_COVERAGE = 0.5
"""Share of the reference's field of view that every other volume must cover."""
MAX_REDUCTION = 32.0
"""Maximum number of voxels of a volume per voxel of the grid along an axis. The low-pass before a coarser grid reads
about three times as many voxels for each one that it writes.
"""
MAX_FACTORED_WIDTH = 16
"""Maximum number of planes in a slice of a `PlaneStack`: its statistics need the product of every two planes."""
_LINES_PER_PRODUCT = 16
"""Output lines per matrix product: few enough that each product reads a narrow band of the input."""
_VOXELS_PER_SLAB = 2**23
"""Voxels of a volume that are converted to float32 and resampled at a time: most MR volumes as a whole."""
_VOXELS_PER_LOOKUP = 2**18
"""Output voxels interpolated at a time if axes do not agree: their positions take 150 bytes each."""
MAX_OBLIQUENESS_VOXELS = 1e-2
"""Two volumes count as parallel if the angle between their axes displaces no voxel by more than this. The affines of
one examination are stored in float32, so their axes rarely agree exactly.
"""


@dataclass(frozen=True, eq=False)
class Grid:
    """A voxel grid with `shape_XYZ` voxels. `affine` (4×4) maps a voxel's index to its position in mm."""

    shape_XYZ: tuple[int, int, int]
    affine: NDArray[np.float64]


def common_grid(reference: Volume, spacing_DHW_mm: tuple[float, float, float] | None, name: str = "reference") -> Grid:
    """Builds the grid of a study.

    The grid has the reference's directions, centre and field of view, but another spacing.

    Args:
        reference: the volume that defines the grid.
        spacing_DHW_mm: spacing along Z, Y and X of the LPS-ordered grid in mm; None keeps the reference's spacing.
        name: the reference's name in error messages.

    Raises:
        BadVolume: the grid would contain more than `MAX_GRID_VOXELS` voxels, or more than `headers.MAX_AXIS_VOXELS`
            along an axis.
    """
    reference_lps = _to_lps(reference)
    reference_mm = np.linalg.norm(reference_lps.affine[:3, :3], axis=0)
    grid_mm = reference_mm if spacing_DHW_mm is None else np.array(spacing_DHW_mm[::-1], dtype=np.float64)
    sizes = np.array(reference_lps.array_XYZ.shape)
    grid_sizes = np.maximum(1, np.rint(sizes * reference_mm / grid_mm)).astype(int)
    if float(np.prod(grid_sizes.astype(float))) > MAX_GRID_VOXELS or grid_sizes.max() > MAX_AXIS_VOXELS:
        raise BadVolume(
            f"the field of view holds too many voxels at the model's voxel spacing: {_format_sizes(grid_sizes)}, "
            f"at most {MAX_GRID_VOXELS} in all and {MAX_AXIS_VOXELS} along an axis",
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

    There is one plane for each slice of the source. For a thick-slice volume on a fine grid, this form takes several
    times less memory than the slices. Mean and variance are computed from the planes alone
    (`normalisation.compute_moments`).

    Attributes:
        planes_KHW: float32 planes, each resampled in-plane to the grid.
        weights: for each slice, the weights of the planes. For a slice outside the volume, all weights are 0.
    """

    planes_KHW: Tensor
    weights: AxisWeights

    def write(self, values_DHW: Tensor) -> None:
        """Writes all slices into a contiguous (D, H, W) tensor."""
        planes_KN, values_DN = self.planes_KHW.flatten(1), values_DHW.view(len(values_DHW), -1)
        for weights, band, slices in self.weights.split_products(SLAB_SLICES):
            torch.mm(weights, planes_KN[band], out=values_DN[slices])

    def values(self) -> Tensor:
        """All slices as a (D, H, W) tensor."""
        values_DHW = self.planes_KHW.new_empty((len(self.weights), *self.planes_KHW.shape[1:]))
        self.write(values_DHW)
        return values_DHW


def resample(volume: Volume, grid: Grid, *, labels: bool, name: str = "volume") -> Voxels:
    """Resamples a volume to a grid. Voxels outside the volume become 0.

    Images are interpolated linearly. Along axes on which the grid is coarser than the volume, a Gaussian low-pass is
    applied first (sigma = (factor − 1) / 2 voxels, as in scikit-image and MONAI). Label maps take the value of the
    nearest voxel.

    Args:
        volume: the volume.
        grid: the grid.
        labels: whether the volume is a label map.
        name: the volume's name in error messages.

    Raises:
        BadVolume: along an axis, an image has more than `MAX_REDUCTION` voxels per voxel of the grid.
    """
    return _resample_nearest(volume, grid) if labels else resample_planes(volume, grid, name).values().numpy().T


def resample_planes(volume: Volume, grid: Grid, name: str = "volume", origin: float = 0.0) -> PlaneStack:
    """Resamples an image to a grid like `resample`, but returns planes and weights.

    Values are measured from `origin`. The number 0 therefore represents the value `origin`, also for voxels outside the
    volume. The volume is converted to float32 in slabs, unless it is oblique.

    If the axes of volume and grid are parallel, linear interpolation is separable. One set of weights per axis then
    replaces the lookup of every voxel. This method is about ten times faster. Axes that become shorter are resampled
    first. No intermediate array is therefore larger than both volume and grid. Oblique volumes are interpolated voxel
    by voxel.
    """
    source = _to_lps(volume)
    matrix, offset = _index_map(source, grid)
    steps = np.linalg.norm(matrix, axis=1)  # source voxels per grid voxel
    _check_reduction(steps, volume, name)
    sigmas = _low_pass_sigmas(steps)
    if not _axes_aligned(matrix, grid):
        array_XYZ = _low_pass(source.array_XYZ, sigmas)
        values_XYZ = _interpolate_voxelwise(array_XYZ, matrix, offset, grid, order=1, outside=origin)
        return _dense_stack(torch.from_numpy(np.ascontiguousarray(values_XYZ.T)).sub_(origin))
    axes = zip(source.array_XYZ.shape, grid.shape_XYZ, np.diag(matrix), offset, sigmas, strict=True)
    across, down, through = (AxisWeights.interpolate(*axis) for axis in axes)
    # If the grid has fewer slices than the source, each slice is a sum of many planes, and computing statistics from
    # the planes would cost more than from the slices.
    if through.size > len(through):
        values_DHW = torch.empty((len(through), len(down), len(across)))
        for weights, band, slices in through.split_products(SLAB_SLICES):
            planes_KYX = _read_planes(source.array_XYZ, band, origin)
            slab_DYX = torch.mm(weights, planes_KYX.flatten(1)).view(-1, *planes_KYX.shape[1:])
            values_DHW[slices] = _resample_in_plane(slab_DYX, down, across)
        return _dense_stack(values_DHW)
    planes_KHW = torch.empty((through.size, len(down), len(across)))
    step = max(1, _VOXELS_PER_SLAB // (down.size * across.size))
    for first in range(0, through.size, step):
        slab = slice(first, first + step)
        planes_KHW[slab] = _resample_in_plane(_read_planes(source.array_XYZ, slab, origin), down, across)
    stack = PlaneStack(planes_KHW, through)
    return stack if through.width <= MAX_FACTORED_WIDTH else _dense_stack(stack.values())


def _read_planes(array_XYZ: Voxels, planes: slice, origin: float) -> Tensor:
    """Planes of a volume as contiguous float32, measured from the origin: (K, Y, X)."""
    stored_KYX = array_XYZ[..., planes].T
    if origin:
        return torch.from_numpy(np.subtract(stored_KYX, np.float32(origin), dtype=np.float32, order="C"))
    return torch.from_numpy(np.require(stored_KYX, np.float32, ["C", "W", "A"]))


def _check_reduction(steps: NDArray[np.float64], volume: Volume, name: str) -> None:
    if steps.max() > MAX_REDUCTION:
        raise BadVolume(
            f"{' x '.join(f'{spacing:.3g}' for spacing in volume.spacing_mm)} mm is {steps.max():.0f} times finer than "
            f"the model's voxel spacing, more than {MAX_REDUCTION:.0f} times",
            subject=name,
            remedy="resample the series to thicker slices or larger voxels first",
        )


def _format_sizes(sizes: NDArray[np.intp]) -> str:
    return " x ".join(str(int(size)) for size in sizes)


def _dense_stack(values_DHW: Tensor) -> PlaneStack:
    return PlaneStack(values_DHW, AxisWeights.identity(len(values_DHW)))


def coverage(volume: Volume, grid: Grid) -> float:
    """Returns the share of the grid's voxels that lie within the volume, from 0 to 1."""
    source = _to_lps(volume)
    matrix, offset = _index_map(source, grid)
    return float(_inside_mask(matrix, offset, source.array_XYZ.shape, grid.shape_XYZ).mean())


def check_study(volumes: Mapping[VolumeKind, Volume], reference: VolumeKind, subject: str = "study") -> None:
    """Checks that the volumes of a study overlap in space.

    Args:
        volumes: the study.
        reference: the volume that defines the grid.
        subject: the study's name in error messages: a request field or a generated id.

    Raises:
        BadVolume: the reference is missing, or another volume covers too little of the reference's field of view.
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
    """Checks a study with `check_study` and builds its grid with `common_grid`."""
    check_study(volumes, reference, subject)
    return common_grid(volumes[reference], spacing_DHW_mm, reference)


def _to_lps(volume: Volume) -> Volume:
    """Permutes and flips the axes to the order nearest to left, posterior, superior."""
    current = nib.orientations.io_orientation(volume.affine)
    change = nib.orientations.ornt_transform(current, nib.orientations.axcodes2ornt("LPS"))
    array_XYZ = nib.orientations.apply_orientation(volume.array_XYZ, change)
    affine = volume.affine @ nib.orientations.inv_ornt_aff(change, volume.array_XYZ.shape)
    return Volume(array_XYZ, affine)


def _index_map(source: Volume, grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Matrix and offset that map a grid index to an index of the source."""
    to_source = np.linalg.inv(source.affine) @ grid.affine
    return to_source[:3, :3], to_source[:3, 3]


def _low_pass_sigmas(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviations of the low-pass in source voxels along each source axis."""
    sigmas = np.maximum(0.0, (steps - 1.0) / 2.0)
    return np.where(sigmas < 1e-3, 0.0, sigmas).astype(np.float64)


def _low_pass(values: NDArray[Any], sigmas: NDArray[np.float64]) -> NDArray[Any]:
    if not sigmas.any():
        return values
    filtered = ndimage.gaussian_filter(values, sigmas, output=np.float32, mode="nearest", truncate=TRUNCATE_SIGMAS)
    return np.asarray(filtered)


def _axes_aligned(matrix: NDArray[np.float64], grid: Grid) -> bool:
    """Whether the axes of a volume and a grid agree to within `MAX_OBLIQUENESS_VOXELS`."""
    off_axis = np.abs(matrix - np.diag(np.diag(matrix))) @ grid.shape_XYZ
    return bool(off_axis.max() < MAX_OBLIQUENESS_VOXELS)


def _resample_nearest(volume: Volume, grid: Grid) -> Voxels:
    source = _to_lps(volume)
    matrix, offset = _index_map(source, grid)
    # A position midway between two voxels must not be rounded up or down by the rounding errors of the affine.
    offset = offset + SNAP_VOXELS
    if not _axes_aligned(matrix, grid):
        return _interpolate_voxelwise(source.array_XYZ, matrix, offset, grid, order=0)
    values_XYZ = source.array_XYZ
    # Axes that become shorter come first, so that no intermediate array is larger than both the map and the grid.
    for axis in sorted(range(3), key=lambda axis: grid.shape_XYZ[axis] > values_XYZ.shape[axis]):
        size = source.array_XYZ.shape[axis]
        position = get_positions(grid.shape_XYZ[axis], matrix[axis, axis], offset[axis])
        index = np.clip(np.floor(position + 0.5).astype(int), 0, size - 1)
        values_XYZ = np.take(values_XYZ, index, axis)
        np.moveaxis(values_XYZ, axis, 0)[~is_within_extent(position, size)] = 0
    return values_XYZ


def _interpolate_voxelwise(
    array_XYZ: Voxels,
    matrix: NDArray[np.float64],
    offset: NDArray[np.float64],
    grid: Grid,
    *,
    order: Literal[0, 1],
    outside: float = 0.0,
) -> NDArray[np.float32]:
    """Nearest or linearly interpolated values for axes that do not agree, part by part to bound the memory."""
    values_XYZ = np.empty(grid.shape_XYZ, np.float32)
    width, height, depth = grid.shape_XYZ
    columns = max(1, _VOXELS_PER_LOOKUP // height)
    for start in range(0, width, columns):
        index_XY = np.indices((min(columns, width - start), height), dtype=np.float64)
        index_XY[0] += start
        first_plane_XY = np.tensordot(matrix[:, :2], index_XY, axes=1) + offset[:, None, None]
        part_XYZ = values_XYZ[start : start + columns]
        for plane in range(depth):
            position_XY = snap(first_plane_XY + plane * matrix[:, 2, None, None])
            ndimage.map_coordinates(array_XYZ, position_XY, part_XYZ[..., plane], order=order, mode="nearest")
    values_XYZ[~_inside_mask(matrix, offset, array_XYZ.shape, grid.shape_XYZ)] = outside
    return values_XYZ


def _resample_in_plane(source_ZYX: Tensor, down: AxisWeights, across: AxisWeights) -> Tensor:
    """Resamples every plane of a volume along its rows and columns.

    Args:
        source_ZYX: the source, contiguous.
        down: interpolation weights along Y.
        across: interpolation weights along X.

    Returns:
        (Z, Y of the grid, X of the grid).
    """
    if len(down) > down.size and len(across) < across.size:
        return _resample_rows(_resample_columns(source_ZYX, across), down)
    return _resample_columns(_resample_rows(source_ZYX, down), across)


def _resample_rows(source_ZYX: Tensor, down: AxisWeights) -> Tensor:
    lines_ZYX = source_ZYX.new_empty((len(source_ZYX), len(down), source_ZYX.shape[2]))
    for weights, band, rows in down.split_products(_LINES_PER_PRODUCT):
        lines_ZYX[:, rows] = torch.matmul(weights, source_ZYX[:, band])
    return lines_ZYX


def _resample_columns(source_ZYX: Tensor, across: AxisWeights) -> Tensor:
    lines_ZYX = source_ZYX.new_empty((*source_ZYX.shape[:2], len(across)))
    for weights, band, columns in across.split_products(_LINES_PER_PRODUCT):
        lines_ZYX[:, :, columns] = torch.matmul(source_ZYX[:, :, band], weights.T)
    return lines_ZYX


def _inside_mask(
    matrix: NDArray[np.float64],
    offset: NDArray[np.float64],
    source_shape: tuple[int, ...],
    grid_shape: tuple[int, int, int],
) -> NDArray[np.bool_]:
    """Mask of the grid voxels with their centre in the source's field of view."""
    inside = np.ones(grid_shape, dtype=np.bool_)
    x, y, z = (np.arange(size) for size in grid_shape)
    for axis, size in enumerate(source_shape):
        plane_YZ = matrix[axis, 1] * y[:, None] + matrix[axis, 2] * z + offset[axis]
        for start in range(0, len(x), SLAB_SLICES):  # positions take eight times as much memory as the mask
            slab = slice(start, start + SLAB_SLICES)
            inside[slab] &= is_within_extent((matrix[axis, 0] * x[slab])[:, None, None] + plane_YZ, size)
    return inside
