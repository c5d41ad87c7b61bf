"""Finds the objects that a message names: the fields that the protos mark with the option `audit`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from vfmalign.v1 import bounds_pb2

NamedObject: TypeAlias = tuple[str, str, str]
"""Kind, id and digest of an object. The digest is empty if the message does not state it."""
_AUDIT: Any = bounds_pb2.audit  # the stub of extensions lacks the type of their container
_READING = ("Get", "List", "Watch", "Compute")


def is_changing(method: str) -> bool:
    """Returns whether a method of this name may change stored data."""
    return not method.startswith(_READING)


def find_objects(message: Message) -> list[NamedObject]:
    """Returns the objects that a message names, each once, in the order of its fields."""
    return list(dict.fromkeys(_find(message)))


def _find(message: Message) -> Iterator[NamedObject]:
    for field, mark in list_fields(message.DESCRIPTOR):
        if mark is None:
            parts = getattr(message, field.name)
            if field.is_repeated:
                for part in parts:
                    yield from _find(part)
            elif message.HasField(field.name):
                yield from _find(parts)
            continue
        value = getattr(message, field.name)
        for name in value if field.is_repeated else [value] * bool(value):
            yield mark.kind, name, _get_digest(message, mark.digest_field)


def _get_digest(message: Any, path: str) -> str:
    for name in path.split(".") if path else ():
        message = getattr(message, name)
    return message if isinstance(message, str) else ""


@cache
def list_fields(
    descriptor: Descriptor, within: tuple[Descriptor, ...] = ()
) -> tuple[tuple[FieldDescriptor, bounds_pb2.Audit | None], ...]:
    """Returns the marked fields of a message, and without a mark the fields whose messages have such fields."""
    found: list[tuple[FieldDescriptor, bounds_pb2.Audit | None]] = []
    for field in descriptor.fields:
        options, part = field.GetOptions(), field.message_type
        if options.HasExtension(_AUDIT):
            found.append((field, options.Extensions[_AUDIT]))
        elif part is None or part.GetOptions().map_entry or part in (*within, descriptor):
            continue
        elif list_fields(part, (*within, descriptor)):
            found.append((field, None))
    return tuple(found)
