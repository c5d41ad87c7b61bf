"""Converts checks and their results to messages of the API."""

from __future__ import annotations

from collections.abc import Sequence

from vfmalign.analysis.checks.cautions import list_cautions
from vfmalign.analysis.checks.records import MEASURE_MEANINGS, CheckAnalysis, CheckReport, SeedAnalysis
from vfmalign.analysis.checks.shift import is_saturated
from vfmalign.analysis.checks.summary import write_summary
from vfmalign.client.messages import checks as messages
from vfmalign.client.messages.common import ObjectRef, Progress, SoftwareVersion
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.finetuning.checks.repository import ReportRefs, StageRun, StoredCheck
from vfmalign.finetuning.jobs.converters import with_remedy
from vfmalign.finetuning.jobs.repository import StoredJob

MAX_CUT_STRUCTURES = 1_000
"""Maximum number of cut structures in a message, because messages have a size limit."""


def to_check(
    check: StoredCheck,
    store: ObjectStore,
    *,
    stages: Sequence[messages.CheckStage],
    jobs: Sequence[StoredJob],
    report: CheckReport | None = None,
) -> messages.Check:
    """Returns the message of a check. If `report` is given, the message includes the check's result."""
    result = None
    if report is not None and check.report is not None:
        result = to_result(report, check.report, store)
    return messages.Check(
        check_id=check.id,
        spec=check.request,
        state=check.state,
        progress=check.progress,
        create_time=check.created_at,
        end_time=check.finished_at,
        stages=tuple(stages),
        job_ids=tuple(job.id for job in jobs),
        failure=with_remedy(check.failure, "check", check.id),
        result=result,
        created_by=check.creator,
        # The check pins its inputs when it starts, and names them to its jobs.
        dataset_digest=jobs[0].spec.dataset_digest if jobs else check.request.dataset_digest,
        model_sha256=jobs[0].spec.model_sha256 if jobs else check.request.model_sha256,
    )


def to_stages(
    names: Sequence[str], runs: Sequence[StageRun], progress: Sequence[Progress] = ()
) -> list[messages.CheckStage]:
    """Returns all stages in order, including those that have not started.

    Args:
        names: names of all stages.
        runs: runs of the check's stages, in the order in which they began.
        progress: progress of each running stage. In each progress, `phase` is the name of the stage.
    """
    running = {stage.phase: stage for stage in progress}
    return [_to_stage(name, [run for run in runs if run.stage == name], running.get(name)) for name in names]


def _to_stage(name: str, runs: Sequence[StageRun], progress: Progress | None) -> messages.CheckStage:
    runs = [run for run in runs if run.outcome != "lost"]
    if not runs:
        return messages.CheckStage(name=name, progress=progress)
    start = runs[0].started_at
    end = next((run.finished_at for run in runs if run.outcome == "succeeded"), None)
    return messages.CheckStage(
        name=name,
        attempts=len(runs),
        start_time=start,
        end_time=end,
        seconds=0.0 if end is None else (end - start).total_seconds(),
        progress=progress,
    )


def to_result(report: CheckReport, refs: ReportRefs, store: ObjectStore) -> messages.CheckResult:
    """Returns the message of a check's result."""
    result = report.result
    main, plan = result.network("pretrained"), report.plan
    if plan is not None and refs.statement_ref is not None:
        plan = plan.model_copy(update={"statement": ObjectRef.of(refs.statement_ref, store.uri)})
    naive = result.naive_baseline
    return messages.CheckResult(
        verdict=result.verdict.label,
        verdict_reason=result.verdict.reason,
        pretraining=None if result.pretraining is None else result.pretraining.label,
        pretraining_reason="" if result.pretraining is None else result.pretraining.reason,
        summary=write_summary(result),
        shifts=_to_shifts(result),
        primary_layer=result.shift.primary_layer,
        rpg_specialised=result.rpg_specialised,
        rpg_scratch=result.rpg_scratch,
        metric=result.metric,
        convergence=main.convergence,
        curves=tuple(network.to_curve() for network in result.networks),
        weight_change=main.weight_change or 0.0,
        test_groups=result.test_groups,
        held_out=result.held_out,
        cut_structures=result.cut_structures[:MAX_CUT_STRUCTURES],
        cautions=tuple(f"{caution.title}. {caution.text}" for caution in list_cautions(result)),
        report_json=ObjectRef.of(refs.json_ref, store.uri),
        report_html=ObjectRef.of(refs.html_ref, store.uri),
        software=tuple(
            SoftwareVersion(name=name, version=version) for name, version in sorted(report.run.software.items())
        ),
        gain_naive_baseline=naive.gain,
        gain_frozen_random=result.gain_frozen_random,
        naive_baseline=naive.prediction,
        naive_baseline_not_beaten=naive.not_beaten,
        interval_scope=result.interval_scope,
        seeds=tuple(_to_seed_result(seed) for seed in result.seeds),
        seed_variation=result.seed_variation,
        plan=plan,
        measures=tuple(
            messages.CheckMeasure(name=name, value=result.measures[name], meaning=meaning)
            for name, meaning in MEASURE_MEANINGS.items()
            if name in result.measures
        ),
    )


def _to_seed_result(seed: SeedAnalysis) -> messages.SeedResult:
    primary, main = seed.shift.get_layer(seed.shift.primary_layer), seed.network("pretrained")
    return messages.SeedResult(
        seed=seed.seed,
        shift=(primary.standardised or primary.raw).mmd2,
        rpg_specialised=seed.rpg_specialised,
        rpg_scratch=seed.rpg_scratch,
        convergence=main.convergence,
        curves=tuple(network.to_curve() for network in seed.networks),
        weight_change=main.weight_change or 0.0,
        job_ids=tuple(network.job_id for network in seed.networks),
    )


def _to_shifts(result: CheckAnalysis) -> tuple[messages.LayerShift, ...]:
    shifts = []
    for layer in result.shift.layers:
        similarity = result.paired_similarity[layer.layer]
        shifts.append(
            messages.LayerShift(
                mmd=layer,
                shift_ratio=result.shift_ratio[layer.layer],
                paired_similarity=similarity,
                saturated=is_saturated(similarity),
            )
        )
    return tuple(shifts)
