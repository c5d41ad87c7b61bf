"""`--set KEY=VALUE`: fields of records that have no option of their own. `--help` lists these fields."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from vfmalign.cli.options import split_list
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.record import Record

Settings = Mapping[str, Mapping[str, Any]]
"""Values of `--set` by field, by prefix of the keys."""

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set one of the keys below. Repeatable."),
]


@dataclass(frozen=True)
class Keys:
    """Fields of a record that a command accepts in `--set`.

    Attributes:
        record: class of the record.
        prefix: part of a key before the dot; empty for keys that are the names of the fields.
        fields: accepted fields of the record; all fields by default.
        choices: allowed values of fields that the record defines only as text.
    """

    record: type[Record]
    prefix: str = ""
    fields: tuple[str, ...] = ()
    choices: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

    @cached_property
    def schemas(self) -> dict[str, dict[str, Any]]:
        """JSON schemas by field."""
        schemas = self.record.model_json_schema()["properties"]
        return {name: schemas[name] for name in self.fields or schemas}

    def name(self, field: str) -> str:
        """Returns the key of `--set` that sets a field."""
        return f"{self.prefix}.{field}" if self.prefix else field

    def parse(self, field: str, text: str) -> Any:
        """Parses the value of a field.

        Raises:
            BadOption: the value is out of range, or has the wrong type.
        """
        info = self.record.model_fields[field]
        value = split_list([text]) if _get_type(self.schemas[field])["type"] == "array" else text
        try:
            return TypeAdapter(info.rebuild_annotation()).validate_python(value)
        except ValidationError as error:
            raise self.refuse(field, error, "--set") from None

    def refuse(self, field: str, error: ValidationError, option: str) -> BadOption:
        """Converts the first problem of a value to an error that names the option with this value."""
        problem = error.errors(include_url=False)[0]
        value = problem["input"]
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        detail = f": {problem['ctx']['error']}" if problem["type"] == "value_error" else ""
        return BadOption(
            f"{text[:64]!r} is not a value of {self.name(field)}{detail}",
            field=option,
            remedy=f"choose {self.describe_values(field)}",
        )

    def describe_values(self, field: str) -> str:
        """Describes the values of a field, such as `a whole number from 1 to 10,000`."""
        if field in self.choices:
            return " or ".join(self.choices[field])
        schema = _get_type(self.schemas[field])
        if schema["type"] != "array":
            return _describe_values(schema, count=1)
        if "prefixItems" in schema:
            item, number = schema["prefixItems"][0], f"{schema['maxItems']} "
        else:
            item, number = schema["items"], f"up to {schema['maxItems']} " if "maxItems" in schema else ""
        return f"{number}{_describe_values(item, count=2)}, separated by commas"


def parse_settings(texts: Sequence[str] | None, *groups: Keys) -> Settings:
    """Parses the pairs of `--set`.

    Args:
        texts: the pairs.
        groups: the keys of the command.

    Raises:
        BadOption: a pair is malformed, a key is unknown or occurs twice, or a value is out of range.
    """
    settings: dict[str, dict[str, Any]] = {group.prefix: {} for group in groups}
    keys = {group.name(field): (group, field) for group in groups for field in group.schemas}
    for text in texts or ():
        key, _, value = text.partition("=")
        if key not in keys:
            raise BadOption(f"there is no key {key[:64]!r}", field="--set", remedy=f"choose one of {', '.join(keys)}")
        group, field = keys[key]
        if not value or field in settings[group.prefix]:
            problem = "is given twice" if value else "has no value"
            raise BadOption(f"{key} {problem}", field="--set", remedy=f"use {key}=VALUE once")
        settings[group.prefix][field] = group.parse(field, value)
    return settings


def _describe_default(group: Keys, field: str) -> str:
    """Describes the default of a field; empty if the field has no default."""
    schema = group.schemas[field]
    if "default" not in schema:
        return ""
    return "none" if schema["default"] in (None, "", []) else str(schema["default"]).lower()


def list_keys(*groups: Keys, notes: str = "", describe_default: Callable[[Keys, str], str] = _describe_default) -> str:
    r"""Returns the text at the end of a command's help, which lists the keys of `--set` with values and defaults.

    `\b` keeps the line breaks of a paragraph.

    Args:
        groups: the keys of the command.
        notes: sentences about the keys.
        describe_default: returns the default of a field, or an empty text.
    """
    paragraphs = [f"Keys of --set. {notes}".strip()]
    for group in groups:
        for field, schema in group.schemas.items():
            text = f"{' '.join(schema['description'].split())} Value: {group.describe_values(field)}."
            if default := describe_default(group, field):
                text += f" Default: {default}."
            lines = textwrap.wrap(text, 74, initial_indent="  ", subsequent_indent="  ")
            paragraphs.append("\n".join(("\b", group.name(field), *lines)))
    return "\n\n".join(paragraphs)


def _get_type(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the schema of the values of an optional field."""
    first: Mapping[str, Any] = schema.get("anyOf", [schema])[0]
    return first


def _describe_values(schema: Mapping[str, Any], count: int) -> str:
    if "enum" in schema:
        *others, last = schema["enum"]
        return f"{', '.join(others)} or {last}"
    if schema["type"] == "boolean":
        return "true or false"
    names = {"integer": "whole number", "number": "number", "string": "id" if "pattern" in schema else "text"}
    noun, extent = names[schema["type"]], ""
    if "exclusiveMinimum" in schema:
        extent = f" above {_format(schema['exclusiveMinimum'])}, at most {_format(schema['maximum'])}"
    elif "minimum" in schema:
        extent = f" from {_format(schema['minimum'])} to {_format(schema['maximum'])}"
    return f"{noun}s{extent}" if count > 1 else f"{'an' if noun == 'id' else 'a'} {noun}{extent}"


def _format(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"
