"""Hostile DICOM headers: refused, or read in part, before pydicom makes objects of all that they hold."""

from __future__ import annotations

import struct
from io import BytesIO
from itertools import count

import pytest
from pydicom import uid

from vfmalign.core.domain.errors import BadVolume, Cancelled
from vfmalign.core.runtime.work_context import WorkContext, work_within
from vfmalign.imaging.dicom import instances
from vfmalign.imaging.dicom.headers import find
from vfmalign.imaging.dicom.screening import list_private_words


def to_element(tag: int, value: bytes) -> bytes:
    """An element of a file that leaves types out."""
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value


def to_file(*elements: bytes) -> BytesIO:
    """A header that leaves types out, with these elements among its own."""
    header = to_element(0x00080016, uid.MRImageStorage.encode() + b"\0") + to_element(0x00080018, b"1.2.3.4.")
    identifiers = to_element(0x0020000D, b"1.2.3.") + to_element(0x0020000E, b"1.2.4.")
    return BytesIO(header + b"".join(elements) + identifiers + to_element(0x7FE00010, bytes(2)))


LONG = b"1\\" * 2**15 + b"11"
ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 8 + len(LONG)) + to_element(0x00100010, LONG)
LONG_VALUES = {
    "names": to_element(0x00100010, LONG),
    "names within a sequence": to_element(0x00081140, ITEM),
}


@pytest.mark.parametrize("element", LONG_VALUES.values(), ids=LONG_VALUES)
def test_a_long_value_that_may_name_a_patient_refuses_its_file(element):
    header = instances.read_header(to_file(element)).dataset
    with pytest.raises(BadVolume, match="more than 64 KiB of text or numbers"):
        list_private_words(header)


def test_a_long_value_of_another_kind_counts_as_absent():
    header = instances.read_header(to_file(to_element(0x00180081, LONG))).dataset
    assert "EchoTime" in header
    assert find([header], "EchoTime") is None


HEADERS = {
    "more than 10,000 elements": [to_element(0x00220000 + number, b"") for number in range(10_000)],
    "more character sets than are read": [to_element(0x00080005, LONG)],
}


@pytest.mark.parametrize(("cause", "elements"), HEADERS.items(), ids=HEADERS)
def test_a_header_of_more_than_is_parsed_is_refused(cause, elements):
    with pytest.raises(BadVolume, match=cause):
        instances.read_header(to_file(*elements))


@pytest.mark.parametrize("length", [None, 0xFFFFFFFF], ids=["stated", "undefined"])
def test_a_sequence_is_parsed_while_somebody_waits(length):
    item = b"".join(to_element(0x00220000 + number, b"") for number in range(5_000))
    sequence = struct.pack("<HHI", 0xFFFE, 0xE000, length or len(item)) + item
    if length:
        sequence += struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    file = to_file(struct.pack("<HHI", 8, 0x1140, length or len(sequence)) + sequence)
    checks = count()
    with work_within(WorkContext(is_cancelled=lambda: next(checks) > 1_000)), pytest.raises(Cancelled):
        list(instances.read_header(file).dataset.ReferencedImageSequence)
