"""Short form of a task with its parameters: `segmentation:label=hippocampus,structure=anterior`.

It stands in tables, in stored specs and on the command line. A task without parameters is its name alone.
"""

from __future__ import annotations

from pydantic import ValidationError

from vfmalign.core.domain.declarations import TaskParameters
from vfmalign.core.domain.errors import BadOption

PARAMETER_KEYS = {
    "labels": "label",
    "structures": "structure",
    "class_name": "class",
    "inputs": "from",
    "target": "to",
    "modalities": "modality",
}
"""Key of each parameter in the short form, which is also the name of its option on the command line."""
_FIELDS = {key: field for field, key in PARAMETER_KEYS.items()}
_REMEDY = "write NAME:KEY=VALUE+VALUE,KEY=VALUE, such as segmentation:label=hippocampus,structure=anterior"


def format_task(name: str, parameters: TaskParameters) -> str:
    """Returns the short form, from which `parse_task` returns the same name and parameters."""
    entries = []
    for field, key in PARAMETER_KEYS.items():
        value: str | tuple[str, ...] = getattr(parameters, field)
        if value:
            entries.append(f"{key}={value if isinstance(value, str) else '+'.join(value)}")
    return f"{name}:{','.join(entries)}" if entries else name


def parse_task(text: str) -> tuple[str, TaskParameters]:
    """Returns the name and the parameters of a short form.

    Raises:
        BadOption: the text has another form.
    """
    name, colon, entries = text.partition(":")
    fields: dict[str, str | list[str]] = {}
    for entry in entries.split(",") if colon else ():
        key, _, value = entry.partition("=")
        field = _FIELDS.get(key)
        if field is None:
            raise BadOption(f"a task has no parameter {key[:64]!r}", field="task", remedy=_REMEDY)
        if field in fields or not value:
            problem = "stands twice" if field in fields else "has no value"
            raise BadOption(f"{key} {problem} in {text[:64]!r}", field="task", remedy=_REMEDY)
        fields[field] = value if field in {"class_name", "target"} else value.split("+")
    try:
        return name, TaskParameters.model_validate(fields)
    except ValidationError as error:
        key = PARAMETER_KEYS[str(error.errors()[0]["loc"][0])]
        raise BadOption(f"{key} of {text[:64]!r} is not a list of ids", field="task", remedy=_REMEDY) from None


def to_id_part(text: str) -> str:
    """Returns a short form as a part of an id, which has no `:`, `,`, `=` or `+`; different tasks differ."""
    return text.translate(str.maketrans(":,=+", "..--"))
