"""Erasure of a patient from jobs, checks and experiments: on both databases and a real S3 server."""

import shutil

import pytest
import sqlalchemy as sa
from tests.unit.finetuning.erasure.conftest import (
    CASE,
    CASE_OF_OTHERS,
    EXPECTED,
    OLD,
    OTHER,
    World,
    describe,
    erase,
    fill,
    name_case,
)

from vfmalign.client.messages.erasure import ErasedDataset
from vfmalign.core.domain.errors import PreconditionFailed
from vfmalign.core.rpc.watching import Watching
from vfmalign.core.storage.keys import cell_key, erasures_prefix
from vfmalign.finetuning.checks.servicer import AlignmentServicer
from vfmalign.finetuning.erasure import make_erasures
from vfmalign.finetuning.schema import open_database
from vfmalign.v1 import alignment_pb2


def test_everything_of_the_version_goes_and_everything_else_stays(world):
    rows, objects = world.everything()
    assert len(name_case(rows, objects, CASE)) > 20
    receipt = erase(world)
    rows_after, objects_after = world.everything()
    assert name_case(rows_after, objects_after, CASE) == []
    (cell,) = [one.id for one in receipt.objects if len(one.id) == 64]
    assert describe(receipt) == EXPECTED | {("cell", cell): ("removed", 1)}
    assert objects_after.items() <= objects.items()
    assert sum(one.count for one in receipt.objects) == len(objects) - len(objects_after)
    lost = sum(len(objects[key]) for key in objects.keys() - objects_after.keys())
    assert sum(one.size_bytes for one in receipt.objects) == lost
    assert rows_after.keys() == rows.keys()
    changed = {key[2] for key in rows if rows[key] != rows_after[key]}
    assert changed == {name for kind, name in EXPECTED if kind != "cell"}, "digests and rows of the others are equal"
    assert name_case(rows, objects, CASE_OF_OTHERS) == name_case(rows_after, objects_after, CASE_OF_OTHERS)
    assert receipt.complete_time >= receipt.create_time
    stored = b"".join(world.store.get(key) for key in world.store.list(erasures_prefix("finetuning")))
    assert not [text for text in ("patient-1", CASE) if text.encode() in stored]


def test_rows_keep_the_request_the_verdict_and_the_curve(world):
    check, job, failed = world.checks.get("done"), world.jobs.get("done-specialised"), world.jobs.get("failed")
    erase(world)
    after, result = world.checks.get("done"), world.report.result
    assert (after.request, after.state, after.finished_at) == (check.request, "succeeded", check.finished_at)
    assert (after.report, after.erased_at is None) == (None, False)
    assert f"Verdict `{result.verdict.label}`: {result.verdict.reason}" in after.progress.detail
    assert f"Pretraining `{result.pretraining.label}`: {result.pretraining.reason}" in after.progress.detail
    assert "MMD² of stages.3: 0.083" in after.progress.detail
    assert {run.message for run in world.checks.stages("done")} == {""}
    assert world.checks.artifact_digests("done") == {}
    erased = world.jobs.get("done-specialised")
    assert (erased.request, erased.spec, erased.curve) == (job.request, job.spec, job.curve)
    assert (erased.result, erased.baseline) == (None, "")
    assert failed.failure.reason == "BAD_VOLUME"
    failure = world.jobs.get("failed").failure
    assert (failure.reason, failure.message) == (
        "ERASED",
        "BAD_VOLUME; the erasure of a patient removed the message",
    )


def test_a_dry_run_changes_nothing(world):
    before = world.everything()
    planned = erase(world, dry_run=True)
    assert world.everything() == before
    assert not list(world.store.list(erasures_prefix("finetuning")))
    assert describe(planned) == describe(erase(world))


def test_a_repeated_call_answers_with_an_equal_receipt(world):
    receipt = erase(world)
    before = world.everything()
    assert erase(world).objects == receipt.objects
    assert make_erasures(world.database, world.store).get("e1").objects == receipt.objects
    assert world.everything() == before


