"""Base class of the API's messages: conversion between a record and its protobuf message.

Both conversions use protobuf's JSON mapping. A record needs no converter of its own, because its fields have the names
of the message's fields. In a record, an enum value is a label, such as `running` for `JOB_STATE_RUNNING`. The record
omits fields whose value is unspecified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, ParamSpec, Self, TypeVar, cast

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict, Parse, ParseDict
from google.protobuf.message import Message
from pydantic import (
    BeforeValidator,
    JsonValue,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from vfmalign.core.domain.errors import BadOption, Internal
from vfmalign.core.domain.record import FORMATS, Record
from vfmalign.core.formats.bounds import get_bounds
from vfmalign.core.formats.documents import to_json_dict
from vfmalign.v1.bounds_pb2 import Bounds

Convert = Callable[[EnumDescriptor, str | int], str | None]
P = ParamSpec("P")
M = TypeVar("M", bound="ApiMessage")

VIA_PROTO = "proto"
"""Context of a conversion from or to protobuf, for fields that a record holds in another form."""
_LIMITS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "of at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "of at most"),
}
"""The key of the limit and how a value compares with it, by pydantic's name of the error."""


class ApiMessage(Record):
    """A message of the API. Subclasses set `PROTO` and declare one field per field of the message."""

    PROTO: ClassVar[type[Message]]
    __test__: ClassVar[bool] = False  # pytest would collect `TestOptions` by its name
    OMITTED: ClassVar[frozenset[str]] = frozenset()
    """Fields that the record leaves out because they hold tensors, which are too large for JSON."""

    @classmethod
    def from_proto(cls, message: Message, field: str = "") -> Self:
        """Converts a protobuf message.

        Args:
            message: an instance of `PROTO`.
            field: path of the message within the request, as errors name it.

        Raises:
            BadOption: a field is missing, unknown or out of range. The error names the field as in the API.
        """
        if cls.OMITTED:
            message = _without(message, cls.OMITTED)
        content = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        for name in cls.OMITTED:  # repeated ones are printed as empty
            content.pop(name, None)
        _map_enums(cast(Descriptor, message.DESCRIPTOR), content, _to_label)
        try:
            return cls.model_validate(content, context=VIA_PROTO)
        except ValidationError as error:
            raise to_bad_option(error, field) from error

    @classmethod
    def get_bounds(cls, field: str) -> Bounds:
        """Returns the bounds of a field that the proto file states."""
        return get_bounds(cls.PROTO.DESCRIPTOR.fields_by_name[field])

    @classmethod
    def from_response(cls, message: Message) -> Self:
        """Converts a message that a service returned.

        Raises:
            Internal: this version of the client cannot read the message.
        """
        try:
            return cls.from_proto(message)
        except BadOption as error:
            raise Internal(
                f"cannot read the service's response: {error.field}: {error.message}",
                subject=cls.PROTO.DESCRIPTOR.name,
                remedy="install the version of vfmalign that the service runs",
                reason="UNREADABLE_RESPONSE",
            ) from error

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Converts JSON in the API's form, which `to_json_dict` writes. Raises the same errors as `from_response`."""
        return cls.from_response(Parse(text, cls.PROTO()))

    @classmethod
    def from_fields(cls: Callable[P, M], *args: P.args, **fields: P.kwargs) -> M:
        """Creates a message from a caller's keyword arguments, and validates them.

        Raises:
            BadOption: a field is missing, unknown or out of range.
        """
        try:
            return cls(*args, **fields)
        except ValidationError as error:
            raise to_bad_option(error) from error

    def to_proto(self) -> Any:
        """Converts to an instance of `PROTO`."""
        content = self.model_dump(mode="json", exclude_none=True, context=VIA_PROTO)
        _map_enums(cast(Descriptor, self.PROTO.DESCRIPTOR), content, _to_name)
        return ParseDict(content, self.PROTO())

    def to_json_dict(self) -> dict[str, JsonValue]:
        """Converts to JSON values in the API's form: with all fields, and with the enum names of the proto file."""
        return to_json_dict(self.to_proto())


def unset_means(default: object) -> BeforeValidator:
    """Replaces the value of an unset field by the API's default.

    Protobuf sends 0 or an empty list for an unset field.
    """

    def replace(value: object, info: ValidationInfo) -> object:
        return default if info.context == VIA_PROTO and value in (0, []) else value

    return BeforeValidator(replace)


def _check_unless_zero(value: object, check: ValidatorFunctionWrapHandler) -> object:
    return 0 if value in (0, "0") else check(value)  # protobuf's JSON quotes 64-bit integers


UNLESS_ZERO = WrapValidator(_check_unless_zero)
"""Accepts 0 as an unset number, whatever its range: the API checks only numbers that are set."""


_TIME_REMEDY = "give a datetime with its zone, or a text such as 2026-03-01T07:30:00Z"


def _check_time(value: object, check: ValidatorFunctionWrapHandler) -> datetime:
    """Rejects times that protobuf cannot represent, and numbers: a DICOM date such as 20260301 would mean 1970."""
    if isinstance(value, int | float) or (isinstance(value, str) and value.strip().isdigit()):
        raise _refuse_time("a number is not a time")
    try:
        time: datetime = check(value)
    except ValidationError:
        raise _refuse_time("not a time") from None
    if time.tzinfo is None:
        raise _refuse_time("the time has no zone")
    try:
        time.astimezone(UTC)
    except OverflowError:
        raise _refuse_time("not a time of the years 1 to 9999") from None
    return time


