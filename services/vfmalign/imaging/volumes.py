"""NIfTI volumes: decoding with validation, encoding, and loading of stored cases.

Text fields of the header (description, names, extensions) are never read, printed or written, because they often
contain a patient's name.

Legend: X, Y, Z are the axes of the array, whatever directions its affine assigns to them.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from vfmalign.core.domain.datasets import Case
from vfmalign.core.domain.declarations import VolumeKind
from vfmalign.core.domain.errors import BadVolume, NotFound
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.core.storage.lost_objects import IMPORT_DATASET, lost_as
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.imaging.decompression import decompress
from vfmalign.imaging.headers import (
    MAX_HEADER_SIZE,
    VoxelLayout,
    parse_affine,
    parse_layout,
    parse_shape,
    read_header,
)

MAX_ENCODED_BYTES = 544 * 2**20
"""Maximum size of a volume's file: `MAX_VOXELS` of 16 bits, uncompressed, and headers."""
MAX_STUDY_BYTES = 4 * 2**30
"""Maximum memory of the decoded volumes of a case, which are read together."""
MAX_TRAILING_BYTES = 2**20
_STORAGE_DTYPES = (np.uint8, np.int16, np.uint16)
_SLAB_VOXELS = 2**20
"""Voxels that are converted or compared at a time, so that no copy of a volume is made."""
_CHECKED_BYTES = 2**12
"""Compressed bytes that are checked at a time; they may expand to a thousand times as many."""
Voxels: TypeAlias = NDArray[np.float32 | np.int16 | np.uint16 | np.int8 | np.uint8]


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume and the position of its voxels.

    Attributes:
        array_XYZ: float32 values. Where possible, integers of 8 or 16 bits, which take a quarter or half of the memory.
            Label maps contain small whole numbers.
        affine: 4×4 float64, maps voxel index to patient position in mm (NIfTI's RAS+ axes).
    """

    array_XYZ: Voxels
    affine: NDArray[np.float64]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along X, Y and Z."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def size_bytes(self) -> int:
        """Memory of the values."""
        return int(self.array_XYZ.nbytes)

    def slabs(self) -> Iterator[Voxels]:
        """Yields consecutive slabs along Z as views. Use slabs where an operation would copy the whole volume."""
        width, height, depth = self.array_XYZ.shape
        step = max(1, _SLAB_VOXELS // (width * height))
        for first in range(0, depth, step):
            yield self.array_XYZ[:, :, first : first + step]

    def is_whole(self) -> bool:
        """Returns whether all values are whole numbers."""
        return self.array_XYZ.dtype.kind in "iu" or all(bool((slab == np.rint(slab)).all()) for slab in self.slabs())

    def list_values(self) -> set[int]:
        """Returns the values that occur in a label map, except 0."""
        return {int(value) for slab in self.slabs() for value in np.unique(slab)} - {0}


def decode(
    data: bytes | memoryview,
    name: str,
    kind: VolumeKind,
    *,
    is_label: bool | None = False,
    context: WorkContext = UNLIMITED,
) -> Volume:
    """Decodes and validates one NIfTI file. The first bytes of the file show whether it is `.nii` or `.nii.gz`.

    Args:
        data: the file's bytes.
        name: the volume's name in error messages: a URI, a request field or a generated id.
        kind: modality or label map that the volume contains.
        is_label: true for a label map, which must contain whole numbers from 0 to 255. False for an image, which must
            have contrast. None skips both checks. Volumes of a dataset were already checked at import.
        context: checked for cancellation while a file is decompressed.

    Raises:
        BadVolume: the bytes are not a NIfTI file or are truncated, or their values or geometry cannot be used.
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    array_XYZ1, affine = _decode_channels(data, name, 1, context)
    volume = Volume(array_XYZ1[..., 0], affine)
    check_values(volume, name, kind, is_label=is_label)
    return volume


def decode_channels(data: bytes, name: str, kinds: Sequence[VolumeKind]) -> dict[VolumeKind, Volume]:
    """Decodes a NIfTI file with several images along its fourth axis.

    Args:
        data: the file's bytes.
        name: the file's name in error messages.
        kinds: kind of each channel. The file must have this number of channels.

    Raises:
        BadVolume: as for `decode`, or the file has a different number of channels.
    """
    array_XYZC, affine = _decode_channels(data, name, len(kinds), UNLIMITED)
    volumes: dict[VolumeKind, Volume] = {}
    for channel, kind in enumerate(kinds):
        volumes[kind] = Volume(array_XYZC[..., channel], affine)
        check_values(volumes[kind], name, kind, is_label=False)
    return volumes


def _decode_channels(
    data: bytes | memoryview, name: str, channels: int, context: WorkContext
) -> tuple[Voxels, NDArray[np.float64]]:
    """Values with channels as the fourth axis, and the affine."""
    if len(data) > MAX_ENCODED_BYTES:
        raise BadVolume(
            f"larger than {MAX_ENCODED_BYTES // 2**20} MiB", subject=name, remedy="crop or resample the series first"
        )
    header = read_header(decompress(data, MAX_HEADER_SIZE, name, context), name)
    shape_XYZ = parse_shape(header, name, channels)
    affine = parse_affine(header, shape_XYZ, name)
    layout = parse_layout(header, (*shape_XYZ, channels), name)
    content = decompress(data, layout.end + MAX_TRAILING_BYTES, name, context)
    return _read_array(content, layout, name), affine


def encode(volume: Volume, level: int = 4) -> bytes:
    """Encodes a volume as `.nii.gz`. Equal volumes give equal bytes, and every text field of the header is empty.

    Whole numbers are stored as the smallest suitable type of uint8, int16 and uint16; all other values are stored as
    float32. Volumes are stored with the default compression `level`. Level 0 saves time if the bytes are decoded
    immediately.
    """
    # Not gzip.compress: its header differs between Python versions, but equal volumes must give equal bytes.
    compressor = zlib.compressobj(level=level, wbits=31)
    dtype = _get_storage_dtype(volume)
    parts = [compressor.compress(_make_header(volume, dtype))]
    parts += [compressor.compress(slab.astype(dtype, copy=False).tobytes(order="F")) for slab in volume.slabs()]
    return b"".join((*parts, compressor.flush()))


def check_encoding(data: bytes, volume: Volume, name: str) -> None:
    """Checks that a file contains only the output of `encode`: no text in the header and no data after its end.

    Another version of zlib may have compressed the bytes.

    Args:
        data: the file.
        volume: the volume decoded from the file.
        name: the file's name in error messages.

    Raises:
        BadVolume: it holds something else.
    """
    dtype = _get_storage_dtype(volume)
    expected = _make_header(volume, dtype)
    decompressor = zlib.decompressobj(wbits=31)
    header, size_bytes = b"", 0
    try:
        for start in range(0, len(data), _CHECKED_BYTES):
            content = decompressor.decompress(data[start : start + _CHECKED_BYTES])
            header += content[: len(expected) - len(header)]
            size_bytes += len(content)
    except zlib.error:
        size_bytes = 0
    # A file with this header is decoded to the values as they are stored, so that its voxels need no comparison.
    is_encoded = header == expected and size_bytes == len(expected) + volume.array_XYZ.size * np.dtype(dtype).itemsize
    if not is_encoded or not decompressor.eof or decompressor.unused_data or any(data[3:8]):
        raise BadVolume(
            "the file is not encoded as an import encodes volumes, and may hold text that names a patient",
            subject=name,
            remedy="import the dataset with `vfmalign dataset import`, which writes volumes anew",
        )


def _make_header(volume: Volume, dtype: type[np.generic]) -> bytes:
    """Bytes before the voxels in the uncompressed file."""
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(volume.array_XYZ.shape)
    affine = volume.affine.astype(np.float32).astype(np.float64)  # as stored, so that encode inverts decode
    header.set_qform(affine, code=1, strip_shears=True)
    header.set_sform(affine, code=1)
    header.set_xyzt_units("mm")
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    return bytes(header.binaryblock + b"\0" * 4)


def _read_array(content: memoryview, layout: VoxelLayout, name: str) -> Voxels:
    if len(content) < layout.end:
        raise BadVolume(
            f"truncated: {len(content)} of {layout.end} bytes", subject=name, remedy="copy or export the file again"
        )
    if len(content) == layout.end + MAX_TRAILING_BYTES:
        raise BadVolume(
            "the file holds more data than its header declares", subject=name, remedy="export the file again"
        )
    count = math.prod(layout.shape_XYZC)
    stored_N = np.frombuffer(content, layout.dtype, count, layout.start)
    return _scale(stored_N, layout).reshape(layout.shape_XYZC, order="F")


def _scale(stored_N: NDArray[Any], layout: VoxelLayout) -> Voxels:
    """Applies slope and intercept; returns a view of the file's memory if nothing changes."""
    slope, inter = (1.0, 0.0) if layout.slope is None else (layout.slope, layout.inter or 0.0)
    is_scaled = (slope, inter) != (1.0, 0.0)
    dtype = _choose_dtype(stored_N, slope, inter) if is_scaled or stored_N.itemsize > 2 else stored_N.dtype
    if stored_N.dtype == dtype and stored_N.dtype.isnative and not is_scaled:
        return stored_N
    values_N = np.empty(len(stored_N), dtype.newbyteorder("="))
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(stored_N), _SLAB_VOXELS):
            part_N = stored_N[start : start + _SLAB_VOXELS]
            values_N[start : start + _SLAB_VOXELS] = (
                part_N * np.float64(slope) + np.float64(inter) if is_scaled else part_N
            )
    return values_N


