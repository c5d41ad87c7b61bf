"""The service killed at seeded moments: the evidence is that of an undisturbed run of the library, bit for bit.

`FAULT_OBSERVATIONS=2000 FAULT_KILLS=50` is the full size.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal

import pytest
import sqlalchemy as sa
from tests.integration.monitoring.conftest import draw, store_set
from tests.integration.monitoring.test_service import both_databases, evidence_of, observe_alone

from vfmalign.core.domain.errors import VfmalignError
from vfmalign.monitoring.tables import ObservationRow

OBSERVATIONS = int(os.environ.get("FAULT_OBSERVATIONS", "120"))
KILLS = int(os.environ.get("FAULT_KILLS", "4"))
SETTINGS = {"VFMALIGN_MONITORING__SNAPSHOT_ROWS": "20"}


async def send_until_recorded(service, layers, start, stop):
    """Sends observations, as a sender does that repeats what was not answered."""
    part = {name: array[:stop] for name, array in layers.items()}
    while True:
        try:
            return await service.observe("m", part, start=start)
        except VfmalignError:
            await asyncio.sleep(0.02)


@both_databases
async def test_the_evidence_after_kills_is_that_of_an_undisturbed_run(service, store, database):
    rng = random.Random(40)
    reference, layers = draw(90, seed=1), draw(OBSERVATIONS, seed=2, shift=0.3)
    feature_set = store_set(store, reference, "k")
    await service.kill()
    await service.start(**SETTINGS)
    await service.create("m", feature_set, alpha=0.05)
    moments = sorted(rng.sample(range(OBSERVATIONS // 4, OBSERVATIONS), KILLS))
    row = 0
    while row < OBSERVATIONS:
        stop = min(OBSERVATIONS, row + rng.choice((1, 1, 3, 8)))
        if moments and moments[0] < stop:
            moments.pop(0)
            sending = asyncio.create_task(send_until_recorded(service, layers, row, stop))
            await asyncio.sleep(rng.random() * 0.02)
            os.kill(service.process.pid, signal.SIGKILL)
            await asyncio.to_thread(service.process.wait, 60)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await service.client.close()
            await service.start(**SETTINGS)
        results = await send_until_recorded(service, layers, row, stop)
        assert [one.row for one in results] == list(range(row + 1, stop + 1))
        row = stop
    library, _ = observe_alone(reference, [f"k-p{row}" for row in range(90)], layers, "o", alpha=0.05)
    monitor = await service.monitors.get("m")
    assert evidence_of(monitor) == list(library.status.log_evidence.values())
    with database.snapshot() as session:
        names = session.scalars(sa.select(ObservationRow.observation_id).order_by(ObservationRow.sequence)).all()
    assert names == [f"o-{row}" for row in range(OBSERVATIONS)], "each once, and in the order in which they were sent"
    assert not [line for line in service.log() if line["event"] in {"replay_differs", "round_failed"}]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_many_clients_lose_and_double_nothing(service, store, database):
    """64 clients, 8 monitors: what each sends is recorded once, and the stored order gives the evidence."""
    reference = draw(90, seed=1)
    feature_set = store_set(store, reference, "load")
    names = [f"m{index}" for index in range(8)]
    for name in names:
        await service.create(name, feature_set)
    layers = draw(4, seed=3)
    await asyncio.gather(
        *(service.observe(names[client % 8], layers, prefix=f"c{client}") for client in range(64)),
        *(service.observe(names[client % 8], layers, prefix=f"c{client}") for client in range(0, 64, 9)),
    )
    with database.snapshot() as session:
        rows = session.execute(
            sa.select(ObservationRow.monitor_id, ObservationRow.observation_id, ObservationRow.row).order_by(
                ObservationRow.monitor_id, ObservationRow.sequence
            )
        ).all()
    assert len(rows) == 64 * 4
    for place, name in enumerate(names):
        own = [(observation, row) for monitor, observation, row in rows if monitor == name]
        assert sorted(one for one, _ in own) == sorted(f"c{c}-{row}" for c in range(place, 64, 8) for row in range(4))
        assert [row for _, row in own] == list(range(1, 33))
        assert (await service.monitors.get(name)).epoch.rows == 32
    assert not [line for line in service.log() if line.get("level") in {"warning", "error"}]
