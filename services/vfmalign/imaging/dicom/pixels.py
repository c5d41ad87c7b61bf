"""Decodes pixels of DICOM frames, applies the modality LUT or rescale slope and intercept, and places them in a volume.

The values equal the values that the vendor's software displays. The modality transformation always applies. A frame's
own transformation takes precedence over the transformation of the instance. MONOCHROME1 affects only the display, so
the values are not inverted. Real-world value maps and vendors' private scaling are ignored. Pixel padding is left
unchanged.

Legend: X columns, Y rows, Z slices.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Container, Generator, Sequence
from contextlib import closing
from typing import BinaryIO
from zipfile import ZipExtFile

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut
from pydicom.pixels.utils import as_pixel_options, pixel_dtype

from vfmalign.core.domain.declarations import VolumeKind
from vfmalign.core.domain.errors import BadVolume
from vfmalign.core.runtime.work_context import current_work
from vfmalign.imaging.dicom.decoding.client import Request, get_decoders
from vfmalign.imaging.dicom.decoding.encapsulation import read_frame
from vfmalign.imaging.dicom.frames import list_descriptions
from vfmalign.imaging.dicom.headers import refuse_damage
from vfmalign.imaging.dicom.instances import Pixels, read_header, to_plain
from vfmalign.imaging.dicom.sources import DicomSource, name_file
from vfmalign.imaging.dicom.stacks import Stack
from vfmalign.imaging.headers import check_affine, check_shape
from vfmalign.imaging.volumes import Volume, Voxels, check_values

PLUGINS = {
    uid.ImplicitVRLittleEndian: "",
    uid.ExplicitVRLittleEndian: "",
    uid.ExplicitVRBigEndian: "",
    uid.RLELossless: "pydicom",
    uid.JPEGBaseline8Bit: "gdcm",
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.JPEG2000Lossless: "pylibjpeg",
    uid.JPEG2000: "pylibjpeg",
}
"""Plugin of pydicom for each supported transfer syntax.

Chosen explicitly, because pydicom would try every installed plugin, including Pillow.
"""
MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
_Frames = Generator[NDArray[np.generic], None, None]
_RESCALE = ("RescaleSlope", "RescaleIntercept")


def read_stack(source: DicomSource, stack: Stack, name: str, kind: VolumeKind) -> Volume:
    """Returns the volume of a stack.

    Only the frames of the stack are decoded, one at a time.

    Args:
        source: source of the stack's frames.
        stack: a stack that has no problem.
        name: the volume's name in error messages.
        kind: modality or label map that the volume shows.

    Raises:
        BadVolume: the stack has a problem, or its pixels cannot be read or used.
    """
    if stack.affine is None:
        raise BadVolume(stack.problem, subject=name, remedy="choose another series, or export this one again")
    sizes = (stack.attributes.get(keyword) for keyword in ("Rows", "Columns"))
    rows, columns = (int(size) if isinstance(size, float) else 0 for size in sizes)
    shape_XYZ = (columns, rows, len(stack.frames))
    check_shape(shape_XYZ, name)
    check_affine(stack.affine, shape_XYZ, name)
    places: dict[str, dict[int, int]] = {}
    for z, frame in enumerate(stack.frames):
        places.setdefault(frame.file, {})[frame.index] = z
    array_XYZ: Voxels = np.empty(shape_XYZ, np.int16)
    for file, slices in places.items():
        indices = sorted(slices)
        with (
            name_file(source, file),
            refuse_damage(name),
            source.open(file) as stream,
            closing(decode_frames(stream, indices, name)) as frames,
        ):
            for index, frame_YX in zip(indices, frames, strict=True):
                if frame_YX.shape != (rows, columns):
                    raise _refuse("an image has changed its size since the headers were read", name)
                if array_XYZ.dtype == np.int16 and not _fit_int16(frame_YX):
                    array_XYZ = array_XYZ.astype(np.float32)
                with np.errstate(over="ignore", invalid="ignore"):
                    array_XYZ[:, :, slices[index]] = frame_YX.T
    volume = Volume(array_XYZ, stack.affine)
    check_values(volume, name, kind, is_label=False)
    return volume


def _fit_int16(values: NDArray[np.generic]) -> bool:
    """Whether values are whole numbers that fit 16 bits, which halves the memory of a CT."""
    limits = np.iinfo(np.int16)
    if not limits.min <= float(values.min()) <= float(values.max()) <= limits.max:
        return False
    return values.dtype.kind in "iu" or bool((values == np.rint(values)).all())


def decode_frames(
    stream: BinaryIO,
    indices: Sequence[int],
    name: str,
    photometric: Container[str] = MONOCHROME,
    *,
    is_rescaled: bool = True,
) -> _Frames:
    """Decodes frames of an instance. Yields each frame's values as a rows × columns array.

    Close the generator before you close the file.

    Args:
        stream: the file.
        indices: indices of the frames, from 0.
        name: the volume's name in error messages.
        photometric: supported values of PhotometricInterpretation.
        is_rescaled: whether to apply the modality transformation.

    Raises:
        BadVolume: the pixels are in colour or damaged, or their transfer syntax is unsupported.
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    with refuse_damage(name):
        if isinstance(stream, ZipExtFile):
            stream.seek(0)
            # In memory, because a member of a zip can seek back only by reading again from its beginning.
            stream = io.BytesIO(stream.read())
        plain = to_plain(stream)
        read = read_header(plain)
        header = read.dataset
        plugin = _choose_plugin(header, name, photometric)
        descriptions = list_descriptions(header)
        if read.pixels is None:
            raise _refuse_cut_off(name)
        if header.file_meta.TransferSyntaxUID.is_encapsulated:
            plain.seek(read.pixels.start)
            stored = _decode_encapsulated(plain, header, indices, plugin, name)
        else:
            stored = _read_uncompressed(plain, header, read.pixels, indices, name)
        with closing(stored) as decoded:
            for index, stored_YX in zip(indices, decoded, strict=True):
                current_work.get().checkpoint()
                transformation = next(filter(_has_transformation, descriptions[index]), None) if is_rescaled else None
                yield stored_YX if transformation is None else _transform(stored_YX, transformation, name)


