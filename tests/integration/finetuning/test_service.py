"""The finetuning service as a process of its own: checks end to end, kills, waits, cancels and refusals."""

from __future__ import annotations

import asyncio
import hashlib
import signal

import pytest
from tests.faults.finetuning.test_leadership import metrics, until

from vfmalign.analysis.checks.records import CheckReport
from vfmalign.core.domain.errors import (
    BadOption,
    CaseOrderMismatch,
    Conflict,
    Exhausted,
    PreconditionFailed,
    Unavailable,
)
from vfmalign.core.domain.recipes import get_finetuning_recipe
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.v1 import alignment_pb2, common_pb2, finetuning_pb2, mmd_pb2

STAGES = (
    "validate", "features_reference", "features_before", "features_random", "recipe", "job_pretrained", "job_scratch",
    "job_specialised", "features_after", "mmd", "measures", "report",
)  # fmt: skip


async def fetch_report(service, name, report_format):
    request = alignment_pb2.GetCheckReportRequest(check_id=name, format=report_format)
    return b"".join([message.content async for message in service.checks.GetCheckReport(request)])


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
async def test_a_check_runs_through_every_stage_to_its_report(service, store, peers):
    name = await service.create("whole")
    events = service.checks.WatchCheck(alignment_pb2.WatchCheckRequest(check_id=name))
    watched = [event.check async for event in events]
    check = watched[-1]
    assert check.state == alignment_pb2.CHECK_STATE_SUCCEEDED, check.progress.detail
    assert len(watched) > 3
    assert len({event.progress.phase for event in watched}) > 2
    assert [stage.name for stage in check.stages] == list(STAGES)
    assert all(stage.attempts == 1 and stage.HasField("end_time") for stage in check.stages)
    assert sorted(service.runs(name)) == sorted((stage, "succeeded") for stage in STAGES)
    assert list(check.job_ids) == [f"{name}-{network}" for network in ("pretrained", "scratch", "specialised")]

    result = check.result
    assert result.verdict == alignment_pb2.VERDICT_INCONCLUSIVE
    assert result.metric.smallest_difference == 0.01
    assert "smallest relevant difference 0.01: the interval lies above zero" in result.verdict_reason
    assert "12 test patients are too few for `gain`, which needs at least 17" in result.verdict_reason
    wide, narrow = result.rpg_specialised.absolute.interval, result.rpg_specialised.equivalence_interval
    assert (wide.level, narrow.level) == (0.95, 0.9)
    assert 0 < wide.lower < narrow.lower < narrow.upper < wide.upper
    assert result.rpg_specialised.relative_percent.value == pytest.approx(20, rel=0.1)
    assert result.rpg_scratch.relative_percent.HasField("interval")
    assert [shift.mmd.layer for shift in result.shifts] == ["stages.1", "stages.0"], "the primary layer comes first"
    assert result.shifts[0].shift_ratio.HasField("value")
    # With the peer's U = V = m, twice m standardised: 1 − (12V − 11U)/2.
    assert result.shifts[0].paired_similarity.value == pytest.approx(
        1 - result.shifts[0].mmd.standardised.mmd2.value / 2
    )
    assert not result.shifts[0].saturated
    assert result.convergence.steps_to_95.value == 40
    assert result.held_out
    assert result.interval_scope == "covers patients, not training"
    assert not result.seeds
    assert not result.HasField("seed_variation")
    assert not result.rpg_specialised.HasField("variance")
    assert any("Pretraining set unknown" in caution for caution in result.cautions)
    assert [curve.selected_step for curve in result.curves] == [60, 60, 60]
    report = CheckReport.model_validate_json(store.get(store.key(result.report_json.uri)))
    assert report.result_digest == report.result.digest()
    html = store.get(store.key(result.report_html.uri), sha256=result.report_html.sha256).decode()
    assert f"Alignment check {name}" in html
    assert "covers patients, not training: each network was trained once" in html
    assert "<h2>Training seeds</h2>" not in html
    assert await fetch_report(service, name, common_pb2.REPORT_FORMAT_UNSPECIFIED) == html.encode()
    fetched = await fetch_report(service, name, common_pb2.REPORT_FORMAT_JSON)
    assert hashlib.sha256(fetched).hexdigest() == result.report_json.sha256
    with pytest.raises(BadOption, match="choose html or json"):
        await fetch_report(service, name, common_pb2.REPORT_FORMAT_CSV)

    measured = {one.name: one for one in result.measures}
    assert list(measured) == ["cka", "frechet", "energy", "logme", "h_score"]
    assert measured["cka"].value.value == mmd_pb2.MEASURE_CKA / 4
    assert measured["cka"].meaning.startswith("similarity")
    assert measured["frechet"].value.absent_reason == "takes at most 8192 rows"
    assert all("no class" in measured[name].value.absent_reason for name in ("logme", "h_score"))

    asked = [call for call in peers.mmd.calls if call.measures]
    assert [list(call.measures) for call in asked] == [[1], [2], [3]]
    assert all(list(call.layers) == ["stages.1"] and not call.test.permutations for call in asked)
    narrow, wide = [call for call in peers.mmd.calls if call.kernel.fixed_sigma]
    assert (narrow.kernel.fixed_sigma, wide.kernel.fixed_sigma) == (0.5, 2.0)
    assert all(list(call.layers) == ["stages.1"] and not call.test.permutations for call in (narrow, wide))
    test, biased, random = [call for call in peers.mmd.calls if not call.measures and not call.kernel.fixed_sigma]
    assert test.pairing == mmd_pb2.PAIRING_PAIRED
    assert test.estimator == mmd_pb2.ESTIMATOR_UNBIASED_PAIRED
    assert (test.test.permutations, test.test.seed, test.projection) == (1000, 1, True)
    assert test.reference.feature_set_id == random.reference.feature_set_id
    assert random.test.permutations == 0
    assert (biased.x, biased.y, biased.kernel) == (test.x, test.y, test.kernel)
    assert biased.estimator == mmd_pb2.ESTIMATOR_BIASED
    assert biased.test.permutations == 0
    assert len(set(peers.features.calls)) == 4
    assert peers.features.creators == {"#anonymous"}, "the features are of the caller who asked for the check"
    assert any(call.startswith(f"{name}-encoder/") for call in peers.features.calls)

    job = (await service.jobs.GetJob(finetuning_pb2.GetJobRequest(job_id=f"{name}-scratch"))).job
    assert job.state == finetuning_pb2.JOB_STATE_SUCCEEDED
    assert job.created_by == check.created_by == "#anonymous"
    assert (job.dataset_digest, job.model_sha256) == (check.dataset_digest, check.model_sha256)
    assert check.dataset_digest == load_dataset(store, "demo").digest()
    assert job.encoder_model_id == f"{name}-scratch-encoder"
    assert [point.epoch for point in job.curve] == list(range(7))
    assert job.spec.recipe.epochs == 6
    preset = get_finetuning_recipe("pretrained", "segmentation", "demo")
    assert (job.spec.recipe.batch_size, job.spec.recipe.layer_decay) == (preset.batch_size, preset.layer_decay)


