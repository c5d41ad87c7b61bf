"""Tasks with their parameters, and their short form: `segmentation:label=hippocampus,structure=anterior`.

The short form is used in tables, in stored specs and on the command line. A task without parameters is just its name.
"""

from __future__ import annotations

from typing import Self

from pydantic import ValidationError, field_validator, model_serializer, model_validator

from vfmalign.core.domain.declarations import MAX_GRADE, TaskParameters
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.record import Record

PARAMETER_KEYS = {
    "labels": "label",
    "structures": "structure",
    "class_name": "class",
    "grade": "grade",
    "at_least": "at_least",
    "number": "number",
    "inputs": "from",
    "target": "to",
    "modalities": "modality",
}
"""Key of each parameter in the short form, which is also the name of its option on the command line, if it has one."""
_FIELDS = {key: field for field, key in PARAMETER_KEYS.items()}
_REMEDY = "write NAME:KEY=VALUE+VALUE,KEY=VALUE, such as segmentation:label=hippocampus,structure=anterior"


class Task(Record):
    """A task with its parameters. Records store the short form and parse it again when they are read.

    Attributes:
        name: key in `tasks.TASKS`. Unknown tasks are not in `TASKS`.
        parameters: parameters of the task. Empty parameters take the dataset's defaults.
    """

    name: str
    parameters: TaskParameters = TaskParameters()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses the short form of a task.

        Raises:
            BadOption: the text is malformed.
        """
        return cls.model_validate(_parse(text))

    def __str__(self) -> str:
        """Returns the short form, from which `parse` returns an equal task."""
        entries = []
        for field, key in PARAMETER_KEYS.items():
            value: str | int | tuple[str, ...] = getattr(self.parameters, field)
            if value:
                entries.append(f"{key}={'+'.join(value) if isinstance(value, tuple) else value}")
        return f"{self.name}:{','.join(entries)}" if entries else self.name

    @model_validator(mode="before")
    @classmethod
    def _parse_short_form(cls, value: object) -> object:
        return _parse(value) if isinstance(value, str) else value

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not name:
            raise ValueError("no task is named")
        return name

    @model_serializer
    def _to_short_form(self) -> str:
        return str(self)


def _parse(text: str) -> dict[str, object]:
    """Returns the fields of a task by its short form."""
    name, colon, entries = text.partition(":")
    if not name:
        raise BadOption("no task is named", field="task.name", remedy=_REMEDY)
    fields: dict[str, str | list[str]] = {}
    for entry in entries.split(",") if colon else ():
        key, _, value = entry.partition("=")
        field = _FIELDS.get(key)
        if field is None:
            raise BadOption(f"a task has no parameter {key[:64]!r}", field="task", remedy=_REMEDY)
        if field in fields or not value:
            problem = "is given twice" if field in fields else "has no value"
            raise BadOption(f"{key} {problem} in {text[:64]!r}", field="task", remedy=_REMEDY)
        is_list = isinstance(TaskParameters.model_fields[field].default, tuple)
        fields[field] = value.split("+") if is_list else value
    try:
        parameters = TaskParameters.model_validate(fields)
    except ValidationError as error:
        raise _refuse_value(text, str(error.errors()[0]["loc"][0])) from None
    if "at_least" in fields and not parameters.at_least:  # it would mean the declared grade
        raise _refuse_value(text, "at_least")
    return {"name": name, "parameters": parameters}


def _refuse_value(text: str, field: str) -> BadOption:
    if field == "at_least":
        expected = f"a grade from 1 to {MAX_GRADE}"
    else:
        expected = "a list of ids" if isinstance(TaskParameters.model_fields[field].default, tuple) else "an id"
    return BadOption(f"{PARAMETER_KEYS[field]} of {text[:64]!r} is not {expected}", field="task", remedy=_REMEDY)


def to_id_part(text: str) -> str:
    """Converts a short form to a part of an id, without `:`, `,`, `=` and `+`. Different tasks have different parts."""
    return text.translate(str.maketrans(":,=+", "..--"))
