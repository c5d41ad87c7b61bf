"""Files of SQLite: a full disk, removed values, damage, and the write-ahead log."""

import os

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from tests.unit.finetuning.test_database import job

from vfmalign.core.domain.errors import DataLoss, Unavailable
from vfmalign.database.tables import now
from vfmalign.finetuning.checks.tables import CheckRow
from vfmalign.finetuning.jobs.tables import JobRow
from vfmalign.finetuning.schema import open_database


def test_a_full_disk_is_named_and_work_goes_on_once_there_is_space(tmp_path):
    database = open_database(f"sqlite:///{tmp_path / 'finetuning.db'}")
    database.migrate()
    with database.engine.connect() as connection:  # the pool hands out this one connection again
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with (
        pytest.raises(Unavailable, match=r"the disk of the database is full; free space on it") as caught,
        database.session() as session,
    ):
        session.add(job("large", spec={"a": "x" * 2**20}))
    assert caught.value.reason == "DATABASE_FULL"
    with database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    with database.session() as session:
        session.add(job("large", spec={"a": "x" * 2**20}))
    database.close()


def test_the_files_of_sqlite_keep_no_removed_value(tmp_path):
    """Also if SQLite was built without this default."""
    database = open_database(f"sqlite:///{tmp_path / 'finetuning.db'}", timeout_s=0.1)
    event.listen(database.engine, "connect", lambda raw, _: raw.execute("PRAGMA secure_delete=OFF"), insert=True)
    database.migrate()
    with database.session() as session:
        session.add(job("j", spec={"a": "removed" * 1000}))

    def is_kept():
        return any(b"removed" in file.read_bytes() for file in tmp_path.iterdir())

    with database.snapshot() as reader:
        reader.scalars(sa.select(JobRow)).all()
        with database.session() as session:
            session.get_one(JobRow, ("default", "j")).spec = {}
        assert not database.purge(), "a reader still needs the log"
        assert is_kept()
    assert database.purge()
    assert not is_kept()
    database.close()


def make_damaged(path, *, keeps):
    """A migrated database of which the first bytes stay."""
    database = open_database(f"sqlite:///{path}")
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
    database = open_database(f"sqlite:///{path}")
    with pytest.raises(DataLoss, match=r"the database is damaged.*restore the file from a backup"):
        database.migrate()
    with pytest.raises(DataLoss), database.session() as session:
        session.scalars(sa.select(JobRow)).all()
    with pytest.raises(DataLoss), database.snapshot() as session:
        session.scalars(sa.select(JobRow)).all()
    database.close()
    assert path.read_bytes() == damaged


def test_sqlite_uses_a_write_ahead_log(tmp_path):
    database = open_database(f"sqlite:///{tmp_path / 'a.db'}")
    database.migrate()
    with database.session() as session:
        assert session.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"
        session.add(CheckRow(id="c", request_digest="0" * 64, request={}, state="queued", created_at=now()))
    database.close()
