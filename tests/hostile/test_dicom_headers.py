"""Hostile DICOM headers: refused, or read in part, before pydicom makes objects of all that they hold."""

from __future__ import annotations

import struct
from io import BytesIO
from itertools import count

import pytest
from pydicom import uid
from tests.hostile.heavy_headers import FILES
from tests.integration.features.dicom_service import make_declaration

from vfmalign.core.domain.errors import BadVolume, Cancelled
from vfmalign.core.runtime.metrics import Stages
from vfmalign.core.runtime.work_context import WorkContext, work_within
from vfmalign.features.dicom.reading import InlineSource, read_study
from vfmalign.imaging.datasets.layouts.derivation import parse_declaration
from vfmalign.imaging.dicom import headers, instances
from vfmalign.imaging.dicom.headers import find


def to_element(tag: int, value: bytes) -> bytes:
    """An element of a file that leaves types out."""
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value


def to_file(*elements: bytes) -> BytesIO:
    """A header that leaves types out, with these elements among its own."""
    header = to_element(0x00080016, uid.MRImageStorage.encode() + b"\0") + to_element(0x00080018, b"1.2.3.4.")
    identifiers = to_element(0x0020000D, b"1.2.3.") + to_element(0x0020000E, b"1.2.4.")
    return BytesIO(header + b"".join(elements) + identifiers + to_element(0x7FE00010, bytes(2)))


LONG = b"1\\" * 2**15 + b"11"


def test_a_long_value_counts_as_absent():
    header = instances.read_header(to_file(to_element(0x00100010, LONG), to_element(0x00180081, LONG))).dataset
    for keyword in ("EchoTime", "PatientName"):
        assert keyword in header
        assert find([header], keyword) is None


def nest(depth: int, *elements: bytes) -> bytes:
    """Elements in an item of a sequence in an item, and so on."""
    content = b"".join(elements)
    for _ in range(depth):
        content = to_element(0x00081140, to_element(0xFFFEE000, content))
    return content


HEADERS = {
    "more than 10,000 elements": [to_element(0x00220000 + number, b"") for number in range(10_000)],
    "more than 8 character sets": [to_element(0x00080005, LONG)],
    "more than 10,000 items": [to_element(0x00081140, to_element(0xFFFEE000, b"") * 10_001)],
    "sequences nested more than 32 levels deep": [nest(33)],
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
    with work_within(WorkContext(is_cancelled=lambda: next(checks) > 10)), pytest.raises(Cancelled):
        list(instances.read_header(file).dataset.ReferencedImageSequence)


def test_elements_of_sequences_are_limited(monkeypatch):
    monkeypatch.setattr(headers, "MAX_ELEMENTS_PER_ITEM", 1)
    elements = b"".join(to_element(0x00220000 + number, b"") for number in range(10_500))
    with pytest.raises(BadVolume, match="more than 10,000 elements"):
        instances.read_header(to_file(to_element(0x00081140, to_element(0xFFFEE000, elements))))


SETS = {"as many as are read": 8, "one more": 9}


@pytest.mark.parametrize("depth", [0, 1, 2, 9])
@pytest.mark.parametrize("count", SETS.values(), ids=SETS)
def test_character_sets_are_limited_at_every_depth(count, depth):
    sets = to_element(0x00080005, b"\\".join([b"ISO 2022 IR 87"] * count))
    file = to_file(nest(depth, sets))
    if count == 8:
        assert instances.read_header(file).dataset
        return
    with pytest.raises(BadVolume, match="more than 8 character sets"):
        instances.read_header(file)


def test_each_frame_may_have_thirty_items_more(monkeypatch):
    monkeypatch.setattr(instances, "MAX_ITEMS", 10)
    frame = to_element(0xFFFEE000, to_element(0x00209111, to_element(0xFFFEE000, b"") * 29))
    stated = to_element(0x00280008, b"40")
    header = instances.read_header(to_file(stated, to_element(0x52009230, frame * 40))).dataset
    assert len(header.PerFrameFunctionalGroupsSequence) == 40
    with pytest.raises(BadVolume, match="more than 1,210 items"):
        instances.read_header(to_file(stated, to_element(0x52009230, frame * 41)))


def test_a_structure_set_may_have_more_items_than_an_image():
    contours = to_element(0x30060039, to_element(0xFFFEE000, b"") * 10_001)
    class_uid = to_element(0x00080016, uid.RTStructureSetStorage.encode() + b"\0")
    assert len(instances.read_header(to_file(class_uid, contours)).dataset.ROIContourSequence) == 10_001


@pytest.mark.parametrize("make", FILES.values(), ids=FILES)
def test_nobody_waits_for_a_heavy_header(make):
    """Each file is refused, or its reading ends at the first check after nobody waits."""
    checks = count()
    context = WorkContext(is_cancelled=lambda: next(checks) > 3)
    with pytest.raises((BadVolume, Cancelled)) as ended:
        read_study(InlineSource([make()]), parse_declaration(make_declaration()), ("t2w",), Stages(), context)
    assert "Zauberberg" not in str(ended.value)
    assert next(checks) < 10


def test_elements_are_checked_at_most_every_256():
    checks = count()
    with work_within(WorkContext(is_cancelled=lambda: next(checks) < 0)):
        instances.read_header(BytesIO(FILES["50,000 names in an item"]()))
    assert next(checks) >= 50_000 // 256
