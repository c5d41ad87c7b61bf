"""Lists the environment variables of a settings class for `--help` and the settings reference."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

_TYPES: dict[object, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "text",
    SecretStr: "secret",
    Path: "path",
}


@dataclass(frozen=True)
class Variable:
    """One environment variable.

    Attributes:
        name: its name.
        group: settings class that defines the variable.
        field: type, default and description of the variable.
    """

    name: str
    group: type[BaseModel]
    field: FieldInfo

    @property
    def description(self) -> str:
        """Description of the variable, as one clause."""
        return self.field.description or ""

    @property
    def default(self) -> str | None:
        """Default value of the variable, as text; empty if there is no default, None if the variable is required."""
        value = self.field.get_default(call_default_factory=False)
        if value is PydanticUndefined:
            return None
        if isinstance(value, bool):
            return str(value).lower()
        if value is None or value in ((), {}):
            return ""
        return json.dumps(value) if isinstance(value, tuple) else str(value)

    @property
    def type(self) -> str:
        """Type and bounds of the variable, in words."""
        bounds = {type(one): one for one in self.field.metadata}
        parts = [_describe_type(self.field.annotation)]
        if Gt in bounds:
            parts.append(f"above {_format(bounds[Gt].gt)}")
        if Ge in bounds and Le in bounds:
            parts.append(f"{_format(bounds[Ge].ge)} to {_format(bounds[Le].le)}")
        elif Ge in bounds:
            parts.append(f"at least {_format(bounds[Ge].ge)}")
        elif Le in bounds:
            parts.append(f"at most {_format(bounds[Le].le)}")
        return ", ".join(parts)


def list_variables(settings: type[BaseSettings]) -> Iterator[Variable]:
    """Yields the variables of a settings class and its groups, in the order of the fields."""
    return _list_fields(settings, settings.model_config.get("env_prefix", ""), ())


def _list_fields(group: type[BaseModel], prefix: str, path: tuple[str, ...]) -> Iterator[Variable]:
    for name, field in group.model_fields.items():
        if field.exclude:  # set by the program
            continue
        inner = _get_group(field)
        if inner is None:
            alias = field.validation_alias
            yield Variable(alias if isinstance(alias, str) else prefix + "__".join((*path, name)).upper(), group, field)
        else:  # a group that is a settings class itself reads its variables without the name of the field
            names = (name, "<name>") if get_origin(field.annotation) is dict else (name,)
            yield from _list_fields(inner, prefix, () if issubclass(inner, BaseSettings) else (*path, *names))


def _get_group(field: FieldInfo) -> type[BaseModel] | None:
    candidates: tuple[object, ...] = (field.annotation, *get_args(field.annotation))
    return next((one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)), None)


def _describe_type(annotation: object) -> str:
    origin, arguments = get_origin(annotation), [one for one in get_args(annotation) if one is not NoneType]
    if origin is Literal:
        return "one of " + ", ".join(f"`{value}`" for value in arguments)
    if origin in (tuple, dict):
        return "JSON list" if origin is tuple else "JSON object"
    return _describe_type(arguments[0]) if arguments else _TYPES[annotation]


def _format(number: float) -> str:
    return f"{int(number):,}" if number == int(number) else str(number)
