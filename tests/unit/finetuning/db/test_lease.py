"""Two processes' leases on one database: expiry, takeover, release, and the fence around every write."""

import threading
import time

import pytest
import sqlalchemy as sa

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.common import Progress
from vfmalign.client.messages.experiments import ExperimentSpec
from vfmalign.client.messages.jobs import JobSpec
from vfmalign.core.domain.errors import LeaseLost, Unavailable
from vfmalign.core.domain.jobs import JobProgress, TrainingRecipe, TrainingSpec
from vfmalign.finetuning.checks.repository import CheckRepository, ReportRefs
from vfmalign.finetuning.db import database as database_module
from vfmalign.finetuning.db.database import Base, CheckRow, Database, LeaseRow
from vfmalign.finetuning.db.lease import Lease, get_scope
from vfmalign.finetuning.db.repository import StoredRef
from vfmalign.finetuning.experiments.repository import ExperimentRefs, ExperimentRepository
from vfmalign.finetuning.experiments.request import PinnedInputs
from vfmalign.finetuning.jobs.repository import JobRepository

REF = StoredRef(key="k", sha256="0" * 64, size_bytes=1)
PROGRESS = Progress(phase="training", detail="d")


def expire(database):
    """Lets the lease expire by the database's clock."""
    with database.session() as session:
        row = session.get_one(LeaseRow, "orchestrator")
        row.expires_at = row.expires_at.replace(year=2020)


def add_all(database):
    """One queued job, check and experiment."""
    request = JobSpec(kind="finetune", dataset_id="d", model_id="m", task="segmentation", seed=1)
    recipe = TrainingRecipe(epochs=2, steps_per_epoch=1, batch_size=1, learning_rate=0.1)
    spec = TrainingSpec(
        id="j", kind="finetune", dataset="d", dataset_digest="0" * 64, architecture="a", seed=1, recipe=recipe
    )
    check = CheckSpec(model_id="m", dataset_id="d", task="segmentation")
    experiment = ExperimentSpec(model_ids=("m",), dataset_id="d", tasks=("segmentation",))
    JobRepository(database).create(request, spec)
    CheckRepository(database).create("c", check)
    pinned = PinnedInputs(dataset_digest="d" * 64, model_sha256=("a" * 64,))
    ExperimentRepository(database).create("e", experiment, pinned)
    return request, spec.model_copy(update={"id": "j2"}), check, experiment, pinned


def read_all(database):
    """Every row of every table but the lease's."""
    with database.engine.connect() as connection:
        return {
            table.name: connection.execute(sa.select(table)).all()
            for table in Base.metadata.sorted_tables
            if table.name != "leases"
        }


def test_one_of_two_gets_the_lease_and_the_other_after_its_expiry(database):
    first, second = Lease(database, 60.0), Lease(database, 60.0)
    term = first.try_acquire()
    assert term.epoch == 1
    assert second.try_acquire() is None
    assert second.get_holder() == first.holder
    expire(database)
    after = second.try_acquire()
    assert after.epoch == 2
    assert first.try_acquire() is None
    for lost in (term.renew, term.release):
        with pytest.raises(LeaseLost, match="taken over"):
            lost()
    after.renew()
    assert second.get_holder() == second.holder


def test_it_expires_by_itself_by_the_clock_of_the_database(database):
    first, second = Lease(database, 0.2), Lease(database, 60.0)
    assert first.try_acquire() is not None
    deadline = time.monotonic() + 30
    while second.try_acquire() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_renewed_lease_does_not_expire(database):
    term = Lease(database, 60.0).try_acquire()
    expire(database)
    term.renew()
    assert Lease(database, 60.0).try_acquire() is None
    assert 0 < term.remaining_s <= 60


def test_a_released_lease_is_free_at_once(database):
    term = Lease(database, 60.0).try_acquire()
    term.release()
    with pytest.raises(LeaseLost, match="expired"):
        term.check_deadline()
    assert Lease(database, 60.0).try_acquire().epoch == 2


