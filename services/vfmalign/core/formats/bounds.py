"""Bounds of the API's fields, which the protos state (`bounds.proto`).

Servers check requests against these bounds (`core.rpc.limits.bounds`). Records and command-line options use the same
bounds.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from annotated_types import Interval
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from vfmalign.v1 import bounds_pb2

_LARGEST = {
    FieldDescriptor.CPPTYPE_INT32: 2**31 - 1,
    FieldDescriptor.CPPTYPE_INT64: 2**63 - 1,
    FieldDescriptor.CPPTYPE_UINT32: 2**32 - 1,
    FieldDescriptor.CPPTYPE_UINT64: 2**64 - 1,
}
INTEGERS = frozenset(_LARGEST)
REALS = frozenset({FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT})


@cache
def get_bounds(field: FieldDescriptor) -> bounds_pb2.Bounds:
    """Returns the bound that the proto states for a field, or an empty bound if the proto states none."""
    extension: Any = bounds_pb2.bounds  # the stubs of protobuf give it two types
    result: bounds_pb2.Bounds = field.GetOptions().Extensions[extension]
    return result


def is_secret(field: FieldDescriptor) -> bool:
    """Returns whether the proto states that the value of a field is a secret."""
    extension: Any = bounds_pb2.secret
    return bool(field.GetOptions().Extensions[extension])


def get_field(message: type[Message], name: str) -> FieldDescriptor:
    """Returns a field of a message, such as `epochs` of `Recipe`."""
    field: Any = message.DESCRIPTOR.fields_by_name[name]  # the stubs of protobuf give it two types
    result: FieldDescriptor = field
    return result


def get_range(message: type[Message], field: str) -> Interval:
    """Returns the range of a message's numeric field, as a constraint of pydantic."""
    return to_range(get_field(message, field))


def get_max_count(message: type[Message], field: str) -> int:
    """Returns the maximum number of entries of a list or map."""
    return get_bounds(get_field(message, field)).max_count


def get_max_length(message: type[Message], field: str) -> int:
    """Returns the maximum number of characters of a string."""
    return get_bounds(get_field(message, field)).max_length


def to_range(field: FieldDescriptor) -> Interval:
    """Converts the bounds of a numeric field to a constraint of pydantic."""
    bounds = get_bounds(field)
    low, high = bounds.min, bounds.max
    if field.cpp_type in INTEGERS:  # as a double, the largest 64-bit integer is rounded up
        low, high = int(low), min(int(high), _LARGEST[field.cpp_type])
    return Interval(
        gt=low if bounds.above_min else None,
        ge=None if bounds.above_min else low,
        lt=high if bounds.below_max else None,
        le=None if bounds.below_max else high,
    )


def describe_range(bounds: bounds_pb2.Bounds) -> str:
    """Describes the range of a number, such as `from 1 to 10,000` or `above 0, at most 1`."""
    low, high = _format(bounds.min), _format(bounds.max)
    if not bounds.above_min and not bounds.below_max:
        return f"from {low} to {high}"
    return f"{'above' if bounds.above_min else 'at least'} {low}, {'below' if bounds.below_max else 'at most'} {high}"


def _format(number: float) -> str:
    return f"{int(number):,}" if abs(number) < 2**53 and number.is_integer() else f"{number:.6g}"
