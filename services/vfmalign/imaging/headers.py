"""Headers of NIfTI files: reads and checks the shape, the geometry and the layout of the voxels.

Text fields (description, names, extensions) are never read or printed, because they often contain a patient's name.

Legend: X, Y, Z are the array's own axes; C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from vfmalign.core.domain.errors import BadVolume
from vfmalign.core.domain.models import MAX_SPACING_MM, MIN_SPACING_MM

MAX_VOXELS = 2**28
"""Maximum number of voxels of a volume (512 × 512 × 1024). A larger size is an error or a decompression bomb."""
MAX_AXIS_VOXELS = 4096
"""Maximum number of voxels along an axis: slices of a volume, and rows, columns and slices of a grid."""
MAX_STORED_BYTES = 2**30
"""Maximum memory of a file's voxels as they are stored: `MAX_VOXELS` of 32 bits."""
MAX_HEADER_SIZE = 540
MAX_EXTENSION_BYTES = 16 * 2**20
MAX_EXTENT_MM = 4000.0
"""Maximum side length of a field of view, twice the length of a body."""
MAX_POSITION_MM = 10_000.0
MIN_AXES_DETERMINANT = 0.2
"""Smallest volume spanned by the affine's unit axes: 1 where they are orthogonal, 0 where they are linearly
dependent.
"""

_HEADERS: dict[int, Any] = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
_MAGIC = {348: b"n+1", 540: b"n+2"}


@dataclass(frozen=True)
class VoxelLayout:
    """Position of voxels in a decompressed file: `start` is an offset in bytes, value = `slope` · stored + `inter`."""

    shape_XYZC: tuple[int, int, int, int]
    dtype: np.dtype[Any]
    start: int
    slope: float | None
    inter: float | None

    @property
    def end(self) -> int:
        """Offset of the first byte after the voxels."""
        return self.start + math.prod(self.shape_XYZC) * self.dtype.itemsize


def read_header(content: memoryview, name: str) -> nib.Nifti1Header:
    """Returns the header at the beginning of a file's decompressed bytes, without checking its fields.

    Raises:
        BadVolume: there is no header, or the header is not the header of a single NIfTI file.
    """
    for size, header_class in _HEADERS.items():
        for order in ("<", ">"):
            if content[:4] == np.array(size, dtype=f"{order}i4").tobytes() and len(content) >= size:
                # Nibabel's own checks quote header text in logs and errors. The checks below replace them and do not.
                header: nib.Nifti1Header = header_class(bytes(content[:size]), endianness=order, check=False)
                _check_magic(header, size, name)
                return header
    raise BadVolume("not a NIfTI file", subject=name, remedy="send .nii or .nii.gz")


def _check_magic(header: nib.Nifti1Header, size: int, name: str) -> None:
    """Refuses headers of equal length that are not of a single NIfTI file: Analyze 7.5, or a .hdr without its .img."""
    magic = bytes(header["magic"].tobytes())[:3]
    if magic != _MAGIC[size]:
        raise BadVolume(
            "the header of a .hdr/.img pair" if magic[:2] == b"ni" else "an Analyze 7.5 header, not NIfTI",
            subject=name,
            remedy="convert the series to one .nii or .nii.gz file, from DICOM where its orientation is unknown",
        )


def parse_shape(header: nib.Nifti1Header, name: str, channels: int) -> tuple[int, int, int]:
    """Returns the number of voxels along X, Y and Z.

    Raises:
        BadVolume: the file has unexpected axes or channels, or too many voxels.
    """
    axes = int(header["dim"][0])
    if not 1 <= axes <= 7:
        raise BadVolume("damaged NIfTI header (number of axes)", subject=name, remedy="export the file again")
    sizes = [int(size) for size in header["dim"][1 : axes + 1]]
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if channels > 1:
        _check_channels(sizes, name, channels)
    elif len(sizes) != 3:
        raise BadVolume(f"expected 3 axes, got {len(sizes)}", subject=name, remedy="split the series first")
    check_shape(sizes, name)
    return sizes[0], sizes[1], sizes[2]


def check_shape(sizes: Sequence[int], name: str) -> None:
    """Checks that a volume has voxels, but not too many.

    Args:
        sizes: size of each axis. The first three axes are spatial.
        name: the volume's name in error messages.

    Raises:
        BadVolume: the volume has no voxels, or too many.
    """
    if min(sizes) < 1:
        raise BadVolume(f"empty volume: sizes {sizes}", subject=name, remedy="export the series again")
    if (voxels := math.prod(sizes)) > MAX_VOXELS:
        raise BadVolume(
            f"declares {voxels} voxels, more than {MAX_VOXELS}",
            subject=name,
            remedy="crop or resample the series first",
        )
    if max(sizes[:3]) > MAX_AXIS_VOXELS:
        raise BadVolume(
            f"declares {max(sizes[:3])} slices or voxels along an axis, more than {MAX_AXIS_VOXELS}",
            subject=name,
            remedy="resample the series to thicker slices first, or split it",
        )