def test_a_process_continues_its_own_lease_in_a_new_term_alone(database):
    lease = Lease(database, 60.0)
    former = lease.try_acquire()
    term = lease.try_acquire()
    assert (former.epoch, term.epoch) == (1, 2)
    with pytest.raises(LeaseLost), database.guarded_by(former.verify).session():
        pass
    with database.guarded_by(term.verify).session():
        pass


def test_the_deadline_is_measured_from_before_the_request(database, monkeypatch):
    moments = iter((100.0, 200.0, 209.9, 210.0))
    monkeypatch.setattr("vfmalign.finetuning.db.lease._clock_s", lambda: next(moments))
    term = Lease(database, 10.0).try_acquire()
    term.renew()
    term.check_deadline()
    with pytest.raises(LeaseLost, match="expired"):
        term.check_deadline()


def test_every_database_has_a_scope_of_its_own_that_stays(database, tmp_path):
    scope = get_scope(database)
    database.migrate()
    assert get_scope(database) == scope
    other = Database(f"sqlite:///{tmp_path / 'other.db'}")
    other.migrate()
    assert get_scope(other) != scope
    other.close()


WRITES = {
    "job create": lambda jobs, checks, experiments, new: jobs.create(new[0], new[1]),
    "job cancel": lambda jobs, checks, experiments, new: jobs.cancel("j"),
    "job set_progress": lambda jobs, checks, experiments, new: jobs.set_progress("j", PROGRESS),
    "job begin": lambda jobs, checks, experiments, new: jobs.begin("j"),
    "job confirm_leadership": lambda jobs, checks, experiments, new: jobs.confirm_leadership(),
    "job record": lambda jobs, checks, experiments, new: jobs.record("j", {"pid": 1}, PROGRESS),
    "job postpone": lambda jobs, checks, experiments, new: jobs.postpone("j", PROGRESS, delay_s=1.0),
    "job add_points": lambda jobs, checks, experiments, new: jobs.add_points(
        "j", [JobProgress(epoch=0, epochs=2, step=0, steps=2, train_loss=None, val_score=0.1, elapsed_s=1.0)]
    ),
    "job succeed": lambda jobs, checks, experiments, new: jobs.succeed("j", REF),
    "job mark_cancelled": lambda jobs, checks, experiments, new: jobs.mark_cancelled("j"),
    "job fail": lambda jobs, checks, experiments, new: jobs.fail("j", "m", "R"),
    "job requeue": lambda jobs, checks, experiments, new: jobs.requeue(
        "j", PROGRESS, exit_code=None, delay_s=1.0, counted=True
    ),
    "check create": lambda jobs, checks, experiments, new: checks.create("c2", new[2]),
    "check cancel": lambda jobs, checks, experiments, new: checks.cancel("c"),
    "check set_progress": lambda jobs, checks, experiments, new: checks.set_progress("c", PROGRESS),
    "check begin": lambda jobs, checks, experiments, new: checks.begin("c"),
    "check set_stage_progress": lambda jobs, checks, experiments, new: checks.set_stage_progress("c", (PROGRESS,)),
    "check succeed": lambda jobs, checks, experiments, new: checks.succeed("c", ReportRefs(json_ref=REF, html_ref=REF)),
    "check fail": lambda jobs, checks, experiments, new: checks.fail("c", "m", "R"),
    "check mark_cancelled": lambda jobs, checks, experiments, new: checks.mark_cancelled("c"),
    "check begin_stage": lambda jobs, checks, experiments, new: checks.begin_stage("c", "mmd"),
    "check end_stage": lambda jobs, checks, experiments, new: checks.end_stage("c", "mmd", "succeeded"),
    "experiment create": lambda jobs, checks, experiments, new: experiments.create("e2", new[3], new[4]),
    "experiment cancel": lambda jobs, checks, experiments, new: experiments.cancel("e"),
    "experiment set_progress": lambda jobs, checks, experiments, new: experiments.set_progress("e", PROGRESS),
    "experiment begin": lambda jobs, checks, experiments, new: experiments.begin("e"),
    "experiment succeed": lambda jobs, checks, experiments, new: experiments.succeed(
        "e", ExperimentRefs(json_ref=REF, html_ref=REF, csv_ref=REF), "d"
    ),
    "experiment fail": lambda jobs, checks, experiments, new: experiments.fail("e", "m", "R"),
    "experiment mark_cancelled": lambda jobs, checks, experiments, new: experiments.mark_cancelled("e"),
}
READS = {
    "table", "find", "get", "list", "summaries", "stages", "active", "queued", "running", "of_check", "same_training",
    "attempts", "counts",
}  # fmt: skip


