"""The schema of monitors on SQLite and PostgreSQL, alone and beside that of another service."""

from __future__ import annotations

import hashlib
import shutil
import traceback
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import alembic.autogenerate
import alembic.command
import alembic.migration
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from vfmalign.client.messages.monitors import MonitorReference, MonitorSpec
from vfmalign.core.domain.errors import Conflict, VfmalignError
from vfmalign.core.domain.record import canonical_json
from vfmalign.database.lease import Lease
from vfmalign.database.tables import LeaseRow, now
from vfmalign.finetuning.schema import open_database as open_finetuning
from vfmalign.monitoring import migrations
from vfmalign.monitoring.schema import SCHEMA, open_database
from vfmalign.monitoring.service.repository import MonitorRepository
from vfmalign.monitoring.tables import (
    INPUTS,
    METADATA,
    OBSERVATIONS,
    EpochRow,
    InputRow,
    MonitorRow,
    ObservationRow,
    WindowRow,
)

LARGE = 2**40
"""A number of rows that no 32-bit column holds."""
LAST = datetime(2026, 3, 1, 7, 30, tzinfo=UTC)
SPEC = MonitorSpec(reference=MonitorReference(feature_set_id="0" * 32), alpha=0.1 + 0.2, stratum="scanner", title="Ü")
COMPONENTS = {"rows": [7.5, 5.9], "blocks_of_4": [-0.1, 5.9], "blocks_of_16": [None, 5.9]}
MIX = {"rows": {"A": 2, "B": 0, "": 1}, "reference_rows": {"A": 30, "B": 14}}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'monitoring.db'}"
    return request.getfixturevalue("postgres_database")


@pytest.fixture
def unmigrated(url):
    database = open_database(url)
    yield database
    database.close()


@pytest.fixture
def database(unmigrated):
    unmigrated.migrate()
    return unmigrated


def monitor(name, **fields):
    values = {
        "id": name, "request_digest": "0" * 64, "request": {}, "state": "active", "created_at": now(), "uid": "u",
        "spec": {}, "origin": {}, "model_id": "m", "layers": {"b": 1, "a": 2}, "epoch": 1, "sequence": LARGE,
        "snapshot": {}, "status": {}, "counts": {},
    }  # fmt: skip
    return MonitorRow(**(values | fields))


def monitor_of_before(name, rows=3):
    """A monitor as the first two versions stored it."""
    request = SPEC.model_dump(mode="json") | {"mix_alpha": 0.02}
    status = {
        "rows": rows, "has_guarantee": True, "blocks_are_active": True, "reference_rows": 66, "components": COMPONENTS,
        "mix": MIX | {"log_evidence": 0.3, "log_threshold": 5.1}, "extreme_rows": [[1, "o", 0.5]],
        "peak": [3, 7.5, -0.1, None],
    }  # fmt: skip
    digest = hashlib.sha256(canonical_json(request)).hexdigest()
    fields = {"request": request, "request_digest": digest, "spec": request | {"layer": "b"}, "status": status}
    return monitor(name, origin={"checkpoint_sha256": "0" * 64, "preprocessing_sha256": "1" * 64}, **fields)


def store_before(database, revision, tenants=("default",)):
    """Migrates a database to an earlier version, and stores a monitor of this version and its parts for each tenant."""
    config = SCHEMA.get_config()
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, revision)
    with database.engine.begin() as connection:
        for rows, tenant in enumerate(tenants, 3):
            row = monitor_of_before("m", rows)
            row.state, row.created_by, row.last_observed_at = "paused", "", LAST
            for one in (row, *parts("m")):
                one.tenant = tenant
                table = sa.Table(one.__tablename__, sa.MetaData(), autoload_with=connection)
                values = {column.key: getattr(one, column.key) for column in table.c}
                connection.execute(sa.insert(one.__table__).values(values))


def parts(name):
    """One row of each table of a monitor."""
    observed = {"outcome": "entered", "content_digest": "0" * 64, "late": False, "future": False, "raised_alarm": False}
    return [
        EpochRow(
            monitor_id=name, number=1, start="fixed", has_guarantee=True, feature_set_id="f", manifest_sha256="0" * 64,
            started_at=now(), rows=LARGE,
        ),
        ObservationRow(
            monitor_id=name, sequence=LARGE, observation_id="o", epoch=1, row=LARGE, received_at=now(), p_value=0.1,
            log_rows=-1e-300, **observed,
        ),
        InputRow(
            monitor_id=name, sequence=LARGE, patient="p", stratum="", day=1, epoch=1, row=LARGE,
            features=bytes(range(256)),
        ),
        WindowRow(monitor_id=name, epoch=1, last_row=LARGE, computed_at=now(), shifts=[], channels=[]),
    ]  # fmt: skip


