"""NIfTI volumes: decoding with validation, encoding, and loading a stored case.

Text fields of the header (description, names, extensions) are never read, echoed or written, because they often contain
a patient's name.

Legend: X, Y, Z are the array's own axes, whatever directions its affine gives them.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from vfmalign.core.domain.datasets import Case
from vfmalign.core.domain.declarations import VolumeKind
from vfmalign.core.domain.errors import BadVolume, NotFound
from vfmalign.core.domain.models import MAX_SPACING_MM, MIN_SPACING_MM
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.core.storage.lost_objects import IMPORT_DATASET, lost_as
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.imaging.decompression import decompress

MAX_ENCODED_BYTES = 256 * 2**20
"""Largest stored volume that is read."""
MAX_VOXELS = 2**26
"""Largest volume that is decoded (512 × 512 × 256). A larger size in a header is an error or a decompression bomb."""
MAX_AXIS_VOXELS = 4096
"""Most voxels along one axis: slices of a volume, and rows, columns and slices of a grid."""
MAX_HEADER_SIZE = 540
MAX_EXTENSION_BYTES = 16 * 2**20
MAX_TRAILING_BYTES = 2**20
MAX_EXTENT_MM = 4000.0
"""Longest side of a field of view; twice that of a whole body."""
MAX_POSITION_MM = 10_000.0
MIN_AXES_DETERMINANT = 0.2
"""Smallest volume spanned by the affine's unit axes: 1 where they are orthogonal, 0 where they are linearly
dependent.
"""

_HEADERS: dict[int, Any] = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
_MAGIC = {348: b"n+1", 540: b"n+2"}
_STORAGE_DTYPES = (np.uint8, np.int16, np.uint16)


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume and the position of its voxels.

    Attributes:
        array_XYZ: float32 values; label maps hold small whole numbers.
        affine: 4×4 float64, voxel index to patient position in mm (NIfTI's RAS+ axes).
    """

    array_XYZ: NDArray[np.float32]
    affine: NDArray[np.float64]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along X, Y and Z."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)


@dataclass(frozen=True)
class _VoxelLayout:
    """Where a decompressed file holds its voxels: `start` is an offset in bytes, value = `slope` · stored + `inter`."""

    shape_XYZC: tuple[int, int, int, int]
    dtype: np.dtype[Any]
    start: int
    slope: float | None
    inter: float | None

    @property
    def end(self) -> int:
        """Offset of the first byte after the voxels."""
        return self.start + math.prod(self.shape_XYZC) * self.dtype.itemsize


def decode(
    data: bytes,
    name: str,
    kind: VolumeKind,
    *,
    is_label: bool | None = False,
    context: WorkContext = UNLIMITED,
) -> Volume:
    """Decodes and validates one NIfTI file (`.nii` or `.nii.gz`, told apart by its first bytes).

    Args:
        data: the file's bytes.
        name: name of the volume in errors: a URI, a request field or a generated id.
        kind: what the volume shows.
        is_label: whether it is a label map, which must hold whole numbers from 0 to 255, or an image, which must have
            contrast. None checks neither: a volume of a dataset was checked when it was imported.
        context: checked while a file is decompressed.

    Raises:
        BadVolume: the bytes are not a NIfTI file, are truncated, or hold values or geometry that cannot be used.
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    array_XYZ1, affine = _decode_channels(data, name, 1, context)
    array_XYZ = array_XYZ1[..., 0]
    _check_values(array_XYZ, name, kind, is_label=is_label)
    return Volume(array_XYZ, affine)


def decode_channels(data: bytes, name: str, kinds: Sequence[VolumeKind]) -> dict[VolumeKind, Volume]:
    """Decodes a NIfTI file of several images, which are its fourth axis.

    Args:
        data: the file's bytes.
        name: name of the file in errors.
        kinds: what each channel shows; as many as the file must have.

    Raises:
        BadVolume: as `decode`, or the file has another number of channels.
    """
    array_XYZC, affine = _decode_channels(data, name, len(kinds), UNLIMITED)
    volumes: dict[VolumeKind, Volume] = {}
    for channel, kind in enumerate(kinds):
        array_XYZ = array_XYZC[..., channel]
        _check_values(array_XYZ, name, kind, is_label=False)
        volumes[kind] = Volume(array_XYZ, affine)
    return volumes


def _decode_channels(
    data: bytes, name: str, channels: int, context: WorkContext
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Values with channels as the fourth axis, and the affine."""
    if len(data) > MAX_ENCODED_BYTES:
        raise BadVolume(
            f"larger than {MAX_ENCODED_BYTES // 2**20} MiB", subject=name, remedy="crop or resample the series first"
        )
    header = _read_header(decompress(data, MAX_HEADER_SIZE, name, context), name)
    shape_XYZ = _parse_shape(header, name, channels)
    affine = _parse_affine(header, shape_XYZ, name)
    layout = _parse_layout(header, (*shape_XYZ, channels), name)
    content = decompress(data, layout.end + MAX_TRAILING_BYTES, name, context)
    return _read_array(content, layout, name), affine


