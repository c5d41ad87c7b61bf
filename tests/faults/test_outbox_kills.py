"""SIGKILLs of the feature service, and outages of monitoring and store, lose no observation and change no order.

One sender asks for one study after the other, and again where there is no answer. `FAULT_OBSERVATIONS` and
`FAULT_KILLS` set how many, and `FAULT_SEED` the seed of the moments.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.faults import one_training
from tests.faults.one_training import Storage
from tests.integration.features import conftest as features_fixtures
from tests.integration.features.conftest import Server
from tests.observing_service import MonitoringServer, run_monitoring

from vfmalign.client import Client
from vfmalign.client.messages.common import ObservedStudy
from vfmalign.client.messages.features import DeliveredObservation, StudyObservation
from vfmalign.core.domain.errors import Unavailable
from vfmalign.core.storage.keys import OUTBOX
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.imaging.volumes import encode

OBSERVATIONS = int(os.environ.get("FAULT_OBSERVATIONS", "80"))
KILLS = int(os.environ.get("FAULT_KILLS", "4"))
SEED = int(os.environ.get("FAULT_SEED", "17"))
OUTAGE_S = 2.0

storage, s3 = one_training.storage, one_training.s3
phantoms, card = features_fixtures.phantoms, features_fixtures.card


class Sender:
    """Sends observations one after the other to a service that is started again whenever it has died.

    Attributes:
        answers: by number of the observation, every answer.
        deaths: how often the service was found dead.
    """

    def __init__(self, start: Callable[[], Server], volumes: dict[str, bytes]) -> None:
        self._start, self._volumes = start, volumes
        self.answers: dict[int, list[DeliveredObservation]] = {}
        self.deaths = 0
        self.server = start()
        self._client = Client(features_address=self.server.address)

    def send(self, number: int) -> None:
        """Sends an observation until it is recorded or queued."""
        answers = self.answers[number] = []
        for _ in range(1000):
            if (answer := self._ask(number)) is not None:
                answers.append(answer)
                if answer.delivery != "dropped":
                    return
            time.sleep(0.05)
        raise AssertionError(f"observation {number} was never taken: {answers[-3:]}\n{self.server.log.read_text()}")

    def _ask(self, number: int) -> DeliveredObservation | None:
        study = ObservedStudy(observation_id=f"o-{number:05d}", group=f"g-{number:05d}")
        observation = StudyObservation(monitor_id="m", study=study)
        try:
            return self._client.features.extract("micro", self._volumes, observation=observation).observation
        except Unavailable:  # it died, or cannot read the model while the store is away
            self.revive()
            return None

    def revive(self) -> None:
        """Starts the service again where it has died."""
        if self.server.process.poll() is not None:
            self.deaths += 1
            self._client.close()
            self.server = self._start()
            self._client = Client(features_address=self.server.address)

    def end(self) -> None:
        self._client.close()
        assert self.server.end() == 0, self.server.log.read_text()


@pytest.fixture
def monitoring() -> Iterator[MonitoringServer]:
    with run_monitoring() as running:
        yield running


@pytest.fixture
def sender(
    store: ObjectStore,
    card: Any,
    store_environment: dict[str, str],
    python: Any,
    tmp_path: Path,
    monitoring: MonitoringServer,
    phantoms: Any,
) -> Sender:
    settings = {
        "VFMALIGN_MONITORING_ADDRESS": monitoring.address,
        "VFMALIGN_OUTBOX__HEDGE_S": "0.02",  # so that writes race with calls
        "VFMALIGN_OUTBOX__WRITE_TIMEOUT_S": "1",
        "VFMALIGN_OUTBOX__POLL_S": "1",
    }
    volumes = {kind: encode(phantoms[0][kind]) for kind in features_fixtures.MODALITIES}
    return Sender(lambda: Server(python, store_environment, tmp_path, **settings), volumes)


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
    sender: Sender, monitoring: MonitoringServer, storage: Storage, store: ObjectStore
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
            process = sender.server.process
            running.append(threading.Timer(kills[number], process.kill))
            running[-1].start()
        sender.send(number)
    for thread in running:
        thread.join()
    sender.revive()
    for _ in range(600):
        if not list(store.list(OUTBOX)):
            break
        time.sleep(0.1)
    assert sender.deaths, "no kill has hit"
    assert monitoring.servicer.get_ids() == [f"o-{number:05d}" for number in range(OBSERVATIONS)]
    deliveries = {answer.delivery for answers in sender.answers.values() for answer in answers}
    assert {"recorded", "queued"} <= deliveries
    dropped = [one for answers in sender.answers.values() for one in answers if one.delivery == "dropped"]
    assert {one.reason for one in dropped} <= {"STORE_UNAVAILABLE"}
    sender.end()