def test_migrations_build_exactly_the_tables_the_code_uses(database):
    options = {"compare_type": True, "compare_server_default": True, "version_table": SCHEMA.version_table}
    with database.engine.connect() as connection:
        context = alembic.migration.MigrationContext.configure(connection, opts=options)
        expected = sa.MetaData()
        for table in (*METADATA.tables.values(), LeaseRow.__table__):
            table.to_metadata(expected)
        assert alembic.autogenerate.compare_metadata(context, expected) == []


def test_migrating_again_changes_nothing_and_what_is_stored_comes_back(database):
    with database.session() as session:
        session.add(monitor("m"))
        session.flush()
        session.add_all(parts("m"))
    database.migrate()
    with database.snapshot() as session:
        row = session.get_one(MonitorRow, ("default", "m"))
        assert (row.sequence, list(row.layers)) == (LARGE, ["b", "a"]), "the first layer raises the alarm"
        assert session.scalars(sa.select(InputRow)).one().features == bytes(range(256))
        observation = session.scalars(sa.select(ObservationRow)).one()
        assert (observation.sequence, observation.p_value, observation.log_rows) == (LARGE, 0.1, -1e-300)


@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_monitors_of_earlier_versions_are_those_of_this_one(unmigrated, revision):
    store_before(unmigrated, revision)
    with unmigrated.engine.connect() as connection:
        columns = {one["name"] for one in sa.inspect(connection).get_columns("monitors")}
    assert ("resumed_at" in columns) == (revision == "0002")
    assert unmigrated.is_outdated()
    unmigrated.migrate()
    assert not unmigrated.is_outdated()
    with unmigrated.snapshot() as session:
        upgraded = session.get_one(MonitorRow, ("default", "m"))
        assert (upgraded.state, upgraded.resumed_at, upgraded.last_observed_at) == ("paused", None, LAST)
        for table in (EpochRow, ObservationRow, InputRow, WindowRow):
            assert len(session.scalars(sa.select(table)).all()) == 1


def test_monitors_of_the_second_version_lose_the_test_of_the_mix_and_keep_what_was_recorded(unmigrated):
    tenants = ("default", "ward-7")
    store_before(unmigrated, "0002", tenants)
    unmigrated.migrate()
    for rows, database in enumerate(map(unmigrated.of_tenant, tenants), 3):
        with database.snapshot() as session:
            upgraded = session.scalars(sa.select(MonitorRow)).one()
            before = monitor_of_before("m", rows)
            assert upgraded.status == before.status | {"mix": MIX, "peak": None}
            assert MonitorSpec.model_validate(upgraded.spec) == SPEC.model_copy(update={"layer": "b"})
            observation = session.scalars(sa.select(ObservationRow)).one()
            assert (observation.log_rows, observation.log_channels) == (-1e-300, None)
            assert (upgraded.tenant, observation.tenant) == (database.tenant, database.tenant)
        monitors = MonitorRepository(database, 1)
        assert monitors.find("m", SPEC) == monitors.get("m"), "the same request again finds the monitor"
        with pytest.raises(Conflict, match="it differs in seed;"):
            monitors.find("m", SPEC.model_copy(update={"seed": 1}))


def test_the_parts_of_a_monitor_are_deleted_with_it_and_not_those_of_another_tenant(database):
    for own in (database, database.of_tenant("ward-7")):
        with own.session() as session:
            session.add(monitor("m"))
            session.flush()
            session.add_all(parts("m"))
    with database.session() as session:
        session.execute(sa.delete(MonitorRow))
    for own, count in ((database, 0), (database.of_tenant("ward-7"), 1)):
        with own.snapshot() as session:
            for table in (MonitorRow, EpochRow, ObservationRow, InputRow, WindowRow):
                assert len(session.scalars(sa.select(table)).all()) == count


