"""What clients ask for, as plain records, and how a request becomes a job's spec.

The digest of a request is what makes creation idempotent. Knows recipes, cards and datasets as records; reads them
through the store. Knows nothing of protobuf or databases.
"""

from __future__ import annotations

import importlib.metadata
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from vfmalign.core.domain.artifacts import (
    Id,
    ModelCard,
    Network,
    Objective,
    Preprocessing,
    Record,
    TrainingRecipe,
    TrainingSpec,
    is_id,
    model_card_key,
    probe_id,
)
from vfmalign.core.domain.errors import BadOption, DigestMismatch, NotFound
from vfmalign.core.domain.recipes import PRESETS, Preset, check_probe_steps, pretraining_recipe_for, recipe_for
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.core.storage.object_store import ObjectStore

DEFAULT_ARCHITECTURE = "profound_conv_micro"
NETWORKS: tuple[Network, ...] = ("pretrained", "scratch", "specialised")

OptionalId = Annotated[str, StringConstraints(pattern=r"^([a-z0-9][a-z0-9_.-]{0,127})?$")]
OptionalSha256 = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")]
JobId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,99}$")]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class RecipeRequest(Record):
    """A preset and the fields of it that are set otherwise; None keeps the preset's."""

    preset: str = ""
    epochs: int | None = Field(default=None, ge=1, le=10_000)
    steps_per_epoch: int | None = Field(default=None, ge=1, le=100_000)
    batch_size: int | None = Field(default=None, ge=1, le=1024)
    learning_rate: float | None = Field(default=None, ge=0.0, le=10.0)
    weight_decay: float | None = Field(default=None, ge=0.0, le=10.0)
    layer_decay: float | None = Field(default=None, gt=0.0, le=1.0)
    encoder_rate: float | None = Field(default=None, ge=0.0, le=1.0)
    warmup_fraction: float | None = Field(default=None, ge=0.0, le=1.0)
    patch_shape_DHW: tuple[int, int, int] | None = None
    probe_steps: tuple[int, ...] = ()

    def known_preset(self) -> Preset:
        """The preset's name.

        Raises:
            BadOption: there is none of this name.
        """
        for preset in PRESETS:
            if preset == (self.preset or "default"):
                return preset
        raise BadOption("unknown preset", field="recipe.preset", remedy=f"choose one of {', '.join(PRESETS)}")

    def applied_to(self, base: TrainingRecipe) -> TrainingRecipe:
        """The recipe with every field that is set here.

        Raises:
            BadOption: probes where there is no validation.
        """
        changes = self.model_dump(exclude={"preset"}, exclude_none=True)
        recipe = TrainingRecipe.model_validate(base.model_dump() | changes)
        check_probe_steps(recipe)
        return recipe


class JobRequest(Record):
    """One job as asked for; empty texts mean what `finetuning.proto` says."""

    kind: Literal["pretrain", "finetune"]
    dataset: Id
    dataset_digest: OptionalSha256 = ""
    architecture: str = ""
    objective: Objective = "supervised"
    network: Network = "pretrained"
    model: OptionalId = ""
    model_sha256: OptionalSha256 = ""
    task: str = ""
    recipe: RecipeRequest = RecipeRequest()
    seed: Seed = 0
    publish_as: OptionalId = ""


def load_card(store: ObjectStore, model: str, sha256: str = "") -> ModelCard:
    """Reads a model's card and checks that its weights are those that were asked for.

    Raises:
        NotFound: there is no such model.
        DigestMismatch: it has other weights.
    """
    try:
        card = store.read(model_card_key(model), ModelCard)
    except NotFound as error:
        raise NotFound("no such model", subject=model, remedy="see FeatureService.ListModels") from error
    if sha256 and card.checkpoint.sha256 != sha256:
        raise DigestMismatch(
            "the stored weights have another digest than asked for", subject=model, remedy="ask for the stored one"
        )
    return card


