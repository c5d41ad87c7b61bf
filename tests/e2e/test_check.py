"""One alignment check through the three services and a real S3 server."""

from __future__ import annotations

import json
import re
from typing import Any

import grpc
import pytest

from vfmalign.v1 import alignment_pb2, features_pb2, finetuning_pb2

pytestmark = pytest.mark.e2e


def test_a_check_ends_with_every_number(undisturbed: Any) -> None:
    result, asked = undisturbed.result, undisturbed.spec.recipe
    assert result.shifts[0].mmd.layer == result.primary_layer == "stages.3"
    assert {shift.mmd.layer for shift in result.shifts} == {f"stages.{stage}" for stage in range(4)}
    for shift in result.shifts:
        for scaled in (shift.mmd.raw, shift.mmd.standardised):
            assert scaled.mmd2.HasField("value")
            assert scaled.mmd2.HasField("interval")
            assert 0 < scaled.p_value.value <= scaled.p_value_max_t.value <= 1
            assert scaled.sigma > 0
        assert shift.shift_ratio.HasField("value")
        assert 0 < shift.paired_similarity.value < 1
        assert shift.saturated == (shift.paired_similarity.value < 0.05)
    for gain in (result.rpg_specialised, result.rpg_scratch):
        assert gain.relative_percent.HasField("value") or gain.relative_percent.absent_reason
        assert gain.absolute.HasField("value")
    assert [len(curve.points) for curve in result.curves] == [asked.epochs + 1] * 3
    assert result.convergence.steps == asked.epochs * asked.steps_per_epoch
    assert result.weight_change > 0
    assert result.verdict != alignment_pb2.VERDICT_UNSPECIFIED
    assert result.test_groups == 9
    assert result.held_out


def test_the_primary_layer_is_measured_in_other_ways_too(undisturbed: Any) -> None:
    found = {measure.name: measure.value for measure in undisturbed.result.measures}
    assert 0 < found["cka"].value <= 1
    assert found["frechet"].value > 0
    assert found["energy"].HasField("value")
    assert not found["logme"].HasField("value")
    assert "no class" in found["logme"].absent_reason


def test_every_stage_ran_once_and_took_time(undisturbed: Any) -> None:
    assert len(undisturbed.stages) == 12
    for stage in undisturbed.stages:
        assert stage.attempts == 1, stage.name
        assert stage.seconds >= 0
        assert stage.end_time.ToNanoseconds() >= stage.start_time.ToNanoseconds() > 0


def test_the_report_is_stored_verified_and_self_contained(world: Any, undisturbed: Any) -> None:
    ref = undisturbed.result.report_html
    html = world.store.get(world.store.key(ref.uri), sha256=ref.sha256).decode()
    assert ref.size_bytes == len(html.encode())
    outside = re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|#)([^"']+)""", html)
    assert outside == []
    assert "<script" not in html
    assert html.count("data:image/") >= 4
    for word in ("phantom rehearsal", "stages.3", "MMD"):
        assert word.lower() in html.lower()
    for word in ("aligned", " safe"):
        assert word not in html.lower()
    report = world.store.get_json(world.store.key(undisturbed.result.report_json.uri))
    assert json.dumps(report)


def test_the_same_id_gives_the_same_check_and_another_body_is_refused(world: Any, undisturbed: Any) -> None:
    assert world.create("undisturbed").create_time == undisturbed.create_time
    with pytest.raises(grpc.RpcError) as caught:
        world.create("undisturbed", seed=8)
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS


def test_everything_that_a_check_makes_names_the_caller_who_asked_for_it(world: Any, undisturbed: Any) -> None:
    creator = undisturbed.created_by
    assert creator.endswith("#owner"), "a service with its own token made the features, jobs and models"
    jobs = [world.jobs.GetJob(finetuning_pb2.GetJobRequest(job_id=name)).job for name in undisturbed.job_ids]
    published = {job.encoder_model_id for job in jobs} - {""}
    models = {one.model_id: one for one in world.features.ListModels(features_pb2.ListModelsRequest()).models}
    used = {undisturbed.spec.model_id, *published}
    sets = world.features.ListFeatureSets(features_pb2.ListFeatureSetsRequest()).feature_sets
    # Other tests of this stack store sets of the same model with storage keys, which no caller has created.
    sets = [one for one in sets if one.model_id in used and one.dataset_id == undisturbed.spec.dataset_id]
    assert len(published) == 2
    assert len(sets) >= 4
    assert {one.created_by for one in (*jobs, *sets, *(models[name] for name in published))} == {creator}
    assert {one.dataset_digest for one in (*jobs, *sets)} == {undisturbed.dataset_digest}
    assert {job.model_sha256 for job in jobs} == {undisturbed.model_sha256}
    parents = {models[name].parent_sha256 for name in published}
    assert parents == {undisturbed.model_sha256, ""}, "random weights have no parent"


def test_another_task_goes_the_same_way(rate_zero: Any) -> None:
    result = rate_zero.result
    assert result.metric.unit == "dB"
    assert result.metric.of_set == "mean"
    (logme,) = (measure.value for measure in result.measures if measure.name == "logme")
    assert "no class" in logme.absent_reason
    assert result.HasField("gain_naive_baseline")
    assert result.verdict != alignment_pb2.VERDICT_UNSPECIFIED
    assert result.naive_baseline
    assert result.gain_naive_baseline.score == result.rpg_specialised.score
    assert result.naive_baseline_not_beaten == any("not beaten" in caution for caution in result.cautions)
    assert all(shift.mmd.raw.mmd2.HasField("value") for shift in result.shifts)


def test_a_cancelled_check_stops_its_jobs_and_stays_cancelled(world: Any) -> None:
    world.create("cancelled", recipe=None, seed=11)
    world.wait_for("cancelled", lambda check: check.progress.phase.startswith("job_"))
    world.checks.CancelCheck(alignment_pb2.CancelCheckRequest(check_id="cancelled"))
    check = world.finish("cancelled")
    assert check.state == alignment_pb2.CHECK_STATE_CANCELLED
    assert world.get("cancelled").state == alignment_pb2.CHECK_STATE_CANCELLED