def test_an_id_is_recorded_once(database):
    with database.session() as session:
        session.add(monitor("m"))
        session.flush()
        session.add_all(parts("m"))
    again = {column.name: getattr(parts("m")[1], column.name, None) for column in OBSERVATIONS.columns}
    with pytest.raises(sa.exc.IntegrityError), database.session() as session:
        session.execute(sa.insert(OBSERVATIONS), [again | {"tenant": "default", "sequence": LARGE + 1}])
    orphan = {column.name: getattr(parts("x")[2], column.name, None) for column in INPUTS.columns}
    with pytest.raises(sa.exc.IntegrityError), database.session() as session:
        session.execute(sa.insert(INPUTS), [orphan | {"tenant": "default"}])


@pytest.mark.parametrize("first", ["monitoring", "finetuning"])
def test_two_services_share_a_database_and_each_has_its_own_leader(unmigrated, url, first):
    other = open_finetuning(url)
    databases = [unmigrated, other] if first == "monitoring" else [other, unmigrated]
    for one in (*databases, *databases):
        one.migrate()
    terms = [Lease(one, 60.0).try_acquire() for one in databases]
    assert None not in terms
    assert Lease(unmigrated, 60.0).try_acquire() is None
    for one, term in zip(databases, terms, strict=True):
        with one.guarded_by(term.verify).session():
            pass
    with unmigrated.engine.connect() as connection:
        assert [one.schema.get_version(connection) for one in (unmigrated, other)] == ["0003", "0004"]
    other.close()


def test_a_later_version_migrates_the_database_which_this_version_then_refuses(database, tmp_path, monkeypatch):
    folder = shutil.copytree(Path(migrations.__file__).parent, tmp_path / "migrations")
    (folder / "versions" / "next.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n\nrevision, down_revision = 'next', '0003'\n\n\n"
        "def upgrade():\n    op.add_column('monitors', sa.Column('added', sa.Integer))\n"
    )
    with monkeypatch.context() as later:
        later.setattr(database, "schema", replace(SCHEMA, migrations=str(folder)))
        assert database.is_outdated()
        database.migrate()
    with pytest.raises(Conflict, match="migrated by a later version"):
        database.migrate()


def test_tables_of_no_released_version_are_refused_and_stay_as_they_are(unmigrated):
    with unmigrated.engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE monitors (id VARCHAR(128))"))
    with pytest.raises(Conflict, match="has a table monitors"):
        unmigrated.migrate()
    assert sa.inspect(unmigrated.engine).get_table_names() == ["monitors"]


@pytest.mark.parametrize("zone", ["UTC", "America/Los_Angeles", "Pacific/Kiritimati"])
def test_times_of_the_years_1_and_9999_come_back_from_a_server_in_any_zone(postgres_database, zone):
    with psycopg.connect(postgres_database, autocommit=True) as connection:
        name = connection.execute("SELECT current_database()").fetchone()[0]
        connection.execute(f"ALTER DATABASE \"{name}\" SET timezone TO '{zone}'")
    database = open_database(postgres_database)
    database.migrate()
    times = [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)]
    try:
        with database.session() as session:
            session.add_all([monitor(f"m{index}", last_acquired_at=time) for index, time in enumerate(times)])
        with database.snapshot() as session:
            rows = session.scalars(sa.select(MonitorRow).order_by(MonitorRow.id)).all()
        assert [row.last_acquired_at for row in rows] == times
    finally:
        database.close()


def test_a_full_disk_is_named(tmp_path):
    database = open_database(f"sqlite:///{tmp_path / 'm.db'}")
    database.migrate()
    with database.engine.connect() as connection:  # the pool hands out this one connection again
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(VfmalignError, match="the disk of the database is full"), database.session() as session:
        session.add(monitor("m", spec={"a": "x" * 2**20}))
    database.close()


def test_a_traceback_names_no_patient(database):
    values = {
        "tenant": "default", "monitor_id": "absent", "sequence": 1, "patient": "g-secret", "stratum": "secret",
        "day": 0, "epoch": 1, "row": 1, "features": b"",
    }  # fmt: skip
    for rows in ([values], [values, values]):
        with pytest.raises(IntegrityError) as caught, database.session() as session:
            session.execute(sa.insert(INPUTS), rows)
        assert "secret" not in "".join(traceback.format_exception(caught.value))
