"""Requests for alignment checks and the recipes of their three trainings."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from vfmalign.core.domain.artifacts import Id, Network, Record, TrainingRecipe
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.recipes import recipe_for
from vfmalign.core.domain.tasks import get_task_spec
from vfmalign.finetuning.jobs.request import NETWORKS, OptionalSha256, RecipeRequest, Seed

# What makes two trainings comparable; everything else is each network's own.
BUDGET = ("epochs", "steps_per_epoch", "batch_size", "patch_shape_DHW")

CheckId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,79}$")]


class CheckRequest(Record):
    """One check as asked for; fields as in `alignment.proto`."""

    model: Id
    model_sha256: OptionalSha256 = ""
    dataset: Id
    dataset_digest: OptionalSha256 = ""
    task: str
    layers: tuple[str, ...] = ()
    recipe: RecipeRequest = RecipeRequest()
    scratch_recipe: RecipeRequest | None = None
    specialised_recipe: RecipeRequest | None = None
    seed: Seed = 0
    permutations: int = Field(default=1_000, ge=1, le=100_000)
    bootstrap_resamples: int = Field(default=2_000, ge=100, le=100_000)
    interval_level: float = Field(default=0.95, gt=0.0, lt=1.0)

    def recipe_of(self, network: Network) -> TrainingRecipe:
        """The recipe of one of the three trainings.

        A baseline has its own rates and decays, but the pretrained network's budget unless it is asked for otherwise.
        Only the pretrained network is probed.

        Raises:
            BadOption: an unknown task or preset, or probes where there is no validation.
        """
        preset = self.recipe.known_preset()
        main = self.recipe.applied_to(recipe_for("pretrained", self.task, preset))
        if network == "pretrained":
            return main
        own = self.scratch_recipe if network == "scratch" else self.specialised_recipe
        if own is not None and own.preset:
            preset = own.known_preset()
        base = recipe_for(network, self.task, preset).model_copy(update={name: getattr(main, name) for name in BUDGET})
        return base if own is None else own.applied_to(base)

    def check(self) -> None:
        """Refuses what can never succeed, before anything is stored.

        Raises:
            BadOption: an unknown task or preset, a layer named twice, or probes of a baseline or without validation.
        """
        get_task_spec(self.task)
        for name, own in (("scratch", self.scratch_recipe), ("specialised", self.specialised_recipe)):
            if own is not None and own.probe_steps:
                raise BadOption(
                    "only the pretrained network is probed",
                    field=f"{name}_recipe.probe_steps",
                    remedy="give them in `recipe`",
                )
        for network in NETWORKS:
            self.recipe_of(network)
        if len(set(self.layers)) != len(self.layers):
            raise BadOption("a layer is named twice", field="layers", remedy="name each layer once")
