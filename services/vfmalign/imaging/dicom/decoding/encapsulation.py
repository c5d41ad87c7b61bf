"""Extracts encoded frames from a file with pydicom. Reads at most as many bytes as a frame can need."""

from __future__ import annotations

import os
from typing import BinaryIO

from pydicom.dataset import Dataset
from pydicom.encaps import get_frame

OVERHEAD_BYTES = 2 * 2**20
"""Bytes read for a frame in addition to its pixels: headers and offset table of 100,000 fragments."""
_BYTES_PER_BYTE = 2
"""Maximum number of encoded bytes per decoded byte of a frame; the worst RLE encoder writes two."""


class _BoundedReads:
    """File of which at most `limit` bytes are read, because pydicom trusts the length that an element states."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file = file
        self._left = limit

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= self._left:
            raise ValueError("an encoded frame is longer than its size explains")
        self._left -= size
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def read_frame(file: BinaryIO, start: int, index: int, header: Dataset, decoded_bytes: int) -> bytes:
    """Reads an encoded frame.

    Args:
        file: file with encapsulated pixels.
        start: offset of the pixel data in the file.
        index: index of the frame, from 0.
        header: header of the instance.
        decoded_bytes: size of the decoded frame.

    Raises:
        Exception: any type of exception, if the frame does not exist or its encoded form is too long for its decoded
            size.
    """
    file.seek(start)
    tables = [header.get(keyword) for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")]
    return get_frame(
        _BoundedReads(file, _BYTES_PER_BYTE * decoded_bytes + OVERHEAD_BYTES),
        index,
        extended_offsets=(tables[0], tables[1]) if all(tables) else None,
        number_of_frames=int(header.get("NumberOfFrames") or 1),
    )
