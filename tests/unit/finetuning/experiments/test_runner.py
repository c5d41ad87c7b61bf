"""Rounds over experiments: which cells begin, cancellation, ends, and kills between any two actions.

The repositories and the object store are real. Checks and the writing of reports are simulated.
"""

import asyncio
import threading
import time

import pytest
from tests.unit.finetuning.experiments.world import MODELS, REF, Clock, Killed, World

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.core.domain.errors import DataLoss, DigestMismatch, PreconditionFailed, Unavailable
from vfmalign.core.rpc.access.identity import Identity, current_identity
from vfmalign.finetuning.schema import open_database


@pytest.fixture
def world(tmp_path, store):
    database = open_database(f"sqlite:///{tmp_path / 'a.db'}")
    database.migrate()
    yield World(database, store)
    database.close()


def test_checks_begin_in_order_and_never_more_than_the_experiment_allows(world):
    experiment, runner = world.create(), world.runner()
    runner.reconcile()
    assert world.running(experiment) == [f"{experiment}-segmentation-{model}-0" for model in MODELS]
    runner.reconcile()
    assert len(world.running(experiment)) == 2
    assert world.experiments.get(experiment).progress.detail == "0 of 4 checks have ended"
    world.end(world.running(experiment)[0])
    runner.reconcile()
    assert world.running(experiment) == [f"{experiment}-segmentation-m2-0", f"{experiment}-distortion-m1-0"]


def test_cells_name_the_creator_of_their_experiment(world):
    token = current_identity.set(Identity("ada", "https://idp", frozenset({"default"}), frozenset({"researcher"})))
    experiment = world.create()
    current_identity.reset(token)
    old = world.create()
    runner = world.runner(max_checks=8)
    runner.reconcile()
    for name, creator in ((experiment, "https://idp#ada"), (old, "")):
        assert world.experiments.get(name).creator == creator
        checks = [world.checks.get(check) for check in world.running(name)]
        assert [(check.creator, check.created_by) for check in checks] == [(creator, "")] * 2


def test_all_experiments_together_respect_the_limit_and_take_turns(world):
    first, second = world.create(max_running=64), world.create(max_running=64)
    runner = world.runner(max_checks=3)
    runner.reconcile()
    assert (len(world.running(first)), len(world.running(second))) == (2, 1)
    world.end(world.running(first)[0])
    runner.reconcile()
    assert (len(world.running(first)), len(world.running(second))) == (2, 1)
    world.end(world.running(second)[0])
    runner.reconcile()
    assert (len(world.running(first)), len(world.running(second))) == (2, 1)


def test_cells_of_unfinished_experiments_are_counted_by_state(world):
    first, runner = world.create(), world.runner()
    world.create()
    runner.reconcile()
    assert {state: number for state, number in runner.cell_counts.items() if number} == {"queued": 8}
    world.end(world.running(first)[0])
    runner.reconcile()
    assert (runner.cell_counts["succeeded"], sum(runner.cell_counts.values())) == (1, 8)
    world.finish(first, runner)
    runner.reconcile()
    assert sum(runner.cell_counts.values()) == 4


def test_an_experiment_ends_with_its_report(world):
    experiment = world.create()
    ended = world.finish(experiment, world.runner())
    assert (ended.state, ended.progress.detail, ended.report.csv_ref) == ("succeeded", "finished", REF)
    assert world.reported == [(experiment, ["succeeded"] * 4)]
    assert world.experiments.active() == ()


def test_a_failed_and_a_cancelled_check_do_not_stop_the_others(world):
    experiment, runner = world.create(), world.runner()
    runner.reconcile()
    failed, cancelled = world.running(experiment)
    world.end(failed, "failed")
    world.end(cancelled, "cancelled")
    runner.reconcile()
    assert world.experiments.get(experiment).progress.detail == "2 of 4 checks have ended, 1 failed, 1 cancelled"
    ended = world.finish(experiment, runner)
    assert (ended.state, ended.progress.detail) == ("succeeded", "finished; 2 of 4 cells have no result")
    assert world.reported == [(experiment, ["failed", "cancelled", "succeeded", "succeeded"])]


