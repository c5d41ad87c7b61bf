"""DICOM files of some 100 kB whose headers would take seconds or minutes to read, by what they hold too much of."""

from __future__ import annotations

import struct
from collections.abc import Callable

from pydicom import uid

LENGTH_32 = ("SQ", "UT")
CHARACTER_SETS, NAME, SEQUENCE = 0x00080005, 0x00100010, 0x00081140
SHARED, PER_FRAME = 0x52009229, 0x52009230


def to_element(tag: int, representation: str, value: bytes) -> bytes:
    """An element of a file that states types, in little-endian order."""
    value += b" " * (len(value) % 2)
    length = struct.pack(
        "<HI" if representation in LENGTH_32 else "<H", *[0] * (representation in LENGTH_32), len(value)
    )
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + representation.encode() + length + value


def to_item(*elements: bytes) -> bytes:
    """An item of a sequence."""
    content = b"".join(elements)
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content


def to_sequence(*items: bytes, tag: int = SEQUENCE) -> bytes:
    """A sequence."""
    return to_element(tag, "SQ", b"".join(items))


def to_open_sequence(*items: bytes) -> bytes:
    """A sequence that does not state its length, which pydicom parses at once."""
    start = struct.pack("<HH2sHI", SEQUENCE >> 16, SEQUENCE & 0xFFFF, b"SQ", 0, 0xFFFFFFFF)
    return start + b"".join(items) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def to_file(*elements: bytes, kind: str = uid.MRImageStorage, frames: int = 1) -> bytes:
    """An image of 2 x 2 with these elements among its own, in whichever order."""
    meta = to_element(0x00020010, "UI", uid.ExplicitVRLittleEndian.encode() + b"\0")
    own = [
        to_element(0x00080016, "UI", kind.encode() + b"\0" * (len(kind) % 2)),
        to_element(0x00080018, "UI", b"1.2.3.4\0"),
        to_element(0x00080060, "CS", b"MR"),
        to_element(0x00100020, "LO", b"PID-4711"),
        to_element(0x0020000D, "UI", b"1.2.3\0"),
        to_element(0x0020000E, "UI", b"1.2.4\0"),
        to_element(0x00280008, "IS", str(frames).encode()),
        *(to_element(0x00280000 + tag, "US", struct.pack("<H", value)) for tag, value in ((0x10, 2), (0x11, 2))),
    ]
    header = b"".join(sorted([*own, *elements], key=lambda element: struct.unpack("<HH", element[:4])))
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, 8) + bytes(8)
    start = to_element(0x00020000, "UL", struct.pack("<I", len(meta))) + meta
    return bytes(128) + b"DICM" + start + header + pixels


def name_sets(count: int, name: bytes = b"ISO 2022 IR 87") -> bytes:
    """The names of some character sets."""
    return to_element(CHARACTER_SETS, "CS", b"\\".join([name] * count))


def nest(depth: int, *elements: bytes) -> bytes:
    """Elements in an item of a sequence in an item, and so on."""
    content = b"".join(elements)
    for _ in range(depth):
        content = to_sequence(to_item(content))
    return content


NAMES = [to_element(0x00111000 + number, "PN", b"Zauberberg^Walpurga") for number in range(9_000)]
MANY = [to_element(0x00220000 + number, "PN", b"Zauberberg^Walpurga") for number in range(50_000)]
BLOCKS = [to_element(0x00190000 + number, "LO", b"SIEMENS MR HEADER") for number in range(9_000)]
GROUPS = [to_sequence(to_item(), tag=0x00480000 + number) for number in range(9_000)]

FILES: dict[str, Callable[[], bytes]] = {
    "4,000 character sets": lambda: to_file(name_sets(4_000), *NAMES),
    "4,000 character sets in an item": lambda: to_file(to_sequence(to_item(name_sets(4_000), *NAMES))),
    "4,000 character sets in an open sequence": lambda: to_file(to_open_sequence(to_item(name_sets(4_000), *NAMES))),
    "4,000 character sets nested 9 deep": lambda: to_file(nest(9, name_sets(4_000), *NAMES)),
    "8 unknown character sets in each of 9,000 items": lambda: to_file(
        to_sequence(*[to_item(name_sets(8, b"%d" % number)) for number in range(9_000)])
    ),
    "400,000 empty items": lambda: to_file(to_sequence(to_item() * 400_000)),
    "400,000 empty items in an open sequence": lambda: to_file(to_open_sequence(to_item() * 400_000)),
    "sequences nested 2,000 deep": lambda: to_file(nest(2_000, *NAMES)),
    "9,000 private creators": lambda: to_file(*BLOCKS),
    "50,000 names in an item": lambda: to_file(to_sequence(to_item(*MANY))),
    "9,000 groups that 20,000 frames share": lambda: to_file(
        to_sequence(to_item(*GROUPS), tag=SHARED),
        to_sequence(to_item() * 20_000, tag=PER_FRAME),
        kind=uid.EnhancedMRImageStorage,
        frames=20_000,
    ),
}
"""What makes each file."""
