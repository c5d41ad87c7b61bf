"""Checks that train each network with several seeds: every seed is killed, retried and repaired on its own.

The program of the tests waits for a file with seed 5 and fails with seed 3, so that the second seed of a check can.
"""

from __future__ import annotations

import pytest

from vfmalign.analysis.checks.records import CheckReport
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.storage.keys import job_key
from vfmalign.v1 import alignment_pb2, finetuning_pb2

SUCCEEDED = alignment_pb2.CHECK_STATE_SUCCEEDED
FIRST, SECOND = (
    [f"{network}{suffix}" for network in ("pretrained", "scratch", "specialised")] for suffix in ("", "-s2")
)


def read_report(store, check):
    return CheckReport.model_validate_json(store.get(store.key(check.result.report_json.uri)))


def succeeded(service, name):
    return sorted(stage for stage, outcome in service.runs(name) if outcome == "succeeded")


def states(check, *stages):
    return [stage.HasField("end_time") for stage in check.stages if stage.name in stages]


async def get_job(service, name):
    return (await service.jobs.GetJob(finetuning_pb2.GetJobRequest(job_id=name))).job


async def test_each_network_is_trained_and_compared_with_every_seed(service, store, peers):
    name = await service.create("twice", seed=7, seeds=2)
    check = await service.finish(name)
    assert check.state == SUCCEEDED, check.progress.detail
    assert list(check.job_ids) == [f"{name}-{training}" for training in FIRST + SECOND]
    jobs = [await get_job(service, job_id) for job_id in check.job_ids]
    assert [job.spec.seed for job in jobs] == [7, 7, 7, 8, 8, 8]
    assert [job.encoder_model_id for job in jobs[3:]] == [f"{name}-encoder-s2", f"{name}-scratch-encoder-s2", ""]
    assert all(stage.attempts == 1 and stage.HasField("end_time") for stage in check.stages)

    main = [call for call in peers.mmd.calls if call.test.permutations and len(call.layers) == 2]
    assert len(main) == 2
    assert main[0].x == main[1].x, "the cases before are the same"
    assert main[0].y != main[1].y
    assert {call.test.seed for call in main} == {7}
    extracted = [call.split("/")[0] for call in peers.features.commits]
    assert extracted.count(f"{name}-encoder-s2") == 1
    assert sum("/2" in call for call in peers.features.commits) >= 1

    report = read_report(store, check)
    assert [seed.seed for seed in report.result.seeds] == [7, 8]
    assert [network.job_id for network in report.result.seeds[1].networks] == [
        f"{name}-{training}" for training in SECOND
    ]
    shifts = [seed.shift.layers[0].raw.mmd2.value for seed in report.result.seeds]
    assert shifts[0] != shifts[1]
    assert report.result.shift == report.result.seeds[0].shift
    assert set(report.run.job_attempts) == set(check.job_ids)
    assert report.result.settings["encoder_after_s2"] == f"{name}-encoder-s2"

    result = check.result
    assert result.interval_scope == "covers patients and training"
    assert [seed.seed for seed in result.seeds] == [7, 8]
    assert list(result.seeds[1].job_ids) == [f"{name}-{training}" for training in SECOND]
    scores = [seed.rpg_specialised.score for seed in result.seeds]
    assert scores[1] - scores[0] == pytest.approx(0.01)
    gain = result.rpg_specialised
    assert gain.score == pytest.approx(sum(scores) / 2)
    assert gain.variance.seeds == 2
    assert gain.variance.network.seed == pytest.approx(0.01**2 / 2)
    assert gain.absolute.interval.method.startswith("crossed")
    assert gain.equivalence_interval.level == pytest.approx(0.9)
    assert f"{gain.absolute.interval.lower:.3f}".lstrip("+") in result.verdict_reason
    primary = result.seed_variation.layers[0]
    assert primary.layer == result.primary_layer
    assert primary.raw.mean.value == pytest.approx(sum(shifts) / 2)
    assert result.seed_variation.steps_to_95.mean == 40
    html = store.get(store.key(result.report_html.uri), sha256=result.report_html.sha256).decode()
    assert "<h2>Training seeds</h2>" in html
    assert "covers patients and training" in html


async def test_cancelling_stops_the_jobs_of_every_seed_that_runs(service):
    name = await service.create("stopped", seed=4, seeds=2)
    await service.until(name, lambda check: states(check, "job_scratch", "job_specialised") == [True] * 2)
    await service.started(6)
    await service.checks.CancelCheck(alignment_pb2.CancelCheckRequest(check_id=name))
    check = await service.finish(name)
    assert check.state == alignment_pb2.CHECK_STATE_CANCELLED
    for training in FIRST:
        assert (await get_job(service, f"{name}-{training}")).state == finetuning_pb2.JOB_STATE_SUCCEEDED
    for training in SECOND:
        assert (await get_job(service, f"{name}-{training}")).state == finetuning_pb2.JOB_STATE_CANCELLED


async def test_a_retry_trains_again_only_the_seed_that_failed(service):
    name = await service.create("second-fails", seed=2, seeds=2)
    check = await service.finish(name)
    assert check.state == alignment_pb2.CHECK_STATE_FAILED
    assert check.failure.reason == "BAD_VOLUME"
    assert "-s2" in check.failure.message
    (service.folder / "go").touch()
    await service.checks.RetryCheck(alignment_pb2.RetryCheckRequest(check_id=name))
    check = await service.until(name, lambda check: check.state == SUCCEEDED)
    assert succeeded(service, name) == sorted(stage.name for stage in check.stages), "a stage ran again"
    assert all(states(check, *(stage.name for stage in check.stages)))
    trained = service.starts()
    assert max(trained.count(f"{name}-{training}") for training in FIRST) <= 2, "it may have been cancelled once"
    assert max(trained.count(f"{name}-{training}") for training in SECOND) == 2


async def test_a_check_shares_the_baselines_of_each_seed(service, store):
    first = await service.create("shared", seed=7, seeds=2)
    assert (await service.finish(first)).state == SUCCEEDED
    name = await service.create("shares", seed=8)
    check = await service.finish(name)
    assert check.state == SUCCEEDED, check.progress.detail
    assert service.starts()[6:] == [f"{name}-pretrained"]
    assert read_report(store, check).run.trained_by == {
        "pretrained": f"{name}-pretrained", "scratch": f"{first}-scratch-s2", "specialised": f"{first}-specialised-s2",
    }  # fmt: skip
    assert store.exists(job_key(f"{name}-scratch", "result.json"))


async def test_numbers_of_seeds_out_of_range_are_refused(service):
    for seeds in (-1, 11):
        with pytest.raises(BadOption, match="out of range") as caught:
            await service.create("many", seeds=seeds)
        assert caught.value.field == "spec.seeds"
    with pytest.raises(BadOption, match="exceed") as caught:
        await service.create("beyond", seed=2**63 - 2, seeds=3)
    assert caught.value.field == "spec.seed"