def test_without_any_result_the_experiment_fails_with_the_reason(world):
    experiment = world.create()
    ended = world.finish(experiment, world.runner(), "failed")
    assert (ended.state, ended.failure.reason) == ("failed", "NO_CHECK_SUCCEEDED")
    assert f"the first, {experiment}-segmentation-m1-0: not a volume" in ended.progress.detail
    assert world.reported == []


def test_a_cancellation_reaches_every_check_and_nothing_begins_after(world):
    experiment, runner = world.create(), world.runner()
    runner.reconcile()
    begun, queued = world.running(experiment)
    world.checks.begin(begun)
    world.experiments.cancel(experiment)
    runner.reconcile()
    assert world.checks.get(queued).state == "cancelled"
    assert world.checks.get(begun).cancel_requested
    assert world.experiments.get(experiment).state == "running", "it waits for the running one"
    world.checks.mark_cancelled(begun)
    assert runner.reconcile() == []
    assert world.experiments.get(experiment).state == "cancelled"
    assert [cell.state for cell in world.cells(experiment)] == ["cancelled"] * 4
    assert [cell.begun for cell in world.cells(experiment)] == [True, True, False, False]


def test_a_retry_repeats_failed_and_cancelled_cells_alone_within_the_limit(world):
    experiment, runner = world.create(max_running=1), world.runner()
    for state in ("failed", "cancelled", "succeeded", "failed"):
        runner.reconcile()
        world.end(world.running(experiment)[0], state)
    for ready in runner.reconcile():
        runner.finish(ready)
    assert world.experiments.get(experiment).progress.detail == "finished; 3 of 4 cells have no result"
    retried = world.experiments.retry(experiment)
    assert (retried.state, retried.report) == ("queued", None)
    assert [cell.state for cell in world.cells(experiment)] == ["queued", "queued", "succeeded", "queued"]
    runner.reconcile()
    assert world.running(experiment) == [f"{experiment}-segmentation-m1-0"]
    world.end(world.running(experiment)[0])
    runner.reconcile()
    world.end(world.running(experiment)[0], "failed")
    ended = world.finish(experiment, runner)
    assert (ended.state, ended.progress.detail) == ("succeeded", "finished; 1 of 4 cells have no result")
    assert world.reported[-1] == (experiment, ["succeeded", "failed", "succeeded", "succeeded"])
    assert world.retries == [0, 1]
    assert world.checks.get(f"{experiment}-distortion-m1-0").retries == 0, "a finished cell ran again"


def test_a_retry_of_a_cancelled_experiment_withdraws_what_has_not_ended(world):
    experiment, runner = world.create(), world.runner()
    runner.reconcile()
    begun, queued = world.running(experiment)
    world.checks.begin(begun)
    world.experiments.cancel(experiment)
    runner.reconcile()
    assert world.experiments.retry(experiment).state == "running"
    runner.reconcile()
    assert (world.checks.get(begun).state, world.checks.get(begun).cancel_requested) == ("running", False)
    assert world.checks.get(queued).state == "queued"
    assert world.finish(experiment, runner).progress.detail == "finished"


def test_a_kill_between_any_two_actions_of_a_retry_changes_nothing(world):
    def fail():
        # Two cells, one after the other: the second begins in a later round than the first.
        experiment = world.create(tasks=("segmentation",), max_running=1)
        world.finish(experiment, world.runner(), "failed")
        world.experiments.retry(experiment)
        return experiment

    steady, clock = fail(), Clock()
    world.finish(steady, world.runner(clock))
    for deadly in range(1, clock.now + 1):
        experiment = fail()
        with pytest.raises(Killed):
            world.finish(experiment, world.runner(Clock(deadly)))
        ended = world.finish(experiment, world.runner())
        assert (ended.state, ended.progress.detail) == ("succeeded", "finished"), deadly
        assert {world.checks.get(cell.cell.check_id).retries for cell in world.cells(experiment)} == {1}, deadly