def encode(volume: Volume) -> bytes:
    """Encodes a volume as `.nii.gz`. Equal volumes give equal bytes, and every text field of the header is empty.

    Whole numbers are stored as the smallest of uint8, int16 and uint16 that holds them, all other values as float32.
    """
    # zlib rather than gzip.compress, whose header differs between Python versions: equal volumes must give equal bytes.
    compressor = zlib.compressobj(level=4, wbits=31)
    return compressor.compress(_to_nifti(volume)) + compressor.flush()


def check_encoding(data: bytes, volume: Volume, name: str) -> None:
    """Checks that a file holds what `encode` writes and nothing else: no text in a header, and no data behind the end.

    The compressed bytes may be those of another zlib than this machine's.

    Args:
        data: the file.
        volume: what was decoded from it.
        name: name of the file in errors.

    Raises:
        BadVolume: it holds something else.
    """
    expected = _to_nifti(volume)
    decompressor = zlib.decompressobj(wbits=31)
    try:
        content = decompressor.decompress(data, len(expected) + 1)
    except zlib.error:
        content = b""
    if content != expected or not decompressor.eof or decompressor.unused_data or any(data[3:8]):
        raise BadVolume(
            "the file is not encoded as an import encodes volumes, and may hold text that names a patient",
            subject=name,
            remedy="import the dataset with `vfmalign dataset import`, which writes volumes anew",
        )


def _to_nifti(volume: Volume) -> bytes:
    """The uncompressed file."""
    header = nib.Nifti1Header()
    array_XYZ = volume.array_XYZ.astype(_storage_dtype(volume.array_XYZ))
    header.set_data_dtype(array_XYZ.dtype)
    header.set_data_shape(array_XYZ.shape)
    affine = volume.affine.astype(np.float32).astype(np.float64)  # as stored, so that encode inverts decode
    header.set_qform(affine, code=1, strip_shears=True)
    header.set_sform(affine, code=1)
    header.set_xyzt_units("mm")
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    return bytes(header.binaryblock + b"\0" * 4 + array_XYZ.tobytes(order="F"))


def _read_header(content: bytes | bytearray, name: str) -> nib.Nifti1Header:
    for size, header_class in _HEADERS.items():
        for order in ("<", ">"):
            if content[:4] == np.array(size, dtype=f"{order}i4").tobytes() and len(content) >= size:
                # Nibabel's own checks quote header text in logs and errors. The checks below replace them and do not.
                header: nib.Nifti1Header = header_class(bytes(content[:size]), endianness=order, check=False)
                _check_magic(header, size, name)
                return header
    raise BadVolume("not a NIfTI file", subject=name, remedy="send .nii or .nii.gz")


def _check_magic(header: nib.Nifti1Header, size: int, name: str) -> None:
    """Refuses headers of the same length that are not of one NIfTI file: Analyze 7.5, and a .hdr without its .img."""
    magic = bytes(header["magic"].tobytes())[:3]
    if magic != _MAGIC[size]:
        raise BadVolume(
            "the header of a .hdr/.img pair" if magic[:2] == b"ni" else "an Analyze 7.5 header, not NIfTI",
            subject=name,
            remedy="convert the series to one .nii or .nii.gz file, from DICOM where its orientation is unknown",
        )


def _parse_shape(header: nib.Nifti1Header, name: str, channels: int) -> tuple[int, int, int]:
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
    return sizes[0], sizes[1], sizes[2]


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


def _parse_affine(header: nib.Nifti1Header, shape_XYZ: tuple[int, int, int], name: str) -> NDArray[np.float64]:
    if int(header["sform_code"]) <= 0 and int(header["qform_code"]) <= 0:
        raise BadVolume(
            "the header gives no orientation", subject=name, remedy="convert the series from DICOM with its geometry"
        )
    try:
        with np.errstate(all="ignore"):
            affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    except Exception:  # nibabel raises many types, whose messages may quote the header
        raise BadVolume("the affine cannot be read", subject=name, remedy="export the file again") from None
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
    return affine


