"""Messages to and from a decoding process.

A message consists of the length of a JSON header, the header itself, and raw bytes.

The receiver knows the number of raw bytes in advance or from the header. Nothing is unpickled.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

_LENGTH = struct.Struct(">I")
_MAX_HEADER_BYTES = 2**12


def write_message(stream: BinaryIO, header: Mapping[str, Any], payload: bytes | memoryview = b"") -> None:
    """Writes a header and the bytes that follow it.

    Raises:
        OSError: the other process has ended.
    """
    encoded = json.dumps(header).encode()
    stream.write(_LENGTH.pack(len(encoded)) + encoded)
    stream.write(payload)
    stream.flush()


def read_header(stream: BinaryIO) -> dict[str, Any]:
    """Reads a header but not the bytes that follow it.

    Raises:
        EOFError: the other process has ended.
        ValueError: the header is too long, or not a JSON object.
    """
    length = stream.read(_LENGTH.size)
    if len(length) < _LENGTH.size:
        raise EOFError
    (size,) = _LENGTH.unpack(length)
    if size > _MAX_HEADER_BYTES:
        raise ValueError("the header of a message is too long")
    header = json.loads(stream.read(size))
    if not isinstance(header, dict):
        raise ValueError("the header of a message is not a JSON object")
    return header