async def test_a_check_names_the_cases_whose_organs_are_cut(service, store):
    name = await service.create("cut", allow_cut_organs=True)
    check = await service.finish(name)
    assert check.state == alignment_pb2.CHECK_STATE_SUCCEEDED, check.progress.detail
    assert check.spec.allow_cut_organs
    job = (await service.jobs.GetJob(finetuning_pb2.GetJobRequest(job_id=check.job_ids[0]))).job
    assert job.spec.allow_cut_organs
    cut = check.result.cut_structures
    assert [(one.structure, one.split, round(one.inside, 6)) for one in cut] == [
        ("lesion", common_pb2.SPLIT_TEST, share / 10) for share in range(10)
    ]
    (caution,) = [caution for caution in check.result.cautions if caution.startswith("Organs cut off. ")]
    assert "Less than 98 % of a structure lies in the model's field of view in 10 cases, 10 of them in test" in caution
    assert f"{cut[0].case_id} (lesion 0 %); {cut[1].case_id} (lesion 10 %)" in caution
    html = (await fetch_report(service, name, common_pb2.REPORT_FORMAT_HTML)).decode()
    assert all(f"<td><code>{one.case_id}</code></td><td>test</td><td>lesion</td>" in html for one in cut)
    assert '<td class="n">90 %</td>' in html