def test_the_writes_below_are_all_that_repositories_have():
    nouns = {"job": JobRepository, "check": CheckRepository, "experiment": ExperimentRepository}
    public = {
        f"{noun} {name}"
        for noun, repository in nouns.items()
        for name in dir(repository)
        if callable(getattr(repository, name)) and not name.startswith("_") and name not in READS
    }
    assert public == set(WRITES)


def test_no_write_of_a_former_leader_changes_anything(database):
    new = add_all(database)
    term = Lease(database, 60.0).try_acquire()
    fenced = database.guarded_by(term.verify)
    repositories = JobRepository(fenced), CheckRepository(fenced), ExperimentRepository(fenced)
    assert repositories[1].begin("c").state == "running"
    expire(database)
    assert Lease(database, 60.0).try_acquire().epoch == 2
    before = read_all(database)
    for name, write in WRITES.items():
        with pytest.raises(LeaseLost):
            write(*repositories, new)
        assert read_all(database) == before, name
    assert JobRepository(database).cancel("j").state == "cancelled", "calls of the API need no lease"


@pytest.fixture
def rival(database_url, database):
    """The same database, as another process connects to it."""
    rival = Database(database_url)
    yield rival
    rival.close()


def test_a_takeover_comes_after_a_transaction_that_has_begun(database, rival):
    add_all(database)
    term = Lease(database, 60.0).try_acquire()
    expire(database)
    terms = []
    takeover = threading.Thread(target=lambda: terms.append(Lease(rival, 60.0).try_acquire()))
    with database.guarded_by(term.verify).session() as session:
        takeover.start()
        takeover.join(0.5)
        assert takeover.is_alive()
        session.get_one(CheckRow, "c").state = "running"
    takeover.join(30)
    assert terms[0].epoch == 2
    assert CheckRepository(rival).get("c").state == "running"


def test_a_stopped_process_holds_up_a_takeover_no_longer_than_an_idle_transaction(postgres_database, monkeypatch):
    monkeypatch.setattr(database_module, "_IDLE_IN_TRANSACTION_TIMEOUT_S", 1)
    database = Database(postgres_database)
    database.migrate()
    add_all(database)
    term = Lease(database, 60.0).try_acquire()
    expire(database)
    session_of_the_stopped = database.guarded_by(term.verify).session()
    session = session_of_the_stopped.__enter__()
    assert Lease(database, 60.0).try_acquire().epoch == 2
    with pytest.raises(Unavailable, match="cannot be reached") as caught:
        _end(session_of_the_stopped, session)
    assert not isinstance(caught.value, LeaseLost)
    assert CheckRepository(database).get("c").state == "queued"
    database.close()


def _end(manager, session):
    """Continues a transaction after a pause: writes, and commits."""
    try:
        session.get_one(CheckRow, "c").state = "running"
        session.flush()
    except BaseException as error:
        if not manager.__exit__(type(error), error, error.__traceback__):
            raise
    else:
        manager.__exit__(None, None, None)