def _check_channels(sizes: Sequence[int], name: str, channels: int) -> None:
    """Checks that the fourth axis holds the channels; vectors of NIfTI are a fifth axis after one of size 1."""
    axes = [*sizes[:3], *sizes[4:]] if len(sizes) == 5 and sizes[3] == 1 else sizes
    actual = axes[3] if len(axes) == 4 else 1
    if len(axes) > 4 or actual != channels:
        raise BadVolume(
            f"expected 4 axes with {channels} channels, got {len(axes)} axes with {actual}",
            subject=name,
            remedy="declare the modalities of the file, or split it",
        )


def parse_affine(header: nib.Nifti1Header, shape_XYZ: tuple[int, int, int], name: str) -> NDArray[np.float64]:
    """Returns the 4×4 matrix from voxel index to position in mm.

    Raises:
        BadVolume: the matrix is missing or implausible.
    """
    if int(header["sform_code"]) <= 0 and int(header["qform_code"]) <= 0:
        raise BadVolume(
            "the header gives no orientation", subject=name, remedy="convert the series from DICOM with its geometry"
        )
    try:
        with np.errstate(all="ignore"):
            affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    except Exception:  # nibabel raises many types, and may quote the header
        raise BadVolume("the affine cannot be read", subject=name, remedy="export the file again") from None
    check_affine(affine, shape_XYZ, name)
    return affine


def check_affine(affine: NDArray[np.float64], shape_XYZ: tuple[int, int, int], name: str) -> None:
    """Checks that a geometry is plausible for a scanner.

    Args:
        affine: 4×4, maps voxel index to patient position in mm.
        shape_XYZ: shape of the volume.
        name: the volume's name in error messages.

    Raises:
        BadVolume: it is not plausible.
    """
    remedy = "export the series again with its geometry in mm"
    if not np.isfinite(affine).all():
        raise BadVolume("the affine holds NaN or infinity", subject=name, remedy=remedy)
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    if spacing_mm.min() < MIN_SPACING_MM or spacing_mm.max() > MAX_SPACING_MM:
        spacing = " x ".join(f"{s:.3g}" for s in spacing_mm)
        raise BadVolume(
            f"voxel spacing {spacing} mm is outside {MIN_SPACING_MM} to {MAX_SPACING_MM} mm",
            subject=name,
            remedy=remedy,
        )
    if (extent_mm := float((spacing_mm * shape_XYZ).max())) > MAX_EXTENT_MM:
        raise BadVolume(
            f"the field of view spans {extent_mm:.0f} mm, more than {MAX_EXTENT_MM:.0f} mm", subject=name, remedy=remedy
        )
    if abs(np.linalg.det(affine[:3, :3] / spacing_mm)) < MIN_AXES_DETERMINANT:
        raise BadVolume("singular affine: its axes are not independent", subject=name, remedy=remedy)
    if np.abs(affine[:3, 3]).max() > MAX_POSITION_MM:
        raise BadVolume(f"the position is over {MAX_POSITION_MM:.0f} mm from the origin", subject=name, remedy=remedy)


def parse_layout(header: nib.Nifti1Header, shape_XYZC: tuple[int, int, int, int], name: str) -> VoxelLayout:
    """Returns where and how the voxels are stored.

    Raises:
        BadVolume: the voxels are not real numbers, or their position in the file is implausible.
    """
    try:
        dtype = np.dtype(header.get_data_dtype())
        slope, inter = header.get_slope_inter()
        start = int(header.get_data_offset())
    except Exception:  # see parse_affine
        raise BadVolume(
            "damaged NIfTI header (type, scale or offset)", subject=name, remedy="export the file again"
        ) from None
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise BadVolume(
            "the voxel type is not a real number", subject=name, remedy="store integers or floats of up to 64 bits"
        )
    if not header.sizeof_hdr <= start <= MAX_EXTENSION_BYTES:
        raise BadVolume("damaged NIfTI header (data offset)", subject=name, remedy="send one .nii or .nii.gz file")
    layout = VoxelLayout(shape_XYZC, dtype, start, slope, inter)
    if layout.end - start > MAX_STORED_BYTES:
        raise BadVolume(
            f"its voxels of {8 * dtype.itemsize} bits take more than {MAX_STORED_BYTES // 2**20} MiB",
            subject=name,
            remedy="store integers of 16 bits or floats of 32 bits",
        )
    return layout