def _choose_dtype(stored_N: NDArray[Any], slope: float, inter: float) -> np.dtype[Any]:
    """The type of the scaled values: integers of at most 16 bits if they fit, as after CT's offset of −1024."""
    if stored_N.dtype.kind in "iu" and slope.is_integer() and inter.is_integer():
        ends = [int(end) * int(slope) + int(inter) for end in (stored_N.min(), stored_N.max())]
        if dtype := _find_integers(min(ends), max(ends)):
            return np.dtype(dtype)
    return np.dtype(np.float32)


def check_values(volume: Volume, name: str, kind: VolumeKind, *, is_label: bool | None) -> None:
    """Checks that values can be used. For arguments and errors, see `decode`."""
    low, high = float(volume.array_XYZ.min()), float(volume.array_XYZ.max())
    if not (math.isfinite(low) and math.isfinite(high)):  # minimum and maximum are NaN if any value is
        raise BadVolume(
            "the volume holds NaN, infinity or values beyond float32", subject=name, remedy="replace them first"
        )
    if is_label:
        if low < 0 or high > 255 or not volume.is_whole():
            raise BadVolume(
                f"{kind} labels are not whole numbers from 0 to 255", subject=name, remedy="send a label map"
            )
    elif is_label is False and low == high:
        raise BadVolume(f"{kind} has the same value everywhere", subject=name, remedy="export the series again")


