"""Migrations and types on SQLite and PostgreSQL."""

import json
import os
from datetime import datetime, timedelta, timezone

import alembic.autogenerate
import alembic.command
import alembic.config
import alembic.migration
import pytest
import sqlalchemy as sa

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.experiments import ExperimentSpec
from vfmalign.client.messages.jobs import JobSpec, Recipe
from vfmalign.core.domain.errors import Conflict, DataLoss, InvalidInput, Unavailable
from vfmalign.core.runtime.metrics import REGISTRY
from vfmalign.finetuning.db.database import AttemptRow, Base, CheckRow, Database, ExperimentRow, JobRow, StageRow, now


def job(name, **fields):
    values = {
        "id": name, "check_id": "", "request_digest": "0" * 64, "request": {}, "spec": {"a": [1]}, "state": "queued",
        "created_at": now(),
    } | fields  # fmt: skip
    return JobRow(**values)


def check(name, **fields):
    values = {"id": name, "request_digest": "0" * 64, "request": {}, "state": "queued", "created_at": now()}
    return CheckRow(**(values | fields))


def downgrade(database, revision):
    config = alembic.config.Config()
    config.set_main_option("script_location", "vfmalign.finetuning.db:migrations")
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        alembic.command.downgrade(config, revision)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    """A migrated database of the test's own, which may change its tables."""
    sqlite = f"sqlite:///{tmp_path / 'finetuning.db'}"
    database = Database(sqlite if request.param == "sqlite" else request.getfixturevalue("postgres_database"))
    database.migrate()
    yield database
    database.close()


def test_migrations_build_exactly_the_tables_the_code_uses(database):
    with database.engine.connect() as connection:
        context = alembic.migration.MigrationContext.configure(connection, opts={"compare_type": True})
        assert alembic.autogenerate.compare_metadata(context, Base.metadata) == []


def test_migrating_again_changes_nothing(database):
    with database.session() as session:
        session.add(job("kept"))
    database.migrate()
    with database.session() as session:
        assert session.get(JobRow, ("default", "kept")).spec == {"a": [1]}


def test_a_snapshot_neither_waits_for_a_transaction_that_writes_nor_holds_it_up(database):
    with database.session() as session:
        session.add(job("first"))
    with database.session() as writer:
        writer.get_one(JobRow, ("default", "first"), with_for_update=True).attempts = 7
        writer.flush()
        with database.snapshot() as reader:  # SQLite would wait for its lock here
            assert reader.get_one(JobRow, ("default", "first")).attempts == 0
    with database.snapshot() as reader, database.session() as writer:
        assert reader.get_one(JobRow, ("default", "first")).attempts == 7
        writer.get_one(JobRow, ("default", "first"), with_for_update=True).attempts = 8
    with database.snapshot() as reader:
        assert reader.get_one(JobRow, ("default", "first")).attempts == 8


def test_a_snapshot_does_not_ask_whether_its_caller_leads(database):
    def refuse(session):
        raise Conflict("not the leader")

    guarded = database.guarded_by(refuse)
    with guarded.snapshot() as reader:
        assert reader.scalars(sa.select(JobRow)).all() == []
    with pytest.raises(Conflict), guarded.session():
        pass


def test_postgresql_refuses_a_write_in_a_snapshot(postgres_database):
    database = Database(postgres_database)
    database.migrate()
    with pytest.raises(sa.exc.DBAPIError, match="read-only"), database.snapshot() as reader:
        reader.add(job("late"))
    with database.session() as session:  # of the same pool: the connection may write again
        session.add(job("next"))
    database.close()


def test_a_database_of_a_later_version_is_refused(database):
    with database.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Conflict, match=r"migrated by a later version.*restore the backup"):
        database.migrate()


@pytest.mark.parametrize(("revision", "outdated"), [("0014", True), ("0015", False), ("9999", False)])
def test_only_an_earlier_schema_is_outdated(database, revision, outdated):
    with database.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    assert database.is_outdated() is outdated


def test_an_empty_database_is_not_outdated(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'empty.db'}")
    assert database.is_outdated() is False
    database.close()


def make_damaged(path, *, keeps):
    """A migrated database of which the first bytes stay."""
    database = Database(f"sqlite:///{path}")
    database.migrate()
    database.close()
    data = path.read_bytes()
    path.write_bytes(data[:keeps] + bytes(byte ^ 0xA5 for byte in data[keeps:]))


