"""Checks and their results between protobuf and plain records. Translates only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vfmalign.client.messages.common import Estimate, Progress, State
from vfmalign.core.domain.artifacts import JobProgress
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.finetuning.analysis.cautions import list_cautions
from vfmalign.finetuning.analysis.convergence import Steps
from vfmalign.finetuning.analysis.gain import Gain
from vfmalign.finetuning.analysis.records import (
    MEASURE_MEANINGS,
    CheckReport,
    LayerShift,
    NetworkResult,
    Shift,
)
from vfmalign.finetuning.analysis.shift import is_saturated
from vfmalign.finetuning.checks.repository import Check, ReportRefs, StageRun
from vfmalign.finetuning.checks.request import CheckRequest
from vfmalign.finetuning.jobs.converters import (
    NETWORKS,
    key_of,
    pack_point,
    pack_recipe,
    pack_ref,
    pack_time,
    parse_recipe,
    parse_record,
)
from vfmalign.v1 import alignment_pb2, common_pb2, mmd_pb2

STATES: dict[int, State] = {
    alignment_pb2.CHECK_STATE_QUEUED: "queued",
    alignment_pb2.CHECK_STATE_RUNNING: "running",
    alignment_pb2.CHECK_STATE_SUCCEEDED: "succeeded",
    alignment_pb2.CHECK_STATE_FAILED: "failed",
    alignment_pb2.CHECK_STATE_CANCELLED: "cancelled",
}
VERDICTS: dict[int, str] = {
    alignment_pb2.VERDICT_GAIN: "gain",
    alignment_pb2.VERDICT_NO_CLEAR_GAIN: "no_clear_gain",
    alignment_pb2.VERDICT_HARM: "harm",
    alignment_pb2.VERDICT_INSUFFICIENT_DATA: "insufficient_data",
}


def parse_check(spec: alignment_pb2.CheckSpec) -> CheckRequest:
    """What a client asks of a check; 0 takes the default where the API says so.

    Raises:
        BadOption: a field out of range, unknown or missing.
    """
    fields: dict[str, Any] = {
        "model": spec.model_id,
        "model_sha256": spec.model_sha256,
        "dataset": spec.dataset_id,
        "dataset_digest": spec.dataset_digest,
        "task": spec.task,
        "layers": tuple(spec.layers),
        "recipe": parse_recipe(spec.recipe),
        "seed": spec.seed,
    }
    for name in ("scratch_recipe", "specialised_recipe"):
        if spec.HasField(name):
            fields[name] = parse_recipe(getattr(spec, name))
    for name in ("permutations", "bootstrap_resamples", "interval_level"):
        if value := getattr(spec, name):
            fields[name] = value
    request = parse_record(CheckRequest, fields, "spec")
    request.check()
    return request


def pack_check(
    check: Check,
    store: ObjectStore,
    *,
    stages: Sequence[alignment_pb2.CheckStage],
    job_ids: Sequence[str],
    report: CheckReport | None = None,
) -> alignment_pb2.Check:
    """A check as it stands, with its result where its report is given."""
    message = alignment_pb2.Check(
        check_id=check.id,
        spec=_pack_spec(check.request),
        state=key_of(STATES, check.state),
        progress=check.progress.to_proto(),
        create_time=pack_time(check.created_at),
        end_time=pack_time(check.finished_at),
        stages=stages,
        job_ids=job_ids,
    )
    if check.failure is not None:
        message.failure.CopyFrom(check.failure.to_proto())
    if report is not None and check.report is not None:
        message.result.CopyFrom(_pack_result(report, check.report, store))
    return message


def pack_stages(
    names: Sequence[str], runs: Sequence[StageRun], progress: Sequence[Progress]
) -> list[alignment_pb2.CheckStage]:
    """Every stage in order, begun or not."""
    stages = []
    for name in names:
        own = [run for run in runs if run.stage == name]
        stage = alignment_pb2.CheckStage(name=name, attempts=len(own))
        if own:
            stage.start_time.FromDatetime(own[0].started_at)
        done = next((run for run in own if run.outcome == "succeeded"), None)
        if done is not None and done.finished_at is not None:
            stage.end_time.FromDatetime(done.finished_at)
            stage.seconds = (done.finished_at - own[0].started_at).total_seconds()
        for current in progress:
            if current.phase == name:
                stage.progress.CopyFrom(current.to_proto())
        stages.append(stage)
    return stages


def _pack_spec(request: CheckRequest) -> alignment_pb2.CheckSpec:
    return alignment_pb2.CheckSpec(
        model_id=request.model,
        model_sha256=request.model_sha256,
        dataset_id=request.dataset,
        dataset_digest=request.dataset_digest,
        task=request.task,
        layers=request.layers,
        recipe=pack_recipe(request.recipe),
        scratch_recipe=None if request.scratch_recipe is None else pack_recipe(request.scratch_recipe),
        specialised_recipe=None if request.specialised_recipe is None else pack_recipe(request.specialised_recipe),
        seed=request.seed,
        permutations=request.permutations,
        bootstrap_resamples=request.bootstrap_resamples,
        interval_level=request.interval_level,
    )


def _pack_result(report: CheckReport, refs: ReportRefs, store: ObjectStore) -> alignment_pb2.CheckResult:
    result = report.result
    main = result.network("pretrained")
    metric = next(metric for metric in result.metrics if metric.name == result.primary_metric)
    message = alignment_pb2.CheckResult(
        verdict=key_of(VERDICTS, result.verdict.label),
        verdict_reason=result.verdict.reason,
        shifts=[
            alignment_pb2.LayerShift(
                mmd=_pack_layer(layer),
                shift_ratio=pack_estimate(result.shift_ratio[layer.layer]),
                paired_similarity=pack_estimate(result.get_paired_similarity(layer.layer)),
                saturated=is_saturated(result.get_paired_similarity(layer.layer)),
            )
            for layer in result.shift.layers
        ],
        primary_layer=result.shift.primary_layer,
        rpg_specialised=_pack_gain(result.rpg_specialised),
        rpg_scratch=_pack_gain(result.rpg_scratch),
        metric=alignment_pb2.Metric(**metric.model_dump()),
        convergence=_pack_convergence(main),
        curves=[_pack_curve(network) for network in result.networks],
        test_groups=result.test_groups,
        held_out=result.held_out,
        cautions=[f"{caution.title}. {caution.text}" for caution in list_cautions(result)],
        report_json=pack_ref(refs.json_ref, store),
        report_html=pack_ref(refs.html_ref, store),
        software=[common_pb2.SoftwareVersion(name=n, version=v) for n, v in sorted(report.run.software.items())],
        probes=[
            alignment_pb2.Probe(step=probe.step, shift=pack_estimate(probe.shift), validation_score=probe.val_score)
            for probe in result.probes
        ],
        measures=[
            alignment_pb2.CheckMeasure(name=name, value=pack_estimate(result.measures[name]), meaning=meaning)
            for name, meaning in MEASURE_MEANINGS.items()
            if name in result.measures
        ],
    )
    if result.naive_baseline is not None:
        message.gain_naive_baseline.CopyFrom(_pack_gain(result.naive_baseline.gain))
        message.naive_baseline = result.naive_baseline.prediction
        message.naive_baseline_not_beaten = result.naive_baseline.not_beaten
    if main.weight_change is not None:
        message.weight_change = main.weight_change
    return message


def pack_estimate(estimate: Estimate) -> common_pb2.Estimate:
    """A number that may be absent."""
    message = common_pb2.Estimate(value=estimate.value, absent_reason=estimate.absent_reason)
    if estimate.interval is not None:
        message.interval.CopyFrom(common_pb2.Interval(**estimate.interval.model_dump()))
    return message


def _pack_layer(layer: LayerShift) -> mmd_pb2.LayerResult:
    return mmd_pb2.LayerResult(
        layer=layer.layer,
        channels=layer.channels,
        channels_excluded=layer.channels_excluded,
        raw=_pack_shift(layer.raw),
        standardised=None if layer.standardised is None else _pack_shift(layer.standardised),
    )


def _pack_shift(shift: Shift) -> mmd_pb2.ShiftResult:
    return mmd_pb2.ShiftResult(
        mmd2=pack_estimate(shift.mmd2),
        sigma=shift.sigma,
        p_value=pack_estimate(shift.p_value),
        p_value_max_t=pack_estimate(shift.p_value_max_t),
        permutations=shift.permutations,
        enumerated=shift.enumerated,
        error_bound=shift.error_bound,
        below_error_bound=shift.below_error_bound,
    )


def _pack_gain(gain: Gain) -> alignment_pb2.Gain:
    return alignment_pb2.Gain(
        relative_percent=pack_estimate(gain.relative),
        absolute=pack_estimate(gain.difference),
        score=gain.score or 0.0,
        baseline=gain.baseline or 0.0,
    )


def _pack_convergence(network: NetworkResult) -> alignment_pb2.Convergence:
    to_baseline = network.steps_to_specialised or Steps()
    censored = to_baseline.censored
    return alignment_pb2.Convergence(
        steps_to_95=_pack_steps(network.convergence.steps_to_95),
        steps_to_baseline=_pack_steps(
            Steps(absent_reason="the specialised network's best was not reached") if censored else to_baseline
        ),
        censored=censored,
        steps=network.convergence.budget,
    )


def _pack_steps(steps: Steps) -> common_pb2.Estimate:
    return common_pb2.Estimate(
        value=None if steps.value is None else float(steps.value), absent_reason=steps.absent_reason
    )


def _pack_curve(network: NetworkResult) -> alignment_pb2.Curve:
    points = [
        JobProgress(
            epoch=p.epoch, epochs=network.curve[-1].epoch, step=p.step, steps=network.convergence.budget,
            train_loss=p.train_loss, val_score=p.val_score, elapsed_s=0.0,
        )
        for p in network.curve
    ]  # fmt: skip
    return alignment_pb2.Curve(
        network=key_of(NETWORKS, network.network),
        points=[pack_point(point) for point in points],
        selected_step=network.selected_step,
    )
