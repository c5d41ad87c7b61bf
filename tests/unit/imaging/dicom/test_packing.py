"""Packing: frames, stacks and names come back as they were, and take a fraction of their memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import fields
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import generate_uid

from vfmalign.imaging.dicom.frames import KEYWORDS, AttributeValue, Frame, FrameGeometry
from vfmalign.imaging.dicom.packing import CHUNK, PackedList, PackedStack, pack_frame, unpack_frames
from vfmalign.imaging.dicom.stacks import Stack

FRAMES, SERIES = 4_000, 20
REPEATS = CHUNK // 3

numbers = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=20)
undecodable_names = st.binary(max_size=20).map(lambda name: name.decode(errors="surrogateescape"))
values = st.one_of(
    texts, numbers, st.lists(texts, max_size=3).map(tuple), st.lists(numbers, min_size=1, max_size=3).map(tuple)
)
geometries = st.builds(
    lambda position, orientation, spacing: FrameGeometry(np.array(position), np.reshape(orientation, (2, 3)), spacing),
    st.lists(numbers, min_size=3, max_size=3),
    st.lists(numbers, min_size=6, max_size=6),
    st.tuples(numbers, numbers),
)
frames = st.builds(
    Frame,
    file=texts | undecodable_names,
    index=st.integers(0, 100_000),
    series_uid=texts,
    instance_uid=texts,
    geometry=st.none() | geometries,
    attributes=st.dictionaries(st.sampled_from(KEYWORDS), values, max_size=4),
    frame_of_reference_uid=texts,
)


def make_frames() -> Iterator[Frame]:
    """Oblique series of whole studies, in which every frame has a number and a time of its own."""
    rng = np.random.default_rng(0)
    for series in range(SERIES):
        axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        series_uid, frame_of_reference_uid = generate_uid(), generate_uid()
        for place in range(FRAMES // SERIES):
            attributes: dict[str, AttributeValue] = {
                keyword: (f"{keyword} of series {series}" if place % 2 else (keyword, "PRIMARY"))
                for place, keyword in enumerate(KEYWORDS)
            }
            yield Frame(
                file=f"patient-{series // 5:04}/{series_uid}/IM{place:05}.dcm",
                index=0,
                series_uid=series_uid,
                instance_uid=generate_uid(),
                geometry=FrameGeometry(place * 1.25 * axes[2], axes[:2].copy(), (0.5, 0.5)),
                attributes=attributes | {"AcquisitionNumber": float(place), "TriggerTime": rng.uniform(0, 1e3)},
                frame_of_reference_uid=frame_of_reference_uid,
            )


def describe(frame: Frame) -> list[object]:
    """Everything that a frame holds; `repr` tells -0.0 from 0.0."""
    geometry = frame.geometry
    parts = [getattr(frame, field.name) for field in fields(frame) if field.name != "geometry"]
    if geometry is not None:
        arrays = (geometry.position_mm, geometry.orientation)
        parts += [*((array.dtype, array.shape, array.tobytes()) for array in arrays), repr(geometry.spacing_mm)]
    return [*parts, repr(frame.attributes)]


@given(st.lists(frames, max_size=5))
def test_frames_come_back_as_they_were(given_frames: list[Frame]) -> None:
    unpacked = unpack_frames(PackedList(map(pack_frame, given_frames * REPEATS)))
    assert [*map(describe, unpacked)] == [*map(describe, given_frames * REPEATS)]


@given(st.lists(frames, max_size=5), st.dictionaries(st.sampled_from(KEYWORDS), values, max_size=4))
@pytest.mark.parametrize("affine", [None, np.linspace(-1, 1, 16).reshape(4, 4)])
def test_stacks_come_back_as_they_were(
    affine: np.ndarray | None, given_frames: list[Frame], attributes: dict[str, AttributeValue]
) -> None:
    stack = Stack(tuple(given_frames * REPEATS), attributes, affine, ("b_value", "EchoTime"), "a problem")
    unpacked = PackedStack(stack).unpack()
    assert [*map(describe, unpacked.frames)] == [*map(describe, stack.frames)]
    assert repr(unpacked.attributes) == repr(attributes)
    assert (unpacked.divided_by, unpacked.problem) == (stack.divided_by, stack.problem)
    np.testing.assert_array_equal(unpacked.affine, affine)


def test_frames_share_what_is_equal() -> None:
    first, second = unpack_frames([pack_frame(next(make_frames()))] * 2)
    assert first.attributes is second.attributes
    assert first.geometry is not None
    assert second.geometry is not None
    assert first.geometry.orientation is second.geometry.orientation


@pytest.mark.parametrize("count", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_a_packed_list_is_a_sequence(count: int) -> None:
    names = [f"name {number}" for number in range(count)]
    packed = PackedList(names)
    assert len(packed) == count
    assert list(packed) == names
    assert packed[1:-1] == names[1:-1]
    assert [packed[-place] for place in range(1, count + 1)] == names[::-1]
    for place in (count, -count - 1):
        with pytest.raises(IndexError):
            packed[place]


def test_a_packed_frame_takes_a_fraction_of_a_kibibyte() -> None:
    PackedList(map(pack_frame, islice(make_frames(), CHUNK)))  # imports and caches
    tracemalloc.start()
    packed = PackedList(map(pack_frame, make_frames()))
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(packed) == FRAMES
    assert used / FRAMES < 200
