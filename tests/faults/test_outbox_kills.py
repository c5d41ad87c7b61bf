"""SIGKILLs of the feature service, and outages of monitoring and store, lose no observation and change no order.

One sender asks for one study after the other, and again where there is no answer. `FAULT_OBSERVATIONS` and
`FAULT_KILLS` set how many, and `FAULT_SEED` the seed of the moments.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.faults import one_training
from tests.faults.observing_sender import Features, Sender
from tests.faults.one_training import Storage
from tests.integration.features import conftest as features_fixtures
from tests.integration.features.conftest import Server
from tests.observing_service import MonitoringServer, run_monitoring

from vfmalign.core.storage.keys import OUTBOX
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.imaging.volumes import encode

OBSERVATIONS = int(os.environ.get("FAULT_OBSERVATIONS", "80"))
KILLS = int(os.environ.get("FAULT_KILLS", "4"))
SEED = int(os.environ.get("FAULT_SEED", "17"))
OUTAGE_S = 2.0

storage, s3 = one_training.storage, one_training.s3
phantoms, card = features_fixtures.phantoms, features_fixtures.card


@pytest.fixture
def monitoring() -> Iterator[MonitoringServer]:
    with run_monitoring() as running:
        yield running


@pytest.fixture
def features(
    store: ObjectStore,
    card: Any,
    store_environment: dict[str, str],
    python: Any,
    tmp_path: Path,
    monitoring: MonitoringServer,
) -> Iterator[Features]:
    settings = {
        "VFMALIGN_MONITORING_ADDRESS": monitoring.address,
        "VFMALIGN_OUTBOX__WRITE_TIMEOUT_S": "1",
        "VFMALIGN_OUTBOX__POLL_S": "1",
    }
    running = Features(lambda: Server(python, store_environment, tmp_path, **settings))
    yield running
    running.end()


@pytest.fixture
def sender(features: Features, phantoms: Any) -> Iterator[Sender]:
    volumes = {kind: encode(phantoms[0][kind]) for kind in features_fixtures.MODALITIES}
    sender = Sender(features, lambda _: volumes)
    yield sender
    sender.close()


def begin_outage(*services: MonitoringServer | Storage) -> threading.Thread:
    """Stops services for a while."""

    def wait() -> None:
        time.sleep(OUTAGE_S)
        for service in services:
            service.start()

    for service in services:
        service.stop()
    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.timeout(300 + OBSERVATIONS + 30 * KILLS)
def test_kills_and_outages_lose_no_observation_and_change_no_order(
    sender: Sender, features: Features, monitoring: MonitoringServer, storage: Storage, store: ObjectStore
) -> None:
    moments = random.Random(SEED)
    kills = {number: moments.uniform(0.0, 0.3) for number in moments.sample(range(2, OBSERVATIONS - 2), KILLS)}
    outages = {
        OBSERVATIONS // 4: (monitoring,),
        OBSERVATIONS // 2: (storage,),
        3 * OBSERVATIONS // 4: (monitoring, storage),
    }
    running: list[threading.Thread] = []
    for number in range(OBSERVATIONS):
        if number in outages:
            running.append(begin_outage(*outages[number]))
        if number in kills:
            process = features.server.process
            running.append(threading.Timer(kills[number], process.kill))
            running[-1].start()
        sender.send(number)
    for thread in running:
        thread.join()
    features.revive()
    for _ in range(600):
        if not list(store.list(OUTBOX)):
            break
        time.sleep(0.1)
    assert features.deaths, "no kill has hit"
    assert monitoring.servicer.get_ids() == [f"o-{number:05d}" for number in range(OBSERVATIONS)]
    deliveries = sender.get_deliveries()
    assert {(one.delivery, one.reason) for one in deliveries} <= {("queued", ""), ("dropped", "STORE_UNAVAILABLE")}
