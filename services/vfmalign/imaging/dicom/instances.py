"""Instances: DICOM files recognised among others, and read up to their pixels in bounded memory."""

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
"""Largest header. Ten thousand frames of an enhanced instance have about 15 MiB."""
MAX_ELEMENTS = 10_000
"""Most elements of a header, without those of its sequences; a classic header has 100 to 300."""
MAX_INFLATED_BYTES = 256 * 2**20
"""Largest content of a file that is compressed as a whole."""
MAX_INFLATION = 100
"""Largest ratio of this content to the file, where it has more than `_SMALL_BYTES`."""
MAX_ITEMS = 10_000
"""Most items of sequences in a header, each of which takes about 1 KiB once it is parsed."""
ITEMS_PER_FRAME = 30
"""Most items beside these for each frame, which has 10 to 20."""
MAX_ITEMS_OF_FRAMES = 1_000_000
"""Most items, however many frames a header states."""
MAX_ITEMS_OF_CONTOURS = 200_000
"""Most items of a structure set, which has no frames. A hundred organs in 500 slices have two for each contour."""
MAX_DEPTH = 32
"""Most sequences that lie in each other; those of an image have up to six."""
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
_NUMBER_BYTES = 12
"""Most bytes of a number as text."""
_SOP_CLASS, _NUMBER_OF_FRAMES = 0x00080016, 0x00280008
_PIXEL_KEYWORDS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}


class Pixels(NamedTuple):
    """The element that holds the pixels.

    Attributes:
        keyword: of the attribute.
        representation: its type; None where the transfer syntax leaves it out.
        start: where its value begins in the file, inflated where it is deflated.
        length: what it states, in bytes; 2³² - 1 where it states none.
    """

    keyword: str
    representation: str | None
    start: int
    length: int


@dataclass(frozen=True, eq=False)
class Header:
    """A header.

    Attributes:
        dataset: the elements before the pixels.
        pixels: where they are; None where there are none.
    """

    dataset: Dataset
    pixels: Pixels | None


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
            raise refuse_header("begins like DICOM, and is cut off or damaged")
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
        with count_reading(max_items) as reading:
            header = _parse(data, reading)
            if header.pixels or len(data) < size:
                _parse_items(header.dataset, reading)
                return header
        if size >= MAX_HEADER_BYTES:
            raise refuse_header(f"has more than {MAX_HEADER_BYTES // 2**20} MiB before its pixels")
        size *= _GROWTH


def to_plain(file: BinaryIO) -> BinaryIO:
    """Returns the file at its beginning, inflated where its transfer syntax is deflated.

    Pydicom would inflate it without a limit.

    Raises:
        BadVolume: it holds more than is inflated.
    """
    file.seek(0)
    # From a copy of the beginning, because pydicom allocates as many bytes as an element says that it has.
    start = CheckedBytes(file.read(_FIRST_BYTES))
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
        raise refuse_header(f"holds more than {limit // 2**20} MiB that are compressed as a whole")
    return content


def _parse(data: bytes, reading: Reading) -> Header:
    """Parses as much of a header as there is; pydicom returns nothing of one that ends within an element."""
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
    """Parses all sequences, which pydicom would do when they are looked at, so that no limit depends on who looks."""
    level = [dataset]
    for _ in range(MAX_DEPTH + 1):
        level = [item for parent in level for item in list_items(parent, reading)]
        if not level:
            return
    raise refuse_header(f"has more than {MAX_DEPTH} sequences that lie in each other")
