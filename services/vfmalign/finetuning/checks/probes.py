"""Probes of the pretrained network's first training: the encoder at given steps, compared with the features before.

A probe is computed as soon as its model is published, while the training continues. Each has an artifact of its own, so
that none is computed twice.
"""

from __future__ import annotations

import asyncio

from vfmalign.client.messages.checks import Probe
from vfmalign.client.messages.common import Progress
from vfmalign.core.domain.errors import VfmalignError
from vfmalign.core.domain.jobs import JobProgress, probe_id
from vfmalign.core.domain.record import Record
from vfmalign.core.storage.keys import check_key
from vfmalign.core.storage.lost_objects import lost_as
from vfmalign.core.storage.model_cards import load_card
from vfmalign.finetuning.checks.artifacts import (
    RESTORE,
    Outputs,
    Stage,
    StageContext,
    find_artifact,
    make_stage,
)
from vfmalign.finetuning.checks.clients import FeatureSetRef, compare, extract
from vfmalign.finetuning.checks.stages import (
    BEFORE_TRAINING,
    COMPARED,
    Validated,
    comparison_with,
    ensure_job,
    extraction_request,
    refuse_unfinished,
)
from vfmalign.finetuning.checks.trainings import MAIN


class TakenProbe(Record):
    """`checks/<id>/stages/probe_<step>.json`: a probe, with its encoder and feature set.

    Attributes:
        compared_with: digests of the features before and of the reference; with others it is taken again.
    """

    probe: Probe
    model_id: str
    model_sha256: str
    feature_set: str
    compared_with: tuple[str, str]


class TakenProbes(Record):
    """`checks/<id>/stages/probes.json`: all probes in order of steps; empty where none was requested."""

    probes: tuple[TakenProbe, ...] = ()


def probes_stage() -> Stage:
    """Returns the stage that computes the probes beside the training, which it creates where it comes first."""
    reads = (*COMPARED, "recipe")
    return make_stage("probes", reads, _make, TakenProbes, after=BEFORE_TRAINING, follows=(MAIN.stage,))


async def _make(context: StageContext, outputs: Outputs) -> Record:
    taken: list[TakenProbe] = []
    steps = outputs.get("validate", Validated).recipes["pretrained"].probe_steps
    for step in steps:
        stored = await find_artifact(context, _artifact(step), TakenProbe)
        if stored is None or stored.compared_with != _compared_with(outputs):
            stored = await _take(context, outputs, step)
        taken.append(stored)
        shift, score = stored.probe.shift.value, stored.probe.validation_score
        shown = "absent" if shift is None else f"{shift:.3g}"
        await context.set_status(
            f"probe after step {step}: MMD² {shown}, validation {score:.3g}",
            Progress(done=len(taken), total=len(steps), unit="probe"),
        )
    return TakenProbes(probes=tuple(taken))


def _artifact(step: int) -> str:
    return f"stages/probe_{step}.json"


def _compared_with(outputs: Outputs) -> tuple[str, str]:
    before, reference = (outputs.get(name, FeatureSetRef) for name in ("features_before", "features_reference"))
    return before.manifest_sha256, reference.manifest_sha256


async def _take(context: StageContext, outputs: Outputs, step: int) -> TakenProbe:
    """Waits for the step, then extracts, compares and stores the probe."""
    valid = outputs.get("validate", Validated)
    point = await _validation(context, outputs, step)
    # Training publishes the encoder of a step before it stores the validation, so the model exists by now.
    model = probe_id(MAIN.encoder_id(context.check.id), step)
    with lost_as("model", model, RESTORE):
        card = await asyncio.to_thread(load_card, context.store, model)
    steps = valid.recipes["pretrained"].probe_steps
    probes = Progress(done=steps.index(step), total=len(steps), unit="probe")

    async def report(_: Progress) -> None:
        await context.set_status(f"probing the encoder after step {step}", probes)

    request = extraction_request(context, valid, card.id, card.checkpoint.sha256, "test")
    only_primary = {"layers": (valid.primary_layer,)}
    verified = request.model_copy(update=only_primary | {"verify": context.repairing})
    features = await extract(context.features, verified, report)
    comparison_request = comparison_with(context, outputs, features)
    comparison, _ = await compare(context.mmd, comparison_request.with_options(**only_primary))
    layer = comparison.get_layer(valid.primary_layer)
    taken = TakenProbe(
        probe=Probe(step=step, shift=(layer.standardised or layer.raw).mmd2, validation_score=point.validation_score),
        model_id=card.id,
        model_sha256=card.checkpoint.sha256,
        feature_set=features.feature_set,
        compared_with=_compared_with(outputs),
    )
    await asyncio.to_thread(context.store.write, check_key(context.check.id, _artifact(step)), taken)
    return taken


async def _validation(context: StageContext, outputs: Outputs, step: int) -> JobProgress:
    """Waits for the point of the learning curve at a step and returns it.

    Raises:
        VfmalignError: the job ended without it.
    """
    name = await ensure_job(context, outputs, MAIN)
    while True:
        job = await asyncio.to_thread(context.jobs.get, name)
        for point in job.curve:
            if point.step == step:
                return point
        if job.finished:
            refuse_unfinished(job)
            raise VfmalignError(f"its learning curve has no step {step}", subject=f"job {name}", reason="JOB_FAILED")
        await asyncio.sleep(context.poll_s)
