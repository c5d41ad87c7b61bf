"""A leader that is stopped beyond its lease: the other process exports the monitors, and the first one no longer."""

from __future__ import annotations

import signal

import pytest
from tests.integration.monitoring.conftest import Service, draw, store_set
from tests.integration.monitoring.test_leader import read_metrics, until
from tests.integration.monitoring.test_service import both_databases, evidence_of, observe_alone

ALARM = 'vfmalign_monitor_alarm{monitor="m",tenant="default"}'
GAUGES = ("alarm", "paused", "last_observation_timestamp_seconds")


@pytest.fixture
async def rival(service, environment, tmp_path, python):
    """A second process on the database, which stands by."""
    folder = tmp_path / "rival"
    folder.mkdir()
    rival = await Service(environment, folder, python).start()
    yield rival
    assert await rival.kill(signal.SIGTERM) == 0


@both_databases
async def test_the_gauges_move_to_the_other_process_and_end_at_the_one_that_was_stopped(
    service, rival, store, database
):
    reference, layers = draw(90, seed=1), draw(80, seed=2, shift=3.0)
    await service.create("m", store_set(store, reference, "ref"), alpha=0.05)
    await service.observe("m", {name: array[:60] for name, array in layers.items()})
    await until(lambda: read_metrics(service), lambda one: one.get(ALARM) == 1)
    assert ALARM not in await read_metrics(rival)
    try:
        with database.session() as session:
            # SQLite has one write lock, which a process that is stopped within a transaction keeps from all others.
            # Here it is the test's, so that the leader holds none. PostgreSQL ends the transaction of such a process.
            session.connection()
            service.process.send_signal(signal.SIGSTOP)
        await until(lambda: read_metrics(rival), lambda one: one.get(ALARM) == 1)
        await rival.observe("m", {name: array[:70] for name, array in layers.items()}, start=60)
        await rival.monitors.acknowledge("m", 1)
        await until(lambda: read_metrics(rival), lambda one: one.get(ALARM) == 0)
    finally:
        service.process.send_signal(signal.SIGCONT)
    shown = await until(lambda: read_metrics(service), lambda one: ALARM not in one)
    assert not [name for name in shown if name.startswith(tuple(f"vfmalign_monitor_{gauge}{{" for gauge in GAUGES))]
    assert service.process.poll() is None, "it stands by instead of ending"
    await service.observe("m", layers, start=70)
    library, _ = observe_alone(reference, [f"ref-p{row}" for row in range(90)], layers, "o", alpha=0.05)
    for one in (service, rival):
        monitor = await one.monitors.get("m")
        assert evidence_of(monitor) == list(library.status.log_evidence.values())
        assert monitor.outcomes == {"entered": 80}
    assert (await read_metrics(rival))[ALARM] == 0
    assert ALARM not in await read_metrics(service)
