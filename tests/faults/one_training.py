"""One training under a supervisor: the object store, the database, the launcher and the training process are real."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.preloaded import get_command

from vfmalign.cli.local import s3_server
from vfmalign.client.messages.jobs import JobSpec
from vfmalign.core.domain.jobs import JobResult, TrainingSpec
from vfmalign.core.storage.keys import job_key
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.finetuning.jobs.repository import JobRepository, StoredJob
from vfmalign.finetuning.jobs.retries import Limits
from vfmalign.finetuning.jobs.rounds import JobRounds
from vfmalign.finetuning.jobs.supervisor import Supervisor
from vfmalign.finetuning.launchers.local import LocalLauncher
from vfmalign.finetuning.schema import open_database

TIMEOUT_S = 300.0


class Storage:
    """An S3 server that a test may stop; started again, it has the same address, keys and data."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.start()

    def start(self) -> None:
        self._process, self.server = s3_server.start(self._folder)

    def stop(self) -> None:
        """Afterwards, connections are refused."""
        s3_server.stop(self._process.pid, grace_s=0)
        self._process.wait()


class Training:
    """Jobs of one database, and one supervisor."""

    def __init__(self, store: ObjectStore, supervisor: JobRounds, jobs: JobRepository) -> None:
        self._store, self._supervisor, self._jobs = store, supervisor, jobs

    def create(self, spec: TrainingSpec) -> str:
        request = JobSpec(
            kind="finetune", dataset_id=spec.dataset_id, model_id=spec.model_id, task=str(spec.task), seed=spec.seed
        )
        return self._jobs.create(request, spec).id

    def get(self, name: str) -> StoredJob:
        return self._jobs.get(name)

    def until(self, name: str, condition: Callable[[StoredJob], Any], timeout_s: float = TIMEOUT_S) -> StoredJob:
        """Lets the supervisor work until a condition holds, and returns the job."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            self._supervisor.reconcile()
            if condition(job := self._jobs.get(name)):
                return job
            time.sleep(0.02)
        raise AssertionError(f"condition not met in time: {self._jobs.get(name)}")

    def until_attempt(self, name: str, attempt: int) -> None:
        """Waits for the process of an attempt."""
        self.until(name, lambda job: job.attempts == attempt and job.handle is not None)

    def until_next_point(self, name: str) -> None:
        """Waits for a point of the learning curve."""
        points = len(self._jobs.get(name).curve)
        self.until(name, lambda job: len(job.curve) > points)

    def work(self, seconds: float) -> None:
        """Lets the supervisor work for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._supervisor.reconcile()
            time.sleep(0.02)

    def finish(self, name: str) -> StoredJob:
        return self.until(name, lambda job: job.finished)

    def result(self, name: str) -> JobResult:
        return self._store.read(job_key(name, "result.json"), JobResult)

    def outcomes(self, name: str) -> list[str]:
        return [attempt.outcome for attempt in self._jobs.attempts(name)]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """A server of this module's own."""
    storage = Storage(tmp_path_factory.mktemp("s3"))
    yield storage
    storage.stop()


@pytest.fixture(scope="module")
def s3(storage: Storage) -> s3_server.S3Server:
    """The server as the fixtures of all tests know it."""
    return storage.server


@pytest.fixture
def training(
    tmp_path: Path,
    store: ObjectStore,
    store_environment: dict[str, str],
    python_server: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Training]:
    """A supervisor that gives a job up at its first failure. Trainings are forks of an interpreter that has torch."""
    settings = {"VFMALIGN_TRAINING__THREADS": "1", "VFMALIGN_TRAINING__DEVICE": "cpu"}
    for name, value in (store_environment | settings).items():
        monkeypatch.setenv(name, value)
    database = open_database(f"sqlite:///{tmp_path / 'jobs.db'}")
    database.migrate()
    jobs = JobRepository(database)
    command = tuple(get_command(python_server, ["-m", "vfmalign.training"]))
    launcher = LocalLauncher(command, tmp_path / "jobs", tmp_path / "logs")
    limits = Limits(max_attempts=1, retry_delay_s=0.1, longest_retry_delay_s=2.0, stop_grace_s=0.0)
    supervisor = JobRounds([Supervisor(jobs, store, launcher, limits)], limits)
    yield Training(store, supervisor, jobs)
    supervisor.stop_all()
    database.close()
