"""The repository of checks: idempotency, states and the record of stage runs, on both databases."""

import time

import pytest

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.common import Progress
from vfmalign.core.domain.errors import Conflict, NotFound, PreconditionFailed
from vfmalign.core.domain.stored_objects import StoredFile
from vfmalign.database.pagination import PageRequest
from vfmalign.database.tables import now
from vfmalign.finetuning.checks.reporting import list_losses, stage_times
from vfmalign.finetuning.checks.repository import CheckRepository, ReportRefs, summarise


def request(seed=0, epochs=1):
    return CheckSpec(model_id="m", dataset_id="d", task="segmentation", seed=seed, recipe={"epochs": epochs})


REF = StoredFile(key="k", sha256="0" * 64, size_bytes=1)


@pytest.fixture
def checks(database):
    return CheckRepository(database)


@pytest.fixture
def running(checks):
    checks.create("a", request())
    checks.begin("a")
    return checks


def outcomes(checks):
    return [(run.stage, run.attempt, run.outcome) for run in checks.stages("a")]


def test_create_is_idempotent_and_another_body_conflicts(checks):
    first = checks.create("a", request())
    assert checks.create("a", request()) == first
    assert first.request == request()
    with pytest.raises(
        Conflict, match=r"different request: it differs in recipe\.epochs, seed; choose another check id"
    ):
        checks.create("a", request(seed=1, epochs=2))
    with pytest.raises(NotFound):
        checks.get("b")


def test_list_filters_and_pages(checks):
    for i in range(5):
        checks.create(f"c{i}", request())
    checks.begin("c1")
    page = checks.list(PageRequest(size=2, states=("queued",)))
    assert [check.id for check in page.items] == ["c4", "c3"]
    rest = checks.list(PageRequest(size=2, states=("queued",), token=page.next_token))
    assert [check.id for check in rest.items] == ["c2", "c0"]
    assert rest.next_token == ""
    assert [check.id for check in checks.active()] == ["c1", "c0", "c2", "c3", "c4"], "begun ones first, then in order"


def test_progress_of_stages_is_kept_until_the_check_ends(running):
    progress = Progress(phase="mmd", done=1, total=4, unit="case", elapsed_seconds=0.5, detail="comparing")
    running.set_stage_progress("a", (progress,))
    assert (running.get("a").progress, running.get("a").stage_progress) == (progress, (progress,))
    running.fail("a", "the reason", "LEAKAGE")
    running.set_stage_progress("a", (progress,))
    check = running.get("a")
    assert (check.state, check.failure.reason, check.failure.message) == ("failed", "LEAKAGE", "the reason")
    assert (check.progress, check.stage_progress) == (Progress(phase="finished", detail="the reason"), ())


def test_a_check_shows_its_training_and_every_wait():
    extracting = Progress(phase="features_random", done=1, total=2, unit="case", detail="extracting")
    waiting = Progress(phase="mmd", detail="waiting at mmd", reason="UNAVAILABLE")
    training = Progress(phase="job_scratch", done=3, total=9, unit="epoch", detail="training")
    combined = summarise((extracting, waiting, training))
    assert (combined.phase, combined.done, combined.total) == ("job_scratch", 3, 9)
    assert combined.detail == "extracting; waiting at mmd; training"
    assert combined.reason == "UNAVAILABLE"
    assert summarise((waiting, extracting)).phase == "features_random"
    assert summarise((waiting,)) == waiting


def test_cancel_ends_a_queued_check_marks_a_running_one_and_leaves_a_finished_one(running):
    running.create("queued", request())
    assert running.cancel("queued").state == "cancelled"
    assert running.cancel("a").cancel_requested
    running.set_stage_progress("a", (Progress(phase="mmd", detail="still busy"),))
    assert running.get("a").progress.phase == "stopping"
    ref = StoredFile(key="k", sha256="0" * 64, size_bytes=1)
    running.succeed("a", ReportRefs(json_ref=ref, html_ref=ref))
    assert running.cancel("a").state == "succeeded"
    assert running.get("a").report.json_ref == ref


def test_an_interrupted_stage_is_told_from_a_finished_one(running):
    assert running.begin_stage("a", "mmd") == 1
    assert running.begin_stage("a", "mmd") == 2, "the first process was killed"
    running.end_stage("a", "mmd", "succeeded")
    running.end_stage("a", "mmd", "succeeded")  # found done by a third process: changes nothing
    assert outcomes(running) == [("mmd", 1, "interrupted"), ("mmd", 2, "succeeded")]
    assert all(run.seconds >= 0 for run in running.stages("a"))


