"""Names the options and arguments of a command in its errors, in place of the API's fields."""

from __future__ import annotations

from collections.abc import Iterator
from functools import wraps
from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperGroup

from vfmalign.core.domain.errors import InvalidInput

_SAMPLES = ("x", "y", "reference")
"""Fields whose whole content one argument names."""
_MESSAGES = frozenset({"kernel", "modality_map", "parameters", "recipe", "spec", "task", "tasks", "test"})
"""Parts of paths that hold such fields. Others, such as the declaration in a file, keep the path within them."""
_PARAMETERS = {
    "bandwidth_rule": "bandwidth",
    "bootstrap_resamples": "bootstrap",
    "check_id": "resource_id",
    "dataset_id": "dataset",
    "experiment_id": "resource_id",
    "family": "kernel",
    "fixed_sigma": "sigma",
    "inputs": "from_modality",
    "interval_level": "level",
    "job_id": "resource_id",
    "labels": "label",
    "layers": "layer",
    "measures": "measure",
    "modalities": "modality",
    "model_id": "model",
    "model_ids": "model",
    "patch_shape_dhw": "patch",
    "probe_steps": "probe_step",
    "seeds": "seed",
    "smallest_differences": "smallest_difference",
    "structures": "structure",
    "target": "to_modality",
    "tasks": "task",
    "x": "a",
    "y": "b",
}
"""Parameters of commands by the field that they fill, where their names differ."""


def name_options(command: TyperCommand | TyperGroup) -> None:
    """Lets a command, or every command of a group, name its options in the errors that it raises."""
    if isinstance(command, TyperGroup):
        for member in command.commands.values():
            name_options(member)  # type: ignore[arg-type]
        return
    callback: Any = command.callback
    names = {str(parameter.name): _get_label(parameter) for parameter in command.params}

    @wraps(callback)
    def run(*args: Any, **arguments: Any) -> Any:
        try:
            return callback(*args, **arguments)
        except InvalidInput as error:
            error.subject = next(
                (names[name] for name in _list_parameters(error.subject) if name in names), error.subject
            )
            raise

    command.callback = run


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
