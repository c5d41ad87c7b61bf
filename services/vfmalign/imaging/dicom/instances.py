"""Instances: recognises DICOM files among other files, and reads them up to their pixels in bounded memory."""

from __future__ import annotations

import io
import re
import zlib
from dataclasses import dataclass
from itertools import count
from typing import BinaryIO, NamedTuple

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset, read_partial
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RTStructureSetStorage

from vfmalign.core.domain.errors import VfmalignError
from vfmalign.imaging.dicom.headers import (
    CheckedBytes,
    Reading,
    count_reading,
    list_items,
    refuse_damage,
    refuse_header,
)

MAX_HEADER_BYTES = 64 * 2**20
"""Maximum size of a header. An enhanced instance with ten thousand frames has about 15 MiB."""
MAX_ELEMENTS = 10_000
"""Maximum number of elements of a header, without its sequences; a classic header has 100 to 300."""
MAX_INFLATED_BYTES = 256 * 2**20
"""Maximum uncompressed size of a file with a deflated transfer syntax."""
MAX_INFLATION = 100
"""Maximum ratio of the uncompressed size to the file size, for contents of more than `_SMALL_BYTES`."""
MAX_ITEMS = 10_000
"""Maximum number of items in the sequences of a header. A parsed item takes about 1 KiB."""
ITEMS_PER_FRAME = 30
"""Number of additional items for each frame; a frame has 10 to 20."""
MAX_ITEMS_OF_FRAMES = 1_000_000
"""Maximum number of items, regardless of how many frames a header states."""
MAX_ITEMS_OF_CONTOURS = 200_000
"""Maximum number of items of a structure set, which has no frames. 100 organs in 500 slices need two per contour."""
MAX_DEPTH = 32
"""Maximum depth of nested sequences; images have up to six levels."""
_FIRST_BYTES = 2**18
"""Number of bytes read first; a classic header has 5 to 150 KiB."""
_GROWTH = 4
_SMALL_BYTES = 64 * 2**20
_PREAMBLE_BYTES = 128
_MAGIC = b"DICM"
_ZIP_MAGIC = b"PK\x03\x04"
# The first element of a file without preamble belongs to the file meta information or the identifying group, in either
# little-endian encoding. Implicit lengths are limited to short text and identifiers.
_PLAUSIBLE = re.compile(
    rb"(\x02\x00[\x00-\x16]\x00|\x08\x00[\x00-\x18]\x00)([A-Z]{2}|[\x00-\x40]\x00\x00\x00)", re.DOTALL
)
_NUMBER_BYTES = 12
"""Maximum length of a number as text."""
_SOP_CLASS, _NUMBER_OF_FRAMES = 0x00080016, 0x00280008
_PIXEL_KEYWORDS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}


class Pixels(NamedTuple):
    """The element that contains the pixels.

    Attributes:
        keyword: keyword of the attribute.
        representation: type of the value; None if the transfer syntax does not state it.
        start: offset of the value in the file. For a deflated file, offset in the inflated data.
        length: stated length in bytes; 2³² - 1 if no length is stated.
    """

    keyword: str
    representation: str | None
    start: int
    length: int


@dataclass(frozen=True, eq=False)
class Header:
    """Header of an instance.

    Attributes:
        dataset: the elements before the pixels.
        pixels: location of the pixels; None if the file has none.
    """

    dataset: Dataset
    pixels: Pixels | None


def is_zip(start: bytes) -> bool:
    """Returns whether a file with these first bytes is a zip file."""
    return start.startswith(_ZIP_MAGIC)


def has_preamble(start: bytes) -> bool:
    """Returns whether a file with these first bytes has the DICOM preamble of PS3.10."""
    return start[_PREAMBLE_BYTES:].startswith(_MAGIC)


def may_be_dicom(start: bytes) -> bool:
    """Returns whether a file with these first bytes has the preamble, or begins with a plausible element."""
    return has_preamble(start) or _PLAUSIBLE.match(start) is not None


def read_start(file: BinaryIO) -> bytes:
    """Reads the first bytes of a file, which suffice to detect its kind."""
    return file.read(_PREAMBLE_BYTES + len(_MAGIC))