def test_a_patient_in_no_dataset_leaves_everything_as_it_is(world):
    before = world.everything()
    for datasets in ((), (ErasedDataset(dataset_id="prostate", dataset_digest=OTHER),)):
        receipt = erase(world, erasure_id=f"e{len(datasets)}", datasets=datasets)
        assert receipt.complete_time
        assert {one.id for one in receipt.objects} <= {"unknown", "unreadable"}, "they may be of any version"
    rows, objects = world.everything()
    differing = {key[2] for key in rows if rows[key] != before[0][key]}
    assert differing == {"unknown"}
    assert before[1].keys() - objects.keys() == {cell_key("unreadable")}


def test_another_tenant_stays_as_it_is(world, make_report):
    theirs = fill(World(world.database.of_tenant("ward-7"), world.store.of_tenant("ward-7"), make_report()))
    try:
        before = theirs.everything()
        erase(world)
        assert theirs.everything() == before
    finally:
        for key in theirs.store.list(""):
            theirs.store.delete(key)


def test_a_training_is_not_taken_over_any_more(world):
    """`b…` is the baseline of two affected checks, `c…` of a check of the newer version."""
    digests = {"b" * 64, "c" * 64}
    assert world.jobs.find_trained(digests) == digests
    erase(world)
    assert world.jobs.find_trained(digests) == {"c" * 64}
    world.add_job("again", "prostate", OLD, CASE, baseline="b" * 64, ends=False)
    assert world.jobs.same_training(world.jobs.get("again")) is None


async def test_an_erased_check_says_so_and_is_neither_repaired_nor_retried(world, monkeypatch):
    erase(world)
    monkeypatch.setattr("vfmalign.finetuning.checks.servicer.read_report", lambda *_: pytest.fail("it is gone"))
    checks, jobs, experiments = world.checks, world.jobs, world.experiments
    servicer = AlignmentServicer(
        checks, jobs, world.store, delete=None, erasures=None, wake=str, watching=Watching("finetuning", 1.0)
    )
    with pytest.raises(PreconditionFailed, match="the erasure of a patient has removed its report") as caught:
        async for _ in servicer.GetCheckReport(alignment_pb2.GetCheckReportRequest(check_id="done"), None):
            pass
    assert caught.value.reason == "ERASED"
    shown = (await servicer.GetCheck(alignment_pb2.GetCheckRequest(check_id="done"), None)).check
    assert (shown.state, shown.HasField("result")) == (alignment_pb2.CHECK_STATE_SUCCEEDED, False)
    assert "Verdict `" in shown.progress.detail
    failed = (await servicer.GetCheck(alignment_pb2.GetCheckRequest(check_id="pinned"), None)).check
    assert failed.failure.message == "BAD_DATASET; the erasure of a patient removed the message"
    for repository, name in ((checks, "done"), (jobs, "alone"), (jobs, "failed"), (experiments, "grid")):
        assert repository.reopen(name, "it was lost").finished
        with pytest.raises(PreconditionFailed, match="the erasure of a patient") as caught:
            repository.retry(name)
        assert caught.value.reason == "ERASED"


def test_the_files_of_sqlite_keep_no_removed_value(migrated_sqlite, tmp_path, store, make_report):
    """Also if SQLite was built without this default."""
    path = shutil.copy(migrated_sqlite, tmp_path / "finetuning.db")
    database = open_database(f"sqlite:///{path}", timeout_s=0.1)
    sa.event.listen(database.engine, "connect", lambda raw, _: raw.execute("PRAGMA secure_delete=OFF"), insert=True)
    world = World(database, store, make_report())
    world.add_failed_job("failed", "prostate", OLD, CASE * 100)  # on pages of its own

    def read_files():
        return b"".join(file.read_bytes() for file in sorted(tmp_path.glob("finetuning.db*")))

    assert CASE.encode() in read_files()
    with database.snapshot() as reader:
        reader.execute(sa.text("SELECT 1 FROM jobs"))
        assert erase(world).complete_time is None, "somebody still reads the log"
    assert erase(world).complete_time
    assert CASE.encode() not in read_files()
    database.close()
