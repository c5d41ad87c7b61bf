"""Extract, its outbox, the monitoring service and the database, all real: kills and outages change no evidence.

Senders ask for one study after the other, and again where there is no answer. The feature service and the monitoring
service are killed in turn; monitoring, its database and the store are away for a while. Afterwards the monitor has each
observation once, in the order of its sender, and the evidence of the library over the features of undisturbed calls.

`FAULT_OBSERVATIONS=2000 FAULT_KILLS=50 FAULT_AWAY_S=30` is the full size, and `FAULT_SEED` the seed of the moments;
an odd one lets the four senders observe on PostgreSQL, an even one on SQLite.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import random
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from numpy.typing import NDArray
from tests import postgres
from tests.faults import one_training
from tests.faults.observing_sender import Features, Sender, Study
from tests.faults.one_training import Storage
from tests.integration.features import conftest as features_fixtures
from tests.integration.features import test_monitored_extraction as monitored
from tests.integration.features.conftest import Server
from tests.integration.monitoring import conftest as monitoring_fixtures
from tests.integration.monitoring.conftest import Service
from tests.integration.monitoring.test_service import evidence_of

from vfmalign.client import Client
from vfmalign.core.storage.feature_sets import read_committed, read_part
from vfmalign.core.storage.keys import OUTBOX
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.imaging.volumes import encode
from vfmalign.monitoring.sequential import Monitor, MonitorOptions
from vfmalign.monitoring.tables import ObservationRow

OBSERVATIONS = int(os.environ.get("FAULT_OBSERVATIONS", "60"))
KILLS = int(os.environ.get("FAULT_KILLS", "4"))
AWAY_S = float(os.environ.get("FAULT_AWAY_S", "2"))
SEED = int(os.environ.get("FAULT_SEED", "23"))
STUDIES, SENDERS = 12, 4
ALPHA = 0.05
SNAPSHOTS = {"VFMALIGN_MONITORING__SNAPSHOT_ROWS": "20"}
LONGEST_S = 300 + OBSERVATIONS + 30 * KILLS + 4 * AWAY_S

storage, s3 = one_training.storage, one_training.s3
phantoms, card = features_fixtures.phantoms, features_fixtures.card
expected_features, reference = features_fixtures.expected_features, monitored.reference
environment, database = monitoring_fixtures.environment, monitoring_fixtures.database
both_databases = pytest.mark.parametrize("postgresql", [False, True], ids=["sqlite", "postgresql"], indirect=True)
one_database = pytest.mark.parametrize("postgresql", [SEED % 2 == 1], indirect=True)

Fault = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture
def postgresql(request: pytest.FixtureRequest) -> Iterator[postgres.PostgresServer | None]:
    """A database server of the test's own, which it may stop; None for SQLite."""
    if not request.param:
        yield None
        return
    if (binaries := postgres.find_programs()) is None:
        pytest.skip(f"no PostgreSQL: {postgres.REMEDY}")
    with tempfile.TemporaryDirectory(prefix="vfmalign-pg-") as folder:  # a socket's path is short
        server = postgres.PostgresServer(binaries, Path(folder))
        yield server
        server.stop()


@pytest.fixture
def database_url(postgresql: postgres.PostgresServer | None, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'monitoring.db'}" if postgresql is None else postgresql.url


@pytest.fixture
async def monitoring(environment: dict[str, str], python: Any, tmp_path: Path) -> AsyncIterator[Service]:
    folder = tmp_path / "monitoring"
    folder.mkdir()
    service = await Service(environment, folder, python).start(**SNAPSHOTS)
    yield service
    assert await service.kill(signal.SIGTERM) == 0, (folder / "log").read_text()[-4000:]


@pytest.fixture
def features(
    card: Any, store_environment: dict[str, str], python: Any, tmp_path: Path, monitoring: Service
) -> Iterator[Features]:
    settings = {
        "VFMALIGN_MONITORING_ADDRESS": monitoring.address,
        "VFMALIGN_OUTBOX__WRITE_TIMEOUT_S": "1",
        "VFMALIGN_OUTBOX__CALL_TIMEOUT_S": "3",
        "VFMALIGN_OUTBOX__POLL_S": "1",
    }
    running = Features(lambda: Server(python, store_environment, tmp_path, **settings))
    yield running
    running.end()


@pytest.fixture(scope="module")
def studies(phantoms: Any) -> list[Study]:
    """Studies with noise of their own, encoded."""
    rng = np.random.default_rng(SEED)

    def add_noise(volume: Any) -> bytes:
        noise = 1.0 + 0.3 * rng.normal(size=volume.array_XYZ.shape)
        return encode(dataclasses.replace(volume, array_XYZ=(volume.array_XYZ * noise).astype(np.float32)))

    kinds = features_fixtures.MODALITIES
    return [{kind: add_noise(phantoms[number % 3][kind]) for kind in kinds} for number in range(STUDIES)]