def _get_storage_dtype(volume: Volume) -> type[np.generic]:
    low, high = float(volume.array_XYZ.min()), float(volume.array_XYZ.max())
    return (volume.is_whole() and _find_integers(low, high)) or np.float32


def _find_integers(low: float, high: float) -> type[np.generic] | None:
    """The smallest integer type that holds a range; None if it needs more than 16 bits."""
    return next((t for t in _STORAGE_DTYPES if np.iinfo(t).min <= low and high <= np.iinfo(t).max), None)


def check_study_size(sizes_bytes: Iterable[int], subject: str) -> None:
    """Checks that the decoded volumes of a case take at most `MAX_STUDY_BYTES`.

    Call this function after each volume is read.

    Args:
        sizes_bytes: sizes of the volumes read so far; see `Volume.size_bytes`.
        subject: the case's name in error messages.

    Raises:
        BadVolume: the volumes are larger.
    """
    if sum(sizes_bytes) > MAX_STUDY_BYTES:
        raise BadVolume(
            f"its volumes take more than {MAX_STUDY_BYTES // 2**30} GiB of memory together",
            subject=subject,
            remedy="crop or resample the series first, or store 16-bit integers instead of fractions",
        )


def load_case(
    store: ObjectStore, case: Case, kinds: Sequence[VolumeKind], labels: Sequence[VolumeKind] = ()
) -> dict[VolumeKind, Volume]:
    """Reads and decodes some volumes of a case.

    Args:
        store: the deployment's object storage.
        case: the case, with a digest of every volume.
        kinds: volumes to read, such as `("t2w", "dwi", "adc", "gland")`.
        labels: label maps to read.

    Raises:
        NotFound: the case lacks one of these volumes.
        DataLoss: a stored volume is missing, or differs from the volume that the dataset was created with.
        BadVolume: a stored volume cannot be used.
    """
    volumes: dict[VolumeKind, Volume] = {}
    for kind in dict.fromkeys((*kinds, *labels)):
        if kind not in case.volumes:
            raise NotFound(f"no {kind} volume", subject=f"case {case.id}", remedy=f"import the dataset with {kind}")
        ref = case.volumes[kind]
        with lost_as("volume", case.id, IMPORT_DATASET):
            data = store.get_large(ref.key, sha256=ref.sha256, max_bytes=MAX_ENCODED_BYTES)
        volumes[kind] = decode(data, store.uri(ref.key), kind, is_label=None)
        check_study_size((volume.size_bytes for volume in volumes.values()), f"case {case.id}")
    return volumes
