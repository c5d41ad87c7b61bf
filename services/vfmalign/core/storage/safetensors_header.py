"""Checks the headers of safetensors files before reading any tensor. The tensors must fill the file exactly.

The header determines how much memory is reserved. The check refuses, for example, a file of several gigabytes whose
header declares only one number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeGuard

from pydantic import JsonValue

from vfmalign.core.domain.errors import NotFound
from vfmalign.core.formats.untrusted import parse_json
from vfmalign.core.storage.store.object_store import ObjectStore

LENGTH_BYTES = 8
"""Bytes at the start of a file that state the length of the header."""
MAX_HEADER_BYTES = 4 * 2**20
"""Maximum size of a header in bytes; enough for about 30,000 tensors."""
MAX_AXES = 16
_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16}
_BITS |= {"I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64}


class MalformedHeader(ValueError):
    """The file is not a safetensors file, or its size is not the size in its header. The message states the cause."""


@dataclass(frozen=True)
class TensorEntry:
    """A tensor in a file. `begin` and `end` are offsets in bytes from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class SafetensorsHeader:
    """A checked header.

    Attributes:
        tensors: maps names to tensors, in the order of the header.
        metadata: free text by name.
        content_offset: offset in bytes at which the tensors begin.
        total_bytes: size of the file.
    """

    tensors: Mapping[str, TensorEntry]
    content_offset: int
    total_bytes: int
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_header(store: ObjectStore, key: str) -> SafetensorsHeader:
    """Requests the size of a stored file, then reads the file's header. Does not read tensors.

    Raises:
        NotFound: the object does not exist.
        MalformedHeader: see `parse_header`.
    """
    total_bytes = store.size_bytes(key)
    if total_bytes is None:
        raise NotFound("there is no such object", subject=store.uri(key), remedy="check the URI, or store it again")
    if total_bytes < LENGTH_BYTES:
        raise MalformedHeader("it has no header")
    end = LENGTH_BYTES + _parse_length(store.first(key, LENGTH_BYTES), total_bytes)
    return parse_header(store.first(key, end), total_bytes)


def parse_header(data: bytes | memoryview, total_bytes: int) -> SafetensorsHeader:
    """Parses and checks a header.

    Args:
        data: content of the file, at least up to the end of the header.
        total_bytes: size of the whole file.

    Raises:
        MalformedHeader: the header is not in the safetensors format, or its tensors overlap or leave gaps in the rest
            of the file.
    """
    offset = LENGTH_BYTES + _parse_length(data[:LENGTH_BYTES], total_bytes)
    if offset > len(data):
        raise MalformedHeader("it ends within the header")
    try:
        content = parse_json(bytes(data[LENGTH_BYTES:offset]), MAX_HEADER_BYTES, unique_names=True)
    except ValueError:
        raise MalformedHeader("its header is not JSON, or names a tensor twice") from None
    if not isinstance(content, dict):
        raise MalformedHeader("its header is not a JSON object")
    metadata = content.pop("__metadata__", {})
    if not _is_texts(metadata):
        raise MalformedHeader("its metadata are not text")
    tensors = {name: _parse_tensor(entry) for name, entry in content.items()}
    position = 0
    for entry in sorted(tensors.values(), key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != position:
            raise MalformedHeader("its tensors overlap or leave a gap")
        position = entry.end
    if offset + position != total_bytes:
        raise MalformedHeader(f"its header declares {offset + position} bytes, the object has {total_bytes}")
    return SafetensorsHeader(tensors, offset, total_bytes, metadata)


def _parse_length(data: bytes | memoryview, total_bytes: int) -> int:
    length = int.from_bytes(data, "little")
    if len(data) < LENGTH_BYTES or length > min(MAX_HEADER_BYTES, total_bytes - LENGTH_BYTES):
        raise MalformedHeader(f"its header is longer than the object or {MAX_HEADER_BYTES} bytes")
    return length


def _parse_tensor(entry: JsonValue) -> TensorEntry:
    if not isinstance(entry, dict):
        raise MalformedHeader("a tensor is not described by a JSON object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise MalformedHeader("a tensor has an unknown type")
    if not _is_sizes(shape) or len(shape) > MAX_AXES or not _is_sizes(offsets) or len(offsets) != 2:
        raise MalformedHeader("the shape or offsets of a tensor are not whole numbers from 0")
    begin, end = offsets
    if end - begin != math.prod(shape) * _BITS[dtype] // 8:
        raise MalformedHeader("the offsets of a tensor do not fit its shape and type")
    return TensorEntry(dtype, tuple(shape), begin, end)


def _is_texts(value: object) -> TypeGuard[dict[str, str]]:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _is_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 2**53 for size in value)
