"""Erasures while work runs, is created, or is interrupted."""

import shutil

import pytest
from tests.unit.finetuning.erasure.conftest import (
    CASE,
    CASE_OF_OTHERS,
    NEW,
    OLD,
    World,
    ask,
    describe,
    erase,
    name_case,
)

from vfmalign.core.domain.errors import Cancelled
from vfmalign.core.storage.keys import check_key
from vfmalign.finetuning import erasure
from vfmalign.finetuning.deletions import Deletions
from vfmalign.finetuning.erasure import make_erasures
from vfmalign.finetuning.schema import open_database


def test_running_work_is_cancelled_and_waited_for(world):
    world.create_check("running", "prostate", OLD)
    world.checks.begin("running")
    world.add_job("running-pretrained", "prostate", OLD, CASE, check_id="running", ends=False)
    world.add_job("running-alone", "prostate", OLD, CASE, ends=False)
    world.add_job("running-newer", "prostate", NEW, CASE, ends=False)
    for name in ("running-pretrained", "running-alone", "running-newer"):
        world.jobs.begin(name)
    world.create_check("queued", "prostate", OLD)
    receipt = erase(world)
    assert receipt.complete_time is None
    assert world.checks.get("queued").state == "cancelled"
    assert world.checks.get("running").cancel_requested
    assert world.jobs.get("running-alone").cancel_requested
    assert not world.jobs.get("running-pretrained").cancel_requested, "the check cancels it once it has stopped"
    assert not world.jobs.get("running-newer").cancel_requested
    assert world.checks.get("done").erased_at is None, "nothing is removed while something may read it"
    resume = make_erasures(world.database, world.store).resume
    for end in (
        lambda: world.jobs.mark_cancelled("running-alone"),
        lambda: world.jobs.fail("running-pretrained", "cancelled", "JOB_FAILED"),
        lambda: world.checks.mark_cancelled("running"),
    ):
        resume()
        assert make_erasures(world.database, world.store).get("e1").complete_time is None
        end()
    resume()
    completed = make_erasures(world.database, world.store).get("e1")
    assert completed.complete_time
    assert {("check", "running"), ("check", "queued"), ("job", "running-alone")} <= describe(completed).keys()
    assert name_case(*world.everything(), CASE) == []
    assert world.jobs.get("running-newer").state == "pending"


def test_what_has_ended_just_now_may_still_be_writing(world, monkeypatch):
    monkeypatch.setattr(erasure, "_SETTLE_S", 3600.0)
    before = world.everything()
    assert erase(world).complete_time is None
    assert world.everything() == before


def test_a_check_that_is_created_meanwhile_is_erased_as_well(world, monkeypatch):
    plan = erasure.FinetuningEraser.plan

    def plan_and_create(self, stored):
        found = plan(self, stored)
        world.create_check("late", "prostate", OLD)
        world.create_check("late-unnamed", "prostate", "")
        world.create_check("late-newer", "prostate", NEW)
        return found

    with monkeypatch.context() as during:
        during.setattr(erasure.FinetuningEraser, "plan", plan_and_create)
        receipt = erase(world)
    assert receipt.complete_time is None
    assert not [key for key in describe(receipt) if key[1].startswith("late")]
    world.put(check_key("late", "spec.json"), "its driver began")
    make_erasures(world.database, world.store).resume()
    receipt = make_erasures(world.database, world.store).get("e1")
    assert receipt.complete_time
    assert {key[1] for key in describe(receipt) if key[1].startswith("late")} == {"late"}
    assert list(world.store.list("checks/late/")) == []
    assert world.checks.get("late").state == "cancelled"
    for name in ("late-newer", "late-unnamed"):  # the latter can only read the dataset without the patient
        assert world.checks.get(name).state == "queued"


def test_a_job_that_is_retried_meanwhile_is_not_deleted_while_it_runs(world, monkeypatch):
    empty = erasure.FinetuningEraser._empty

    def retry_and_empty(self, found):
        if found.id == "failed":
            world.jobs.retry("failed")
        empty(self, found)

    with monkeypatch.context() as during:
        during.setattr(erasure.FinetuningEraser, "_empty", retry_and_empty)
        assert erase(world).complete_time is None
    assert list(world.store.list("jobs/failed/"))
    assert erase(world).complete_time
    assert name_case(*world.everything(), CASE) == []


def test_an_interrupted_deletion_is_completed(world):
    def fail():
        raise Cancelled("the caller has left")

    with pytest.raises(Cancelled):
        Deletions(world.database, world.store.guarded_by(fail)).delete("job", "alone", dry_run=False)
    assert ("job", "alone") not in describe(erase(world))
    assert list(world.store.list("jobs/alone/")) == []


class Killed(Exception):
    """Stands for the end of the process."""


def test_an_interruption_at_any_write_is_completed(migrated_sqlite, tmp_path, store, make_report):
    """Ends the process before each write to the database or the store; the next start completes the erasure."""

    def start(number):
        path = shutil.copy(migrated_sqlite, tmp_path / f"{number}.db")
        opened = open_database(f"sqlite:///{path}")
        world = World(opened, store.of_tenant(f"{store.tenant}-{number}"), make_report())
        world.add_check("done", "prostate", OLD, CASE)
        world.add_failed_job("failed", "prostate", OLD, CASE)
        world.put_cell("a", "prostate", OLD, CASE)
        world.add_check("newer", "prostate", NEW, CASE_OF_OTHERS)
        return world

    def run(world, verify):
        guarded = world.database.guarded_by(lambda session: verify()), world.store.guarded_by(verify)
        make_erasures(*guarded).erase(ask(), "")

    writes = []
    world = start("whole")
    run(world, lambda: writes.append(1))
    expected, receipt = world.read_all(), make_erasures(world.database, world.store).get("e1")
    world.database.close()
    assert len(writes) > 10
    for moment in range(2, len(writes)):  # before, the receipt is not stored
        world, left = start(moment), iter(range(moment))

        def die(left=left):
            if next(left, None) is None:
                raise Killed

        with pytest.raises(Killed):
            run(world, die)
        make_erasures(world.database, world.store).resume()
        assert world.read_all() == expected, moment
        assert name_case(*world.everything(), CASE) == [], moment
        completed = make_erasures(world.database, world.store).get("e1")
        assert (describe(completed), completed.complete_time is None) == (describe(receipt), False), moment
        detail = world.checks.get("done").progress.detail
        assert "Verdict `" in detail, "the verdict is read before the report goes"
        world.database.close()