def test_a_stage_that_was_cancelled_while_it_stored_its_artifact_is_done(running):
    running.begin_stage("a", "mmd")
    running.fail("a", "another stage failed", "TOO_LARGE")
    assert outcomes(running) == [("mmd", 1, "cancelled")]
    running.retry("a")
    running.end_stage("a", "mmd", "succeeded")  # its artifact was found
    running.end_stage("a", "validate", "succeeded")  # found by an orchestrator whose database was lost
    assert outcomes(running) == [("mmd", 1, "succeeded")]
    running.end_stage("a", "mmd", "failed", "too late")
    assert outcomes(running) == [("mmd", 1, "succeeded")]
    running.record_loss("a", "mmd", "s3://b/k: changed")
    running.end_stage("a", "mmd", "succeeded")
    assert outcomes(running) == [("mmd", 1, "succeeded"), ("mmd", 2, "lost")]


def test_stage_times_run_from_the_first_beginning_to_the_end(running):
    running.begin_stage("a", "mmd")
    time.sleep(0.05)
    running.begin_stage("a", "mmd")
    running.end_stage("a", "mmd", "succeeded")
    running.begin_stage("a", "report")
    done, begun = stage_times(running.stages("a"))
    assert (done.stage, done.attempts) == ("mmd", 2)
    assert done.seconds >= 0.05
    assert (begun.stage, begun.seconds) == ("report", None)


def test_a_check_that_ends_closes_its_open_stages(running):
    running.begin_stage("a", "features_before")
    running.cancel("a")
    running.mark_cancelled("a")
    assert outcomes(running) == [("features_before", 1, "cancelled")]


def test_a_retry_keeps_the_runs_of_stages(running):
    running.begin_stage("a", "validate")
    running.end_stage("a", "validate", "succeeded")
    running.begin_stage("a", "mmd")
    running.fail("a", "no space", "TOO_LARGE")
    started_at = running.get("a").started_at
    again = running.retry("a")
    assert (again.state, again.failure, again.finished_at) == ("queued", None, None)
    assert running.retry("a") == again
    assert running.begin("a").started_at == started_at
    assert running.begin_stage("a", "mmd") == 2
    assert outcomes(running) == [("validate", 1, "succeeded"), ("mmd", 1, "cancelled"), ("mmd", 2, "running")]
    running.succeed("a", ReportRefs(json_ref=REF, html_ref=REF))
    with pytest.raises(PreconditionFailed, match="the check has succeeded"):
        running.retry("a")


def test_a_retry_withdraws_a_cancellation(running):
    running.cancel("a")
    assert running.retry("a").state == "running"
    running.mark_cancelled("a")  # by a reconciler that read the check before
    assert running.get("a").state == "running"


def test_summaries_tell_whether_a_check_must_follow_a_retry(running):
    running.fail("a", "no space", "TOO_LARGE")
    before = running.summaries(["a", "b"])
    assert list(before) == ["a"]
    assert (before["a"].state, before["a"].failure.reason) == ("failed", "TOO_LARGE")
    assert before["a"].must_follow(now())
    running.retry("a")
    assert not running.summaries(["a"])["a"].must_follow(now())


def test_a_lost_artifact_is_no_attempt_and_the_latest_digest_counts(running):
    for digest in ("1" * 64, "2" * 64):
        running.begin_stage("a", "mmd")
        running.end_stage("a", "mmd", "succeeded", artifact_sha256=digest)
        running.record_loss("a", "mmd", f"s3://b/k: changed {digest[0]}")
    running.begin_stage("a", "report")
    running.end_stage("a", "report", "succeeded", artifact_sha256="3" * 64)
    assert running.artifact_digests("a") == {"mmd": "2" * 64, "report": "3" * 64}
    assert [(time.stage, time.attempts) for time in stage_times(running.stages("a"))] == [("mmd", 2), ("report", 1)]
    losses = [(loss.stage, loss.message) for loss in list_losses(running.stages("a"))]
    assert losses == [("mmd", "s3://b/k: changed 1"), ("mmd", "s3://b/k: changed 2")]
    running.forget_artifacts("a", ["mmd"])
    assert running.artifact_digests("a") == {"report": "3" * 64}


def test_a_check_whose_report_was_lost_runs_again_and_others_stay_as_they_ended(running):
    ref = StoredFile(key="k", sha256="0" * 64, size_bytes=1)
    running.succeed("a", ReportRefs(json_ref=ref, html_ref=ref))
    check = running.reopen("a", "s3://b/k: missing")
    assert (check.state, check.finished_at, check.progress.reason) == ("running", None, "ARTIFACT_LOST")
    assert check.progress.detail == "s3://b/k: missing"
    assert check.report.json_ref == ref, "the digests of what was lost"
    assert [active.id for active in running.active()] == ["a"]
    running.fail("a", "it cannot be created again", "DATA_LOSS")
    assert running.reopen("a", "once more").state == "failed"
