"""Stages of an alignment check: their order, their artifacts and the computation of each artifact.

    validate → features_reference, features_before, features_random → job_*_r* → recipe → job_*
             → features_after → mmd → measures → report

The jobs `job_*_r*` exist only if a preset has two recipes to try. If a check has several training seeds, jobs,
`features_after` and `mmd` have one stage per seed (`trainings`). Measures are computed for the first seed only. If a
check freezes the encoder, the features do not move, and there are no stages `features_random`, `features_after` and
`mmd`. If a check has a plan, the stage `statement` follows the report.

Each stage declares the stages that it reads and the stages that it follows (`artifacts.Stage`). These declarations
determine when the stage begins. The declarations also determine which artifacts become invalid if a lost output is
computed again and differs. A stage with an intact artifact is done. The reconciler runs the stages and retries them.
The modules `similarity` and `reporting` define the last stages.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Literal

from pydantic import Field

from vfmalign.analysis.checks.records import FeatureShift
from vfmalign.client.messages.checks import CheckSpec, EarlierCheck
from vfmalign.client.messages.common import Progress
from vfmalign.client.messages.features import ExtractDatasetRequest
from vfmalign.client.messages.mmd import ComputeOptions, TestOptions
from vfmalign.client.recipes import get_second_recipe
from vfmalign.core.domain.datasets import Split
from vfmalign.core.domain.errors import VfmalignError
from vfmalign.core.domain.jobs import JobResult, Network, TrainingRecipe
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.domain.record import Record
from vfmalign.core.storage.datasets import check_leakage, load_dataset
from vfmalign.core.storage.model_cards import load_card
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.finetuning.checks.artifacts import (
    Outputs,
    Stage,
    StageContext,
    find_job_result,
    make_stage,
    read_job_result,
    verify_feature_set,
)
from vfmalign.finetuning.checks.clients import KERNEL, ComparisonRequest, FeatureSetRef, compare, extract
from vfmalign.finetuning.checks.plans import list_earlier
from vfmalign.finetuning.checks.repository import CheckRepository, StoredCheck
from vfmalign.finetuning.checks.request import resolve_check
from vfmalign.finetuning.checks.trainings import (
    Training,
    get_control_seed,
    list_trainings,
    list_trials,
    name_stage,
    plan_job,
)
from vfmalign.finetuning.jobs.repository import StoredJob
from vfmalign.finetuning.jobs.results import check_encoder, check_weights
from vfmalign.finetuning.lifecycle import NO_FREE_SLOT

Moment = Literal["reference", "before", "random", "after"]
"""Which features a stage extracts: of the training cases, or of the test cases with one of three encoders."""
COMPARED = ("validate", "features_before", "features_reference")
"""Stages that a comparison reads in addition to the compared features (`comparison_with`)."""
BEFORE_TRAINING = ("features_reference", "features_before", "features_random")
"""Training costs most, so it starts only after feature extraction has shown that model and data are readable."""


class Validated(Record):
    """`checks/<id>/stages/validate.json`: the pinned inputs of the check.

    Attributes:
        layers: layers to compare, with the primary layer first.
        naive_baseline: prediction of the task's naive baseline.
        test_groups: number of patients in the test split.
        reference_groups: number of patients in the training split, which standardises the comparisons.
        recipes: recipes of the three trainings, from the presets at the time when the check started.
        second_recipe: alternative recipe of the pretrained network; None if the preset has one recipe only.
        mixed_series: see `DatasetManifest.list_mixed_series`.
        earlier_checks: see `plans.list_earlier`.
    """

    card: ModelCard
    dataset_digest: str
    layers: tuple[str, ...]
    primary_layer: str
    input_transform: str
    naive_baseline: str
    held_out: bool
    phantom: bool
    leakage_known: bool
    test_groups: int
    reference_groups: int
    recipes: dict[Network, TrainingRecipe]
    second_recipe: TrainingRecipe | None = None
    mixed_series: tuple[str, ...] = Field(default=(), exclude_if=lambda mixed: not mixed)
    earlier_checks: tuple[EarlierCheck, ...] = Field(default=(), exclude_if=lambda earlier: not earlier)


class ChosenRecipes(Record):
    """`checks/<id>/stages/recipe.json`: the recipes of all trainings.

    Attributes:
        recipes: recipes by network.
        trials: maps the stage of each trial to the best validation score; empty if there was only one recipe.
    """

    recipes: dict[Network, TrainingRecipe]
    trials: dict[str, float] = Field(default_factory=dict)


# --- making -----------------------------------------------------------------------------------------------------------


def validate(store: ObjectStore, checks: CheckRepository, check: StoredCheck) -> Validated:
    """Checks model, dataset and splits before any expensive computation starts.

    Raises:
        NotFound: the model or the dataset does not exist.
        DigestMismatch: the model or the dataset has another digest than requested.
        InvalidInput: as `resolve_check`.
        DataLoss: the model's weights are missing.
        Leakage: a test case was seen in training, validation or pretraining.
    """
    request = check.request
    dataset = load_dataset(store, request.dataset_id, request.dataset_digest or None)
    card = load_card(store, request.model_id, request.model_sha256)
    check_weights(store, card)
    resolved = resolve_check(request, dataset, card)
    check_leakage(dataset, card.pretraining)
    return Validated(
        card=card,
        dataset_digest=dataset.digest(),
        layers=resolved.layers,
        primary_layer=card.primary_layer,
        input_transform=resolved.task.input_transform,
        naive_baseline=resolved.task.naive_baseline,
        held_out=dataset.held_out,
        phantom=dataset.phantom,
        leakage_known=bool(card.pretraining) or card.objective == "random",
        test_groups=len({case.group for case in dataset.test}),
        reference_groups=len({case.group for case in dataset.train}),
        recipes=resolved.recipes,
        second_recipe=get_second_recipe(request, card.preprocessing),
        mixed_series=dataset.list_mixed_series(),
        earlier_checks=list_earlier(checks, check, dataset),
    )


async def _make_validate(context: StageContext, outputs: Outputs) -> Record:
    await context.set_status("checking model, dataset and splits")
    return await asyncio.to_thread(validate, context.store, context.checks, context.check)


async def _make_features(
    context: StageContext,
    outputs: Outputs,
    *,
    moment: Moment,
    split: Split,
    after: Training | None = None,
) -> Record:
    valid = outputs.get("validate", Validated)
    model, sha256 = valid.card.id, valid.card.checkpoint.sha256
    if after is not None:
        result = outputs.get(after.stage, JobResult)
        await asyncio.to_thread(check_encoder, context.store, result)
        model, sha256 = result.encoder, result.encoder_sha256
    spec = context.check.request
    request = ExtractDatasetRequest(
        model_id=model,
        checkpoint_sha256=sha256,
        dataset_id=spec.dataset_id,
        dataset_digest=valid.dataset_digest,
        split=split,
        layers=valid.layers,
        input_transform=valid.input_transform,
        modality_map=spec.modality_map,
        allow_cut_organs=spec.allow_cut_organs,
        verify=context.repairing,
        created_by=context.check.creator,
    )
    draw = spec.seed if moment == "random" else get_control_seed(spec)
    if after is None and draw is not None:
        request = request.model_copy(update={"initialisation": "random", "initialisation_seed": draw})
    detail = f"extracting features of {split} ({moment})"
    if after is not None and spec.seeds > 1:
        detail += f", seed {after.seed(spec)}"
    await context.set_status(detail)
    return await extract(context.features, request, partial(context.set_status, detail))


async def _choose_recipe(context: StageContext, outputs: Outputs) -> Record:
    """Chooses the recipe with the better mean validation score of the pretrained and the scratch network."""
    valid, trials = outputs.get("validate", Validated), list_trials(context.check.request)
    if valid.second_recipe is None or not trials:
        return ChosenRecipes(recipes=valid.recipes)
    results = {trial: outputs.get(trial.stage, JobResult) for trial in trials}
    scores = {trial: one.curve[one.selected_epoch].validation_score for trial, one in results.items()}
    first, second = (sum(score for trial, score in scores.items() if trial.trial == number) for number in (1, 2))
    result = results[trials[0]]
    metric = next(metric for metric in result.metrics if metric.name == result.primary_metric)
    recipe = valid.recipes["pretrained"]
    if second > first if metric.higher_is_better else second < first:
        recipe = valid.second_recipe
    return ChosenRecipes(
        recipes=valid.recipes | {"pretrained": recipe, "scratch": recipe},
        trials={trial.stage: score for trial, score in scores.items()},
    )


async def _ensure_job(context: StageContext, outputs: Outputs, training: Training) -> str:
    """Creates one of the check's jobs unless it exists, and returns its id.

    Earlier jobs are created first, so that jobs always queue in this order. Stages may run in another order, because
    the features after training need only the pretrained network. Jobs that ended without a result are retried if the
    check was retried since.
    """
    trainings = (list_trials if training.trial else list_trainings)(context.check.request)
    for earlier in trainings[: trainings.index(training) + 1]:
        await asyncio.to_thread(_create_job, context, outputs, earlier)
    return training.job_id(context.check.id)


async def _make_job(context: StageContext, outputs: Outputs, *, training: Training) -> Record:
    name = await _ensure_job(context, outputs, training)
    description = training.describe(context.check.request)
    while not (job := await asyncio.to_thread(context.jobs.get, name)).finished:
        if job.progress.phase == "training" and not job.progress.reason:
            attempt = f", attempt {job.attempts}" if job.attempts > 1 else ""
            await context.set_status(f"training {description}{attempt}{_describe_memory(job)}", _epochs(job))
        elif job.progress.reason != NO_FREE_SLOT:
            detail = f"training {description}: {job.progress.detail}"
            await context.set_status(detail, _epochs(job), reason=job.progress.reason)
        await asyncio.sleep(context.poll_s)
    if job.state != "succeeded":
        reason = job.failure.reason if job.failure is not None else "JOB_CANCELLED"
        raise VfmalignError(job.progress.detail, subject=f"job {job.id}", reason=reason)
    return await asyncio.to_thread(read_job_result, context.store, job, training.network)


def _create_job(context: StageContext, outputs: Outputs, training: Training) -> None:
    check, valid = context.check, outputs.get("validate", Validated)
    if training.trial == 2 and valid.second_recipe is not None:
        recipe = valid.second_recipe
    elif training.trial:
        recipe = valid.recipes["pretrained"]
    else:
        recipe = outputs.get("recipe", ChosenRecipes).recipes[training.network]
    job = plan_job(
        check.id, check.request, valid.card, dataset_digest=valid.dataset_digest, recipe=recipe, training=training
    )
    created = context.jobs.create(job.request, job.spec, check.id, job.shared, check.creator)
    context.jobs.follow_retry(created.id, check.retried_at)


def _describe_memory(job: StoredJob) -> str:
    size = job.curve[0].step_bytes if job.curve else None
    return "" if size is None else f" (a step needs at least {size / 2**30:.2g} GiB)"


def _epochs(job: StoredJob) -> Progress | None:
    if not job.curve:
        return None
    last = job.curve[-1]
    return Progress(done=last.epoch, total=last.epochs, unit="epoch", elapsed_seconds=last.elapsed_seconds)


def comparison_with(context: StageContext, outputs: Outputs, after: FeatureSetRef) -> ComparisonRequest:
    """Returns the request that compares the features before training with `after`. The reference standardises both.

    Calling stages must read `COMPARED`.
    """
    valid, spec = outputs.get("validate", Validated), context.check.request
    return ComparisonRequest(
        before=outputs.get("features_before", FeatureSetRef).to_sample(),
        after=after.to_sample(),
        reference=outputs.get("features_reference", FeatureSetRef).to_sample(),
        options=ComputeOptions(
            pairing="paired",
            estimator="unbiased_paired",
            kernel=KERNEL,
            layers=valid.layers,
            primary_layer=valid.primary_layer,
            test=TestOptions(permutations=spec.permutations, seed=spec.seed),
            interval_level=spec.interval_level,
        ),
    )


async def _make_mmd(context: StageContext, outputs: Outputs, *, number: int) -> Record:
    random = outputs.get("features_random", FeatureSetRef).to_sample()
    await context.set_status("comparing features before and after")
    request = comparison_with(context, outputs, outputs.get(name_stage("features_after", number), FeatureSetRef))
    after, device = await compare(context.mmd, request.with_options(projection=number == 1))
    plain = request.with_options(test=TestOptions())
    biased, _ = await compare(context.mmd, plain.with_options(estimator="biased"))
    reinitialised, _ = await compare(context.mmd, plain.model_copy(update={"after": random}))
    return FeatureShift(
        before_id=request.before.feature_set_id,
        after_id=request.after.feature_set_id,
        reinitialised_id=random.feature_set_id,
        reference_id=request.reference.feature_set_id,
        after=after,
        biased=biased,
        reinitialised=reinitialised,
        device=device,
    )


# --- stages -----------------------------------------------------------------------------------------------------------


def _features(moment: Moment, split: Split, after: Training | None = None) -> Stage:
    number, reads = (1, ()) if after is None else (after.number, (after.stage,))
    make = partial(_make_features, moment=moment, split=split, after=after)
    name = name_stage(f"features_{moment}", number)
    return make_stage(name, ("validate", *reads), make, FeatureSetRef, verify=verify_feature_set)


def _job(training: Training, after: tuple[str, ...]) -> Stage:
    return Stage(
        training.stage,
        ("validate",) if training.trial else ("validate", "recipe"),
        partial(find_job_result, training=training),
        partial(_make_job, training=training),
        after=after,
        training=training,
    )


def _mmd(number: int) -> Stage:
    name = name_stage("mmd", number)
    reads = (*COMPARED, "features_random", name_stage("features_after", number))
    return make_stage(name, reads, partial(_make_mmd, number=number), FeatureShift, f"{name}.json")


def measuring_stages(spec: CheckSpec) -> tuple[Stage, ...]:
    """Returns the stages up to MMD². `reporting.all_stages` adds the stages for measures and the report."""
    trials, trainings = list_trials(spec), list_trainings(spec)
    before = BEFORE_TRAINING[:2] if spec.frozen else BEFORE_TRAINING
    return (
        make_stage("validate", (), _make_validate, Validated),
        _features("reference", "train"),
        _features("before", "test"),
        *(() if spec.frozen else (_features("random", "test"),)),
        *(_job(trial, before) for trial in trials),
        make_stage("recipe", ("validate", *(trial.stage for trial in trials)), _choose_recipe, ChosenRecipes),
        *(_job(training, before) for training in trainings),
        *(
            stage
            for training in trainings
            if training.network == "pretrained" and not spec.frozen
            for stage in (_features("after", "test", training), _mmd(training.number))
        ),
    )
