#!/usr/bin/env python
"""protoc plugin that writes the records of the API: `vfmalign.client.messages.generated`, a module for each proto.

`make proto` runs it after the stubs are written, which it imports. A message becomes a class, its comments become
docstrings, and its bounds become constraints:

- A field that the bound requires has no default. Others have the default of the message, or what the bound says that
  an unset field means. Fields that may be absent (`optional`, times, enums) are None.
- Messages that hold bytes have no record, because tensors and files must not take the detour through JSON; `PARTS`
  names those of which the other fields have one. Nor have the requests and responses that `client.operations` builds
  for all operations alike.
- A class derives from the class of `messages/methods.py` that has its name and `Methods`, if there is one.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import PurePosixPath
from typing import NamedTuple

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

from vfmalign.client.messages import methods
from vfmalign.client.messages.base import enum_labels, get_enum_label
from vfmalign.core.formats.bounds import INTEGERS, REALS, get_bounds, is_secret, to_range
from vfmalign.v1 import bounds_pb2

WRITTEN = {
    "CutStructure": "vfmalign.core.domain.field_of_view",
    "DatasetDeclaration": "vfmalign.core.domain.declarations",
    "Layer": "vfmalign.core.domain.models",
    "MetricSpec": "vfmalign.core.domain.jobs",
    "JobKind": "vfmalign.core.domain.jobs",
    "Network": "vfmalign.core.domain.jobs",
    "Objective": "vfmalign.core.domain.models",
    "Preprocessing": "vfmalign.core.domain.models",
    "Split": "vfmalign.core.domain.datasets",
    "Task": "vfmalign.client.messages.tasks",
    "TakenSeries": "vfmalign.core.domain.datasets",
    "TaskParameters": "vfmalign.core.domain.declarations",
    "TensorCounts": "vfmalign.core.domain.models",
}
"""Modules of the records and choices that are written by hand."""
NAMES = {"Metric": "MetricSpec", "Verdict": "VerdictLabel"}
"""Names in Python of messages and enums that have another name there."""


class Part(NamedTuple):
    """A record of some fields of a message: its name, the fields that it leaves out, and those that must be set.

    The latter are not `required` by their bounds where a batch holds the message, of which each is to fail alone.
    """

    name: str
    omitted: tuple[str, ...] = ()
    required: tuple[str, ...] = ()


PARTS = {
    "ComputeRequest": Part("ComputeOptions", omitted=("reference", "x", "y"), required=("pairing",)),
    "ExtractResponse": Part("ExtractedStudy", omitted=("layers",), required=("cost",)),
}
WITHOUT_RECORD = re.compile(
    r"Bounds|Audit|LabelMap|Case(Class|Grade|Number)|ComputeBatchResponse|(Get|List)(Model|Dataset)s?Request"
    r"|GetFeatureSetRequest|Get(Model|Dataset|FeatureSet)Response"
    r"|(Create|Get|List|Cancel|Retry|Watch)(Job|Check|Experiment)s?(Request|Response)|Get\w+ReportRequest"
    r"|((Create|Get|List|Watch|Update|Pause|Resume|Delete)Monitors?|Observe|AcknowledgeAlarm|ReplaceReference)"
    r"(Request|Response)"
)
FORMATS = {
    bounds_pb2.FORMAT_ID: ("Id", "OptionalId", "vfmalign.core.domain.record"),
    bounds_pb2.FORMAT_SHA256: ("Sha256", "OptionalSha256", "vfmalign.core.domain.record"),
    bounds_pb2.FORMAT_VOLUME_KIND: ("VolumeKind", "OptionalKind", "vfmalign.core.domain.declarations"),
    bounds_pb2.FORMAT_UID: ("Uid", "Uid", "vfmalign.core.domain.record"),
    bounds_pb2.FORMAT_LICENCE: ("Licence", "OptionalLicence", "vfmalign.core.domain.record"),
}
"""The types of texts of a format: required, and possibly empty; and their module."""
MESSAGES, ENUMS, FIELDS = 4, 5, 2
"""Numbers of the fields of FileDescriptorProto and DescriptorProto that paths of comments consist of."""
TARGET = PurePosixPath("vfmalign/client/messages/generated")


class Module:
    """Writes the module of a proto."""

    def __init__(self, proto: FileDescriptorProto, file: FileDescriptor) -> None:
        self._proto, self._file = proto, file
        self._comments = {tuple(one.path): one.leading_comments for one in proto.source_code_info.location}
        self._imports: set[tuple[str, str]] = set()
        self._names: list[str] = []

    def render(self) -> str:
        """Returns the module; empty if it has no record."""
        content = [line for message in self._order() for line in self._render_message(message)]
        if not content:
            return ""
        enums = [line for enum in self._file.enum_types_by_name.values() for line in self._render_enum(enum)]
        head = [f'"""Records of `{PurePosixPath(self._proto.name).name}`, by `make proto`; do not edit."""', ""]
        head += ["from __future__ import annotations", ""]
        head += [f"from {module} import {name}" for module, name in sorted(self._imports)]
        return "\n".join([*head, f"__all__ = {self._names!r}", *enums, *content])

    def _order(self) -> list[Descriptor]:
        """The messages with a record, each after those that its defaults need."""
        ordered: dict[str, Descriptor] = {}

        def add(message: Descriptor) -> None:
            for field in message.fields:
                nested = field.message_type
                if nested is not None and nested.file is self._file and nested is not message:
                    add(nested)
            if has_record(message):
                ordered.setdefault(message.name, message)

        for message in self._file.message_types_by_name.values():
            if has_record(message):
                add(message)
        return list(ordered.values())

    def _render_enum(self, enum: EnumDescriptor) -> Iterator[str]:
        name = NAMES.get(enum.name, enum.name)
        if name in WRITTEN:
            return
        index = [one.name for one in self._proto.enum_type].index(enum.name)
        labels = ", ".join(f'"{label}"' for label in enum_labels(enum))
        self._names.append(name)
        yield f"{name} = {self._import('typing', 'Literal')}[{labels}]"
        yield from self._render_docstring((ENUMS, index), "")

    def _render_message(self, message: Descriptor) -> Iterator[str]:
        index = [one.name for one in self._proto.message_type].index(message.name)
        part = PARTS.get(message.name, Part(message.name))
        base = f"{part.name}Methods"
        module = methods.__name__ if hasattr(methods, base) else "vfmalign.client.messages.base"
        base = self._import(module, base if hasattr(methods, base) else "ApiMessage")
        self._names.append(part.name)
        yield f"class {part.name}({base}):"
        yield from self._render_docstring((MESSAGES, index), "    ")
        stub = self._import("vfmalign.v1", f"{PurePosixPath(self._proto.name).stem}_pb2")
        proto = f"{self._import('typing', 'ClassVar')}[type[{self._import('google.protobuf.message', 'Message')}]]"
        yield f"    PROTO: {proto} = {stub}.{message.name}"
        if part.omitted:
            kind = f"{self._import('typing', 'ClassVar')}[frozenset[str]]"
            yield f"    OMITTED: {kind} = frozenset({part.omitted!r})"
        yield ""
        for i, field in enumerate(message.fields):
            if field.name not in part.omitted:
                is_required = get_bounds(field).required or field.name in part.required
                yield from self._render_field(field, self._proto.message_type[index].field[i], is_required=is_required)
                yield from self._render_docstring((MESSAGES, index, FIELDS, i), "    ")

    def _render_field(self, field: FieldDescriptor, proto: FieldDescriptorProto, *, is_required: bool) -> Iterator[str]:
        bounds = get_bounds(field)
        rules = {} if field.is_repeated else self._render_rules(field)
        if is_secret(field):
            rules["repr"] = "False"
        if is_required:
            kind, default = self._get_type(field), ""
        elif is_optional(field, proto) and not bounds.unset_means:
            kind, default = f"{self._get_type(field)} | None", "None"
        else:
            kind, default = self._get_type(field), self._get_default(field)
        if bounds.unset_means and field.enum_type is None:
            unset = f"{self._import('vfmalign.client.messages.base', 'unset_means')}({default})"
            kind = f"{self._import('typing', 'Annotated')}[{kind}, {unset}]"
        elif rules and default == "0" and bounds.min > 0:
            unset = self._import("vfmalign.client.messages.base", "UNLESS_ZERO")
            kind = f"{self._import('typing', 'Annotated')}[{kind}, {unset}]"
        if default == "dict":
            rules, default = {"default_factory": "dict"} | rules, ""
        if rules:
            rules = ({"default": default} if default else {}) | rules
            default = f"{self._import('pydantic', 'Field')}({_join(rules)})"
        yield f"    {field.name}: {kind}" + (f" = {default}" if default else "")

    def _render_rules(self, field: FieldDescriptor) -> dict[str, str]:
        """The constraints of a number."""
        if field.cpp_type not in INTEGERS | REALS or not get_bounds(field).HasField("max"):
            return {}
        limits = {key: getattr(to_range(field), key) for key in ("gt", "ge", "lt", "le")}
        rules = {key: repr(limit) for key, limit in limits.items() if limit is not None}
        return rules if field.cpp_type in INTEGERS else rules | {"allow_inf_nan": "False"}

    def _get_type(self, field: FieldDescriptor) -> str:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            if get_bounds(field).format == bounds_pb2.FORMAT_VOLUME_KIND:
                return self._import("vfmalign.core.domain.modality_map", "ModalityMap")
            key, value = (self._get_type(field.message_type.fields_by_name[name]) for name in ("key", "value"))
            return f"dict[{key}, {value}]"
        kind = self._get_single_type(field)
        if not field.is_repeated:
            return kind
        if rules := self._render_rules(field):
            constraint = f"{self._import('pydantic', 'Field')}({_join(rules)})"
            kind = f"{self._import('typing', 'Annotated')}[{kind}, {constraint}]"
        return f"tuple[{kind}, ...]"

    def _get_single_type(self, field: FieldDescriptor) -> str:
        if field.message_type is not None:
            if field.message_type.full_name == "google.protobuf.Timestamp":
                return self._import("vfmalign.client.messages.base", "Time")
            return self._refer(field.message_type)
        if field.enum_type is not None:
            return self._refer(field.enum_type)
        bounds = get_bounds(field)
        if bounds.format:
            required, optional, module = FORMATS[bounds.format]
            return self._import(module, required if bounds.required or field.is_repeated else optional)
        if field.cpp_type in INTEGERS:
            return "int"
        return {FieldDescriptor.TYPE_BOOL: "bool", FieldDescriptor.TYPE_STRING: "str"}.get(field.type, "float")

    def _get_default(self, field: FieldDescriptor) -> str:
        meaning = get_bounds(field).unset_means
        if field.enum_type is not None and meaning:
            return f'"{get_enum_label(field.enum_type, field.enum_type.values_by_name[meaning].number)}"'
        if field.is_repeated:
            is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
            return "dict" if is_map else f"({meaning}{'' if ',' in meaning else ','})" if meaning else "()"
        if field.message_type is not None:
            return f"{self._refer(field.message_type)}()"
        if field.type == FieldDescriptor.TYPE_STRING:
            return '""'
        if field.type == FieldDescriptor.TYPE_BOOL:
            return "False"
        return repr(int(meaning or 0) if field.cpp_type in INTEGERS else float(meaning or 0.0))

    def _refer(self, kind: Descriptor | EnumDescriptor) -> str:
        name = NAMES.get(kind.name, kind.name)
        if name in WRITTEN:
            return self._import(WRITTEN[name], name)
        if kind.file is not self._file:
            self._import(".".join((*TARGET.parts, PurePosixPath(kind.file.name).stem)), name)
        return name

    def _import(self, module: str, name: str) -> str:
        self._imports.add((module, name))
        return name

    def _render_docstring(self, path: tuple[int, ...], indent: str) -> Iterator[str]:
        text = re.sub(r"\s+", " ", self._comments[path]).strip()
        if len(line := f'{indent}"""{text}"""') <= 120:
            yield line
        else:
            wrapped = textwrap.wrap(f'"""{text}', 120 - len(indent), break_on_hyphens=False)
            yield from (indent + line for line in wrapped)
            yield f'{indent}"""'


