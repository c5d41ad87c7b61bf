"""Checks every field of a request against the bound that the proto states.

A server checks a request before anything else reads it. Servicers therefore never receive a text, list or number beyond
its bound, a text in a wrong format, a control character, a non-finite number or an unknown enum value. Required fields
are never missing. The number of entries is checked before entries are read. The message's record checks other rules,
such as which fields can be combined.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp

from vfmalign.core.domain.errors import BadOption, InvalidInput
from vfmalign.core.domain.record import ID, LICENCE, SHA256, UID, VOLUME_KIND, TextFormat
from vfmalign.core.formats.bounds import INTEGERS, REALS, describe_range, get_bounds
from vfmalign.v1 import bounds_pb2

_FORMATS = {
    bounds_pb2.FORMAT_ID: ID,
    bounds_pb2.FORMAT_SHA256: SHA256,
    bounds_pb2.FORMAT_VOLUME_KIND: VOLUME_KIND,
    bounds_pb2.FORMAT_UID: UID,
    bounds_pb2.FORMAT_LICENCE: LICENCE,
}
_YEAR_1_S, _YEAR_10000_S = -62_135_596_800, 253_402_300_800
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def parse_request(parse: Callable[[bytes], Message], data: bytes) -> Message:
    """Parses a request and checks all its fields.

    Args:
        parse: `FromString` of the request's class.
        data: the encoded request.

    Raises:
        InvalidInput: the bytes cannot be parsed as this message.
        BadOption: a field is beyond its bound, or a required field is missing. The error names the field.
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
        path: path of the message within the request, for error messages.

    Raises:
        BadOption: a field is beyond its bound. The error names the field.
    """
    if isinstance(message, Timestamp):
        _check_time(message, path)
        return
    if not message.DESCRIPTOR.full_name.startswith(f"{bounds_pb2.DESCRIPTOR.package}."):
        return  # health and reflection
    content = dict(message.ListFields())
    for field, value in content.items():
        name = f"{path}.{field.name}" if path else field.name
        bounds = get_bounds(field)
        if not field.is_repeated:
            if value == 0 and not field.has_presence and not bounds.required:
                continue  # −0.0, which protobuf lists although it means the same as 0
            _check_values(field, bounds, [(name, value)])
            continue
        _check_count(len(value), bounds, name)
        if field.message_type is not None and is_map(field):
            _check_map(field.message_type, bounds, value, name)
        else:
            _check_values(field, bounds, ((f"{name}[{index}]", entry) for index, entry in enumerate(value)))
    for field in _get_required(message.DESCRIPTOR):
        if field not in content:
            _check_missing(field, f"{path}.{field.name}" if path else field.name)


def is_map(field: FieldDescriptor) -> bool:
    """Returns whether a repeated field is a map."""
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


@cache
def _get_required(message: Descriptor) -> tuple[FieldDescriptor, ...]:
    return tuple(field for field in message.fields if get_bounds(field).required)


def _check_missing(field: FieldDescriptor, name: str) -> None:
    """Refuses a required field that is not set; a number is then 0, which may be in its range."""
    if field.cpp_type in INTEGERS | REALS and not field.is_repeated:
        _check_number(0, get_bounds(field), name)
        return
    remedy = "set it" if field.enum_type is None else f"choose one of {_list_names(field.enum_type)}"
    raise BadOption("this field is required", field=name, remedy=remedy)


def _check_map(entry: Descriptor, bounds: bounds_pb2.Bounds, content: Mapping[object, object], name: str) -> None:
    _check_values(entry.fields_by_name["key"], bounds, ((name, key) for key in content))
    _check_values(entry.fields_by_name["value"], bounds, ((name, content[key]) for key in content))


def _check_values(field: FieldDescriptor, bounds: bounds_pb2.Bounds, values: Iterable[tuple[str, Any]]) -> None:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        limit, text_format = bounds.max_length, _FORMATS.get(bounds.format)  # read once: there may be many values
        is_text = field.type == FieldDescriptor.TYPE_STRING
        for name, value in values:
            _check_length(len(value), limit, "characters" if is_text else "bytes", name)
            if is_text:
                _check_text(value, text_format, name)
    elif kind in INTEGERS or kind in REALS:
        for name, value in values:
            _check_number(value, bounds, name)
    elif (enum := field.enum_type) is not None:
        for name, value in values:
            _check_enum(enum, value, name)
    elif kind == FieldDescriptor.CPPTYPE_MESSAGE:
        for name, value in values:
            check_request(value, name)


def _check_count(count: int, bounds: bounds_pb2.Bounds, name: str) -> None:
    if count > bounds.max_count:
        raise BadOption(f"{count:,} entries, at most {bounds.max_count:,}", field=name, remedy="send fewer")


def _check_length(length: int, limit: int, unit: str, name: str) -> None:
    if length > limit:
        raise BadOption(f"{length:,} {unit}, at most {limit:,}", field=name, remedy="shorten it")


def _check_text(value: str, text_format: TextFormat | None, name: str) -> None:
    if not value.isprintable() and (match := _CONTROL_CHARACTER.search(value)):
        raise BadOption(f"contains the control character U+{ord(match[0]):04X}", field=name, remedy="remove it")
    if text_format is not None:
        text_format.check(value, name)


def _check_number(value: float, bounds: bounds_pb2.Bounds, name: str) -> None:
    if not math.isfinite(value):
        raise BadOption("not a finite number", field=name, remedy="choose a finite number")
    above = value > bounds.min if bounds.above_min else value >= bounds.min
    below = value < bounds.max if bounds.below_max else value <= bounds.max
    if bounds.HasField("max") and not (above and below):
        raise BadOption("out of range", field=name, remedy=f"choose a value {describe_range(bounds)}")


def _check_time(value: Timestamp, name: str) -> None:
    if not (_YEAR_1_S <= value.seconds < _YEAR_10000_S and 0 <= value.nanos < 10**9):
        raise BadOption("it is not a time", field=name, remedy="send a time of the years 1 to 9999")


def _check_enum(enum: EnumDescriptor, value: int, name: str) -> None:
    if value not in enum.values_by_number:
        raise BadOption(f"unknown value {value}", field=name, remedy=f"choose one of {_list_names(enum)}")


def _list_names(enum: EnumDescriptor) -> str:
    return ", ".join(entry.name for number, entry in sorted(enum.values_by_number.items()) if number)