def test_somebody_else_s_check_under_a_cell_s_id_is_neither_used_nor_cancelled(world):
    experiment = world.create()
    other = f"{experiment}-segmentation-m1-0"
    world.checks.create(other, CheckSpec(model_id="m1", dataset_id="another", task="segmentation"))
    runner = world.runner()
    runner.reconcile()
    first = world.cells(experiment)[0]
    assert (first.state, first.failure.reason) == ("failed", "ALREADY_EXISTS")
    assert "a different request; choose another experiment id" in first.failure.message
    world.experiments.cancel(experiment)
    runner.reconcile()
    assert world.checks.get(other).state == "queued"


def test_artifacts_of_another_experiment_under_the_same_id_are_never_used(world):
    """As after the loss of a database: the bucket remembers an experiment that the orchestrator does not."""
    experiment = world.create()
    world.store.put(f"experiments/{experiment}/spec.json", b"{}")
    world.runner().reconcile()
    ended = world.experiments.get(experiment)
    assert (ended.state, ended.failure.reason) == ("failed", "ALREADY_EXISTS")
    assert world.running(experiment) == []


def test_transient_errors_are_retried_and_others_end_the_experiment(world):
    experiment, other = world.create(), world.create()
    world.errors = [Unavailable("the object store does not answer")]
    assert world.finish(experiment, world.runner(max_checks=8)).state == "succeeded"
    world.errors = [DigestMismatch("its SHA-256 is another", remedy="restore it")]
    assert world.finish(other, world.runner()).failure.reason == "DIGEST_MISMATCH"
    third = world.create()
    world.errors = [RuntimeError("SURNAME")]
    ended = world.finish(third, world.runner())
    assert (ended.failure.reason, "SURNAME" in ended.progress.detail) == ("INTERNAL", False)


def test_an_experiment_waits_for_the_check_that_creates_a_lost_artifact_again(world):
    experiment, runner = world.create(), world.runner()
    while not (ready := runner.reconcile()):
        for check in world.running(experiment):
            world.end(check)
    lost = world.cells(experiment)[1].cell.check_id
    world.errors = [DataLoss("missing", kind="report", owner=lost, subject="s3://b/checks/c/report.json")]
    runner.finish(ready[0])
    assert world.running(experiment) == [lost]
    assert world.checks.get(lost).progress.detail.startswith("s3://b/checks/c/report.json: missing")
    assert not world.experiments.get(experiment).finished
    assert world.finish(experiment, runner).state == "succeeded"
    assert world.reported == [(experiment, ["succeeded"] * 4)]


def test_a_kill_between_any_two_actions_changes_nothing(world):
    steady = world.create()
    clock = Clock()
    world.finish(steady, world.runner(clock))
    moments = clock.now
    assert moments > 15
    for deadly in range(1, moments + 1):
        experiment = world.create()
        with pytest.raises(Killed):
            world.finish(experiment, world.runner(Clock(deadly)))
        ended = world.finish(experiment, world.runner())
        assert (ended.state, ended.progress.detail) == ("succeeded", "finished"), deadly
        assert [cell.state for cell in world.cells(experiment)] == ["succeeded"] * 4, deadly
        assert world.experiments.active() == ()


def test_a_kill_between_any_two_actions_of_a_cancellation_changes_nothing(world):
    def cancel(experiment, runner):
        runner.reconcile()
        world.experiments.cancel(experiment)
        runner.reconcile()
        runner.reconcile()

    clock = Clock()
    cancel(world.create(), world.runner(clock))
    for deadly in range(1, clock.now + 1):
        experiment = world.create()
        with pytest.raises(Killed):
            cancel(experiment, world.runner(Clock(deadly)))
        world.experiments.cancel(experiment)
        runner = world.runner()
        runner.reconcile()
        runner.reconcile()
        assert world.experiments.get(experiment).state == "cancelled", deadly
        assert world.running(experiment) == [], deadly


async def test_the_loop_finishes_each_experiment_once_and_ends_on_stop(world):
    experiments = [world.create(tasks=("segmentation",)) for _ in range(2)]
    runner = world.runner()
    work = asyncio.create_task(runner.run())
    while not all(world.experiments.get(experiment).finished for experiment in experiments):
        for experiment in experiments:
            for check in world.running(experiment):
                world.end(check)
        await asyncio.sleep(0.01)
    runner.stop()
    await asyncio.wait_for(work, 10)
    assert sorted(name for name, _ in world.reported) == sorted(experiments)


