"""The command that repeats a check."""

from __future__ import annotations

import shlex

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.jobs import Recipe

_RECIPE_OPTIONS = ("preset", "epochs", "steps_per_epoch")


def write_repeat_command(spec: CheckSpec) -> str:
    """Returns a command line that requests the check again with a new id.

    The result is empty if the request sets a field for which the command line has no option. In this case, you can send
    `checks/<id>/spec.json` to the API.
    """
    unsupported = (
        spec.scratch_recipe, spec.specialised_recipe, spec.shuffled_labels, spec.random_weights,
        spec.recipe_seed not in {None, spec.seed}, spec.plan, spec.train_cases,
    )  # fmt: skip
    if any(unsupported):
        return ""
    defaults = CheckSpec(model_id=spec.model_id, dataset_id=spec.dataset_id, task=spec.task)
    numbers = {
        "--seed": spec.seed,
        "--random-seeds": spec.random_seeds or None,
        "--seeds": None if spec.seeds == defaults.seeds else spec.seeds,
        "--permutations": None if spec.permutations == defaults.permutations else spec.permutations,
        "--bootstrap": None if spec.bootstrap_resamples == defaults.bootstrap_resamples else spec.bootstrap_resamples,
        "--level": None if spec.interval_level == defaults.interval_level else spec.interval_level,
        "--smallest-difference": spec.smallest_difference or None,
        "--require-licence": spec.require_licence or None,
    }
    arguments = ["vfmalign", "check", spec.dataset_id, "--task", str(spec.task), "--model", spec.model_id]
    arguments += [argument for layer in spec.layers for argument in ("--layer", layer)]
    arguments += [argument for pair in sorted(spec.modality_map.items()) for argument in ("--map", "=".join(pair))]
    arguments += ["--allow-cut-organs"] if spec.allow_cut_organs else []
    arguments += ["--frozen"] if spec.frozen else []
    arguments += _list_recipe_options(spec.recipe)
    arguments += [argument for name, value in numbers.items() if value is not None for argument in (name, f"{value}")]
    return shlex.join(arguments)


def _list_recipe_options(recipe: Recipe) -> list[str]:
    arguments = []
    for field, value in recipe.model_dump(exclude_defaults=True).items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else f"{value}"
        if field not in _RECIPE_OPTIONS:
            arguments += ["--set", f"recipe.{field}={text}"]
        elif text != "default":
            arguments += [f"--{field.replace('_', '-')}", text]
    return arguments