@pytest.fixture
def undisturbed(features: Features, studies: list[Study]) -> list[NDArray[np.float32]]:
    """Features of each study from calls that nothing disturbs and no monitor observes."""
    with Client(features_address=features.server.address) as client:
        return [client.features.extract("micro", study).layers[monitored.LAYER] for study in studies]


class Faults:
    """What a test does to the chain.

    Of the faults of the monitoring service, which include those of its database, one begins when another has ended.

    Args:
        features: the feature service.
        monitoring: the monitoring service.
        postgresql: its database; None for SQLite.
        storage: the object store of both.
    """

    def __init__(
        self, features: Features, monitoring: Service, postgresql: postgres.PostgresServer | None, storage: Storage
    ) -> None:
        self._features, self._monitoring = features, monitoring
        self._postgresql, self._storage = postgresql, storage
        self._port = monitoring.address.rsplit(":", 1)[1]
        self._lock, self._feature_lock = asyncio.Lock(), asyncio.Lock()
        self._running: list[asyncio.Task[None]] = []
        self.monitoring_kills = 0

    def begin(self, fault: Fault, delay_s: float) -> None:
        """Begins a fault after a while."""

        async def wait() -> None:
            await asyncio.sleep(delay_s)
            await fault()

        self._running.append(asyncio.create_task(wait()))

    async def end(self) -> None:
        """Waits until all faults are over."""
        await asyncio.gather(*self._running)
        await asyncio.to_thread(self._features.revive)

    async def free(self) -> None:
        """Waits until the monitoring service and its database work."""
        async with self._lock:
            pass

    async def kill_features(self) -> None:
        async with self._feature_lock:
            await asyncio.to_thread(self._features.revive)  # a kill while it is dead would be none
            await asyncio.to_thread(self._features.server.kill)

    async def kill_monitoring(self) -> None:
        async with self._lock:
            await self._take_away(0.0)
            self.monitoring_kills += 1

    async def take_monitoring_away(self) -> None:
        async with self._lock:
            await self._take_away(AWAY_S)

    async def take_database_away(self) -> None:
        """Stops PostgreSQL. SQLite is away from others as long as the process that has it does not run."""
        async with self._lock:
            if self._postgresql is None:
                os.kill(self._monitoring.process.pid, signal.SIGSTOP)
                await asyncio.sleep(AWAY_S)
                os.kill(self._monitoring.process.pid, signal.SIGCONT)
            else:
                await asyncio.to_thread(self._postgresql.stop)
                await asyncio.sleep(AWAY_S)
                await asyncio.to_thread(self._postgresql.start)

    async def take_store_away(self) -> None:
        await asyncio.to_thread(self._storage.stop)
        await asyncio.sleep(min(AWAY_S, 2.0))
        await asyncio.to_thread(self._storage.start)

    async def _take_away(self, seconds: float) -> None:
        await self._monitoring.kill()
        await asyncio.sleep(seconds)
        await self._monitoring.start(**SNAPSHOTS, VFMALIGN_SERVER__GRPC_PORT=self._port)


@pytest.fixture
def faults(
    features: Features, monitoring: Service, postgresql: postgres.PostgresServer | None, storage: Storage
) -> Faults:
    return Faults(features, monitoring, postgresql, storage)


def draw_kills(faults: Faults, count: int) -> dict[int, tuple[Fault, float]]:
    """Faults with delays by the number of the observation with which they begin: both services are killed in turn."""
    rng = random.Random(SEED)
    moments = sorted(rng.sample(range(2, count - 2), KILLS))
    victims = (faults.kill_features, faults.kill_monitoring)
    return {moment: (victims[turn % 2], rng.uniform(0.0, 0.15)) for turn, moment in enumerate(moments)}


async def empty_outbox(store: ObjectStore) -> None:
    """Waits until nothing is left to send."""
    for _ in range(1200):
        if not await asyncio.to_thread(lambda: list(store.list(OUTBOX))):
            return
        await asyncio.sleep(0.1)
    raise AssertionError("observations still wait")


def observe_alone(
    store: ObjectStore, reference: str, rows: Sequence[NDArray[np.float32]], names: Sequence[str]
) -> tuple[list[float], list[float | None]]:
    """Evidence and p-values of the library over rows in an order, without a service."""
    manifest = read_committed(store, reference).manifest
    parts = [read_part(store, manifest, index)[monitored.LAYER] for index in range(len(manifest.parts))]
    monitor = Monitor(MonitorOptions(alpha=ALPHA), np.concatenate(parts), manifest.groups)
    observed = monitor.observe(np.stack(rows), names, [f"g-{name}" for name in names])
    evidence = list(monitor.status.log_evidence.values())
    return evidence, [one.p_value for one in observed]


