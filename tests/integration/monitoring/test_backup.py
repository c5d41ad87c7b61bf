"""A database and a bucket restored from backups: of one moment, the evidence goes on; of two, the error says so."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.integration.monitoring.conftest import draw, store_set
from tests.integration.monitoring.test_service import evidence_of, observe_alone

from vfmalign.core.domain.errors import DataLoss
from vfmalign.monitoring.tables import MonitorRow

BEFORE, AFTER, STEP = 100, 1_200, 100
PREFIX = "monitors/m/"


def copy_database(source, target):
    """Copies a database with what is still in its log."""
    with closing(sqlite3.connect(source)) as used, closing(sqlite3.connect(target)) as copy:
        used.backup(copy)


def restore_database(backup, path):
    """Replaces a database of which no process has a connection."""
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    copy_database(backup, path)


async def observe_rows(service, database, layers, start, stop):
    """Observes rows in steps, with a snapshot after each.

    No snapshot begins while another one is being stored, so the rows are sent again, as duplicates, until it does.
    """

    def get_sequence():
        with database.snapshot() as session:
            return session.scalar(sa.select(MonitorRow.snapshot))["sequence"]

    for first in range(start, stop, STEP):
        part = {name: array[: first + STEP] for name, array in layers.items()}
        results = await service.observe("m", part, start=first)
        assert {(one.outcome, one.duplicate) for one in results} == {("entered", False)}
        async with asyncio.timeout(60):
            while get_sequence() <= first:
                await asyncio.sleep(0.05)
                await service.observe("m", part, start=first)


async def test_a_database_without_the_objects_of_its_moment_is_named_and_with_them_it_goes_on(
    service, store, database, tmp_path
):
    reference, layers = draw(90, seed=1), draw(BEFORE + AFTER, seed=2, shift=0.05)
    await service.kill()
    await service.start(VFMALIGN_MONITORING__SNAPSHOT_ROWS="20")
    await service.create("m", store_set(store, reference, "ref"), alpha=0.01)
    await observe_rows(service, database, layers, 0, BEFORE)
    backup, path = tmp_path / "backup.db", tmp_path / "monitoring.db"
    at_backup = await service.monitors.get("m")
    await service.kill(signal.SIGTERM)  # as docs/operations.md has it: the objects are those of the database
    objects = {key: store.get(key) for key in store.list(PREFIX)}
    copy_database(path, backup)
    await service.start(VFMALIGN_MONITORING__SNAPSHOT_ROWS="20")
    await observe_rows(service, database, layers, BEFORE, BEFORE + AFTER)
    undisturbed = await service.monitors.get("m")
    assert not objects.keys() & set(store.list(PREFIX)), "the snapshots of the backup were replaced"

    async def restart():
        await service.kill()
        database.close()
        restore_database(backup, path)
        await service.start(VFMALIGN_MONITORING__SNAPSHOT_ROWS="20")

    await restart()
    for prefix in ("o", "new"):
        with pytest.raises(DataLoss) as caught:
            await service.observe("m", draw(1, seed=3), prefix=prefix)
        assert f"/{PREFIX}" in caught.value.subject, "the object that is missing"
        assert "restore the bucket and the database from backups of the same time" in caught.value.remedy
    assert await service.monitors.get("m") == at_backup, "what is recorded is shown, and nothing is added"

    for key, data in objects.items():
        store.put(key, data)
    await restart()
    assert await service.monitors.get("m") == at_backup
    await observe_rows(service, database, layers, BEFORE, BEFORE + AFTER)
    monitor = await service.monitors.get("m")
    library, _ = observe_alone(reference, [f"ref-p{row}" for row in range(90)], layers, "o", alpha=0.01)
    assert evidence_of(monitor) == list(library.status.log_evidence.values())
    assert evidence_of(monitor) == evidence_of(undisturbed)
    assert monitor.outcomes["entered"] == BEFORE + AFTER
    assert monitor.outcomes.keys() <= {"entered", "duplicate"}
    assert not [line for line in service.log() if line["event"] == "replay_differs"]
