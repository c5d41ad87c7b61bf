"""Instances: DICOM files recognised among others, and read up to their pixels in bounded memory."""

from __future__ import annotations

import io
import re
import zlib
from dataclasses import dataclass
from itertools import count
from typing import BinaryIO

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset, read_partial
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from vfmalign.core.domain.errors import BadVolume, VfmalignError
from vfmalign.imaging.dicom.headers import MAX_VALUE_BYTES, CheckedBytes, refuse_damage

MAX_HEADER_BYTES = 64 * 2**20
"""Largest header. Ten thousand frames of an enhanced instance have about 15 MiB."""
MAX_ELEMENTS = 10_000
"""Most elements of a header, without those of its sequences; a classic header has 100 to 300."""
MAX_INFLATED_BYTES = 256 * 2**20
"""Largest content of a file that is compressed as a whole."""
MAX_INFLATION = 100
"""Largest ratio of this content to the file, where it has more than `_SMALL_BYTES`."""
MAX_ITEMS = 1_000_000
"""Most items of sequences in a header, each of which takes about 1 KiB once it is parsed. A frame has 10 to 20."""
_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
"""How an item begins, in little-endian and big-endian files."""
_FIRST_BYTES = 2**18
"""Read at first; a classic header has 5 to 150 KiB."""
_GROWTH = 4
_SMALL_BYTES = 64 * 2**20
_PREAMBLE_BYTES = 128
_MAGIC = b"DICM"
_ZIP_MAGIC = b"PK\x03\x04"
# The first element of a file without preamble: of the file meta information or the identifying group, in either kind of
# little-endian encoding. Implicit lengths are those of short text and identifiers.
_PLAUSIBLE = re.compile(
    rb"(\x02\x00[\x00-\x16]\x00|\x08\x00[\x00-\x18]\x00)([A-Z]{2}|[\x00-\x40]\x00\x00\x00)", re.DOTALL
)
_CHARACTER_SET = 0x00080005
_PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})


@dataclass(frozen=True, eq=False)
class Header:
    """A header.

    Attributes:
        dataset: the elements before the pixels.
        has_pixels: whether pixels follow.
    """

    dataset: Dataset
    has_pixels: bool


def is_zip(start: bytes) -> bool:
    """Whether a file that begins so is a zip."""
    return start.startswith(_ZIP_MAGIC)


def has_preamble(start: bytes) -> bool:
    """Whether a file that begins so is DICOM, with the preamble of PS3.10."""
    return start[_PREAMBLE_BYTES:].startswith(_MAGIC)


def may_be_dicom(start: bytes) -> bool:
    """Whether a file that begins so has the preamble, or begins with an element that may be the first of a data set."""
    return has_preamble(start) or _PLAUSIBLE.match(start) is not None


def read_start(file: BinaryIO) -> bytes:
    """Reads what tells the kind of a file."""
    return file.read(_PREAMBLE_BYTES + len(_MAGIC))


def read_header(file: BinaryIO) -> Header:
    """Reads a header, from the beginning of the file.

    Raises:
        BadVolume: it is damaged or too large; nothing of it is quoted.
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    with refuse_damage("file"):
        header = read_elements(file, MAX_ITEMS)
        if not header.dataset.get("SOPClassUID"):
            raise _refuse("begins like DICOM, and is cut off or damaged")
    return header


def read_elements(file: BinaryIO, max_items: int) -> Header:
    """Reads the elements up to the pixels, from the beginning of the file; see `read_header`.

    Args:
        file: DICOM.
        max_items: most items of its sequences.

    Raises:
        Exception: of many types, where it is damaged.
    """
    plain = to_plain(file)
    data, size = b"", _FIRST_BYTES
    while True:
        data += plain.read(size - len(data))
        if max(map(data.count, _ITEMS)) > max_items:
            raise _refuse(f"has more than {max_items:,} items in its sequences")
        header = _parse(data)
        if header.has_pixels or len(data) < size:
            return header
        if size >= MAX_HEADER_BYTES:
            raise _refuse(f"has more than {MAX_HEADER_BYTES // 2**20} MiB before its pixels")
        size *= _GROWTH


def to_plain(file: BinaryIO) -> BinaryIO:
    """Returns the file at its beginning, inflated where its transfer syntax is deflated.

    Pydicom would inflate it without a limit.

    Raises:
        BadVolume: it holds more than is inflated.
    """
    file.seek(0)
    # From a copy of the beginning, because pydicom allocates as many bytes as an element says that it has.
    start = io.BytesIO(file.read(_FIRST_BYTES))
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
        raise _refuse(f"holds more than {limit // 2**20} MiB that are compressed as a whole")
    return content


def _parse(data: bytes) -> Header:
    """Parses as much of a header as there is; pydicom returns nothing of one that ends within an element."""
    stopped: list[int] = []
    elements = count(1)

    def is_pixels(tag: int, representation: str | None, length: int) -> bool:
        if next(elements) > MAX_ELEMENTS:
            raise _refuse(f"has more than {MAX_ELEMENTS:,} elements")
        if tag == _CHARACTER_SET and length > MAX_VALUE_BYTES:  # pydicom converts it at once
            raise _refuse("names more character sets than are read")
        if tag in _PIXEL_TAGS:
            stopped.append(tag)
        return bool(stopped)

    try:
        dataset: Dataset = read_partial(CheckedBytes(data), stop_when=is_pixels, force=True)
    except VfmalignError:
        raise
    except Exception:  # of many types, where the data end within an element or are damaged
        dataset = Dataset()
    return Header(dataset, bool(stopped))


def _refuse(message: str) -> BadVolume:
    return BadVolume(message, subject="file", remedy="export it again, or move it away")