async def test_waits_for_a_service_that_is_away_and_says_so(service, peers):
    peers.stop()
    name = await service.create("patient")
    check = await service.until(name, lambda check: check.progress.reason == "UNAVAILABLE")
    assert "trying again in" in check.progress.detail
    assert check.state == alignment_pb2.CHECK_STATE_RUNNING
    waiting = 'vfmalign_checks_waiting{reason="UNAVAILABLE"}'
    await until(lambda: metrics(service.ports)[waiting] == 1)
    peers.start()
    assert (await service.finish(name)).state == alignment_pb2.CHECK_STATE_SUCCEEDED
    await until(lambda: metrics(service.ports)[waiting] == 0)


async def test_a_test_case_that_is_also_in_train_stops_the_check(service, peers):
    name = await service.create("leaky", dataset="leaky")
    check = await service.finish(name)
    assert check.state == alignment_pb2.CHECK_STATE_FAILED
    assert check.failure.reason == "LEAKAGE"
    assert "train-1" in check.failure.message
    assert peers.features.calls == []


async def test_an_error_of_a_peer_keeps_its_reason_and_sentence(service, peers):
    peers.mmd.error = CaseOrderMismatch("row 3 is another case after than before", remedy="extract them again")
    name = await service.create("swapped")
    check = await service.finish(name)
    assert check.state == alignment_pb2.CHECK_STATE_FAILED
    assert check.failure.reason == "CASE_ORDER_MISMATCH"
    assert "row 3 is another case" in check.failure.message


async def test_what_will_never_fit_fails_the_check_instead_of_waiting(service, peers):
    peers.mmd.error = Exhausted("too large for the device", remedy="compare fewer rows")
    peers.mmd.error.retry_after_s = None
    check = await service.finish(await service.create("too-large"))
    assert check.state == alignment_pb2.CHECK_STATE_FAILED
    assert check.failure.reason == "RESOURCE_EXHAUSTED"


async def test_a_failed_job_fails_the_check_with_its_sentence_and_stops_the_other_jobs(service):
    name = await service.create("bad-data", seed=3)
    check = await service.finish(name)
    assert check.state == alignment_pb2.CHECK_STATE_FAILED
    assert check.failure.reason == "BAD_VOLUME"
    assert "not a volume" in check.failure.message


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
async def test_a_retried_check_continues_from_its_artifacts(service, peers):
    name = await service.create("repaired", seed=3)
    failed = await service.finish(name)
    assert failed.state == alignment_pb2.CHECK_STATE_FAILED
    assert failed.failure.message.endswith(f"continue with `vfmalign checks retry {name}`")
    extracted, begun = len(peers.features.commits), service.runs(name)

    (service.folder / "go").touch()
    request = alignment_pb2.RetryCheckRequest(check_id=name)
    replies = await asyncio.gather(*(service.checks.RetryCheck(request) for _ in range(3)))
    assert not any(reply.check.HasField("end_time") or reply.check.HasField("failure") for reply in replies)
    events = service.checks.WatchCheck(alignment_pb2.WatchCheckRequest(check_id=name))
    check = [event.check async for event in events][-1]
    assert check.state == alignment_pb2.CHECK_STATE_SUCCEEDED, check.progress.detail

    runs = service.runs(name)
    assert sorted(stage for stage, outcome in runs if outcome == "succeeded") == sorted(STAGES)
    assert {stage for stage, outcome in runs if outcome != "succeeded"} <= {
        "job_pretrained", "job_scratch", "job_specialised"
    }  # fmt: skip
    assert [run for run in begun if run[1] != "running"] == begun, "a run of the failed check was left open"
    assert len(set(peers.features.commits)) == len(peers.features.commits) == extracted + 1
    for network in ("pretrained", "scratch", "specialised"):
        job = (await service.jobs.GetJob(finetuning_pb2.GetJobRequest(job_id=f"{name}-{network}"))).job
        assert job.state == finetuning_pb2.JOB_STATE_SUCCEEDED
        assert service.starts().count(job.job_id) <= job.attempts <= 2
    with pytest.raises(PreconditionFailed, match="the check has succeeded"):
        await service.checks.RetryCheck(request)


async def test_a_cancelled_check_is_retried_while_its_jobs_still_stop(service):
    name = await service.create("changed-mind", seed=5)
    await service.until(name, lambda check: len(service.starts()) == 3)
    await service.checks.CancelCheck(alignment_pb2.CancelCheckRequest(check_id=name))
    await service.checks.RetryCheck(alignment_pb2.RetryCheckRequest(check_id=name))
    (service.folder / "go").touch()
    check = await service.finish(name)
    assert check.state == alignment_pb2.CHECK_STATE_SUCCEEDED, check.progress.detail


