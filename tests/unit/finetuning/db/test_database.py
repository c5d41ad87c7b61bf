"""Migrations and types on SQLite and PostgreSQL."""

from datetime import datetime, timedelta, timezone

import alembic.autogenerate
import alembic.config
import alembic.migration
import pytest
import sqlalchemy as sa

from vfmalign.core.domain.errors import Conflict, InvalidInput, Unavailable
from vfmalign.finetuning.checks.request import CheckRequest
from vfmalign.finetuning.db.database import Base, CheckRow, Database, JobRow, now


def job(name, **fields):
    values = {
        "id": name, "check_id": "", "request_digest": "0" * 64, "request": {}, "spec": {"a": [1]}, "state": "QUEUED",
        "created_at": now(),
    } | fields  # fmt: skip
    return JobRow(**values)


def test_migrations_build_exactly_the_tables_the_code_uses(database):
    with database.engine.connect() as connection:
        context = alembic.migration.MigrationContext.configure(connection, opts={"compare_type": True})
        assert alembic.autogenerate.compare_metadata(context, Base.metadata) == []


def test_migrating_again_changes_nothing(database):
    with database.session() as session:
        session.add(job("kept"))
    database.migrate()
    with database.session() as session:
        assert session.get(JobRow, "kept").spec == {"a": [1]}


def test_a_database_of_a_later_version_is_refused(database):
    with database.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Conflict, match=r"migrated by a later version.*restore the backup"):
        database.migrate()


def test_times_keep_their_instant_and_come_back_in_utc(database):
    moment = datetime(2026, 3, 4, 5, 6, 7, 890, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    with database.session() as session:
        session.add(job("timed", created_at=moment))
    with database.session() as session:
        read = session.get(JobRow, "timed").created_at
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
        assert session.get(JobRow, "gone") is None


def test_sqlite_uses_a_write_ahead_log(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'a.db'}")
    database.migrate()
    with database.session() as session:
        assert session.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"
        session.add(CheckRow(id="c", request_digest="0" * 64, request={}, state="QUEUED", created_at=now()))
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


def test_requests_of_earlier_versions_keep_their_meaning_under_the_new_names(database):
    request = CheckRequest(model="m", dataset="d", task="segmentation", permutations=50)
    former = request.model_dump(mode="json")
    former["relabellings"] = former.pop("permutations")
    with database.session() as session:
        values = {"id": "c", "request_digest": "0" * 64, "request": former, "state": "QUEUED", "created_at": now()}
        session.add(CheckRow(**values))
    config = alembic.config.Config()
    config.set_main_option("script_location", "vfmalign.finetuning.db:migrations")
    with database.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0003'"))
        for name in ("created", "state"):
            connection.execute(sa.text(f"DROP INDEX ix_experiments_{name}"))
        connection.execute(sa.text("ALTER TABLE experiments RENAME TO studies"))
        columns = {"created": "created_at, id", "state": "state"}
        for name, listed in columns.items():
            connection.execute(sa.text(f"CREATE INDEX ix_studies_{name} ON studies ({listed})"))
    database.migrate()
    with database.session() as session:
        row = session.get(CheckRow, "c")
        assert CheckRequest.model_validate(row.request) == request
        assert row.request_digest == request.digest()
