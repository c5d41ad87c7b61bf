"""Encoded frames: found by either table or by none, and read no further than a frame of their size may reach."""

from __future__ import annotations

import io
import struct

import pytest
from pydicom import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended

from vfmalign.imaging.dicom.decoding.encapsulation import OVERHEAD_BYTES, read_frame

FRAMES = [bytes([index]) * 10 * (index + 1) for index in range(4)]
ITEM = b"\xfe\xff\x00\xe0"


def read(content: bytes, index: int, frames: int = 4, **tables: bytes) -> bytes:
    """Reads a frame of 100 bytes, which another element precedes."""
    header = Dataset()
    header.NumberOfFrames = frames
    for keyword, table in tables.items():
        setattr(header, keyword, table)
    return read_frame(io.BytesIO(b"other" + content), 5, index, header, 100)


@pytest.mark.parametrize("fragments", [1, 2])
@pytest.mark.parametrize("index", [3, 0, 2])
def test_frames_are_found_by_the_basic_table(index, fragments):
    assert read(encapsulate(FRAMES, fragments_per_frame=fragments), index) == FRAMES[index]


@pytest.mark.parametrize("index", [3, 0, 2])
def test_frames_are_found_without_a_table(index):
    assert read(encapsulate(FRAMES, has_bot=False), index) == FRAMES[index]


@pytest.mark.parametrize("index", [3, 0, 2])
def test_frames_are_found_by_the_extended_table(index):
    content, offsets, lengths = encapsulate_extended(FRAMES)
    tables = {"ExtendedOffsetTable": offsets, "ExtendedOffsetTableLengths": lengths}
    assert read(content, index, **tables) == FRAMES[index]


def test_several_fragments_are_one_frame():
    assert read(encapsulate([FRAMES[3]], fragments_per_frame=3, has_bot=False), 0, 1) == FRAMES[3]


LONG = OVERHEAD_BYTES + 300
BOMBS = {
    "one fragment": encapsulate([bytes(LONG)]),
    "many fragments": encapsulate([bytes(LONG)], fragments_per_frame=100, has_bot=False),
    "a fragment of 4 GiB": ITEM + bytes(4) + ITEM + b"\xf0\xff\xff\xff" + bytes(100),
    "a table of 4 GiB": ITEM + b"\xfc\xff\xff\xff" + bytes(100),
    "a table that runs backwards": ITEM + struct.pack("<3L", 8, 100, 0) + ITEM + struct.pack("<L", 200) + bytes(200),
}


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS)
def test_no_more_is_read_than_a_frame_of_its_size_may_have(content):
    with pytest.raises(ValueError, match="longer than its size explains"):
        read(content, 0, 1)


def test_a_length_in_the_extended_table_is_not_trusted():
    content, offsets, _ = encapsulate_extended(FRAMES)
    lengths = struct.pack("<4Q", *[2**40] * 4)
    with pytest.raises(ValueError, match="longer than its size explains"):
        read(content, 1, ExtendedOffsetTable=offsets, ExtendedOffsetTableLengths=lengths)
