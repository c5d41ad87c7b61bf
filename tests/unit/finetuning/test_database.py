"""Migrations and types on SQLite and PostgreSQL."""

import shutil
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import alembic.autogenerate
import alembic.command
import alembic.config
import alembic.migration
import pytest
import sqlalchemy as sa

from vfmalign.core.domain.errors import Conflict, InvalidInput, Unavailable
from vfmalign.core.runtime.metrics import REGISTRY
from vfmalign.database.postgresql import unbounded
from vfmalign.database.tables import Base, LeaseRow, now
from vfmalign.finetuning import migrations
from vfmalign.finetuning.checks.tables import CheckRow, StageRow
from vfmalign.finetuning.jobs.tables import AttemptRow, JobRow
from vfmalign.finetuning.schema import SCHEMA, open_database


def job(name, **fields):
    values = {
        "id": name, "check_id": "", "request_digest": "0" * 64, "request": {}, "spec": {"a": [1]}, "state": "queued",
        "created_at": now(),
    } | fields  # fmt: skip
    return JobRow(**values)


def check(name, **fields):
    values = {"id": name, "request_digest": "0" * 64, "request": {}, "state": "queued", "created_at": now()}
    return CheckRow(**(values | fields))


@pytest.fixture(params=["sqlite", "postgresql"])
def unmigrated(request, tmp_path):
    """A database of the test's own, without tables."""
    sqlite = f"sqlite:///{tmp_path / 'finetuning.db'}"
    database = open_database(sqlite if request.param == "sqlite" else request.getfixturevalue("postgres_database"))
    yield database
    database.close()


@pytest.fixture
def database(unmigrated):
    """A migrated database of the test's own, which may change its tables."""
    unmigrated.migrate()
    return unmigrated


def test_migrations_build_exactly_the_tables_the_code_uses(database):
    with database.engine.connect() as connection:
        options = {"compare_type": True, "compare_server_default": True, "version_table": SCHEMA.version_table}
        context = alembic.migration.MigrationContext.configure(connection, opts=options)
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
    database = open_database(postgres_database)
    database.migrate()
    with pytest.raises(sa.exc.DBAPIError, match="read-only"), database.snapshot() as reader:
        reader.add(job("late"))
    with database.session() as session:  # of the same pool: the connection may write again
        session.add(job("next"))
    database.close()


def test_postgresql_ends_a_statement_that_waits_too_long_and_a_migration_takes_its_time(postgres_database):
    database = open_database(postgres_database, timeout_s=0.5)
    database.migrate()
    with database.session() as holder:
        holder.execute(sa.select(LeaseRow).with_for_update())
        with pytest.raises(Unavailable, match="exceeded the time limit") as caught, database.session() as waiter:
            waiter.execute(sa.select(LeaseRow).with_for_update())
        assert caught.value.reason == "DATABASE_TIMEOUT"
        assert holder.scalar(sa.select(LeaseRow.name)) == "orchestrator", "the one that holds the lock goes on"
    longer = sa.text("SELECT pg_sleep(2.5)")  # than the server and then the client wait
    with database.engine.begin() as connection, unbounded(connection):
        connection.execute(longer)
    with pytest.raises(Unavailable, match="a statement exceeded the time limit"), database.session() as session:
        session.execute(longer)
    database.close()


def test_a_pool_whose_connections_are_all_in_use_is_unavailable(postgres_database, monkeypatch):
    database = open_database(postgres_database)
    database.migrate()
    monkeypatch.setattr(database.engine.pool, "_timeout", 0.05)
    with ExitStack() as held:
        for _ in range(15):  # five connections, and ten more while they are in use
            held.enter_context(database.snapshot()).execute(sa.text("SELECT 1"))
        with pytest.raises(Unavailable, match="cannot be reached"), database.snapshot() as session:
            session.execute(sa.text("SELECT 1"))
    database.close()


NEXT_VERSION = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "next", "0004"


def upgrade():
    op.add_column("jobs", sa.Column("added", sa.Integer))
