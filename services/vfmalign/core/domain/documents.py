"""Text for people and programs: messages of the API as JSON, and nouns beside numbers."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

_INTEGERS = {
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT64,
    FieldDescriptor.TYPE_SINT64,
    FieldDescriptor.TYPE_FIXED64,
    FieldDescriptor.TYPE_SFIXED64,
}


def to_json_dict(message: Message) -> dict[str, Any]:
    """A message as JSON values: field names as in the protos, every field there, 64-bit integers as numbers."""
    content: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return _with_numbers(message, content)


def pluralise(count: int, noun: str) -> str:
    """`1 patient`, `2 patients`; for nouns that take an s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _with_numbers(message: Message, content: dict[str, Any]) -> dict[str, Any]:
    """Undoes proto3 JSON's quoting of 64-bit integers: Python and jq read them as they are."""
    if message.DESCRIPTOR.full_name.startswith("google.protobuf."):
        return content
    for field in message.DESCRIPTOR.fields:
        if field.name not in content:
            continue
        value, found = content[field.name], getattr(message, field.name)
        if field.type in _INTEGERS:
            content[field.name] = [int(item) for item in value] if isinstance(value, list) else int(value)
        elif field.type == FieldDescriptor.TYPE_MESSAGE and isinstance(value, list):
            content[field.name] = [_nested(inner, item) for inner, item in zip(found, value, strict=True)]
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            content[field.name] = _nested(found, value)
    return content


def _nested(message: Message, content: Any) -> Any:
    return _with_numbers(message, content) if isinstance(content, dict) else content