async def test_an_experiment_that_ends_while_a_round_reads_is_finished_once(world, monkeypatch):
    experiment, runner = world.create(tasks=("segmentation",)), world.runner()
    runner.reconcile()
    for check in world.running(experiment):
        world.end(check)
    finish, reconcile = runner.finish, runner.reconcile
    may_finish, has_finished, rounds = threading.Event(), threading.Event(), []

    def finish_during_the_second_round(ready):
        may_finish.wait(10)
        finish(ready)
        has_finished.set()

    def read_before_it_ends():
        ready = reconcile()
        rounds.append([one.id for one in ready])
        if len(rounds) == 2:
            may_finish.set()
            has_finished.wait(10)
            time.sleep(0.1)  # for the event loop to note that the work is done
        if len(rounds) == 4:
            runner.stop()
        return ready

    monkeypatch.setattr(runner, "finish", finish_during_the_second_round)
    monkeypatch.setattr(runner, "reconcile", read_before_it_ends)
    await runner.run()
    assert rounds == [[experiment], [experiment], [], []]
    assert world.reported == [(experiment, ["succeeded"] * 2)]


async def test_a_cancellation_waits_for_a_report_that_is_being_written(world, monkeypatch):
    """What deletes the objects of a cancelled experiment must not be followed by its report."""
    experiment, runner = world.create(tasks=("segmentation",)), world.runner()
    runner.reconcile()
    for check in world.running(experiment):
        world.end(check)
    finish, reconcile, may_finish, states = runner.finish, runner.reconcile, threading.Event(), []

    def finish_late(ready):
        may_finish.wait(10)
        finish(ready)

    def cancel_meanwhile():
        ready = reconcile()
        states.append(world.experiments.get(experiment).state)
        if len(states) == 1:
            world.experiments.cancel(experiment)
        if len(states) == 3:
            may_finish.set()
        if states[-1] != "running":
            runner.stop()
        return ready

    monkeypatch.setattr(runner, "finish", finish_late)
    monkeypatch.setattr(runner, "reconcile", cancel_meanwhile)
    await runner.run()
    assert states[:3] == ["running"] * 3
    assert states[-1] == "succeeded"


def test_results_of_cells_are_stored_as_they_finish(world):
    experiment, runner = world.create(), world.runner()
    runner.reconcile()
    first = world.cells(experiment)[0].cell
    world.end(first.check_id)
    runner.reconcile()
    assert world.results.stored == {first.result_digest}


def test_a_cell_whose_result_is_there_does_not_run(world):
    experiment, runner = world.create(), world.runner()
    cells = [status.cell for status in world.cells(experiment)]
    world.results.stored |= {cells[0].result_digest, cells[2].result_digest}
    ended = world.finish(experiment, runner)
    assert (ended.state, ended.progress.detail) == ("succeeded", "finished")
    assert world.reported == [(experiment, ["succeeded"] * 4)]
    assert [cell.restored for cell in world.cells(experiment)] == [True, False, True, False]
    assert set(world.checks.summaries([cell.check_id for cell in cells])) == {cells[1].check_id, cells[3].check_id}
    with pytest.raises(PreconditionFailed):  # every cell has its result in the report
        world.experiments.retry(experiment)


def test_a_restored_cell_whose_result_is_lost_runs(world):
    experiment, runner = world.create(), world.runner()
    cells = [status.cell for status in world.cells(experiment)]
    world.results.stored |= {cell.result_digest for cell in cells}
    while not (ready := runner.reconcile()):
        pass
    world.results.stored.clear()
    world.errors = [DataLoss("missing", kind="cell", owner=cells[1].check_id, subject="s3://b/cells/c.json")]
    runner.finish(ready[0])
    runner.reconcile()
    assert world.running(experiment) == [cells[1].check_id]
    assert world.finish(experiment, runner).state == "succeeded"
