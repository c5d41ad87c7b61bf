"""Bounds of requests: every field of a message is checked against the bound that its proto states.

A server checks a request before anything else looks at it, so no servicer sees a text, a list or a number beyond its
bound, a control character, a number that is not finite, or an enum value that this version does not know. Counts are
checked before entries are read. What a bound cannot state, such as the pattern of an id, is checked by the message's
record.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from vfmalign.core.domain.errors import BadOption, InvalidInput
from vfmalign.v1 import bounds_pb2

INTEGERS = frozenset(
    {
        FieldDescriptor.CPPTYPE_INT32,
        FieldDescriptor.CPPTYPE_INT64,
        FieldDescriptor.CPPTYPE_UINT32,
        FieldDescriptor.CPPTYPE_UINT64,
    }
)
REALS = frozenset({FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT})
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def parse_request(parse: Callable[[bytes], Message], data: bytes) -> Message:
    """Parses a request and checks every field of it.

    Args:
        parse: `FromString` of the request's class.
        data: the encoded request.

    Raises:
        InvalidInput: the bytes are no such message.
        BadOption: a field is beyond its bound; the error names it.
    """
    try:
        message = parse(data)
    except DecodeError:
        raise InvalidInput(
            "the message cannot be parsed",
            subject="message",
            remedy="encode it with the protos of this version",
            reason="MALFORMED_MESSAGE",
        ) from None
    check_request(message)
    return message


def check_request(message: Message, path: str = "") -> None:
    """Checks every field of a message.

    Args:
        message: the request, or a part of it.
        path: of the message within the request, as errors name it.

    Raises:
        BadOption: a field is beyond its bound; the error names it.
    """
    if not message.DESCRIPTOR.full_name.startswith(f"{bounds_pb2.DESCRIPTOR.package}."):
        return  # health and reflection
    for field, value in message.ListFields():
        name = f"{path}.{field.name}" if path else field.name
        bounds = get_bounds(field)
        if not field.is_repeated:
            _check_values(field, bounds, [(name, value)])
            continue
        _check_count(len(value), bounds, name)
        if is_map(field):
            _check_map(field, bounds, value, name)
        else:
            _check_values(field, bounds, ((f"{name}[{index}]", entry) for index, entry in enumerate(value)))


@cache
def get_bounds(field: FieldDescriptor) -> bounds_pb2.Bounds:
    """Returns the bound that the proto states for a field; an empty one where it states none."""
    extension: Any = bounds_pb2.bounds  # the stubs of protobuf give it two types
    result: bounds_pb2.Bounds = field.GetOptions().Extensions[extension]
    return result


def is_map(field: FieldDescriptor) -> bool:
    """Returns whether a repeated field is a map."""
    entry: Descriptor | None = field.message_type
    return entry is not None and bool(entry.GetOptions().map_entry)


def _check_map(field: FieldDescriptor, bounds: bounds_pb2.Bounds, content: Mapping[Any, Any], name: str) -> None:
    entry: Any = field.message_type
    _check_values(entry.fields_by_name["key"], bounds, ((name, key) for key in content))
    _check_values(entry.fields_by_name["value"], bounds, ((name, content[key]) for key in content))


def _check_values(field: FieldDescriptor, bounds: bounds_pb2.Bounds, values: Iterable[tuple[str, Any]]) -> None:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        limit, is_text = bounds.max_length, field.type == FieldDescriptor.TYPE_STRING
        for name, value in values:
            _check_length(value, limit, name, is_text=is_text)
    elif kind in INTEGERS or kind in REALS:
        for name, value in values:
            _check_number(value, bounds, name)
    elif kind == FieldDescriptor.CPPTYPE_ENUM:
        for name, value in values:
            _check_enum(field, value, name)
    elif kind == FieldDescriptor.CPPTYPE_MESSAGE:
        for name, value in values:
            check_request(value, name)


def _check_count(count: int, bounds: bounds_pb2.Bounds, name: str) -> None:
    if count > bounds.max_count:
        raise BadOption(f"{count:,} entries, at most {bounds.max_count:,}", field=name, remedy="send fewer")


def _check_length(value: str | bytes, limit: int, name: str, *, is_text: bool) -> None:
    if len(value) > limit:
        unit = "characters" if is_text else "bytes"
        raise BadOption(f"{len(value):,} {unit}, at most {limit:,}", field=name, remedy="shorten it")
    if isinstance(value, str) and not value.isprintable() and (match := _CONTROL_CHARACTER.search(value)):
        raise BadOption(f"contains the control character U+{ord(match[0]):04X}", field=name, remedy="remove it")


def _check_number(value: float, bounds: bounds_pb2.Bounds, name: str) -> None:
    if not math.isfinite(value):
        raise BadOption("not a finite number", field=name, remedy="choose a finite number")
    if not bounds.min <= value <= bounds.max:
        raise BadOption(
            "out of range", field=name, remedy=f"choose a value from {bounds.min:.12g} to {bounds.max:.12g}"
        )


def _check_enum(field: FieldDescriptor, value: int, name: str) -> None:
    enum: Any = field.enum_type
    known = enum.values_by_number
    if value not in known:
        names = ", ".join(entry.name for number, entry in sorted(known.items()) if number)
        raise BadOption(f"unknown value {value}", field=name, remedy=f"choose one of {names}")