def read_header(file: BinaryIO) -> Header:
    """Reads a header from the beginning of a file.

    Raises:
        BadVolume: the header is damaged or too large. The error quotes no header values.
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    with refuse_damage("file"):
        header = read_elements(file, MAX_ITEMS)
        if not header.dataset.get("SOPClassUID"):
            raise refuse_header("begins like DICOM, but is truncated or damaged")
    return header


def read_elements(file: BinaryIO, max_items: int) -> Header:
    """Reads the elements up to the pixels from the beginning of a file; see `read_header`.

    Args:
        file: DICOM file.
        max_items: maximum number of items in the header's sequences.

    Raises:
        Exception: any type of exception, if the file is damaged.
    """
    plain = to_plain(file)
    data, size = b"", _FIRST_BYTES
    while True:
        data += plain.read(size - len(data))
        with count_reading(max_items) as reading:
            header = _parse(data, reading)
            if header.pixels or len(data) < size:
                _parse_items(header.dataset, reading)
                return header
        if size >= MAX_HEADER_BYTES:
            raise refuse_header(f"has more than {MAX_HEADER_BYTES // 2**20} MiB before its pixels")
        size *= _GROWTH


def to_plain(file: BinaryIO) -> BinaryIO:
    """Returns the file, positioned at its beginning. Inflates the file if its transfer syntax is deflated.

    pydicom would inflate the file without a size limit.

    Raises:
        BadVolume: the inflated file is too large.
    """
    file.seek(0)
    content = file.read(_FIRST_BYTES)
    if DeflatedExplicitVRLittleEndian.encode() not in content:
        file.seek(0)
        return file
    # Parse a copy of the beginning, because pydicom allocates as many bytes as an element states.
    start = CheckedBytes(content)
    if not has_preamble(read_start(start)):
        start.seek(0)
    meta = FileMetaDataset(read_dataset(start, False, True, stop_when=lambda tag, *_: tag >> 16 != 2))
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        file.seek(0)
        return file
    file.seek(start.tell())
    compressed = file.read(MAX_INFLATED_BYTES)
    plain = DicomBytesIO()
    plain.write(bytes(_PREAMBLE_BYTES) + _MAGIC)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    write_file_meta_info(plain, meta, enforce_standard=False)
    return io.BytesIO(plain.getvalue() + _inflate(compressed))


def _inflate(compressed: bytes) -> bytes:
    limit = min(MAX_INFLATED_BYTES, max(_SMALL_BYTES, MAX_INFLATION * len(compressed)))
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    content = inflater.decompress(compressed, limit)
    if inflater.unconsumed_tail:
        raise refuse_header(f"holds more than {limit // 2**20} MiB when inflated")
    return content


def _parse(data: bytes, reading: Reading) -> Header:
    """Parses as much of a header as is complete; pydicom returns nothing for a header that ends within an element."""
    stream, elements, max_items = CheckedBytes(data), count(1), reading.max_items
    pixels: Pixels | None = None

    def is_pixels(tag: int, representation: str | None, length: int) -> bool:
        nonlocal pixels
        if next(elements) > MAX_ELEMENTS:
            raise refuse_header(f"has more than {MAX_ELEMENTS:,} elements")
        start = stream.tell()
        if tag == _SOP_CLASS and data[start : start + length].rstrip(b"\0 ") == RTStructureSetStorage.encode():
            reading.max_items = MAX_ITEMS_OF_CONTOURS
        elif (
            tag == _NUMBER_OF_FRAMES and (frames := data[start : start + min(length, _NUMBER_BYTES)].strip()).isdigit()
        ):
            reading.max_items = min(max_items + ITEMS_PER_FRAME * int(frames), MAX_ITEMS_OF_FRAMES)
        elif tag in _PIXEL_KEYWORDS:
            pixels = Pixels(_PIXEL_KEYWORDS[tag], representation, start, length)
        return pixels is not None

    try:
        dataset: Dataset = read_partial(stream, stop_when=is_pixels, force=True)
    except VfmalignError:
        raise
    except Exception:  # of many types, where the data end within an element or are damaged
        reading.check()
        dataset = Dataset()
    return Header(dataset, pixels)


def _parse_items(dataset: Dataset, reading: Reading) -> None:
    """Parses all sequences at once, so that the limits always apply; pydicom would parse them only on access."""
    level = [dataset]
    for _ in range(MAX_DEPTH + 1):
        level = [item for parent in level for item in list_items(parent, reading)]
        if not level:
            return
    raise refuse_header(f"has sequences nested more than {MAX_DEPTH} levels deep")
