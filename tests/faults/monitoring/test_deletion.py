"""A large monitor is deleted little by little: other monitors go on meanwhile, and a kill costs nothing."""

from __future__ import annotations

import os
import signal

import pytest
import sqlalchemy as sa
from tests.integration.monitoring.conftest import draw, store_set
from tests.integration.monitoring.test_leader import until
from tests.integration.monitoring.test_service import both_databases

from vfmalign.core.domain.errors import NotFound, PreconditionFailed
from vfmalign.monitoring.tables import EpochRow, MonitorRow, ObservationRow

ROWS = int(os.environ.get("FAULT_DELETED_ROWS", "30000"))


def add_observations(database):
    """Adds observations to the monitor, which has one, as if it had observed for years."""
    names = [column.name for column in ObservationRow.__table__.columns if column.name not in {"sequence"}]
    shown = ", ".join("'x-' || n" if name == "observation_id" else name for name in names)
    with database.engine.begin() as connection:
        connection.execute(
            sa.text(
                f"INSERT INTO monitor_observations (sequence, {', '.join(names)}) "
                "WITH RECURSIVE numbers(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM numbers WHERE n < :rows) "
                f"SELECT n, {shown} FROM numbers, monitor_observations WHERE sequence = 1 AND monitor_id = 'large'"
            ),
            {"rows": ROWS},
        )


def count(database, table=ObservationRow):
    with database.snapshot() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(table).where(table.monitor_id == "large"))


@both_databases
async def test_other_monitors_observe_between_the_parts_of_a_deletion_that_a_kill_interrupts(service, store, database):
    feature_set = store_set(store, draw(90, seed=1), "d")
    for name in ("large", "other"):
        await service.create(name, feature_set)
        await service.observe(name, draw(1, seed=2))
    with database.snapshot() as session:
        prefix = f"monitors/large/{session.scalar(sa.select(MonitorRow.uid).where(MonitorRow.id == 'large'))}/"
    add_observations(database)
    assert count(database) == ROWS
    await service.monitors.delete("large")
    with pytest.raises(NotFound):
        await service.monitors.get("large")
    with pytest.raises(NotFound):
        await service.monitors.delete("large")
    with pytest.raises(PreconditionFailed, match="is being deleted"):
        await service.create("large", feature_set)

    async def count_rows():
        return count(database)

    left = await until(count_rows, lambda rows: rows < ROWS - 2000)
    layers = draw(5, seed=3)
    for row in range(5):
        await service.observe(
            "other", {name: array[: row + 1] for name, array in layers.items()}, start=row, prefix="b"
        )
    between = count(database)
    assert 0 < between <= left, "the observations did not wait for the end of the deletion"

    os.kill(service.process.pid, signal.SIGKILL)
    await service.kill()
    assert count(database) > 0
    assert list(store.list(prefix)), "the objects come last"
    await service.start()
    with pytest.raises(NotFound):
        await service.monitors.get("large")
    assert [one.monitor_id for one in await service.monitors.list()] == ["other"]
    await until(count_rows, lambda rows: rows == 0)

    async def is_free():
        with database.snapshot() as session:
            return session.scalar(sa.select(MonitorRow.id).where(MonitorRow.id == "large")) is None

    await until(is_free, bool)
    assert count(database, EpochRow) == 0

    async def list_objects():
        return list(store.list(prefix))

    await until(list_objects, lambda keys: not keys)
    assert (await service.create("large", feature_set)).outcomes == {}
    assert (await service.monitors.get("other")).outcomes == {"entered": 6}
    assert not [line for line in service.log() if line["event"] in {"monitor_not_deleted", "round_failed"}]
