"""Stages of an alignment check: their order, their artifacts and how each is computed.

    validate → features_reference, features_before, features_random → job_* → features_after → mmd, measures → report
                                                                    ↘ probes, while the pretrained network trains ↗

A stage whose artifact exists is done. The reconciler runs the stages and retries them; `probes`, `similarity` and
`reporting` define the stages that are not here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from vfmalign.client.features import AsyncFeaturesClient
from vfmalign.client.messages.common import Progress
from vfmalign.client.messages.features import ExtractDatasetRequest
from vfmalign.client.messages.jobs import JobSpec
from vfmalign.client.mmd import AsyncMmdClient
from vfmalign.core.domain.datasets import Split
from vfmalign.core.domain.errors import BadDataset, BadOption, NotFound, VfmalignError
from vfmalign.core.domain.jobs import JobResult, Network, TrainingRecipe
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.domain.record import Record
from vfmalign.core.domain.tasks import get_task_spec
from vfmalign.core.storage.datasets import check_leakage, load_dataset
from vfmalign.core.storage.keys import check_key, job_key
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.finetuning.analysis.records import FeatureShift
from vfmalign.finetuning.checks.clients import ComparisonRequest, FeatureSetRef, compare, extract
from vfmalign.finetuning.checks.repository import Check
from vfmalign.finetuning.checks.request import get_recipe
from vfmalign.finetuning.db.repository import NO_FREE_SLOT
from vfmalign.finetuning.jobs.repository import Job, JobRepository
from vfmalign.finetuning.jobs.request import NETWORKS, baseline_digest, finetuning_spec, load_card, to_recipe

AnyRecord = TypeVar("AnyRecord", bound=Record)


class Validated(Record):
    """`checks/<id>/stages/validate.json`: the inputs of the check, pinned from here on.

    Attributes:
        layers: compared layers, the primary one first.
        test_groups: number of patients in the test split.
        recipes: of the three trainings, with the presets as they were when the check began.
    """

    card: ModelCard
    dataset_digest: str
    layers: tuple[str, ...]
    primary_layer: str
    input_transform: str
    held_out: bool
    phantom: bool
    leakage_known: bool
    test_groups: int
    recipes: dict[Network, TrainingRecipe]


class SetStatus(Protocol):
    """Reports what a stage is doing."""

    async def __call__(self, detail: str, progress: Progress | None = None, *, reason: str = "") -> None:
        """Replaces the stage's progress.

        Args:
            detail: one sentence.
            progress: counts, where there are some.
            reason: UPPER_SNAKE_CASE constant while the stage waits.
        """


@dataclass(frozen=True)
class StageContext:
    """What the stages of one check work with.

    Attributes:
        set_status: reports the stage's progress.
        poll_s: pause between two queries of a job, in seconds.
    """

    check: Check
    store: ObjectStore
    jobs: JobRepository
    features: AsyncFeaturesClient
    mmd: AsyncMmdClient
    set_status: SetStatus
    poll_s: float


class Outputs:
    """Artifacts of the finished stages, by stage."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}

    def __contains__(self, stage: str) -> bool:
        return stage in self._records

    def put(self, stage: str, record: Record) -> None:
        """Adds a stage's artifact."""
        self._records[stage] = record

    def get(self, stage: str, record: type[AnyRecord]) -> AnyRecord:
        """Returns the artifact of a stage.

        Raises:
            TypeError: the stage creates artifacts of another type.
        """
        artifact = self._records[stage]
        if not isinstance(artifact, record):
            raise TypeError(f"stage {stage} created a {type(artifact).__name__}, expected a {record.__name__}")
        return artifact


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        needs: stages whose artifacts it reads, directly or through others.
        find: returns the artifact where it exists, else None.
        make: does the work, stores the artifact and returns it.
    """

    name: str
    needs: tuple[str, ...]
    find: Callable[[StageContext], Awaitable[Record | None]]
    make: Callable[[StageContext, Outputs], Awaitable[Record]]


def job_id(check_id: str, network: Network) -> str:
    """Returns the id of one of a check's jobs."""
    return f"{check_id}-{network}"


def encoder_id(check_id: str, network: Network) -> str:
    """Returns the id under which a job publishes its encoder; empty for the specialised network."""
    return {"pretrained": f"{check_id}-encoder", "scratch": f"{check_id}-scratch-encoder"}.get(network, "")


# --- making -----------------------------------------------------------------------------------------------------------


