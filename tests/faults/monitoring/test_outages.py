"""The database, the store or the MMD service away: nothing is lost or doubled, and everything goes on afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import tempfile
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import sqlalchemy as sa
from tests.faults import one_training
from tests.integration.monitoring import test_leader as leader
from tests.integration.monitoring.conftest import draw, store_set
from tests.integration.monitoring.test_leader import read_metrics, until
from tests.integration.monitoring.test_service import evidence_of, observe_alone

from vfmalign.core.domain.errors import Unavailable
from vfmalign.monitoring.schema import open_database
from vfmalign.monitoring.tables import MonitorRow, ObservationRow

storage, s3, mmd = one_training.storage, one_training.s3, leader.mmd
PATIENTS = [f"ref-p{row}" for row in range(90)]
FAILURES = "vfmalign_monitor_snapshot_failures_total"
SOCKET = ".s.PGSQL.5432"


class DatabaseProxy:
    """A socket before PostgreSQL, which ends its connections and refuses new ones while the database is away."""

    def __init__(self, folder, target):
        self._path, self._target = folder / SOCKET, target
        self._writers = set()
        self.is_away = True
        self.outages = 0

    async def start(self):
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        self.is_away = False

    def stop(self):
        self.is_away = True
        self.outages += 1
        self._server.close()
        self._path.unlink()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader, writer):
        far_reader, far_writer = await asyncio.open_unix_connection(self._target)
        self._writers.add(writer)
        try:
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            self._writers.discard(writer)


async def _pump(reader, writer):
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture
async def proxy(postgres_database):
    """A proxy of the database, and the URL by which the service finds it."""
    parts = urlsplit(postgres_database)
    (target,) = parse_qs(parts.query)["host"]
    with tempfile.TemporaryDirectory(prefix="vfmalign-proxy-") as folder:  # a socket's path is short
        proxy = DatabaseProxy(Path(folder), f"{target}/{SOCKET}")
        proxy.url = parts._replace(query=f"host={folder}").geturl()
        await proxy.start()
        yield proxy
        proxy.stop()


def read_names(url):
    """Observation ids in the order in which they were recorded."""
    database = open_database(url)
    try:
        with database.snapshot() as session:
            return session.scalars(sa.select(ObservationRow.observation_id).order_by(ObservationRow.sequence)).all()
    finally:
        database.close()


def get_evidence(reference, layers):
    """What the library computes without a service."""
    library, _ = observe_alone(reference, PATIENTS, layers, "o", alpha=0.05)
    return list(library.status.log_evidence.values())


async def observe_row(service, layers, row):
    return (await service.observe("m", {name: array[: row + 1] for name, array in layers.items()}, start=row))[0]


async def test_observations_are_recorded_once_while_the_database_comes_and_goes(
    service, store, proxy, postgres_database
):
    rng = random.Random(7)
    reference, layers = draw(90, seed=1), draw(90, seed=2, shift=0.3)
    await service.kill()
    await service.start(VFMALIGN_DATABASE__URL=proxy.url, VFMALIGN_MONITORING__SNAPSHOT_ROWS="20")
    await service.create("m", store_set(store, reference, "ref"), alpha=0.05)
    moments = rng.sample(range(5, 80), 4)
    failures = 0
    for row in range(90):
        if row in moments:  # during this observation or one of the next
            asyncio.get_running_loop().call_later(rng.uniform(0.0, 0.03), proxy.stop)
        while True:
            try:
                result = await observe_row(service, layers, row)
                break
            except Unavailable:
                failures += 1
                if failures % 3 == 0 and proxy.is_away:
                    await proxy.start()
        assert result.row == row + 1
    assert (proxy.outages, failures >= 4 * 3) == (4, True)
    monitor = await service.monitors.get("m")
    assert evidence_of(monitor) == get_evidence(reference, layers)
    assert monitor.outcomes["entered"] == 90
    assert read_names(postgres_database) == [f"o-{row}" for row in range(90)]
    assert not [line for line in service.log() if line["event"] in {"replay_differs", "round_failed"}]


def read_snapshot(database):
    with database.snapshot() as session:
        return session.scalar(sa.select(MonitorRow.snapshot))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_evidence_goes_on_without_the_store_and_snapshots_follow_once_it_is_back(
    service, store, storage, database
):
    reference, layers = draw(90, seed=1), draw(400, seed=2, shift=0.1)
    await service.kill()
    await service.start(VFMALIGN_MONITORING__SNAPSHOT_ROWS="5")
    await service.create("m", store_set(store, reference, "ref"), alpha=0.05)
    await observe_row(service, layers, 0)
    storage.stop()
    try:
        for row in range(1, 20):
            assert (await observe_row(service, layers, row)).outcome == "entered"
        await until(lambda: read_metrics(service), lambda one: one[FAILURES] >= 1)
        assert read_snapshot(database)["sequence"] == 0
        assert (await service.monitors.get("m")).epoch.rows == 20
    finally:
        storage.start()
    row = 20
    while not read_snapshot(database)["sequence"]:  # a snapshot is tried again after a pause
        await observe_row(service, layers, row)
        row += 1
        await asyncio.sleep(0.25)
    assert store.exists(read_snapshot(database)["key"])
    monitor = await service.monitors.get("m")
    assert evidence_of(monitor) == get_evidence(reference, {name: array[:row] for name, array in layers.items()})


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_start_without_the_store_waits_for_it_where_a_state_must_be_read(service, store, storage):
    reference, layers = draw(90, seed=1), draw(40, seed=2, shift=0.3)
    await service.create("m", store_set(store, reference, "ref"), alpha=0.05)
    for row in range(20):
        await observe_row(service, layers, row)
    await service.kill()
    storage.stop()
    try:
        await service.start()
        assert (await service.monitors.get("m")).epoch.rows == 20, "what is recorded is shown"
        with pytest.raises(Unavailable) as caught:
            await observe_row(service, layers, 20)
        assert caught.value.reason == "STORE_UNAVAILABLE"
        assert (await service.monitors.get("m")).epoch.rows == 20
        assert await service.monitors.get_report("m", "json")
    finally:
        storage.start()
    for row in range(20, 40):
        assert (await observe_row(service, layers, row)).row == row + 1
    assert evidence_of(await service.monitors.get("m")) == get_evidence(reference, layers)


def count_unread(port):
    """Bytes that have arrived at a port and were not read."""
    tables = [Path("/proc/net", name).read_text() for name in ("tcp", "tcp6")]
    lines = [line.split() for table in tables for line in table.splitlines()[1:]]
    return sum(int(one[4].partition(":")[2], 16) for one in lines if int(one[1].rpartition(":")[2], 16) == port)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_service_ends_in_time_while_the_mmd_service_hangs(service, store, mmd):
    await service.kill()
    await service.start(VFMALIGN_MMD_ADDRESS=f"127.0.0.1:{mmd.port}")
    await service.create("m", store_set(store, draw(90, seed=1), "ref"), window_rows=20)
    layers = draw(60, seed=2)
    await service.observe("m", {name: array[:20] for name, array in layers.items()})
    await until(lambda: service.monitors.get("m"), lambda one: one.windowed_shifts)
    mmd.process.send_signal(signal.SIGSTOP)
    await service.observe("m", layers, start=20)
    await until(lambda: asyncio.to_thread(count_unread, mmd.port), lambda unread: unread > 0)
    assert (await service.monitors.get("m")).epoch.rows == 60, "the evidence does not wait"
    assert await service.kill(signal.SIGTERM) == 0
    assert not [line for line in service.log() if line.get("level") == "error"]
    mmd.process.send_signal(signal.SIGCONT)
    await service.start(VFMALIGN_MMD_ADDRESS=f"127.0.0.1:{mmd.port}")
    await until(lambda: service.monitors.get("m"), lambda one: one.windowed_shifts[0].last_row == 60)