def read_rows(database: Any) -> list[tuple[str, float | None]]:
    """Ids and p-values of what is recorded, in the stored order."""
    with database.snapshot() as session:
        columns = sa.select(ObservationRow.observation_id, ObservationRow.p_value)
        return [tuple(row) for row in session.execute(columns.order_by(ObservationRow.sequence))]


async def check(
    senders: Sequence[Sender],
    undisturbed: Sequence[NDArray[np.float32]],
    monitoring: Service,
    features: Features,
    store: ObjectStore,
    database: Any,
    reference: str,
) -> None:
    """Asserts that each observation is recorded once, and that the evidence is the library's over the stored order."""
    rows = {}
    for sender in senders:
        for number, answers in sender.answers.items():
            rows[sender.get_id(number)] = expected = undisturbed[number % STUDIES]
            assert all(np.array_equal(one.layers[monitored.LAYER], expected) for one in answers), number
    stored = read_rows(database)
    names = [name for name, _ in stored]
    assert sorted(names) == sorted(rows), "nothing is lost or doubled"
    for sender in senders:
        own = [sender.get_id(number) for number in sorted(sender.answers)]
        assert [name for name in names if name in set(own)] == own, "in the order of the sender"
    monitor = await monitoring.monitors.get("m")
    evidence, p_values = observe_alone(store, reference, [rows[name] for name in names], names)
    assert evidence_of(monitor) == evidence
    assert [p_value for _, p_value in stored] == p_values
    turned = names[::-1]
    assert observe_alone(store, reference, [rows[name] for name in turned], turned)[0] != evidence, "the order matters"
    assert (monitor.epoch.rows, monitor.outcomes["entered"]) == (len(rows), len(rows))
    assert set(monitor.outcomes) <= {"entered", "duplicate"}
    assert not [line for line in monitoring.log() if line["event"] in {"replay_differs", "round_failed"}]
    log = features.server.log.read_text()
    assert not [event for event in ("delivery_crashed", "Traceback") if event in log], log
    # Where the store has not confirmed in time, the caller is told so, and sends again.
    dropped = [line for line in log.splitlines() if "observation_dropped" in line]
    assert not [line for line in dropped if json.loads(line)["reason"] != "STORE_UNAVAILABLE"], dropped
    deliveries = [one for sender in senders for one in sender.get_deliveries()]
    assert {(one.delivery, one.reason) for one in deliveries} <= {("queued", ""), ("dropped", "STORE_UNAVAILABLE")}


@pytest.mark.timeout(LONGEST_S)
@both_databases
async def test_kills_and_outages_of_the_chain_leave_the_evidence_of_an_undisturbed_run(
    features, monitoring, faults, store, database, reference, studies, undisturbed
):
    await monitoring.create("m", reference, alpha=ALPHA)
    kills = draw_kills(faults, OBSERVATIONS)
    outages = {
        OBSERVATIONS // 4: faults.take_monitoring_away,
        OBSERVATIONS // 2: faults.take_database_away,
        3 * OBSERVATIONS // 4: faults.take_store_away,
    }
    sender = Sender(features, lambda number: studies[number % STUDIES])
    for number in range(OBSERVATIONS):
        if number in outages:
            await faults.free()  # so that observations are sent during each outage
            faults.begin(outages[number], 0.0)
        if number in kills:
            faults.begin(*kills[number])
        await asyncio.to_thread(sender.send, number)
    await faults.end()
    await empty_outbox(store)
    sender.close()
    assert (features.deaths, faults.monitoring_kills) == ((KILLS + 1) // 2, KILLS // 2)
    await check([sender], undisturbed, monitoring, features, store, database, reference)


@pytest.mark.timeout(LONGEST_S)
@one_database
async def test_four_senders_at_once_lose_and_double_nothing(
    features, monitoring, faults, store, database, reference, studies, undisturbed
):
    await monitoring.create("m", reference, alpha=ALPHA)
    each = OBSERVATIONS // SENDERS
    kills = draw_kills(faults, each * SENDERS)
    senders = [Sender(features, lambda number: studies[number % STUDIES], prefix) for prefix in "abcd"]
    sent = iter(range(each * SENDERS))

    async def send_all(sender: Sender) -> None:
        for number in range(each):
            if (moment := next(sent)) in kills:
                faults.begin(*kills[moment])
            await asyncio.to_thread(sender.send, number)

    await asyncio.gather(*(send_all(sender) for sender in senders))
    await faults.end()
    await empty_outbox(store)
    for sender in senders:
        sender.close()
    assert (features.deaths, faults.monitoring_kills) == ((KILLS + 1) // 2, KILLS // 2)
    await check(senders, undisturbed, monitoring, features, store, database, reference)