def validate(store: ObjectStore, check: Check) -> Validated:
    """Checks model, dataset and splits before anything costs compute.

    Raises:
        NotFound: the model or the dataset does not exist.
        DigestMismatch: one of them has another digest than requested.
        BadOption: a layer that the model does not have, or a channel that its input lacks for the task.
        BadDataset: a split without a case.
        Leakage: a test case was seen in training, validation or pretraining.
    """
    request = check.request
    card = load_card(store, request.model_id, request.model_sha256)
    dataset = load_dataset(store, request.dataset_id, request.dataset_digest or None)
    for split in ("train", "val", "test"):
        if not getattr(dataset, split):
            raise BadDataset(f"the split {split!r} holds no case", subject=dataset.id, remedy="add at least one case")
    check_leakage(dataset, card.pretraining)
    task = get_task_spec(request.task)
    task.check_input(card.id, card.preprocessing.modalities)
    return Validated(
        card=card,
        dataset_digest=dataset.digest(),
        layers=_layers(card, request.layers),
        primary_layer=card.primary_layer,
        input_transform=task.input_transform,
        held_out=dataset.held_out,
        phantom=dataset.phantom,
        leakage_known=bool(card.pretraining) or card.objective == "random",
        test_groups=len({case.group for case in dataset.test}),
        recipes={network: get_recipe(request, network) for network in NETWORKS},
    )


def _layers(card: ModelCard, requested: tuple[str, ...]) -> tuple[str, ...]:
    known = [layer.name for layer in card.layers]
    for layer in requested:
        if layer not in known:
            raise BadOption(f"no layer {layer[:64]!r}", field="layers", remedy=f"choose among {', '.join(known)}")
    chosen = requested or tuple(known)
    # The card declares the primary layer before any result is known, so it is always compared.
    return (card.primary_layer, *(layer for layer in chosen if layer != card.primary_layer))


async def _make_validate(context: StageContext, outputs: Outputs) -> Record:
    await context.set_status("checking model, dataset and splits")
    return await asyncio.to_thread(validate, context.store, context.check)


async def _make_features(
    context: StageContext, outputs: Outputs, *, stage: str, split: Split, after: bool = False, random: bool = False
) -> Record:
    valid = outputs.get("validate", Validated)
    model, sha256 = valid.card.id, valid.card.checkpoint.sha256
    if after:
        result = outputs.get("job_pretrained", JobResult)
        model, sha256 = result.encoder, result.encoder_sha256
    request = extraction_request(context, valid, model, sha256, split)
    if random:
        update = {"initialisation": "random", "initialisation_seed": context.check.request.seed}
        request = request.model_copy(update=update)
    detail = f"extracting features of {split} ({stage.removeprefix('features_')})"
    await context.set_status(detail)
    return await extract(context.features, request, partial(context.set_status, detail))


def extraction_request(
    context: StageContext, valid: Validated, model: str, sha256: str, split: Split
) -> ExtractDatasetRequest:
    """Returns the request for the features of a split: every compared layer of a model, on the task's input."""
    return ExtractDatasetRequest(
        model_id=model,
        checkpoint_sha256=sha256,
        dataset_id=context.check.request.dataset_id,
        dataset_digest=valid.dataset_digest,
        split=split,
        layers=valid.layers,
        input_transform=valid.input_transform,
    )


async def ensure_job(context: StageContext, valid: Validated, network: Network) -> str:
    """Creates one of the check's jobs unless it exists, and returns its id.

    The jobs before it are created first, so that they queue in this order whichever stage runs first: the features
    after need the pretrained network only. Jobs that ended without a result before the check was retried are retried.
    """
    for earlier in NETWORKS[: NETWORKS.index(network) + 1]:
        await asyncio.to_thread(_create_job, context, valid, earlier)
    return job_id(context.check.id, network)


def refuse_unfinished(job: Job) -> None:
    """Raises the failure of a finished job, unless it succeeded."""
    if job.state != "succeeded":
        reason = job.failure.reason if job.failure is not None else "JOB_CANCELLED"
        raise VfmalignError(job.progress.detail, subject=f"job {job.id}", reason=reason)


async def _make_job(context: StageContext, outputs: Outputs, *, network: Network) -> Record:
    name = await ensure_job(context, outputs.get("validate", Validated), network)
    while not (job := await asyncio.to_thread(context.jobs.get, name)).finished:
        if job.progress.phase == "training" and not job.progress.reason:
            attempt = f", attempt {job.attempts}" if job.attempts > 1 else ""
            await context.set_status(f"training the {network} network{attempt}", _epochs(job))
        elif job.progress.reason != NO_FREE_SLOT:
            detail = f"training the {network} network: {job.progress.detail}"
            await context.set_status(detail, _epochs(job), reason=job.progress.reason)
        await asyncio.sleep(context.poll_s)
    refuse_unfinished(job)
    return await asyncio.to_thread(context.store.read, job_key(name, "result.json"), JobResult)


def _create_job(context: StageContext, valid: Validated, network: Network) -> None:
    check = context.check.request
    recipe = valid.recipes[network]
    request = JobSpec(
        kind="finetune",
        dataset_id=check.dataset_id,
        dataset_digest=valid.dataset_digest,
        network=network,
        model_id=valid.card.id,
        model_sha256=valid.card.checkpoint.sha256,
        task=check.task,
        recipe=to_recipe(recipe, check.recipe.preset),
        seed=check.seed,
        publish_as=encoder_id(context.check.id, network),
    )
    spec = finetuning_spec(job_id(context.check.id, network), request, valid.card, valid.dataset_digest, recipe)
    baseline = "" if network == "pretrained" else baseline_digest(spec, valid.card)
    job = context.jobs.create(request, spec, context.check.id, baseline)
    if job.must_follow(context.check.retried_at):
        context.jobs.retry(job.id)