def _join(rules: dict[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in rules.items())


def has_record(message: Descriptor) -> bool:
    """Returns whether a message has a record here."""
    if message.name in PARTS:
        return True
    written = NAMES.get(message.name, message.name) in WRITTEN or WITHOUT_RECORD.fullmatch(message.name)
    return not (written or message.GetOptions().map_entry or _holds_bytes(message))


def _holds_bytes(message: Descriptor) -> bool:
    return any(
        field.type == FieldDescriptor.TYPE_BYTES
        or (field.message_type is not None and field.message_type is not message and _holds_bytes(field.message_type))
        for field in message.fields
    )


def is_optional(field: FieldDescriptor, proto: FieldDescriptorProto) -> bool:
    """Returns whether a field may be absent, so that its record has None."""
    is_time = field.message_type is not None and field.message_type.full_name == "google.protobuf.Timestamp"
    return not field.is_repeated and (proto.HasField("oneof_index") or is_time or field.enum_type is not None)


def _format(text: str) -> str:
    for command in (("check", "--select=I", "--fix-only"), ("format",)):
        text = subprocess.run(["ruff", *command, "-"], input=text, capture_output=True, text=True, check=True).stdout
    return text


def main() -> None:
    """Answers protoc on standard input and output."""
    request = CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    response = CodeGeneratorResponse(supported_features=CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL)
    for proto in request.proto_file:
        name = PurePosixPath(proto.name).stem
        if proto.name not in request.file_to_generate:
            continue
        if text := Module(proto, import_module(f"vfmalign.v1.{name}_pb2").DESCRIPTOR).render():
            response.file.add(name=str(TARGET / f"{name}.py"), content=_format(text))
    sys.stdout.buffer.write(response.SerializeToString())


if __name__ == "__main__":
    main()
