"""Builds the recipe and the task of a training from `--recipe`, `--set` and other options."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError

from vfmalign.cli.options import parse_choice, split_list
from vfmalign.cli.set_option import Keys, Settings, list_keys
from vfmalign.client.messages.jobs import Recipe
from vfmalign.client.messages.tasks import Task
from vfmalign.core.domain.declarations import TaskParameters
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.jobs import TrainingRecipe
from vfmalign.core.domain.recipes import FINETUNING_RECIPES, PRESETS, PRETRAINING_RECIPES, Preset
from vfmalign.core.domain.record import Record
from vfmalign.core.domain.task_text import PARAMETER_KEYS
from vfmalign.core.formats.untrusted import parse_json, read_regular_file

R = TypeVar("R", bound=Record)

MAX_RECIPE_BYTES = 64 * 2**10
RECIPE = Keys(Recipe, "recipe", choices={"preset": PRESETS})
TASK = Keys(TaskParameters, "task")
_FINETUNING: dict[Preset, list[TrainingRecipe]] = {
    preset: [recipes[preset]["pretrained"] for recipes in FINETUNING_RECIPES.values()] for preset in PRESETS
}
_PRETRAINING: dict[Preset, list[TrainingRecipe]] = {
    preset: [recipes[preset] for families in PRETRAINING_RECIPES.values() for recipes in families.values()]
    for preset in PRESETS
}

RecipeOption = Annotated[
    Path | None,
    typer.Option("--recipe", metavar="FILE", help="Read the recipe from this TOML or JSON file. Its keys are below."),
]


def build_recipe(
    settings: Settings,
    file: Path | None = None,
    *,
    preset: str | None = None,
    epochs: int | None = None,
    steps_per_epoch: int | None = None,
) -> Recipe:
    """Builds a recipe from a file. `--set` and the command's options override values in the file.

    Raises:
        BadOption: the file is not a recipe, a value is out of range, or an option repeats a key of `--set`.
    """
    sources = (
        ("--set", settings["recipe"]),
        ("--preset", {"preset": preset}),
        ("--epochs", {"epochs": epochs}),
        ("--steps-per-epoch", {"steps_per_epoch": steps_per_epoch}),
    )
    recipe = _merge(RECIPE, Recipe, {"preset": "default"} | ({} if file is None else read_recipe(file)), sources)
    parse_choice(recipe.preset, PRESETS, "--preset")
    return recipe


def read_recipe(file: Path) -> dict[str, Any]:
    """Returns the fields of the recipe in a file. The file is JSON if its name ends with `.json`, else TOML.

    Raises:
        BadOption: the file cannot be read, or a field is unknown, has another type or is out of range.
    """
    content = read_table(file, "--recipe")
    try:
        recipe = Recipe.model_validate_json(json.dumps(content, default=str), strict=True)
    except ValidationError as error:
        raise _explain(error, RECIPE, "--recipe") from None
    return recipe.model_dump(exclude_unset=True)


def read_table(file: Path, option: str) -> Any:
    """Returns the content of an option's file. The file is JSON if its name ends with `.json`, else TOML.

    Raises:
        BadOption: the file cannot be read.
    """
    try:
        data = read_regular_file(file, MAX_RECIPE_BYTES)
        is_json = file.suffix.lower() == ".json"
        return parse_json(data, MAX_RECIPE_BYTES, unique_names=True) if is_json else tomllib.loads(data.decode())
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadOption(
            f"the file cannot be read: {reason}", field=option, remedy="give a TOML or JSON file of at most 64 KiB"
        ) from None


def build_task(task: str, settings: Settings, **options: str | int | list[str] | None) -> Task:
    """Builds a task from its short form, `--set` and the options of the command.

    Args:
        task: short form.
        settings: values of `--set`.
        options: values of the options for single parameters, by parameter. The values of a repeatable option are lists.

    Raises:
        BadOption: a name is not an id, or a parameter is named twice.
    """
    named = Task.parse(task)
    sources: list[tuple[str, Mapping[str, Any]]] = [
        ("--task", named.parameters.model_dump()),
        ("--set", settings["task"]),
    ]
    for field, value in options.items():
        option = f"--{PARAMETER_KEYS[field].replace('_', '-')}"
        sources.append((option, {field: split_list(value) if isinstance(value, list) else value}))
    return named.model_copy(update={"parameters": _merge(TASK, TaskParameters, {}, sources)})


def list_recipe_keys(*groups: Keys, pretraining: bool = False) -> str:
    """Returns the text at the end of a command's help, which lists the `--set` keys of a recipe or of a task."""
    presets = _PRETRAINING if pretraining else _FINETUNING
    return list_keys(
        *groups,
        notes="These keys override --recipe. The file of --recipe has the keys of the recipe, without `recipe.`. If "
        "several defaults are listed, the default of the task or model applies.",
        describe_default=lambda group, field: _describe_defaults(field, presets) if group is RECIPE else "",
    )


def _merge(
    keys: Keys, kind: type[R], content: Mapping[str, Any], sources: Iterable[tuple[str, Mapping[str, Any]]]
) -> R:
    """Returns a record with the values of options by their names; no two options may set the same field."""
    fields, origins = dict(content), dict[str, str]()
    for option, values in sources:
        for field, value in values.items():
            if value in (None, (), ""):
                continue
            if field in origins:
                raise BadOption(
                    f"{keys.name(field)} is also set by {origins[field]}", field=option, remedy="set it once"
                )
            fields[field], origins[field] = value, option
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise _explain(error, keys, origins[str(error.errors()[0]["loc"][0])]) from None


def _explain(error: ValidationError, keys: Keys, source: str) -> BadOption:
    """Returns the first problem of a recipe or task as an error of the option that gave it."""
    problem = error.errors(include_url=False)[0]
    if not problem["loc"]:
        return BadOption("the file is not a table of keys", field=source, remedy="write KEY = VALUE lines")
    name = str(problem["loc"][0])
    if problem["type"] == "extra_forbidden":
        choices = ", ".join(keys.schemas)
        return BadOption(f"there is no key {name[:64]!r}", field=source, remedy=f"choose one of {choices}")
    return keys.refuse(name, error, source)


def _describe_defaults(field: str, presets: Mapping[Preset, Sequence[TrainingRecipe]]) -> str:
    """Describes the defaults of a field of a recipe, such as `100 (preset demo: 8)`."""
    if field == "preset":
        return "default"
    texts = {
        preset: " or ".join(dict.fromkeys(_format(getattr(recipe, field)) for recipe in recipes))
        for preset, recipes in presets.items()
    }
    return texts["default"] if texts["demo"] == texts["default"] else f"{texts['default']} (demo: {texts['demo']})"


def _format(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None else f"{value:g}"