def _epochs(job: Job) -> Progress | None:
    if not job.curve:
        return None
    last = job.curve[-1]
    return Progress(done=last.epoch, total=last.epochs, unit="epoch", elapsed_seconds=last.elapsed_s)


def comparison_with(context: StageContext, outputs: Outputs, after: str) -> ComparisonRequest:
    """Returns the request that compares the features before with a feature set, on the scale of the reference."""
    valid, spec = outputs.get("validate", Validated), context.check.request
    return ComparisonRequest(
        before=outputs.get("features_before", FeatureSetRef).feature_set,
        after=after,
        reference=outputs.get("features_reference", FeatureSetRef).feature_set,
        layers=valid.layers,
        primary_layer=valid.primary_layer,
        permutations=spec.permutations,
        seed=spec.seed,
        interval_level=spec.interval_level,
        projection=False,
    )


async def _make_mmd(context: StageContext, outputs: Outputs) -> Record:
    after_id, random_id = (outputs.get(f"features_{name}", FeatureSetRef).feature_set for name in ("after", "random"))
    await context.set_status("comparing features before and after")
    request = comparison_with(context, outputs, after_id)
    after, device = await compare(context.mmd, request.model_copy(update={"projection": True}))
    plain = request.model_copy(update={"permutations": 0})
    biased, _ = await compare(context.mmd, plain.model_copy(update={"estimator": "biased"}))
    reinitialised, _ = await compare(context.mmd, plain.model_copy(update={"after": random_id}))
    return FeatureShift(
        before_id=request.before,
        after_id=after_id,
        reinitialised_id=random_id,
        reference_id=request.reference,
        after=after,
        biased=biased,
        reinitialised=reinitialised,
        device=device,
    )


# --- finding ----------------------------------------------------------------------------------------------------------


async def find_artifact(context: StageContext, name: str, record: type[AnyRecord]) -> AnyRecord | None:
    """Returns `checks/<id>/<name>`, or None where it does not exist."""
    try:
        return await asyncio.to_thread(context.store.read, check_key(context.check.id, name), record)
    except NotFound:
        return None


async def _find_job(context: StageContext, *, network: Network) -> Record | None:
    name = job_id(context.check.id, network)
    try:
        job = await asyncio.to_thread(context.jobs.get, name)
    except NotFound:
        return None
    if job.state != "succeeded" or job.check_id != context.check.id:
        return None  # `make` waits for a job that still runs
    return await asyncio.to_thread(context.store.read, job_key(name, "result.json"), JobResult)


def _stored(make: Callable[[StageContext, Outputs], Awaitable[Record]], name: str) -> Callable[..., Awaitable[Record]]:
    """Stores the artifact of a stage; this write commits the stage."""

    async def make_and_store(context: StageContext, outputs: Outputs) -> Record:
        record = await make(context, outputs)
        await asyncio.to_thread(context.store.write, check_key(context.check.id, name), record)
        return record

    return make_and_store


def make_stage(
    name: str,
    needs: tuple[str, ...],
    make: Callable[[StageContext, Outputs], Awaitable[Record]],
    record: type[Record],
    artifact: str = "",
) -> Stage:
    """Returns a stage whose artifact is `checks/<id>/<artifact>`; by default `stages/<name>.json`."""
    artifact = artifact or f"stages/{name}.json"
    return Stage(name, needs, partial(find_artifact, name=artifact, record=record), _stored(make, artifact))


def _features(name: str, needs: tuple[str, ...], split: Split, *, after: bool = False, random: bool = False) -> Stage:
    make = partial(_make_features, stage=name, split=split, after=after, random=random)
    return make_stage(name, needs, make, FeatureSetRef)


def _job(network: Network) -> Stage:
    # Training costs most, so it starts after the features before have proved that model and data can be read.
    needs = ("features_reference", "features_before", "features_random")
    return Stage(f"job_{network}", needs, partial(_find_job, network=network), partial(_make_job, network=network))


MEASURING: tuple[Stage, ...] = (
    make_stage("validate", (), _make_validate, Validated),
    _features("features_reference", ("validate",), "train"),
    _features("features_before", ("validate",), "test"),
    _features("features_random", ("validate",), "test", random=True),
    _job("pretrained"),
    _job("scratch"),
    _job("specialised"),
    _features("features_after", ("job_pretrained",), "test", after=True),
    make_stage("mmd", ("features_after",), _make_mmd, FeatureShift, "mmd.json"),
)
"""Stages from the request to MMD²; `reporting.all_stages` adds measures, probes and the report."""
