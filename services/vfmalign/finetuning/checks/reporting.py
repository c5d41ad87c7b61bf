"""Last stage of a check: writes `report.json` and `report.html` from the artifacts of all other stages.

`assembly` computes the results without side effects. `report_stage` reads artifacts, and renders and stores the report.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import Mapping, Sequence

from vfmalign.analysis.checks.plan import evaluate_plan
from vfmalign.analysis.checks.records import (
    CheckReport,
    FeatureShift,
    LostArtifact,
    RunRecord,
    StageTime,
)
from vfmalign.analysis.checks.shift import make_frozen_shift
from vfmalign.client.messages.checks import CheckSpec, EarlierCheck, PlanResult
from vfmalign.core.domain.errors import NotFound
from vfmalign.core.domain.jobs import JobResult, Network
from vfmalign.core.domain.record import Record
from vfmalign.core.domain.stored_objects import StoredFigure, StoredFile
from vfmalign.core.storage.keys import check_key
from vfmalign.core.storage.lost_objects import lost_as
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.database.tables import now
from vfmalign.finetuning.checks.artifacts import RESTORE, Outputs, Stage, StageContext, make_stage
from vfmalign.finetuning.checks.assembly import SeedArtifacts, assemble
from vfmalign.finetuning.checks.clients import FeatureSetRef
from vfmalign.finetuning.checks.converters import to_result, to_stages
from vfmalign.finetuning.checks.repository import ReportRefs, StageRun, StoredCheck
from vfmalign.finetuning.checks.similarity import Measures, measures_stage
from vfmalign.finetuning.checks.stages import ChosenRecipes, Validated, measuring_stages
from vfmalign.finetuning.checks.statement import statement_stage
from vfmalign.finetuning.checks.trainings import Training, list_trainings, list_trials, name_stage
from vfmalign.finetuning.jobs.request import NETWORKS
from vfmalign.reports.checks.page import ExampleSlice, PageSources, render

MAX_PICTURE_BYTES = 4 * 2**20
SOFTWARE = ("vfmalign", "numpy", "scipy", "matplotlib")


def stage_times(runs: Sequence[StageRun]) -> tuple[StageTime, ...]:
    """Returns the wall time of each started stage from its first start to its first end, including interruptions."""
    stages = to_stages(list(dict.fromkeys(run.stage for run in runs)), runs)
    return tuple(
        StageTime(stage=stage.name, attempts=stage.attempts, seconds=None if stage.end_time is None else stage.seconds)
        for stage in stages
        if stage.attempts
    )


def list_losses(runs: Sequence[StageRun]) -> tuple[LostArtifact, ...]:
    """Returns every object that was lost and created again, in the order of the runs."""
    return tuple(LostArtifact(stage=run.stage, message=run.message) for run in runs if run.outcome == "lost")


def report_stage(spec: CheckSpec) -> Stage:
    """Returns the last stage of a check, which writes the report."""
    comparisons = [name_stage("mmd", number) for number in range(1, spec.seeds + 1)]
    before = ["features_before", "features_reference"] if spec.frozen else ["features_before", *comparisons]
    jobs = (training.stage for training in list_trainings(spec))
    reads = ("validate", "recipe", *before, "measures", *jobs)
    return make_stage("report", reads, _make, CheckReport, "report.json", verify=_verify_page)


async def _make(context: StageContext, outputs: Outputs) -> Record:
    await context.set_status("writing the report")
    return await asyncio.to_thread(_write_report, context, outputs)


def read_report(store: ObjectStore, check: StoredCheck) -> CheckReport:
    """Reads the report of a check that succeeded, and verifies its HTML page and its signed statement.

    Raises:
        DataLoss: a file of the report is missing or changed.
    """
    with lost_as("report", check.id, RESTORE):
        if check.report is None:
            raise NotFound("the database has no report of it", subject=f"check {check.id}")
        for ref in filter(None, (check.report.html_ref, check.report.statement_ref)):
            store.get(ref.key, sha256=ref.sha256)
        return store.read(check.report.json_ref.key, CheckReport, check.report.json_ref.sha256)


def _verify_page(context: StageContext, report: CheckReport) -> None:
    """Checks that `report.html` exists and has the digest that a finished check recorded.

    Raises:
        DataLoss: it is missing or changed.
    """
    expected = None if context.check.report is None else context.check.report.html_ref.sha256
    with lost_as("stage", "report", RESTORE):
        context.store.get(check_key(context.check.id, "report.html"), sha256=expected)


def all_stages(spec: CheckSpec) -> tuple[Stage, ...]:
    """Returns every stage of a check, in order."""
    stages = (*measuring_stages(spec), measures_stage(spec), report_stage(spec))
    return stages if spec.plan is None else (*stages, statement_stage())


def _write_report(context: StageContext, outputs: Outputs) -> CheckReport:
    check, store = context.check, context.store
    trainings = list_trainings(check.request)
    jobs_results = {training: outputs.get(training.stage, JobResult) for training in trainings}
    trained = [
        SeedArtifacts(
            jobs={name: jobs_results[Training(name, number)] for name in NETWORKS},
            measured=_make_frozen_shift(outputs)
            if check.request.frozen
            else outputs.get(name_stage("mmd", number), FeatureShift),
            frozen_random=jobs_results.get(Training("scratch", number, frozen=True)),
        )
        for number in range(1, check.request.seeds + 1)
    ]
    results, measured = trained[0].jobs, trained[0].measured
    valid, chosen = outputs.get("validate", Validated), outputs.get("recipe", ChosenRecipes)
    result = assemble(
        check.id,
        check.request,
        valid.model_copy(update={"recipes": chosen.recipes}),
        trained,
        further_scratch=[one for training, one in jobs_results.items() if training.number > check.request.seeds],
        trials=chosen.trials,
        measures=outputs.get("measures", Measures),
    )
    figures = {name: tuple(ref for ref in job.figures if ref.key.endswith(".png")) for name, job in results.items()}
    runs = context.checks.stages(check.id)
    report = CheckReport(
        result_digest=result.digest(),
        result=result,
        run=RunRecord(
            created_at=check.created_at,
            finished_at=now(),
            stages=tuple(time for time in stage_times(runs) if time.stage != "report"),
            losses=list_losses(runs),
            job_attempts={
                job_id: context.jobs.get(job_id).attempts
                for job_id in (one.job_id(check.id) for one in (*list_trials(check.request), *trainings))
            },
            trained_by={one.name: result.job_id for one, result in jobs_results.items()},
            devices={
                "features": outputs.get("features_before", FeatureSetRef).device,
                **({"mmd": measured.device} if measured.device else {}),
                "training": results["pretrained"].device,
            },
            software=results["pretrained"].software | {name: importlib.metadata.version(name) for name in SOFTWARE},
            figures={name: refs for name, refs in figures.items() if refs},
        ),
    )
    report = report.model_copy(update={"plan": _evaluate_plan(check, report, valid.earlier_checks, store)})
    sources = PageSources(
        examples=_pictures(store, check.id, figures),
        scores={
            **{name: job.test_scores for name, job in results.items()},
            "naive": results["pretrained"].naive_baseline_scores,
        },
        spec=check.request,
    )
    html = render(report, sources)
    store.put(check_key(check.id, "report.html"), html, content_type="text/html; charset=utf-8")
    return report


def _make_frozen_shift(outputs: Outputs) -> FeatureShift:
    """Returns the shift of a check that freezes the encoder. Only the features before training exist."""
    valid = outputs.get("validate", Validated)
    channels = {layer.name: layer.channels for layer in valid.card.layers}
    shift = make_frozen_shift({layer: channels[layer] for layer in valid.layers})
    return FeatureShift(
        before_id=outputs.get("features_before", FeatureSetRef).feature_set,
        after_id="",
        reinitialised_id="",
        reference_id=outputs.get("features_reference", FeatureSetRef).feature_set,
        after=shift,
        biased=shift,
        reinitialised=shift,
        device="",
    )


def _evaluate_plan(
    check: StoredCheck, report: CheckReport, earlier: Sequence[EarlierCheck], store: ObjectStore
) -> PlanResult | None:
    if (plan := check.request.plan) is None:
        return None
    unwritten = StoredFile.of(check_key(check.id, "report.json"), b"")
    result = to_result(report, ReportRefs(json_ref=unwritten, html_ref=unwritten), store)
    return evaluate_plan(plan, result, declare_time=check.created_at, declared_by=check.created_by, earlier=earlier)


def _pictures(
    store: ObjectStore, check_id: str, figures: Mapping[Network, Sequence[StoredFigure]]
) -> list[ExampleSlice]:
    slices = []
    for network, refs in figures.items():
        with lost_as("job_result", Training(network).job_id(check_id), RESTORE):
            for ref in refs:
                data = store.get(ref.key, sha256=ref.sha256, max_bytes=MAX_PICTURE_BYTES)
                slices.append(ExampleSlice(network, data, ref.caption))
    return slices