async def test_cancel_during_features_cancels_the_call(service, peers):
    name = await service.create("stop-features", dataset="slow")
    await service.until(name, lambda check: check.progress.done == 1)
    await service.checks.CancelCheck(alignment_pb2.CancelCheckRequest(check_id=name))
    check = await service.finish(name)
    assert check.state == alignment_pb2.CHECK_STATE_CANCELLED
    assert await asyncio.to_thread(peers.features.cancelled.wait, 10)


async def test_cancel_during_training_stops_the_jobs(service):
    name = await service.create("stop-training", seed=5)
    await service.until(name, lambda check: len(service.starts()) == 3)
    await service.checks.CancelCheck(alignment_pb2.CancelCheckRequest(check_id=name))
    check = await service.finish(name)
    assert check.state == alignment_pb2.CHECK_STATE_CANCELLED
    jobs = (await service.jobs.ListJobs(finetuning_pb2.ListJobsRequest())).jobs
    assert {job.state for job in jobs} == {finetuning_pb2.JOB_STATE_CANCELLED}
    again = await service.checks.CancelCheck(alignment_pb2.CancelCheckRequest(check_id=name))
    assert again.check.state == alignment_pb2.CHECK_STATE_CANCELLED


async def test_artifacts_of_another_body_under_the_same_id_are_never_used(service, store):
    """As after the loss of a database: the bucket remembers a check that the orchestrator does not."""
    store.put(f"checks/{service.prefix}-claimed/spec.json", b"{}")
    check = await service.finish(await service.create("claimed"))
    assert check.state == alignment_pb2.CHECK_STATE_FAILED
    assert check.failure.reason == "ALREADY_EXISTS"


async def test_create_is_idempotent_and_another_body_conflicts(service):
    name = await service.create("same", dataset="slow")
    created = (await service.get(name)).create_time
    assert await service.create("same", dataset="slow") == name
    assert (await service.get(name)).create_time == created
    with pytest.raises(Conflict, match="a different request"):
        await service.create("same", dataset="slow", seed=2)
    await service.checks.CancelCheck(alignment_pb2.CancelCheckRequest(check_id=name))


async def test_bad_requests_name_their_field(service):
    wrong = [
        ({"task": {"name": "nothing"}}, "spec.task.name"),
        ({"model_id": "Not An Id"}, "spec.model_id"),
        ({"seed": -1}, "spec.seed"),
        ({"permutations": 200_000}, "spec.permutations"),
        ({"interval_level": 1.5}, "spec.interval_level"),
        ({"recipe": finetuning_pb2.Recipe(preset="nope")}, "spec.recipe.preset"),
        ({"recipe": finetuning_pb2.Recipe(epochs=0)}, "spec.recipe.epochs"),
        ({"layers": ["a", "a"]}, "spec.layers"),
    ]
    for change, field in wrong:
        fields = {"model_id": "vfm", "dataset_id": "demo", "task": {"name": "segmentation"}} | change
        request = alignment_pb2.CreateCheckRequest(check_id="bad", spec=alignment_pb2.CheckSpec(**fields))
        with pytest.raises(BadOption) as caught:
            await service.checks.CreateCheck(request)
        assert caught.value.field == field
    with pytest.raises(BadOption, match="states"):
        await service.checks.ListChecks(alignment_pb2.ListChecksRequest(states=[0]))
    assert not (await service.checks.ListChecks(alignment_pb2.ListChecksRequest())).checks


async def test_ends_on_sigterm_with_a_watcher_and_a_job_and_goes_on_after(service):
    name = await service.create("resumed", seed=5)
    await service.until(name, lambda check: len(service.starts()) == 3)

    async def watch():
        async for _ in service.checks.WatchCheck(alignment_pb2.WatchCheckRequest(check_id=name)):
            pass

    watcher = asyncio.create_task(watch())
    await asyncio.sleep(0.3)
    service.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(service.process.wait, 20) == 0
    with pytest.raises(Unavailable):
        await watcher
    await service.channel.close()
    (service.folder / "go").touch()
    await service.start()
    assert (await service.finish(name)).state == alignment_pb2.CHECK_STATE_SUCCEEDED