DAMAGES = {
    "another file": lambda path: path.write_bytes(b"hello" * 1000),
    "header": lambda path: make_damaged(path, keeps=0),
    "schema": lambda path: make_damaged(path, keeps=100),
    "pages": lambda path: make_damaged(path, keeps=4096),
    "truncated": lambda path: (make_damaged(path, keeps=10**9), os.truncate(path, 6000)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_named_and_stays_as_it_is(tmp_path, damage):
    path = tmp_path / "finetuning.db"
    damage(path)
    damaged = path.read_bytes()
    database = Database(f"sqlite:///{path}")
    with pytest.raises(DataLoss, match=r"the database is damaged.*restore the file from a backup"):
        database.migrate()
    with pytest.raises(DataLoss), database.session() as session:
        session.scalars(sa.select(JobRow)).all()
    with pytest.raises(DataLoss), database.snapshot() as session:
        session.scalars(sa.select(JobRow)).all()
    database.close()
    assert path.read_bytes() == damaged


def test_times_keep_their_instant_and_come_back_in_utc(database):
    moment = datetime(2026, 3, 4, 5, 6, 7, 890, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    with database.session() as session:
        session.add(job("timed", created_at=moment))
    with database.session() as session:
        read = session.get(JobRow, ("default", "timed")).created_at
    assert read == moment
    assert read.utcoffset() == timedelta(0)


def test_naive_times_are_refused(database):
    with pytest.raises(sa.exc.StatementError, match="timezone"), database.session() as session:
        session.add(job("naive", created_at=datetime(2026, 1, 1)))


def test_an_error_rolls_back(database):
    def fail_halfway():
        with database.session() as session:
            session.add(job("gone"))
            session.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    with database.session() as session:
        assert session.get(JobRow, ("default", "gone")) is None


def test_sqlite_uses_a_write_ahead_log(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'a.db'}")
    database.migrate()
    with database.session() as session:
        assert session.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"
        session.add(CheckRow(id="c", request_digest="0" * 64, request={}, state="queued", created_at=now()))
    database.close()


@pytest.mark.parametrize("url", ["mysql://root:secret@host/db", "nonsense"])
def test_other_databases_are_refused_without_showing_the_password(url):
    with pytest.raises(InvalidInput) as caught:
        Database(url)
    assert "VFMALIGN_DATABASE__URL" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_database_that_does_not_answer_is_unavailable_without_showing_the_password():
    database = Database("postgresql://user:secret@127.0.0.1:1/db")
    with pytest.raises(Unavailable) as caught:
        database.migrate()
    assert "secret" not in str(caught.value)
    database.close()


def test_transactions_are_measured_and_those_that_the_database_fails_are_counted(database):
    def read():
        seconds = [REGISTRY.get_sample_value("vfmalign_database_seconds_count", {"access": access}) or 0
                   for access in ("read", "write")]  # fmt: skip
        return [*seconds, REGISTRY.get_sample_value("vfmalign_database_errors_total")]

    before = read()
    with database.snapshot() as session:
        session.execute(sa.text("SELECT 1"))
    with pytest.raises(ValueError, match="of the caller"), database.session():
        raise ValueError("of the caller")
    down = Database("postgresql://user:secret@127.0.0.1:1/db")
    with pytest.raises(Unavailable), down.session() as session:
        session.execute(sa.text("SELECT 1"))
    down.close()
    assert [after - earlier for after, earlier in zip(read(), before, strict=True)] == [1, 2, 1]


def test_requests_of_earlier_versions_keep_their_meaning_under_the_new_names(database):
    spec = CheckSpec(
        model_id="m", dataset_id="d", task="segmentation", permutations=50, recipe=Recipe(patch_shape_dhw=(8, 16, 16)),
        scratch_recipe=Recipe(epochs=3),
    )  # fmt: skip
    training = JobSpec(kind="finetune", dataset_id="d", model_id="m", task="segmentation", seed=2**62)
    with database.session() as session:
        session.add(check("c", request=spec.model_dump(mode="json")))
        session.add(job("j", request=training.model_dump(mode="json")))
    downgrade(database, "0003")
    with database.engine.connect() as connection:
        former = json.loads(connection.execute(sa.text("SELECT CAST(request AS TEXT) FROM checks")).scalar())
    assert (former["model"], former["dataset"], former["relabellings"]) == ("m", "d", 50)
    assert former["recipe"]["patch_shape_DHW"] == [8, 16, 16]
    assert former["scratch_recipe"]["patch_shape_DHW"] is None
    database.migrate()
    with database.session() as session:
        for row, record in (
            (session.get(CheckRow, ("default", "c")), spec),
            (session.get(JobRow, ("default", "j")), training),
        ):
            assert type(record).model_validate(row.request) == record
            assert row.request_digest == record.digest()


def test_requests_of_experiments_become_specs_and_back(database):
    spec = ExperimentSpec(
        model_ids=("m1", "m2"), dataset_id="d", tasks=("segmentation",), seeds=(1,), permutations=50,
        recipe=Recipe(preset="demo", patch_shape_dhw=(8, 16, 32)),
    )  # fmt: skip
    with database.session() as session:
        session.add(
            ExperimentRow(
                id="e", request=spec.model_dump(mode="json"), request_digest="0" * 64, pinned_inputs={"a": 1},
                state="queued", created_at=now(),
            )
        )  # fmt: skip
    downgrade(database, "0003")
    with database.engine.connect() as connection:
        request, fixed = connection.execute(
            sa.text("SELECT CAST(request AS TEXT), CAST(fixed AS TEXT) FROM studies")
        ).one()
    former = json.loads(request)
    assert (former["models"], former["dataset"], former["relabellings"]) == (["m1", "m2"], "d", 50)
    assert former["recipe"]["patch_shape_DHW"] == [8, 16, 32]
    assert json.loads(fixed) == {"a": 1}
    database.migrate()
    with database.session() as session:
        row = session.get(ExperimentRow, ("default", "e"))
        assert ExperimentSpec.model_validate(row.request) == spec
        assert (row.request_digest, row.pinned_inputs) == (spec.digest(), {"a": 1})


def test_jobs_that_wait_for_a_pod_become_pending(database):
    waits = {"phase": "pending", "detail": "its pod fits no node", "reason": "UNSCHEDULABLE"}
    trains = {"phase": "training", "detail": "training, attempt 1"}
    started = now()
    with database.session() as session:
        session.add(job("first", state="pending", attempts=1, progress=waits))
        session.add(job("second", state="pending", attempts=2, progress=waits, started_at=started))
        session.add(job("trains", state="running", attempts=1, progress=trains, started_at=started))
    downgrade(database, "0006")
    with database.engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT state, started_at IS NULL FROM jobs")).all()
        assert {tuple(row) for row in rows} == {("running", False)}, "an earlier version looks for their processes"
    database.migrate()
    with database.session() as session:
        rows = [session.get(JobRow, ("default", name)) for name in ("first", "second", "trains")]
        assert [(row.state, row.progress, row.started_at) for row in rows] == [
            ("pending", waits, None), ("pending", waits, started), ("running", trains, started),
        ]  # fmt: skip


def test_states_and_sentences_of_earlier_versions_become_progress(database):
    progress = {"phase": "finished", "detail": "not a volume"}
    with database.session() as session:
        failure = {"reason": "BAD_VOLUME", "message": "not a volume", "exit_code": 3}
        session.add(job("failed", state="failed", exit_code=3, progress=progress, failure=failure))
        session.add(job("waits", progress={"detail": "waiting for a free slot"}))
        session.add(check("c", state="running", progress={"detail": "comparing"}, stage_progress=[{"phase": "mmd"}]))
    downgrade(database, "0004")
    with database.engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT id, state, message, reason FROM jobs ORDER BY id")).all()
        assert [tuple(row) for row in rows] == [
            ("failed", "FAILED", "not a volume", "BAD_VOLUME"), ("waits", "QUEUED", "waiting for a free slot", ""),
        ]  # fmt: skip
    database.migrate()
    with database.session() as session:
        failed, waits, running = (
            session.get(JobRow, ("default", "failed")),
            session.get(JobRow, ("default", "waits")),
            session.get(CheckRow, ("default", "c")),
        )
        assert (failed.state, failed.failure, failed.progress["phase"]) == ("failed", failure, "finished")
        assert (waits.state, waits.failure, waits.progress["detail"]) == ("queued", None, "waiting for a free slot")
        assert (running.state, running.progress["detail"], running.stage_progress) == ("running", "comparing", [])


def test_checks_of_earlier_versions_have_one_seed(database):
    spec = CheckSpec(model_id="m", dataset_id="d", task="segmentation", seed=2**40)
    with database.session() as session:
        session.add(check("c", request=spec.model_dump(mode="json")))
    downgrade(database, "0010")
    with database.engine.connect() as connection:
        former = json.loads(connection.execute(sa.text("SELECT CAST(request AS TEXT) FROM checks")).scalar())
    assert "seeds" not in former
    database.migrate()
    with database.session() as session:
        row = session.get(CheckRow, ("default", "c"))
        assert CheckSpec.model_validate(row.request) == spec
        assert row.request_digest == spec.digest()


def test_requests_of_earlier_versions_have_no_smallest_differences(database):
    spec = CheckSpec(model_id="m", dataset_id="d", task="segmentation", seed=2**40)
    experiment = ExperimentSpec(model_ids=("m",), dataset_id="d", tasks=("segmentation",))
    with database.session() as session:
        session.add(check("c", request=spec.model_dump(mode="json")))
        session.add(
            ExperimentRow(
                id="e", request=experiment.model_dump(mode="json"), request_digest="0" * 64, pinned_inputs={},
                state="queued", created_at=now(),
            )
        )  # fmt: skip
    downgrade(database, "0011")
    with database.engine.connect() as connection:
        for table in ("checks", "experiments"):
            former = connection.execute(sa.text(f"SELECT CAST(request AS TEXT) FROM {table}")).scalar()
            assert "smallest_difference" not in former
    database.migrate()
    with database.session() as session:
        for row, record in (
            (session.get(CheckRow, ("default", "c")), spec),
            (session.get(ExperimentRow, ("default", "e")), experiment),
        ):
            assert type(record).model_validate(row.request) == record
            assert row.request_digest == record.digest()


def test_rows_of_before_there_were_tenants_belong_to_the_first(database):
    with database.session() as session:
        session.add(job("j", attempts=1))
        session.flush()
        session.add(AttemptRow(job_id="j", attempt=1, started_at=now(), outcome="running"))
        session.add(check("c"))
        session.flush()
        session.add(StageRow(check_id="c", stage="mmd", attempt=1, started_at=now(), outcome="running"))
    downgrade(database, "0014")
    first = database.of_tenant("ward-7")
    first.migrate()
    with first.session() as session:
        rows = [*session.scalars(sa.select(JobRow)), *session.scalars(sa.select(AttemptRow))]
        rows += [*session.scalars(sa.select(CheckRow)), *session.scalars(sa.select(StageRow))]
        assert [row.tenant for row in rows] == ["ward-7"] * 4
        session.delete(session.get_one(JobRow, ("ward-7", "j")))
    with first.session() as session:
        assert session.scalars(sa.select(AttemptRow)).all() == [], "what belongs to a row is deleted with it"
    with database.session() as session:
        assert session.scalars(sa.select(CheckRow)).all() == []


def test_a_session_sees_and_writes_the_rows_of_its_tenant_alone(database):
    ours, theirs = database, database.of_tenant("ward-7")
    for one in (ours, theirs, ours):
        with one.session() as session:
            if session.get(JobRow, (one.tenant, "j")) is None:
                session.add(job("j", spec={"of": one.tenant}))
    for one in (ours, theirs):
        with one.snapshot() as session:
            assert [row.spec for row in session.scalars(sa.select(JobRow))] == [{"of": one.tenant}]
            assert session.scalars(sa.select(JobRow.tenant)).all() == [one.tenant]
            assert session.scalar(sa.select(sa.func.count()).select_from(JobRow)) == 1
    with theirs.session() as session:
        session.execute(sa.update(JobRow).values(baseline="theirs"))
        session.execute(sa.delete(JobRow).where(JobRow.baseline == ""))
    with ours.session() as session:
        assert session.scalars(sa.select(JobRow.baseline)).all() == [""]
        session.execute(sa.delete(JobRow))
    with theirs.session() as session:
        assert session.scalars(sa.select(JobRow.baseline)).all() == ["theirs"]