"""


@pytest.fixture
def next_version(tmp_path):
    """The migrations of a later version of the program, which changes the schema."""
    folder = shutil.copytree(Path(migrations.__file__).parent, tmp_path / "migrations")
    (folder / "versions" / "next.py").write_text(NEXT_VERSION)
    return replace(SCHEMA, migrations=str(folder))


def test_a_later_version_migrates_the_database_which_this_version_then_refuses(database, next_version, monkeypatch):
    with database.session() as session:
        session.add(job("j"))
    assert not database.is_outdated()
    with monkeypatch.context() as later:
        later.setattr(database, "schema", next_version)
        assert database.is_outdated()
        database.migrate()
        assert not database.is_outdated()
    assert not database.is_outdated(), "the schema is not an earlier one"
    with pytest.raises(Conflict, match=r"migrated by a later version.*restore the backup"):
        database.migrate()
    with database.engine.connect() as connection:
        assert connection.execute(sa.text("SELECT id, added FROM jobs")).one() == ("j", None)


def test_a_database_of_a_development_version_is_refused_and_stays_as_it_is(unmigrated):
    with unmigrated.engine.begin() as connection:
        for create in (
            "CREATE TABLE alembic_version (version_num VARCHAR(32))",
            "INSERT INTO alembic_version VALUES ('0015')",
            "CREATE TABLE jobs (id VARCHAR(128), message TEXT)",
        ):
            connection.execute(sa.text(create))
    assert not unmigrated.is_outdated()
    with pytest.raises(Conflict, match=r"has a table jobs that no released version.*use an empty database"):
        unmigrated.migrate()
    assert set(sa.inspect(unmigrated.engine).get_table_names()) == {"alembic_version", "jobs"}


def test_the_version_of_another_service_in_the_same_database_stays_as_it_is(unmigrated):
    with unmigrated.engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        connection.execute(sa.text("INSERT INTO alembic_version VALUES ('of-another')"))
    unmigrated.migrate()
    with unmigrated.engine.connect() as connection:
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() == "of-another"
        assert SCHEMA.get_version(connection) == "0004"


def test_rows_of_before_have_no_creator_beside_the_one_they_had(unmigrated):
    config = SCHEMA.get_config()
    with unmigrated.engine.begin() as connection:
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "0003")
    rows = [check("of-ada", created_by="https://idp#ada"), check("of-service"), job("j", check_id="of-service")]
    with unmigrated.engine.begin() as connection:
        for row in rows:
            table = sa.Table(row.__tablename__, sa.MetaData(), autoload_with=connection)
            assert "on_behalf_of" not in table.c
            defaults = {"tenant": "default", "created_by": ""} | {
                column.key: column.default.arg if not column.default.is_callable else column.default.arg(None)
                for column in row.__table__.c
                if column.default is not None and column.key in table.c
            }
            given = {column.key: value for column in table.c if (value := getattr(row, column.key)) is not None}
            connection.execute(sa.insert(row.__table__).values(defaults | given))
    unmigrated.migrate()
    with unmigrated.session() as session:
        found = {row.id: row for kind in (CheckRow, JobRow) for row in session.scalars(sa.select(kind))}
        assert {name: (row.created_by, row.on_behalf_of) for name, row in found.items()} == {
            "of-ada": ("https://idp#ada", None),
            "of-service": ("", None),
            "j": ("", None),
        }
        assert {row.request_digest for row in found.values()} == {"0" * 64}


def test_an_empty_database_is_not_outdated(tmp_path):
    database = open_database(f"sqlite:///{tmp_path / 'empty.db'}")
    assert database.is_outdated() is False
    database.close()


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


@pytest.mark.parametrize("url", ["mysql://root:secret@host/db", "nonsense"])
def test_other_databases_are_refused_without_showing_the_password(url):
    with pytest.raises(InvalidInput) as caught:
        open_database(url)
    assert "VFMALIGN_DATABASE__URL" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_database_that_does_not_answer_is_unavailable_without_showing_the_password():
    database = open_database("postgresql://user:secret@127.0.0.1:1/db")
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
    down = open_database("postgresql://user:secret@127.0.0.1:1/db")
    with pytest.raises(Unavailable), down.session() as session:
        session.execute(sa.text("SELECT 1"))
    down.close()
    assert [after - earlier for after, earlier in zip(read(), before, strict=True)] == [1, 2, 1]


def test_attempts_and_stage_runs_are_deleted_with_their_job_and_check(database):
    with database.session() as session:
        session.add_all([job("j"), check("c")])
        session.flush()
        session.add(AttemptRow(job_id="j", attempt=1, started_at=now(), outcome="running"))
        session.add(StageRow(check_id="c", stage="mmd", attempt=1, started_at=now(), outcome="running"))
    with database.session() as session:
        session.delete(session.get_one(JobRow, ("default", "j")))
        session.delete(session.get_one(CheckRow, ("default", "c")))
    with database.session() as session:
        assert [*session.scalars(sa.select(AttemptRow)), *session.scalars(sa.select(StageRow))] == []


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
