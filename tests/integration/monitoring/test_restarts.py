"""Services that are killed, that lose a snapshot, or that share their database."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from tests.integration.monitoring.conftest import Service, both_databases, draw, evidence_of, observe_alone, store_set

from vfmalign.client.messages.erasure import ErasePatientRequest
from vfmalign.core.domain.errors import DataLoss
from vfmalign.erasure.receipts import Plan
from vfmalign.monitoring.service.erasure import make_erasures
from vfmalign.monitoring.service.states import States
from vfmalign.monitoring.tables import InputRow, MonitorRow, ObservationRow


@both_databases
async def test_an_erasure_that_was_interrupted_goes_on_by_itself_and_the_evidence_stays(service, store, database):
    reference = draw(90, seed=1)
    await service.create("m", store_set(store, reference, "e"), alpha=0.05)
    layers = draw(50, seed=2)
    await service.observe("m", {name: array[:40] for name, array in layers.items()})
    await service.kill()
    interrupted = make_erasures(database, store, States(2**28))
    interrupted.eraser = SimpleNamespace(plan=lambda _: Plan(), remove=lambda _: False)
    interrupted.erase(ErasePatientRequest(erasure_id="e", group="o-g7", models="keep"), "")
    await service.start()
    for _ in range(600):
        if (receipt := await service.client.erasures.get("monitoring", "e")).complete_time is not None:
            break
        await asyncio.sleep(0.05)
    assert [(one.kind, one.count) for one in receipt.objects] == [("observation", 1), ("monitor", 1)]
    with database.snapshot() as session:
        assert "o-g7" not in session.scalars(sa.select(InputRow.patient)).all()
        assert "o-7" not in session.scalars(sa.select(ObservationRow.observation_id)).all()
    await service.observe("m", layers, start=40)
    library, _ = observe_alone(reference, [f"e-p{row}" for row in range(90)], layers, "o", alpha=0.05)
    assert evidence_of(await service.monitors.get("m")) == list(library.status.log_evidence.values())


@both_databases
async def test_a_killed_service_goes_on_with_the_same_bits(service, store, database):
    reference = draw(90, seed=1)
    feature_set = store_set(store, reference, "k")
    await service.kill()
    await service.start(VFMALIGN_MONITORING__SNAPSHOT_ROWS="40")
    await service.create("m", feature_set, alpha=0.05)
    layers = draw(130, seed=9, shift=0.2)
    library, _ = observe_alone(reference, [f"k-p{row}" for row in range(90)], layers, "o", alpha=0.05)
    for stop in (7, 64, 65, 100, 130):
        await service.observe("m", {name: array[:stop] for name, array in layers.items()})
        await service.kill()
        await service.start(VFMALIGN_MONITORING__SNAPSHOT_ROWS="40")
    monitor = await service.monitors.get("m")
    assert evidence_of(monitor) == list(library.status.log_evidence.values())
    assert monitor.epoch.rows == 130
    await service.observe("m", draw(1, seed=3), prefix="later")
    assert (await service.monitors.get("m")).epoch.rows == 131
    assert not [line for line in service.log() if line["event"] == "replay_differs"]

    def read_snapshot():
        with database.snapshot() as session:
            return session.scalar(sa.select(MonitorRow)).snapshot

    for _ in range(1200):  # it is stored in the background
        if read_snapshot()["sequence"]:
            break
        await asyncio.sleep(0.05)
    assert 40 <= read_snapshot()["sequence"] <= 131
    assert store.exists(read_snapshot()["key"])


@pytest.mark.parametrize("harm", ["deleted", "replaced by a longer one"])
async def test_a_lost_snapshot_is_made_up_for_by_the_one_before_and_both_are_an_error(
    service, store, reference, database, harm
):
    await service.kill()
    await service.start(VFMALIGN_MONITORING__SNAPSHOT_ROWS="10")
    await service.create("m", reference)
    layers = draw(60, seed=9)
    for stop in range(10, 61, 10):
        await service.observe("m", {name: array[:stop] for name, array in layers.items()}, start=stop - 10)
    before = await service.monitors.get("m")

    def lose(snapshot):
        if harm == "deleted":
            store.delete(snapshot["key"])
        else:
            store.put(snapshot["key"], store.get(snapshot["key"]) + b"x")

    def snapshots():
        with database.snapshot() as session:
            row = session.scalar(sa.select(MonitorRow))
        return row.snapshot, row.earlier_snapshot

    for _ in range(600):
        if (snapshots()[1] or {"sequence": 0})["sequence"] >= 10:
            break
        await asyncio.sleep(0.05)
    await service.kill()
    last, earlier = snapshots()
    lose(last)
    await service.start()
    await service.observe("m", draw(1, seed=3), prefix="later")
    after = await service.monitors.get("m")
    assert after.epoch.rows == before.epoch.rows + 1
    await service.kill()
    lose(earlier)
    await service.start()
    with pytest.raises(DataLoss, match="restore the bucket and the database"):
        await service.observe("m", draw(1, seed=4), prefix="latest")


async def test_two_processes_on_one_database_serve_one_monitor(service, store, environment, tmp_path):
    reference = draw(90, seed=1)
    await service.create("m", store_set(store, reference, "two"))
    folder = tmp_path / "other"
    folder.mkdir()
    other = await Service(environment, folder, subprocess.Popen).start()
    try:
        layers = draw(120, seed=2)

        async def send(one, rows):
            for row in rows:
                await one.observe("m", {name: array[: row + 1] for name, array in layers.items()}, start=row)

        await asyncio.gather(send(service, range(0, 120, 2)), send(other, range(1, 120, 2)))
        monitor = await other.monitors.get("m")
        assert monitor == await service.monitors.get("m")
        assert monitor.outcomes == {"entered": 120}
    finally:
        await other.kill(signal.SIGTERM)
