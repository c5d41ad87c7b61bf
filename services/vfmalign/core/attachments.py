"""Large tensors of a request stay in the bytes that arrived; protobuf would copy them twice. Knows its wire format.

A message is parsed without the `data` of its large tensors, in whose place stand tokens, and what these mean is
remembered until the call ends. Tokens hold a random number of the call, so that no client can make one up.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from vfmalign.v1 import common_pb2

LARGE_BYTES = 4096
"""From this size on data are left where they are."""
MOST_FIELDS = 2000
"""A message of more fields is parsed as any other: walking them takes longer than copying."""

_TENSOR = common_pb2.Tensor.DESCRIPTOR
_DATA = _TENSOR.fields_by_name["data"].number
_MOST_LEVELS = 16
_NONCE_BYTES = 16
_TOKEN_BYTES = _NONCE_BYTES + 4
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED_64: 8, _FIXED_32: 4}


class _NotWalked(Exception):
    """A message that is malformed or has too many fields: protobuf parses it, or says what is wrong."""


@dataclass
class _Received:
    """What the tokens of one call stand for."""

    nonce: bytes = field(default_factory=lambda: secrets.token_bytes(_NONCE_BYTES))
    parts: list[memoryview] = field(default_factory=list)
    fields: int = 0

    def token(self, part: memoryview) -> bytes:
        """Remembers a part."""
        self.parts.append(part)
        return self.nonce + (len(self.parts) - 1).to_bytes(_TOKEN_BYTES - _NONCE_BYTES)


_received: ContextVar[_Received | None] = ContextVar("received", default=None)


def deserializer(plain: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """What a method that takes tensors parses its requests by, in place of `plain`; `plain` for all other methods."""
    kind = getattr(plain, "__self__", None)
    if not (isinstance(kind, type) and issubclass(kind, Message)) or not _holds_tensors(_described(kind), set()):
        return plain
    return partial(parse, kind)


def parse(kind: type[Message], raw: bytes) -> Message:
    """The message; `data_of` its tensors are views on `raw` within this call.

    Raises:
        google.protobuf.message.DecodeError: it is malformed.
    """
    received = _Received()
    lean = raw
    if len(raw) >= LARGE_BYTES:
        try:
            lean = b"".join(_without_data(_described(kind), memoryview(raw), received, _MOST_LEVELS))
        except _NotWalked:
            received, lean = _Received(), raw
    _received.set(received)
    return kind.FromString(lean)


def data_of(tensor: common_pb2.Tensor) -> memoryview:
    """A tensor's bytes: where they arrived, or a copy."""
    data, received = tensor.data, _received.get()
    if received is not None and len(data) == _TOKEN_BYTES and data.startswith(received.nonce):
        return received.parts[int.from_bytes(data[_NONCE_BYTES:])]
    return memoryview(data)


def _described(kind: type[Message]) -> Descriptor:
    return cast(Descriptor, kind.DESCRIPTOR)


def _holds_tensors(kind: Descriptor, seen: set[str]) -> bool:
    """Whether a message has tensors at any depth."""
    if kind.full_name in seen:
        return False
    seen.add(kind.full_name)
    inner = [one.message_type for one in kind.fields if one.message_type is not None]
    return kind.full_name == _TENSOR.full_name or any(_holds_tensors(one, seen) for one in inner)


def _without_data(kind: Descriptor, raw: memoryview, received: _Received, levels: int) -> Iterator[bytes | memoryview]:
    """The message's bytes with tokens for large data, in pieces."""
    if levels == 0:
        raise _NotWalked
    is_tensor = kind.full_name == _TENSOR.full_name
    unchanged = 0
    for number, start, begin, end in _fields(raw, received):
        if end - begin < LARGE_BYTES:
            continue
        inner = kind.fields_by_number.get(number)
        if is_tensor and number == _DATA:
            piece = received.token(raw[begin:end])
        elif inner is not None and inner.message_type is not None:
            piece = b"".join(_without_data(inner.message_type, raw[begin:end], received, levels - 1))
        else:
            continue
        yield raw[unchanged:start]
        yield _varint_of(number << 3 | _BYTES) + _varint_of(len(piece))
        yield piece
        unchanged = end
    yield raw[unchanged:]


def _fields(raw: memoryview, received: _Received) -> Iterator[tuple[int, int, int, int]]:
    """Number, start, and begin and end of the content of each field that has a length."""
    at = 0
    while at < len(raw):
        received.fields += 1
        if received.fields > MOST_FIELDS:
            raise _NotWalked
        start = at
        key, at = _varint(raw, at)
        wire = key & 7
        if wire == _VARINT:
            _, at = _varint(raw, at)
        elif wire in _FIXED_SIZES:
            at += _FIXED_SIZES[wire]
        elif wire == _BYTES:
            size, at = _varint(raw, at)
            begin, at = at, at + size
            if at <= len(raw):
                yield key >> 3, start, begin, at
        else:
            raise _NotWalked
        if at > len(raw):
            raise _NotWalked


def _varint(raw: memoryview, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    number = 0
    for shift in range(0, 64, 7):
        if at == len(raw):
            raise _NotWalked
        byte = raw[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
    raise _NotWalked


def _varint_of(number: int) -> bytes:
    """A number as it travels."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)
