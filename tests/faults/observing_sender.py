"""A sender of observations through Extract, in front of a feature service that is started again when it has died."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from tests.integration.features.conftest import Server

from vfmalign.client import Client
from vfmalign.client.features import StudyFeatures
from vfmalign.client.messages.common import ObservedStudy
from vfmalign.client.messages.features import DeliveredObservation, StudyObservation
from vfmalign.core.domain.errors import DeadlineExceeded, Unavailable

Study = Mapping[str, bytes]


class Features:
    """The feature service, for any number of senders, each in a thread of its own.

    Attributes:
        server: the running process.
        deaths: how often it was found dead.
    """

    def __init__(self, start: Callable[[], Server]) -> None:
        self._start, self._lock = start, threading.Lock()
        self.server, self.deaths = start(), 0

    def revive(self) -> None:
        """Starts the service again where it has died."""
        with self._lock:
            if self.server.process.poll() is not None:
                self.deaths += 1
                self.server = self._start()

    def end(self) -> None:
        """Ends the service, and checks that it does so as it should."""
        assert self.server.end() == 0, self.server.log.read_text()


class Sender:
    """Sends observations to a monitor one after the other, and again where there is no answer.

    Args:
        features: the service.
        get_study: volumes of an observation by modality.
        prefix: of the observations' ids.

    Attributes:
        answers: by number of the observation, every answer.
    """

    def __init__(self, features: Features, get_study: Callable[[int], Study], prefix: str = "o") -> None:
        self._features, self._get_study, self._prefix = features, get_study, prefix
        self._open()
        self.answers: dict[int, list[StudyFeatures]] = {}

    def get_id(self, number: int) -> str:
        """Id of an observation."""
        return f"{self._prefix}-{number:05d}"

    def get_group(self, number: int) -> str:
        """Group of an observation, a patient of its own."""
        return f"g-{self.get_id(number)}"

    def send(self, number: int) -> None:
        """Sends an observation until it is queued."""
        answers = self.answers[number] = []
        for _ in range(1000):
            if (answer := self._ask(number)) is not None:
                answers.append(answer)
                if get_delivered(answer).delivery != "dropped":
                    return
            time.sleep(0.05)
        log = self._features.server.log.read_text()
        raise AssertionError(f"observation {number} was never taken: {answers[-3:]}\n{log}")

    def get_deliveries(self) -> list[DeliveredObservation]:
        """What all answers say of the observations."""
        return [get_delivered(answer) for answers in self.answers.values() for answer in answers]

    def close(self) -> None:
        self._client.close()

    def _open(self) -> None:
        self._server = self._features.server
        self._client = Client(features_address=self._server.address)

    def _ask(self, number: int) -> StudyFeatures | None:
        if self._server is not self._features.server:
            self.close()
            self._open()
        study = ObservedStudy(observation_id=self.get_id(number), group=self.get_group(number))
        observation = StudyObservation(monitor_id="m", study=study)
        try:
            return self._client.features.extract("micro", self._get_study(number), observation=observation)
        except (Unavailable, DeadlineExceeded):  # it died, or cannot read the model while the store is away
            self._features.revive()
            return None


def get_delivered(answer: StudyFeatures) -> DeliveredObservation:
    """What an answer says of its observation."""
    assert answer.observation is not None
    return answer.observation