def _parse_layout(header: nib.Nifti1Header, shape_XYZC: tuple[int, int, int, int], name: str) -> _VoxelLayout:
    try:
        dtype = np.dtype(header.get_data_dtype())
        slope, inter = header.get_slope_inter()
        start = int(header.get_data_offset())
    except Exception:  # see _parse_affine
        raise BadVolume(
            "damaged NIfTI header (type, scale or offset)", subject=name, remedy="export the file again"
        ) from None
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise BadVolume(
            "the voxel type is not a real number", subject=name, remedy="store integers or floats of up to 64 bits"
        )
    if not header.sizeof_hdr <= start <= MAX_EXTENSION_BYTES:
        raise BadVolume("damaged NIfTI header (data offset)", subject=name, remedy="send one .nii or .nii.gz file")
    return _VoxelLayout(shape_XYZC, dtype, start, slope, inter)


def _read_array(content: bytes | bytearray, layout: _VoxelLayout, name: str) -> NDArray[np.float32]:
    if len(content) < layout.end:
        raise BadVolume(
            f"truncated: {len(content)} of {layout.end} bytes", subject=name, remedy="copy or export the file again"
        )
    if len(content) == layout.end + MAX_TRAILING_BYTES:
        raise BadVolume(
            "the file holds more data than its header declares", subject=name, remedy="export the file again"
        )
    count = math.prod(layout.shape_XYZC)
    raw_XYZC = np.frombuffer(content, layout.dtype, count, layout.start).reshape(layout.shape_XYZC, order="F")
    with np.errstate(over="ignore", invalid="ignore"):
        if layout.slope is not None and (layout.slope, layout.inter) != (1.0, 0.0):
            raw_XYZC = raw_XYZC * np.float64(layout.slope) + np.float64(layout.inter or 0.0)
        return raw_XYZC.astype(np.float32)


def _check_values(array_XYZ: NDArray[np.float32], name: str, kind: VolumeKind, *, is_label: bool | None) -> None:
    low, high = float(array_XYZ.min()), float(array_XYZ.max())
    if not (math.isfinite(low) and math.isfinite(high)):  # minimum and maximum are NaN if any value is
        raise BadVolume(
            "the volume holds NaN, infinity or values beyond float32", subject=name, remedy="replace them first"
        )
    if is_label:
        if low < 0 or high > 255 or (array_XYZ != np.rint(array_XYZ)).any():
            raise BadVolume(
                f"{kind} labels are not whole numbers from 0 to 255", subject=name, remedy="send a label map"
            )
    elif is_label is False and low == high:
        raise BadVolume(f"{kind} has the same value everywhere", subject=name, remedy="export the series again")


def _storage_dtype(array_XYZ: NDArray[np.float32]) -> type[np.generic]:
    low, high = float(array_XYZ.min()), float(array_XYZ.max())
    if (array_XYZ == np.rint(array_XYZ)).all():
        for dtype in _STORAGE_DTYPES:
            limits = np.iinfo(dtype)
            if limits.min <= low and high <= limits.max:
                return dtype
    return np.float32


def load_case(
    store: ObjectStore, case: Case, kinds: Sequence[VolumeKind], labels: Sequence[VolumeKind] = ()
) -> dict[VolumeKind, Volume]:
    """Reads and decodes some of a case's volumes.

    Args:
        store: the deployment's object storage.
        case: the case, with a digest for every volume.
        kinds: volumes to read, such as `("t2w", "dwi", "adc", "gland")`.
        labels: label maps to read.

    Raises:
        NotFound: the case has no volume of a kind.
        DataLoss: the store lacks a volume, or holds another one than the dataset was created with.
        BadVolume: a stored volume cannot be used.
    """
    volumes: dict[VolumeKind, Volume] = {}
    for kind in dict.fromkeys((*kinds, *labels)):
        if kind not in case.volumes:
            raise NotFound(f"no {kind} volume", subject=f"case {case.id}", remedy=f"import the dataset with {kind}")
        ref = case.volumes[kind]
        with lost_as("volume", case.id, IMPORT_DATASET):
            data = store.get(ref.key, sha256=ref.sha256, max_bytes=MAX_ENCODED_BYTES)
        volumes[kind] = decode(data, store.uri(ref.key), kind, is_label=None)
    return volumes