def _refuse_time(problem: str) -> PydanticCustomError:
    return PydanticCustomError("time", "{problem}", {"problem": problem, "remedy": _TIME_REMEDY})


Time = Annotated[datetime, WrapValidator(_check_time)]
"""A moment: a time with its zone."""


def to_bad_option(error: ValidationError, field: str = "", names: Mapping[str, str] | None = None) -> BadOption:
    """Converts the first problem of a validation to an error of the API.

    The error does not contain the offending value.

    Args:
        error: pydantic's error.
        field: path of the validated message within the request.
        names: maps fields of the record to their paths in the message, if the names differ.
    """
    problem = error.errors(include_input=False, include_url=False)[0]
    first, *rest = problem["loc"] or ("",)
    path = ".".join(filter(None, (field, (names or {}).get(str(first), str(first)))))
    path += "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in rest)
    message, remedy = _describe_problem(problem["type"], str(problem["msg"]), problem.get("ctx", {}))
    return BadOption(message, field=path, remedy=remedy)


def _describe_problem(kind: str, message: str, context: Mapping[str, object]) -> tuple[str, str]:
    """Returns the sentence and the remedy for one of pydantic's errors."""
    if kind in _LIMITS:
        name, comparison = _LIMITS[kind]
        return "out of range", f"choose a value {comparison} {context[name]}"
    if kind == "missing":
        return "this field is required", "set it"
    if kind == "extra_forbidden":
        return "there is no field of this name", "correct the name, or leave the field out"
    if kind == "finite_number":
        return "not a finite number", "choose a finite number"
    if kind == "literal_error":
        return "unknown value", f"choose {context['expected']}"
    if kind == "string_pattern_mismatch":
        for text_format in FORMATS:
            if context["pattern"] in {text_format.pattern, text_format.optional_pattern}:
                return text_format.problem, text_format.full_remedy
        return "not a name of the expected form", ""
    if kind == "path_not_file":
        return "there is no such file", "give the path of a file that exists"
    return message, str(context.get("remedy", ""))


def enum_labels(enum: EnumDescriptor) -> tuple[str, ...]:
    """Returns the labels of an enum's values in the order of the proto, without the unspecified value."""
    return tuple(label for value in enum.values if (label := _to_label(enum, value.name)) is not None)


def get_enum_label(enum: EnumDescriptor, number: int) -> str | None:
    """Returns the label of an enum's number.

    Returns None for "unspecified", and `unknown` for a number that this version does not define.
    """
    value = enum.values_by_number.get(number)
    return _to_label(enum, number if value is None else value.name)


def _without(message: Message, names: frozenset[str]) -> Message:
    """A copy of a message without some of its fields, which are not copied in between."""
    result = type(message)()
    for field, value in message.ListFields():
        if field.name in names:
            continue
        if field.is_repeated:
            getattr(result, field.name).MergeFrom(value)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            getattr(result, field.name).CopyFrom(value)
        else:
            setattr(result, field.name, value)
    return result


def _map_enums(descriptor: Descriptor, content: dict[str, Any], convert: Convert) -> None:
    """Replaces every enum value within a message's JSON; values that convert to None are removed."""
    for field in descriptor.fields:
        if field.name not in content:
            continue
        if field.enum_type is not None:
            _map_enum_field(field, field.enum_type, content, convert)
        elif field.message_type is not None:
            _map_message_field(field, field.message_type, content[field.name], convert)


def _map_enum_field(field: FieldDescriptor, enum: EnumDescriptor, content: dict[str, Any], convert: Convert) -> None:
    if field.is_repeated:
        content[field.name] = [convert(enum, value) for value in content[field.name]]
    elif (value := convert(enum, content[field.name])) is None:
        del content[field.name]
    else:
        content[field.name] = value


def _map_message_field(field: FieldDescriptor, nested: Descriptor, content: Any, convert: Convert) -> None:
    if nested.GetOptions().map_entry:  # a JSON object with keys that are not names of fields
        value = nested.fields_by_name["value"].message_type
        if value is not None:
            _map_message_list(value, content.values(), convert)
    else:
        _map_message_list(nested, content if field.is_repeated else [content], convert)


def _map_message_list(message: Descriptor, items: Iterable[object], convert: Convert) -> None:
    for item in items:
        if isinstance(item, dict):  # timestamps are strings
            _map_enums(message, item, convert)


def _prefix(enum: EnumDescriptor) -> str:
    """`JOB_STATE_` of `JobState`: buf's lint rules require it of every value and `…_UNSPECIFIED` of the zero value."""
    return str(enum.values_by_number[0].name).removesuffix("UNSPECIFIED")


def _to_label(enum: EnumDescriptor, name: str | int) -> str | None:
    """The label of a value's name; None where unspecified. A number is a value unknown to this version."""
    if not isinstance(name, str):
        return "unknown"
    label = name.removeprefix(_prefix(enum)).lower()
    return None if label == "unspecified" else label


def _to_name(enum: EnumDescriptor, label: str | int) -> str:
    return _prefix(enum) + str(label).upper()