def _choose_plugin(header: Dataset, name: str, photometric: Container[str]) -> str:
    """Returns the plugin that decodes the pixels; refuses pixels that do not have exactly one value each."""
    if header.get("SamplesPerPixel", 1) != 1 or str(header.get("PhotometricInterpretation", "")) not in photometric:
        raise _refuse("its pixels are in colour, or PhotometricInterpretation is missing", name)
    syntax = header.file_meta.get("TransferSyntaxUID", uid.UID(""))
    if syntax not in PLUGINS:
        known = syntax.name if syntax.name != str(syntax) else "an unknown one"
        raise BadVolume(
            f"its transfer syntax is not supported: {known}",
            subject=name,
            remedy="export the series uncompressed, or as JPEG lossless, JPEG-LS or JPEG 2000",
        )
    stored = header.get("BitsStored")
    if not PLUGINS[syntax] and stored and header.get("HighBit", stored - 1) != stored - 1:
        raise _refuse("its values do not begin at the lowest bit (HighBit)", name)
    return PLUGINS[syntax]


def _decode_encapsulated(stream: BinaryIO, header: Dataset, indices: Sequence[int], plugin: str, name: str) -> _Frames:
    """Decodes separately compressed frames, in another process."""
    check_shape((header.Columns, header.Rows, 1), name)
    start = stream.tell()
    dtype = pixel_dtype(header)
    options = as_pixel_options(header, number_of_frames=1, pixel_keyword="PixelData")
    options.pop("extended_offsets", None)  # offsets of all frames in the file; frames are sent one by one
    for index in indices:
        frame = read_frame(stream, start, index, header, header.Rows * header.Columns * dtype.itemsize)
        request = Request(
            frame=frame,
            syntax=header.file_meta.TransferSyntaxUID,
            plugin=plugin,
            options=options,
            shape=(header.Rows, header.Columns),
            dtype=dtype,
        )
        yield get_decoders().decode(request, name)


def _read_uncompressed(stream: BinaryIO, header: Dataset, pixels: Pixels, indices: Sequence[int], name: str) -> _Frames:
    """Reads frames of the size that the header states; refuses other lengths, which would shear or cut images."""
    sizes = (header.Rows, header.Columns, header.get("SamplesPerPixel", 1), header.BitsAllocated)
    size_bytes = -(-math.prod(sizes) * int(header.get("NumberOfFrames") or 1) // 8)
    if pixels.length not in (size_bytes, size_bytes + size_bytes % 2):
        raise _refuse("the length of its pixels does not match its rows, columns, bits and frames", name)
    if stream.seek(0, os.SEEK_END) < pixels.start + size_bytes:
        raise _refuse_cut_off(name)
    stream.seek(pixels.start)
    options = as_pixel_options(header, pixel_keyword=pixels.keyword, pixel_vr=pixels.representation)
    decoded = get_decoder(header.file_meta.TransferSyntaxUID).iter_array(stream, indices=indices, raw=True, **options)
    yield from (stored_YX for stored_YX, _ in decoded)


def _has_transformation(dataset: Dataset) -> bool:
    return any(keyword in dataset for keyword in ("ModalityLUTSequence", *_RESCALE))


def _transform(stored_YX: NDArray[np.generic], transformation: Dataset, name: str) -> NDArray[np.generic]:
    """Applies the modality transformation; pydicom ignores a slope without an intercept, and the reverse."""
    if not transformation.get("ModalityLUTSequence") and not all(keyword in transformation for keyword in _RESCALE):
        raise _refuse("it states a rescale slope without an intercept, or an intercept without a slope", name)
    return apply_modality_lut(stored_YX, transformation)


def _refuse_cut_off(name: str) -> BadVolume:
    return _refuse("damaged or truncated DICOM: pixels are missing", name)


def _refuse(cause: str, name: str) -> BadVolume:
    return BadVolume(cause, subject=name, remedy="export the series again")