def resolve_job(store: ObjectStore, job_id: str, request: JobRequest) -> TrainingSpec:
    """Turns a request into a spec, with the digests of what is stored now.

    Raises:
        BadOption: fields that do not fit together.
        NotFound: the model or dataset does not exist.
        DigestMismatch: one of them is not the one asked for.
    """
    digest = load_dataset(store, request.dataset, request.dataset_digest or None).digest()
    if request.kind == "pretrain":
        return _pretraining_spec(job_id, request, digest)
    if not request.model:
        raise BadOption("required for fine-tuning", field="spec.model_id", remedy="name the pretrained model")
    base = recipe_for(request.network, request.task, request.recipe.known_preset())
    card = load_card(store, request.model, request.model_sha256)
    return finetuning_spec(job_id, request, card, digest, request.recipe.applied_to(base))


def finetuning_spec(
    job_id: str, request: JobRequest, card: ModelCard, digest: str, recipe: TrainingRecipe
) -> TrainingSpec:
    """The spec of a fine-tuning job.

    Args:
        job_id: the job.
        request: what was asked.
        card: of the model it starts from, or whose architecture or input preparation it shares.
        digest: of the dataset.
        recipe: how to train.
    """
    specialised = request.network == "specialised"
    if specialised and request.publish_as:
        raise BadOption("a specialised network has no encoder to publish", field="spec.publish_as")
    if specialised and recipe.probe_steps:
        raise BadOption(
            "a specialised network has no encoder to probe", field="spec.recipe.probe_steps", remedy="leave them out"
        )
    publish_as = "" if specialised else request.publish_as or f"{job_id}-encoder"
    if recipe.probe_steps and not is_id(probe_id(publish_as, recipe.probe_steps[-1])):
        raise BadOption(
            "too long to name probes after", field="spec.publish_as", remedy="use at most 100 characters for it"
        )
    return TrainingSpec(
        id=job_id,
        kind="finetune",
        dataset=request.dataset,
        dataset_digest=digest,
        architecture=card.architecture,
        network=request.network,
        model=card.id,
        model_sha256=card.checkpoint.sha256,
        task=request.task,
        recipe=recipe,
        seed=request.seed,
        publish_as=publish_as,
    )


class BaselineTraining(Record):
    """All that a baseline's training depends on: equal ones have equal results.

    Attributes:
        version: of vfmalign.
        spec: the job's, without its own names, without the model that is checked against it, whose weights are never
            read, and for a specialised network without the model's architecture.
        preprocessing: how inputs are prepared.
    """

    version: str
    spec: dict[str, Any]
    preprocessing: Preprocessing


def baseline_digest(spec: TrainingSpec, card: ModelCard) -> str:
    """SHA-256 by which checks find that they share a baseline."""
    own = {"id", "publish_as", "model", "model_sha256"} | ({"architecture"} if spec.network == "specialised" else set())
    return BaselineTraining(
        version=importlib.metadata.version("vfmalign"),
        spec=spec.model_dump(mode="json", exclude=own),
        preprocessing=card.preprocessing,
    ).digest()


def _pretraining_spec(job_id: str, request: JobRequest, digest: str) -> TrainingSpec:
    if request.model or request.task:
        raise BadOption("only fine-tuning has a model and a task", field="spec.kind", remedy="leave them empty")
    if request.recipe.probe_steps:
        raise BadOption("only fine-tuning is probed", field="spec.recipe.probe_steps", remedy="leave them out")
    architecture = request.architecture or DEFAULT_ARCHITECTURE
    base = pretraining_recipe_for(request.objective, architecture, request.recipe.known_preset())
    return TrainingSpec(
        id=job_id,
        kind="pretrain",
        dataset=request.dataset,
        dataset_digest=digest,
        architecture=architecture,
        objective=request.objective,
        network="scratch",
        recipe=request.recipe.applied_to(base),
        seed=request.seed,
        publish_as=request.publish_as or f"{job_id}-encoder",
    )
