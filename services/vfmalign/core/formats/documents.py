"""Converts messages to JSON, compares JSON documents, and forms plurals of nouns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from pydantic import JsonValue

_INTEGERS = {
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT64,
    FieldDescriptor.TYPE_SINT64,
    FieldDescriptor.TYPE_FIXED64,
    FieldDescriptor.TYPE_SFIXED64,
}


def to_json_dict(message: Message) -> dict[str, JsonValue]:
    """Converts a message to JSON values: the protos' field names, all fields present, 64-bit integers as numbers."""
    content: dict[str, JsonValue] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return _with_numbers(message, content)


def list_differences(first: object, second: object, path: str = "") -> list[str]:
    """Returns the paths of the fields in which two JSON values differ, such as `recipe.epochs`."""
    if not (isinstance(first, dict) and isinstance(second, dict)):
        return [] if first == second else [path]
    names = sorted(first.keys() | second.keys())
    prefix = f"{path}." if path else ""
    return [place for name in names for place in list_differences(first.get(name), second.get(name), prefix + name)]


def pluralise(count: int, noun: str) -> str:
    """Returns a number and a noun, such as `2 patients`. Works only for nouns whose plural adds an s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _with_numbers(message: Message, content: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Converts proto3 JSON's quoted 64-bit integers to numbers, which Python and jq read without loss."""
    if message.DESCRIPTOR.full_name.startswith("google.protobuf."):
        return content
    for field in message.DESCRIPTOR.fields:
        if field.name not in content:
            continue
        value, nested = content[field.name], getattr(message, field.name)
        if isinstance(value, dict) and (entry := field.message_type) is not None and entry.GetOptions().map_entry:
            content[field.name] = _map_with_numbers(entry.fields_by_name["value"].type, nested, value)
        elif field.type in _INTEGERS:
            content[field.name] = list(nested) if field.is_repeated else nested
        elif field.type == FieldDescriptor.TYPE_MESSAGE and isinstance(value, list):
            content[field.name] = [_nested(inner, item) for inner, item in zip(nested, value, strict=True)]
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            content[field.name] = _nested(nested, value)
    return content


def _map_with_numbers(kind: int, nested: Mapping[object, Any], content: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Converts the values of a map field, which are of type `kind`; its keys are strings in JSON."""
    # Keys in JSON are strings; bools are in lower case there, unlike with str().
    values = {str(key).lower() if isinstance(key, bool) else str(key): value for key, value in nested.items()}
    if kind == FieldDescriptor.TYPE_MESSAGE:
        return {key: _nested(values[key], value) for key, value in content.items()}
    return {key: values[key] for key in content} if kind in _INTEGERS else content


def _nested(message: Message, content: JsonValue) -> JsonValue:
    return _with_numbers(message, content) if isinstance(content, dict) else content
