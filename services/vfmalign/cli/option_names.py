"""Replaces the API's field names in errors by the options and arguments of the command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from typer.core import TyperArgument, TyperGroup

_SAMPLES = ("x", "y", "reference")
"""Fields that a single argument fills completely."""
_MESSAGES = frozenset(
    {"feature_set", "kernel", "modality_map", "parameters", "recipe", "reference", "spec", "task", "tasks", "test"}
)
"""Parts of paths that hold such fields. Others, such as the declaration in a file, keep the path within them."""
_PARAMETERS = {
    "check_id": "resource_id",
    "experiment_id": "resource_id",
    "feature_set": "source",
    "fixed_sigma": "sigma",
    "interval_level": "level",
    "job_id": "resource_id",
    "layers": "layer",
    "model_id": "model_ids",
    "seed": "seeds",
    "stratum": "by",
    "task": "tasks",
    "x": "a",
    "y": "b",
}
"""Parameters of commands by the field that they fill, where their names differ."""


def name_option(field: str, program: Any, arguments: Sequence[str]) -> str:
    """Returns the option or argument that sets a field of the API.

    Args:
        field: path of the field, such as `spec.recipe.epochs`.
        program: the program, after it has run.
        arguments: arguments with which the program ran.

    Returns:
        The name of the option or argument, such as `--epochs` or `DATASET`. If no option sets the field, the field
        itself, such as `recipe.batch_size`, which is a key of `--set`.
    """
    command = program
    for argument in arguments:
        if isinstance(command, TyperGroup):
            command = command.commands.get(argument, command)
    names = {str(parameter.name): _get_label(parameter) for parameter in command.params}
    return next((names[name] for name in _list_parameters(field) if name in names), field.removeprefix("spec."))


def _list_parameters(path: str) -> Iterator[str]:
    """Yields the parameters that may fill a field such as `spec.recipe.epochs`, beginning with the last part."""
    parts = [part.partition("[")[0] for part in path.split(".")]
    if parts[0] in _SAMPLES:
        parts = parts[:1]
    for part in reversed(parts) if _MESSAGES.issuperset(parts[:-1]) else ():
        yield part
        if part in _PARAMETERS:
            yield _PARAMETERS[part]


def _get_label(parameter: Any) -> str:
    if isinstance(parameter, TyperArgument):
        return str(parameter.metavar or str(parameter.name).upper())
    return str(parameter.opts[0])
