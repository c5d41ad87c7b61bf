"""Two processes' leases on one database: expiry, takeover, release, and the fence around every write."""

import inspect
import threading
import time
from datetime import timedelta
from unittest.mock import MagicMock

import pytest
import sqlalchemy as sa

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.experiments import ExperimentSpec
from vfmalign.client.messages.jobs import JobSpec
from vfmalign.core.domain.errors import Conflict, LeaseLost, Unavailable
from vfmalign.core.domain.jobs import TrainingRecipe, TrainingSpec
from vfmalign.database import postgresql
from vfmalign.database.database import Database
from vfmalign.database.lease import Lease, get_scope, migrate_unused
from vfmalign.database.settings import LONGEST_TTL_S
from vfmalign.database.tables import Base, LeaseRow
from vfmalign.finetuning.checks.repository import CheckRepository
from vfmalign.finetuning.checks.tables import CheckRow
from vfmalign.finetuning.experiments.repository import ExperimentRepository
from vfmalign.finetuning.experiments.request import PinnedInputs
from vfmalign.finetuning.jobs.repository import JobRepository
from vfmalign.finetuning.schema import open_database


def expire(database):
    """Lets the lease expire by the database's clock."""
    with database.session() as session:
        row = session.get_one(LeaseRow, "orchestrator")
        row.expires_at = row.expires_at.replace(year=2020)


def add_all(database):
    """One queued job `j`, check `c` and experiment `e`."""
    request = JobSpec(kind="finetune", dataset_id="d", model_id="m", task="segmentation", seed=1)
    recipe = TrainingRecipe(epochs=2, steps_per_epoch=1, batch_size=1, learning_rate=0.1)
    spec = TrainingSpec(
        job_id="j", kind="finetune", dataset_id="d", dataset_digest="0" * 64, architecture="a", seed=1, recipe=recipe
    )
    JobRepository(database).create(request, spec)
    CheckRepository(database).create("c", CheckSpec(model_id="m", dataset_id="d", task="segmentation"))
    experiment = ExperimentSpec(model_ids=("m",), dataset_id="d", tasks=("segmentation",))
    pinned = PinnedInputs(dataset_digest="d" * 64, model_sha256=("a" * 64,), primary_metrics=("lesion_dice",))
    ExperimentRepository(database).create("e", experiment, pinned)


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


def test_a_clock_that_was_set_back_keeps_nobody_from_leading(database):
    former, hour = Lease(database, 60.0).try_acquire(), timedelta(hours=1)
    with database.session() as session:
        session.get_one(LeaseRow, "orchestrator").expires_at += hour  # as the clock of an hour later has set it
    term = Lease(database, 60.0).try_acquire()
    assert term.epoch == 2
    with pytest.raises(LeaseLost), database.guarded_by(former.verify).session():
        pass
    assert Lease(database, LONGEST_TTL_S).try_acquire() is None


def test_the_longest_lease_is_kept(database):
    Lease(database, LONGEST_TTL_S).try_acquire()
    assert Lease(database, 60.0).try_acquire() is None


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
    monkeypatch.setattr("vfmalign.database.lease._clock_s", lambda: next(moments))
    term = Lease(database, 10.0).try_acquire()
    term.renew()
    term.check_deadline()
    with pytest.raises(LeaseLost, match="expired"):
        term.check_deadline()


def test_every_database_has_a_scope_of_its_own_that_stays(database, tmp_path):
    scope = get_scope(database)
    database.migrate()
    assert get_scope(database) == scope
    other = open_database(f"sqlite:///{tmp_path / 'other.db'}")
    other.migrate()
    assert get_scope(other) != scope
    other.close()


def test_a_new_schema_waits_until_no_orchestrator_of_an_earlier_version_leads(database, monkeypatch):
    migrate = MagicMock()
    monkeypatch.setattr(Database, "is_outdated", lambda self: True)
    monkeypatch.setattr(Database, "migrate", migrate)
    term = Lease(database, 60.0).try_acquire()
    with pytest.raises(Conflict, match=r"of an earlier one leads.*--replicas=0"):
        migrate_unused(database)
    migrate.assert_not_called()
    term.release()
    migrate_unused(database)
    migrate.assert_called_once_with()


def test_a_second_orchestrator_of_one_version_starts_beside_the_leader(database):
    assert Lease(database, 60.0).try_acquire() is not None
    migrate_unused(database)


READS = {
    "find", "get", "list", "summaries", "stages", "active", "queued", "launched", "of_check", "same_training",
    "find_trained", "attempts", "counts", "count_of_busiest_caller", "count_waiting", "find_longest_wait",
    "artifact_digests", "job_results", "list_unfinished", "list_earlier",
}  # fmt: skip


def find_writes(repository):
    """Every public method that is not known to read only."""
    methods = inspect.getmembers(repository, inspect.ismethod)
    return [method for name, method in methods if not name.startswith("_") and name not in READS]


def call(method):
    """Calls a method with anything: the lease is verified before an argument counts."""
    parameters = [one for one in inspect.signature(method).parameters.values() if one.default is one.empty]
    positional = [MagicMock() for one in parameters if one.kind is not one.KEYWORD_ONLY]
    return method(*positional, **{one.name: MagicMock() for one in parameters if one.kind is one.KEYWORD_ONLY})


def test_no_write_of_a_former_leader_changes_anything(database):
    add_all(database)
    term = Lease(database, 60.0).try_acquire()
    fenced = database.guarded_by(term.verify)
    repositories = JobRepository(fenced), CheckRepository(fenced), ExperimentRepository(fenced)
    for repository, name in zip(repositories, "jce", strict=True):
        assert repository.begin(name).state != "queued", "the leader may write"
    expire(database)
    assert Lease(database, 60.0).try_acquire().epoch == 2
    before = read_all(database)
    writes = [write for repository in repositories for write in find_writes(repository)]
    assert len(writes) > 20
    for write in writes:
        with pytest.raises(LeaseLost):
            call(write)
        assert read_all(database) == before, write
    assert JobRepository(fenced).launched(), "what only reads needs no lease"
    assert JobRepository(database).cancel("j").cancel_requested, "calls of the API need no lease"


@pytest.fixture
def rival(database_url, database):
    """The same database, as another process connects to it."""
    rival = open_database(database_url)
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
        session.get_one(CheckRow, ("default", "c")).state = "running"
    takeover.join(30)
    assert terms[0].epoch == 2
    assert CheckRepository(rival).get("c").state == "running"


def test_a_stopped_process_holds_up_a_takeover_no_longer_than_an_idle_transaction(postgres_database, monkeypatch):
    monkeypatch.setattr(postgresql, "_IDLE_IN_TRANSACTION_TIMEOUT_S", 1)
    database = open_database(postgres_database)
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
        session.get_one(CheckRow, ("default", "c")).state = "running"
        session.flush()
    except BaseException as error:
        if not manager.__exit__(type(error), error, error.__traceback__):
            raise
    else:
        manager.__exit__(None, None, None)
