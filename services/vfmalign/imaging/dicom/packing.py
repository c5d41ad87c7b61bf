"""Packing: what an import keeps of files and frames, compressed in memory.

It stays in memory because it identifies patients. What a frame shares with others is a text of its own: the texts of
neighbours are equal, so that compression leaves little of them, and unpacking makes one object of each.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import Any, TypeVar, cast, overload

import numpy as np
from numpy.typing import NDArray

from vfmalign.imaging.dicom.frames import AttributeValue, Frame, FrameGeometry
from vfmalign.imaging.dicom.stacks import Stack

CHUNK = 64
"""Values that are compressed together."""

T = TypeVar("T")
PackedFrame = list[Any]
"""A frame as a list that JSON holds."""
_Plane = tuple[NDArray[np.float64], tuple[float, float]]
"""Orientation and spacing of a geometry."""


class PackedList(Sequence[T]):
    """Values that JSON holds, such as names of files; fastest when they are read in order.

    Args:
        values: the first ones; `append` adds others.
    """

    def __init__(self, values: Iterable[T] = ()) -> None:
        self._chunks: list[bytes] = []
        self._last: list[T] = []
        self._unpacked: tuple[int, list[T]] = (-1, [])
        for value in values:
            self.append(value)

    def append(self, value: T) -> None:
        """Adds a value."""
        self._last.append(value)
        if len(self._last) == CHUNK:
            self._chunks.append(_compress(self._last))
            self._last = []

    def __len__(self) -> int:
        return len(self._chunks) * CHUNK + len(self._last)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...

    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        number, place = divmod(range(len(self))[index], CHUNK)
        if number == len(self._chunks):
            return self._last[place]
        if number != self._unpacked[0]:
            self._unpacked = number, _decompress(self._chunks[number])
        return self._unpacked[1][place]


class PackedStack:
    """A stack; it shares nothing with what it was made of, and is unpacked each time that it is read.

    Args:
        stack: the stack.
    """

    def __init__(self, stack: Stack) -> None:
        affine = None if stack.affine is None else stack.affine.tolist()
        head = [json.dumps(stack.attributes), affine, stack.divided_by, stack.problem]
        values = chain([head], map(pack_frame, stack.frames))
        self._chunks: list[bytes] = []
        while chunk := list(islice(values, CHUNK)):
            self._chunks.append(_compress(chunk))

    def unpack(self) -> Stack:
        """Returns the stack."""
        values = chain.from_iterable(map(_decompress, self._chunks))
        attributes, affine, divided_by, problem = next(values)
        return Stack(
            frames=tuple(unpack_frames(values)),
            attributes=_to_attributes(json.loads(attributes)),
            affine=None if affine is None else np.array(affine),
            divided_by=tuple(divided_by),
            problem=problem,
        )


def pack_frame(frame: Frame) -> PackedFrame:
    """Returns a frame as JSON holds it."""
    position_mm = plane = None
    if frame.geometry is not None:
        position_mm = frame.geometry.position_mm.tolist()
        plane = [frame.geometry.orientation.tolist(), frame.geometry.spacing_mm]
    shared = json.dumps([frame.series_uid, frame.frame_of_reference_uid, plane, frame.attributes])
    return [frame.file, frame.index, frame.instance_uid, position_mm, shared]


def unpack_frames(packed: Iterable[PackedFrame]) -> list[Frame]:
    """Returns the frames, with one object for what several of them share."""
    frames: list[Frame] = []
    shared: dict[str, tuple[str, str, _Plane | None, dict[str, AttributeValue]]] = {}
    for file, index, instance_uid, position_mm, text in packed:
        if text not in shared:
            shared[text] = _unpack_shared(text)
        series_uid, frame_of_reference_uid, plane, attributes = shared[text]
        geometry = None if plane is None else FrameGeometry(np.array(position_mm), *plane)
        frames.append(Frame(file, index, series_uid, instance_uid, geometry, attributes, frame_of_reference_uid))
    return frames


def _unpack_shared(text: str) -> tuple[str, str, _Plane | None, dict[str, AttributeValue]]:
    series_uid, frame_of_reference_uid, plane, attributes = json.loads(text)
    if plane is not None:
        plane = np.array(plane[0]), tuple(plane[1])
    return series_uid, frame_of_reference_uid, plane, _to_attributes(attributes)


def _to_attributes(decoded: dict[str, Any]) -> dict[str, AttributeValue]:
    return {sys.intern(name): tuple(value) if isinstance(value, list) else value for name, value in decoded.items()}


def _compress(values: list[Any]) -> bytes:
    return zlib.compress(json.dumps(values).encode())


def _decompress(data: bytes) -> list[Any]:
    return cast(list[Any], json.loads(zlib.decompress(data)))
